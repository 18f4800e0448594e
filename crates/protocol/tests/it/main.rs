//! The protocol's promises, tested from outside.
//!
//! `UPDATE_GOLDEN=1 cargo test -p protocol` writes the golden files and docs/schemas anew.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod arbitrary;
mod decode_properties;
mod decode_refuses;
mod decode_takes;
mod docs;
mod golden;
mod satisfied;
mod status;
