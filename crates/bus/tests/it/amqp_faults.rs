//! amqp_faults: against a private RabbitMQ node.
