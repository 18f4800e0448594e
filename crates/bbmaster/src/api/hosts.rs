//! Hosts and their labels.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use protocol::rest::{Host, HostIds, HostList, HostQuery, Labels};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::App;
use super::access::Principal;
use super::extract::{Body, Id, Params, limit};
use super::problem::Refusal;
use super::signature::NoContent;

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

pub async fn forget(State(app): State<App>, Id(id): Id, principal: Principal) -> Result<NoContent, Refusal> {
    match app.store.delete_host(&id, &principal.name).await? {
        true => Ok(NoContent),
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
    body: Body<LabelsBody>,
) -> Result<Json<Labels>, Refusal> {
    let LabelsBody(labels) = body.parse()?;
    check_labels(&labels)?;
    app.store.put_labels(&id, &labels, &principal.name).await?;
    Ok(Json(labels))
}

const MAX_LABELS: usize = 64;
const MAX_NAME: usize = 63;
const MAX_VALUE: usize = 255;

/// Labels in a request. The schema states what `check_labels` checks.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct LabelsBody(Labels);

impl JsonSchema for LabelsBody {
    fn schema_name() -> Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": MAX_LABELS,
            "propertyNames": { "pattern": LABEL_NAME },
            "additionalProperties": { "type": "string", "pattern": LABEL_VALUE },
        })
    }
}

const LABEL_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9+._/-]{0,62}$";
const LABEL_VALUE: &str = r"^[^\u0000-\u001f\u007f-\u009f,]{0,255}$";

fn check_labels(labels: &Labels) -> Result<(), Refusal> {
    if labels.len() > MAX_LABELS {
        let reason = format!("has {} labels; at most {MAX_LABELS} are allowed", labels.len());
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
                "{shown:?} is not a label name: up to {MAX_NAME} letters, digits and + . _ - / are allowed, starting \
                 with a letter or digit"
            );
            return Err(Refusal::invalid("$", reason));
        }
        // A filter is a list of labels, separated by commas.
        if value.chars().count() > MAX_VALUE || value.contains(|c: char| c.is_control() || c == ',') {
            let reason =
                format!("up to {MAX_VALUE} characters without commas and control characters are allowed");
            return Err(Refusal::invalid(format!("$[{name:?}]"), reason));
        }
    }
    Ok(())
}
