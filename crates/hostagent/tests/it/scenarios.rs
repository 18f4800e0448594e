//! The agent from end to end: a message of a stock AMQP client on RabbitMQ in, real packages installed,
//! configured and running in a sandbox root, and truthful statuses out.

pub mod agent;
mod busy;
mod life;
mod plan;
mod wire;
pub mod world;
