//! Scripted facilities for unit tests.
