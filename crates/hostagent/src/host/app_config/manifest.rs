//! The manifest contract: files described in TOML.
