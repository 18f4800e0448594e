//! What Backbone needs of RabbitMQ, made through its management API: vhost, exchange, queues, users and no
//! more permissions than each needs. Asks first, changes only what differs, so that it can be run again.

mod api;
mod wanted;

use protocol::HostId;

pub use api::{Api, ApiError, Login};
pub use wanted::{Item, Method, Names, wanted, wanted_for_host};

/// What became of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
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
pub fn let_in(api: &Api, names: &Names, host: &HostId, password: &str) -> Result<(), ApiError> {
    for item in wanted_for_host(names, host, password) {
        match item.is_user() {
            true => api.send(&item)?,
            false => drop(ensure(api, &item, false)?),
        }
    }
    Ok(())
}

/// Sees to one item.
pub fn ensure(api: &Api, item: &Item, dry_run: bool) -> Result<Outcome, ApiError> {
    let found = api.get(&item.path)?;
    match &found {
        Some(found) if item.is_satisfied_by(found) => return Ok(Outcome::Kept),
        Some(found) if item.is_fixed && !is_empty_list(found) => return Ok(Outcome::Conflict),
        Some(_) | None => {}
    }
    if dry_run {
        return Ok(Outcome::WouldMake);
    }
    api.send(item)?;
    Ok(Outcome::Made)
}

fn is_empty_list(value: &serde_json::Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}
