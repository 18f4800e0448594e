//! What went wrong with an application, until it stands in a status.

use std::collections::BTreeMap;

use protocol::{AppName, Category, ErrorReport, Phase};
use serde::{Deserialize, Serialize};

use crate::state_file::StateFileError;
use host::HostError;

/// What went wrong with one application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub phase: Phase,
    pub category: Category,
    pub message: String,
    /// The application is as it was before.
    #[serde(default)]
    pub rolled_back: bool,
}

impl Failure {
    pub fn new(phase: Phase, error: HostError) -> Self {
        Self {
            phase,
            category: error.category,
            message: error.message,
            rolled_back: false,
        }
    }

    /// As it stands in a status. `app`: `None` where the whole host is meant.
    pub fn report(&self, app: Option<AppName>, attempt: u32, next_retry: Option<String>) -> ErrorReport {
        ErrorReport {
            app,
            phase: self.phase,
            category: self.category,
            message: self.message.clone(),
            attempt,
            next_retry,
            rolled_back: self.rolled_back,
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
            rolled_back: false,
        }
    }
}

/// By application; the others went well.
pub type Failures = BTreeMap<AppName, Failure>;
