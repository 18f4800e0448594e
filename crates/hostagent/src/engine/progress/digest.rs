//! Tells desired states apart.

use protocol::Apps;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Tells two desired states of a host apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredDigest(String);

impl DesiredDigest {
    pub fn of(apps: &Apps) -> Self {
        // A desired state is made of strings, numbers and config values: this cannot fail.
        let bytes = serde_json::to_vec(apps).unwrap_or_default();
        Self(host::hex(&Sha256::digest(bytes)))
    }
}
