//! Sends desired states to the master.

use anyhow::anyhow;
use protocol::rest::{DesiredApps, PutQuery};
use protocol::{Apps, HostId};

use crate::client::{Client, ClientError};
use crate::desired::Source;

/// Sets the desired state of a host. An error of the master about the file names the place in the
/// file.
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

/// Adds the place in the file to an error of the master.
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
