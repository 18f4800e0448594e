//! Full-jitter exponential backoff.
