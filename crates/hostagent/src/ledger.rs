//! The desired state, durable.
