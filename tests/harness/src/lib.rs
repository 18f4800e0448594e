//! What tests and the demo stand on: a private RabbitMQ node, packages built on the spot, an HTTP file
//! server, a TCP proxy that misbehaves.
pub mod certificates;
pub mod driver;
pub mod http;
pub mod machine;
pub mod packages;
pub mod postgres;
pub mod proxy;
pub mod rabbitmq;
pub mod skip;
