//! tls: against a private RabbitMQ node.
