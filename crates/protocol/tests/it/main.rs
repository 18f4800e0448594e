//! The protocol's promises, tested from outside.

mod decode_refuses;
mod decode_takes;
