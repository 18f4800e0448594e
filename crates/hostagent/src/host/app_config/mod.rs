//! The application contract: hook or manifest.
pub mod hook;
pub mod manifest;
