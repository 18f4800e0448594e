//! What a facility failed of.

use protocol::Category;

/// A failure of a facility, ready for an operator: what, on what, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    pub category: Category,
    pub message: String,
}

impl HostError {
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self {
            category,
            message: message.into(),
        }
    }
}
