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

/// On their way into the store at a time: one commit's worth is written while the next gathers.
const AT_ONCE: usize = 2000;
/// Stored before any of them is sent to. Hosts answer at once, and what they say has to be stored as well: sent to one by
/// one, the first of them would hold up the storing of the others.
const SENT_TOGETHER: usize = 10_000;
/// Ids read at a time.
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
                "says nothing of which hosts: give a filter, or all=true for every host that is known",
            ));
        }
        (true, false) => {
            return Err(Refusal::bad_parameter(
                "all",
                "means every host, and filters mean some: give one or the other",
            ));
        }
        (true, true) | (false, false) => {}
    }
    // It would mean every host, and is what a script sends whose variable is not set.
    let given = [&query.application, &query.version, &query.label, &query.text];
    let names = ["application", "version", "label", "text"];
    for (name, value) in names.into_iter().zip(given) {
        if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
            return Err(Refusal::bad_parameter(
                name,
                "is empty: give it a value, or leave it out; all=true means every host",
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
        // By itself: where the client gives up, it is done all the same, and not in part.
        false => tokio::spawn(set(app, hosts, Arc::new(apps), principal.name.into()))
            .await
            .map_err(|_| Refusal::of(StatusCode::SERVICE_UNAVAILABLE).detail(ENDING))??,
    };
    Ok(Json(FleetSet {
        hosts: count,
        changed,
    }))
}

const ENDING: &str = "the master ended while it was at it; the same again does what is left";

/// As they are now: what is set may change what a filter asks for.
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

/// Of how many hosts something else was desired before.
async fn set(app: App, hosts: BTreeSet<HostId>, apps: Arc<Apps>, author: Arc<str>) -> Result<u64, Refusal> {
    let all = hosts.len();
    let failure = OnceLock::new();
    // None is begun after one has failed; those under way are waited for, since they may well be written.
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
            // There is no condition.
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
    tracing::error!("one desired state for {all} hosts: the database failed after {done}: {error}");
    Refusal::of(StatusCode::SERVICE_UNAVAILABLE).detail(format!(
        "the database failed after {done} of {all} hosts, which have it; the same again does the rest; the master's log \
         says more"
    ))
}
