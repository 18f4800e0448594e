//! What Backbone needs of RabbitMQ, made through its management API: vhost, exchange, queues, users and no
//! more permissions than each needs. Asks first, changes only what differs, so that it can be run again.

mod api;
mod wanted;

use protocol::HostId;

pub use api::{AdminLogin, ManagementApi, ManagementError};
pub use wanted::{BrokerItem, BrokerNames, SendMethod, wanted, wanted_for_host};

/// What became of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnsureOutcome {
    /// It was as it should be.
    Kept,
    /// It is now.
    Made,
    /// It would have been made or changed: a dry run.
    WouldMake,
    /// It is there in another way, and cannot be changed without losing what it holds.
    Conflict,
}

/// Makes the queue, the user and the permissions of `host`. A user that is there already gets this password.
pub fn let_in(
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

/// Sees to one item.
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
