mod amqp_faults;
mod routing;
mod tls;
