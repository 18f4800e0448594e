//! Decodes, persists, acknowledges.
