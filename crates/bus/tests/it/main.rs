//! The bus against a private RabbitMQ node, misbehaving peers, and itself in-process.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod amqp_faults;
mod routing;
mod support;
mod tls;
