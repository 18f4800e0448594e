//! Turns outcomes into statuses.
