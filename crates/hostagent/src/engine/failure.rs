//! What went wrong with an application, until it stands in a status.

use std::collections::BTreeMap;

use host::HostError;
use protocol::{AppName, Category, ErrorReport, Phase};
use serde::{Deserialize, Serialize};

use crate::state_file::StateFileError;

/// What went wrong with one application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub phase: Phase,
    pub category: Category,
    pub message: String,
}

impl Failure {
    pub fn new(phase: Phase, error: HostError) -> Self {
        Self {
            phase,
            category: error.category,
            message: error.message,
        }
    }

    /// As it stands in a status. `app`: `None` where the whole host is meant.
    pub fn report(&self, app: Option<AppName>, attempt: u32) -> ErrorReport {
        ErrorReport {
            app,
            phase: self.phase,
            category: self.category,
            message: self.message.clone(),
            attempt,
            next_retry: None,
            rolled_back: false,
        }
    }
}

impl From<StateFileError> for Failure {
    fn from(error: StateFileError) -> Self {
        let category = if error.is_disk_full() {
            Category::DiskSpace
        } else {
            Category::Host
        };
        Self {
            phase: Phase::Check,
            category,
            message: error.to_string(),
        }
    }
}

/// By application.
pub type Failures = BTreeMap<AppName, Failure>;
