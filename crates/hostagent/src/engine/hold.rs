//! What a held application waits for: it is tried again as soon as anything changes that its failure may depend on.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::AppName;
use sha2::{Digest as _, Sha256};

use super::observe::Observed;
use super::progress::{DesiredDigest, Inputs};

/// What a failure of `app` may depend on, as it is in `observed`. `lists`: when the package lists were last refreshed.
pub fn inputs_of(
    app: &AppName,
    observed: &Observed,
    desired: &DesiredDigest,
    lists: Option<SystemTime>,
) -> Inputs {
    let there = observed.apps.get(app);
    let masked = there.into_iter().flat_map(|there| &there.services);
    let masked = masked.filter(|(_, state)| state.is_some_and(|state| state.masked));
    Inputs {
        desired: desired.clone(),
        package: there.map(|there| there.version.clone()),
        contract: there.map(|there| match &there.contract {
            Ok(contract) => digest(&format!("{contract:?}")),
            // What it says may hold the time, or a number of a process.
            Err(error) => format!("{:?}", error.category),
        }),
        masked: masked.map(|(name, _)| name.clone()).collect(),
        lists: lists.and_then(|at| Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())),
    }
}

fn digest(text: &str) -> String {
    host::hex(&Sha256::digest(text))
}
