//! Tests of the public behaviour of the protocol.
//!
//! `UPDATE_GOLDEN=1 cargo test -p protocol` rewrites the golden files and docs/schemas.

// With this attribute clippy treats the helper functions as tests.
#![cfg(test)]

mod arbitrary;
mod decode_properties;
mod decode_refuses;
mod decode_refuses_apps;
mod decode_takes;
mod docs;
mod golden;
mod satisfied;
mod status;
