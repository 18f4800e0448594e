//! The bus against a private RabbitMQ node, misbehaving peers, and itself in-process.

// With this attribute clippy treats the helper functions as tests.
#![cfg(test)]

mod clones;
mod fleet;
mod logins;
mod outages;
mod peers;
mod resources;
mod routing;
mod support;
mod tls;
mod topology;
