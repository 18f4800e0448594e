//! Desired states on their way to the master.

use anyhow::anyhow;
use protocol::rest::{DesiredApps, PutQuery};
use protocol::{Apps, HostId};

use crate::client::{Client, ClientError};
use crate::desired::Source;

/// A PUT; what the master finds wrong in the file is said with its place there.
pub fn put(
    client: &Client,
    id: &HostId,
    apps: &Apps,
    query: &PutQuery,
    if_generation: Option<u64>,
    source: &Source,
) -> anyhow::Result<DesiredApps> {
    client
        .set(id, apps, query, if_generation)
        .map_err(|error| at_its_place(error, source))
}

/// Names the place in the file that the master complains of.
pub fn at_its_place(error: ClientError, source: &Source) -> anyhow::Error {
    match &error {
        ClientError::Refused { problem, .. } => match (&problem.path, &problem.detail) {
            (Some(path), Some(detail)) if path.starts_with('$') => {
                anyhow!("{}: {path}: {detail}", source.place(path))
            }
            _ => error.into(),
        },
        _ => error.into(),
    }
}
