//! The hook contract: an executable.
