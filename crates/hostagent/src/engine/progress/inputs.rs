//! What a failure may depend on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use protocol::Category;

use super::digest::DesiredDigest;
use crate::engine::failure::Failure;

/// What a failure may depend on, as it is at one moment. Stored: a new field needs a serde default, or the files of
/// earlier agents count as damaged. That what is held is tried once more at such an upgrade is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    pub desired: DesiredDigest,
    /// Version of the package; `None`: not installed.
    #[serde(default)]
    pub package: Option<String>,
    /// Digest of the hook or manifest; `None`: the application is not installed.
    #[serde(default)]
    pub contract: Option<String>,
    /// Services that systemd refuses to start, because their units are masked.
    #[serde(default)]
    pub masked: BTreeSet<String>,
    /// When the package lists were last refreshed: seconds since 1970.
    #[serde(default)]
    pub lists: Option<u64>,
}

impl Inputs {
    /// What has changed since, for the log; `None`: nothing.
    pub fn changed_to(&self, now: &Self, failure: &Failure) -> Option<&'static str> {
        // Each by its name: what is added must be compared, too.
        let Self {
            desired,
            package,
            contract,
            masked,
            lists,
        } = now;
        if self.desired != *desired {
            Some("the desired state")
        } else if self.package != *package {
            Some("its package")
        } else if self.contract != *contract {
            Some("its hook or manifest")
        } else if self.masked != *masked {
            Some("its masked units")
        } else if self.lists != *lists && depends_on_lists(failure) {
            Some("the package lists")
        } else {
            None
        }
    }
}

/// Whether another answer of the repositories may help.
fn depends_on_lists(failure: &Failure) -> bool {
    matches!(failure.category, Category::NotFound | Category::Dependency)
}
