//! One desired state for many hosts.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};
use protocol::rest::{FleetQuery, FleetSet, HostQuery};
use protocol::{Apps, HostId};

use super::App;
use super::access::Principal;
use super::apps::own_id;
use super::extract::{Body, Params};
use super::problem::Refusal;
use crate::store::{Desired, NewDesired, PutError, Store, StoreError};

/// PUTs in progress at the same time: while one batch is committed, the next is collected.
const AT_ONCE: usize = 2000;
/// Changed hosts, after which messages are sent. Hosts answer at once and their statuses are stored
/// as well, so sending after each PUT would slow down the other PUTs.
const SENT_TOGETHER: usize = 10_000;
/// Ids read at once.
const PAGE: u32 = 1000;

pub async fn put_desired(
    State(app): State<App>,
    Params(query): Params<FleetQuery>,
    principal: Principal,
    body: Body<Apps>,
) -> Result<Json<FleetSet>, Refusal> {
    let filters = HostQuery::from(&query);
    match (query.all, filters == HostQuery::default()) {
        (false, true) => {
            return Err(Refusal::bad_parameter(
                "query",
                "does not say which hosts: give a filter, or all=true for every known host",
            ));
        }
        (true, false) => {
            return Err(Refusal::bad_parameter(
                "all",
                "cannot be combined with filters: all=true means every known host",
            ));
        }
        (true, true) | (false, false) => {}
    }
    // An empty filter would match every host. Scripts send it when a variable is not set.
    let given = [&query.application, &query.version, &query.label, &query.text];
    let names = ["application", "version", "label", "text"];
    for (name, value) in names.into_iter().zip(given) {
        if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
            return Err(Refusal::bad_parameter(
                name,
                "is empty: give a value, or leave it out (all=true means every known host)",
            ));
        }
    }
    let apps = body.apps()?;
    let hosts = matching(&app.store, filters).await?;
    if let Some(name) = apps
        .keys()
        .find(|name| hosts.iter().any(|id| id.collides_with(name)))
    {
        return Err(own_id(name.as_str(), "one of these hosts"));
    }
    let count = hosts.len() as u64;
    let changed = match query.dry_run {
        true => {
            let hosts: Vec<HostId> = hosts.into_iter().collect();
            app.store.count_changes(&hosts, &apps).await?
        }
        // In a task of its own: if the client gives up, the change is still completed.
        false => tokio::spawn(set(app, hosts, Arc::new(apps), principal.name.into()))
            .await
            .map_err(|_| Refusal::of(StatusCode::SERVICE_UNAVAILABLE).detail(ENDING))??,
    };
    Ok(Json(FleetSet {
        hosts: count,
        changed,
    }))
}

const ENDING: &str =
    "the master stopped before all hosts were changed: repeat the request to change the others";

/// Reads all ids before the change, because the change may affect what the filters match.
async fn matching(store: &Store, mut filters: HostQuery) -> Result<BTreeSet<HostId>, StoreError> {
    let mut hosts = BTreeSet::new();
    loop {
        let page = store.host_ids(&filters, PAGE).await?;
        hosts.extend(page.ids);
        match page.next {
            Some(next) => filters.after = Some(next),
            None => return Ok(hosts),
        }
    }
}

/// Changes the hosts. Returns how many had another desired state before.
async fn set(app: App, hosts: BTreeSet<HostId>, apps: Arc<Apps>, author: Arc<str>) -> Result<u64, Refusal> {
    let all = hosts.len();
    let failure = OnceLock::new();
    // After a failure no PUT is started. Those in progress are awaited, because they may be
    // committed.
    let begun = hosts.into_iter().take_while(|_| failure.get().is_none());
    let puts = begun.map(|host| {
        let (store, apps, author) = (&app.store, &apps, &author);
        async move {
            let new = NewDesired {
                apps: apps.clone(),
                only_if_plan: None,
                if_match: None,
                author: author.clone(),
            };
            let stored = store.put_desired(&host, new).await;
            (host, stored)
        }
    });
    let mut puts = stream::iter(puts).buffer_unordered(AT_ONCE);
    let (mut done, mut changed) = (0, 0);
    let mut stored = Vec::new();
    let send = |stored: &mut Vec<(HostId, Desired)>| {
        for (host, desired) in stored.drain(..) {
            app.dispatcher.changed(host, desired);
        }
    };
    while let Some((host, put)) = puts.next().await {
        match put {
            Ok(put) => {
                done += 1;
                changed += u64::from(put.is_change);
                stored.push((host, put.desired));
                if stored.len() >= SENT_TOGETHER {
                    send(&mut stored);
                }
            }
            Err(PutError::Store(error)) => {
                let _ = failure.set(error);
            }
            // Cannot happen: there is no `if_match`.
            Err(PutError::GenerationChanged { .. }) => {}
        }
    }
    send(&mut stored);
    drop(puts);
    match failure.into_inner() {
        None => Ok(changed),
        Some(error) => Err(incomplete(&error, done, all)),
    }
}

fn incomplete(error: &StoreError, done: usize, all: usize) -> Refusal {
    tracing::error!("cannot set the desired state of {all} hosts, {done} are done: {error}");
    Refusal::of(StatusCode::SERVICE_UNAVAILABLE).detail(format!(
        "the database failed after {done} of {all} hosts were changed: repeat the request to change the others; see \
         the master's log"
    ))
}
