//! routing: against a private RabbitMQ node.
