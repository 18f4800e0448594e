//! Hosts and their labels.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use protocol::rest::{Host, HostIds, HostList, HostQuery, Labels};

use super::App;
use super::access::Principal;
use super::extract::{Body, Id, Params, limit};
use super::problem::Refusal;

pub async fn list(
    State(app): State<App>,
    Params(query): Params<HostQuery>,
) -> Result<Json<HostList>, Refusal> {
    let limit = limit(query.limit)?;
    Ok(Json(app.store.hosts(&query, limit).await?))
}

pub async fn ids(State(app): State<App>, Params(query): Params<HostQuery>) -> Result<Json<HostIds>, Refusal> {
    let limit = limit(query.limit)?;
    Ok(Json(app.store.host_ids(&query, limit).await?))
}

pub async fn one(State(app): State<App>, Id(id): Id) -> Result<Json<Host>, Refusal> {
    let host = app.store.host(&id).await?;
    host.map(Json).ok_or_else(Refusal::no_such_host)
}

pub async fn forget(State(app): State<App>, Id(id): Id, principal: Principal) -> Result<StatusCode, Refusal> {
    match app.store.delete_host(&id, &principal.name).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::no_such_host()),
    }
}

pub async fn labels(State(app): State<App>, Id(id): Id) -> Result<Json<Labels>, Refusal> {
    let labels = app.store.labels(&id).await?;
    labels.map(Json).ok_or_else(Refusal::no_such_host)
}

pub async fn put_labels(
    State(app): State<App>,
    Id(id): Id,
    principal: Principal,
    body: Body,
) -> Result<Json<Labels>, Refusal> {
    let labels: Labels = body.parse()?;
    check_labels(&labels)?;
    app.store.put_labels(&id, &labels, &principal.name).await?;
    Ok(Json(labels))
}

pub(super) const MAX_LABELS: usize = 64;
const MAX_NAME: usize = 63;
const MAX_VALUE: usize = 255;

fn check_labels(labels: &Labels) -> Result<(), Refusal> {
    if labels.len() > MAX_LABELS {
        let reason = format!("holds {} labels; at most {MAX_LABELS} are allowed", labels.len());
        return Err(Refusal::invalid("$", reason));
    }
    for (name, value) in labels {
        let good_name = name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+._-/".contains(&b));
        if !good_name {
            let shown: String = name.chars().take(MAX_NAME + 1).collect();
            let reason = format!(
                "{shown:?} is no label: up to {MAX_NAME} letters, digits and + . _ - / are allowed, a letter or \
                 digit first"
            );
            return Err(Refusal::invalid("$", reason));
        }
        // A filter has them in a list with commas.
        if value.chars().count() > MAX_VALUE || value.contains(|c: char| c.is_control() || c == ',') {
            let reason =
                format!("up to {MAX_VALUE} characters without commas and control characters are allowed");
            return Err(Refusal::invalid(format!("$[{name:?}]"), reason));
        }
    }
    Ok(())
}
