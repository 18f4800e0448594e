//! Creates in RabbitMQ, through its management API, what Backbone needs: virtual host, exchange,
//! queues, and users with the least permissions. Reads first and changes only what differs, so it
//! can be repeated.

mod api;
mod wanted;

use protocol::HostId;

pub use api::{AdminLogin, ManagementApi, ManagementError};
pub use wanted::{BrokerItem, BrokerNames, SendMethod, wanted, wanted_for_host};

/// What was done about one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnsureOutcome {
    /// Nothing: it exists as it should be.
    Kept,
    /// It was created or changed.
    Made,
    /// It would be created or changed: a dry run.
    WouldMake,
    /// It exists with other properties, and cannot be changed without losing its content.
    Conflict,
}

/// Creates the queue, the user and the permissions of `host`. An existing user gets this password.
pub fn create_host_login(
    api: &ManagementApi,
    names: &BrokerNames,
    host: &HostId,
    password: &str,
) -> Result<(), ManagementError> {
    for item in wanted_for_host(names, host, password) {
        match item.is_user() {
            true => api.send(&item)?,
            false => drop(ensure(api, &item, false)?),
        }
    }
    Ok(())
}

/// Creates or changes one item if necessary.
pub fn ensure(
    api: &ManagementApi,
    item: &BrokerItem,
    dry_run: bool,
) -> Result<EnsureOutcome, ManagementError> {
    let found = api.get(&item.path)?;
    match &found {
        Some(found) if item.is_satisfied_by(found) => return Ok(EnsureOutcome::Kept),
        Some(found) if item.is_fixed && !is_empty_list(found) => return Ok(EnsureOutcome::Conflict),
        Some(_) | None => {}
    }
    if dry_run {
        return Ok(EnsureOutcome::WouldMake);
    }
    api.send(item)?;
    Ok(EnsureOutcome::Made)
}

fn is_empty_list(value: &serde_json::Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}
