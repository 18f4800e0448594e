//! The document that is stored of the progress of all applications.

use std::collections::BTreeMap;

use protocol::AppName;
use serde::{Deserialize, Serialize};

use super::progress::Progress;

/// The progress of every application.
pub type ProgressMap = BTreeMap<AppName, Progress>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredProgress {
    /// The agent was told to stop, and goes on at its next start: no crash.
    #[serde(default)]
    pub stopped: bool,
    pub apps: ProgressMap,
}
