//! Why an operation of a facility failed.

use std::error::Error;
use std::sync::Arc;

use protocol::Category;

/// A failure of a facility, ready for an operator: what failed, on what, why, what to do next.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    pub category: Category,
    /// Complete by itself: it repeats what matters of `source`.
    pub message: String,
    /// The typed cause, for code that has to tell causes apart.
    #[source]
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl HostError {
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self {
            category,
            message: message.into(),
            source: None,
        }
    }

    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            source: Some(Arc::new(source)),
            ..self
        }
    }
}

/// Equal to an operator: the source does not count.
impl PartialEq for HostError {
    fn eq(&self, other: &Self) -> bool {
        self.category == other.category && self.message == other.message
    }
}

impl Eq for HostError {}
