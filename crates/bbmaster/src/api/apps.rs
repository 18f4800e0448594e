//! Desired applications of a host, and the applications of the fleet.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::rest::{AppList, DesiredApps, PlanAnswer, PutQuery, problem};
use protocol::{Apps, HostId, encode_plan, is_plan_hash};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use super::App;
use super::access::Principal;
use super::extract::{Body, Id, Params};
use super::problem::{Refusal, publish_failed};
use super::signature::{Answer, Answers, Argument, Described, Header};
use crate::replies::Reply;
use crate::store::{NewDesired, PutError, StoredDesired};

pub async fn usage(State(app): State<App>) -> Result<Json<AppList>, Refusal> {
    Ok(Json(app.store.apps().await?))
}

/// A desired state, with its generation as ETag.
pub struct Tagged(DesiredApps);

impl IntoResponse for Tagged {
    fn into_response(self) -> Response {
        let tag = format!("\"{}\"", self.0.generation);
        ([(ETAG, tag)], Json(self.0)).into_response()
    }
}

impl Answers for Tagged {
    fn answers() -> Vec<Answer> {
        Json::<DesiredApps>::answers()
    }
}

/// What a PUT of desired applications returns.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum DesiredOrPlan {
    Desired(DesiredApps),
    Plan(PlanAnswer),
}

impl IntoResponse for DesiredOrPlan {
    fn into_response(self) -> Response {
        match self {
            Self::Desired(desired) => Tagged(desired).into_response(),
            Self::Plan(plan) => Json(plan).into_response(),
        }
    }
}

impl Answers for DesiredOrPlan {
    fn answers() -> Vec<Answer> {
        Json::<Self>::answers()
    }
}

/// The header `If-Match` of a request.
pub struct IfMatch(Option<HeaderValue>);

impl FromRequestParts<App> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.get(IF_MATCH).cloned()))
    }
}

impl Argument for IfMatch {
    fn describe(described: &mut Described) {
        described.headers.push(Header {
            name: "If-Match",
            description: "The generation to replace, in quotes: \"3\"",
            pattern: r#"^(\*|"[0-9]{1,19}"(, ?"[0-9]{1,19}"){0,15})$"#,
        });
        described.problems.push(400);
    }
}

pub async fn desired(State(app): State<App>, Id(id): Id) -> Result<Tagged, Refusal> {
    match app.store.desired(&id).await? {
        Some(desired) => Ok(Tagged(desired.into())),
        // A known host may have no desired state. Any other host is an error.
        None if app.store.labels(&id).await?.is_some() => Ok(Tagged(DesiredApps {
            apps: Apps::new(),
            generation: 0,
            author: None,
            changed_at: None,
            only_if_plan: None,
        })),
        None => Err(Refusal::no_such_host()),
    }
}

/// An application must not have the id of its host as its name: both are routing keys, and messages
/// to one would reach the other.
pub(super) fn own_id(app: &str, whose: &str) -> Refusal {
    Refusal::invalid(
        format!("$[{app:?}]"),
        format!(
            "is the id of {whose}: messages to one would reach the other. Give the application another name"
        ),
    )
}

pub async fn put_desired(
    State(app): State<App>,
    Id(id): Id,
    Params(query): Params<PutQuery>,
    IfMatch(if_match): IfMatch,
    principal: Principal,
    body: Body<Apps>,
) -> Result<DesiredOrPlan, Refusal> {
    let apps = body.apps()?;
    if let Some(app) = apps.keys().find(|app| id.collides_with(app)) {
        return Err(own_id(app.as_str(), "this host"));
    }
    let if_match = match if_match {
        None => None,
        Some(value) => Some(generations(value.to_str().unwrap_or_default(), &app, &id).await?),
    };
    if let Some(hash) = &query.only_if_plan
        && !is_plan_hash(hash)
    {
        return Err(Refusal::bad_parameter(
            "only_if_plan",
            "must be the hash of a plan, from an answer to ?dry_run=true: 6 to 64 hexadecimal digits",
        ));
    }
    if query.dry_run {
        return plan(&app, &id, &apps).await.map(DesiredOrPlan::Plan);
    }
    let new = NewDesired {
        apps: Arc::new(apps),
        only_if_plan: query.only_if_plan.as_deref(),
        if_match: if_match.as_deref(),
        author: principal.name.into(),
    };
    match app.store.put_desired(&id, new).await {
        Ok(StoredDesired { desired, .. }) => {
            app.dispatcher.changed(id, desired.clone());
            Ok(DesiredOrPlan::Desired(desired.into()))
        }
        Err(PutError::GenerationChanged { current }) => Err(generation_changed(current)),
        Err(PutError::Store(error)) => Err(error.into()),
    }
}

fn generation_changed(current: u64) -> Refusal {
    Refusal::of(StatusCode::PRECONDITION_FAILED)
        .kind(problem::GENERATION)
        .path("If-Match")
        .detail(format!(
            "somebody else has changed the desired state, which is now at generation {current}: read it again"
        ))
}

/// Reads the generations of an `If-Match` (RFC 9110, section 13.1.1).
async fn generations(value: &str, app: &App, id: &HostId) -> Result<Vec<u64>, Refusal> {
    if value.trim() == "*" {
        // Any generation, but there must be one.
        return match app.store.desired(id).await? {
            Some(desired) => Ok(vec![desired.generation]),
            None => Err(generation_changed(0)),
        };
    }
    let tags = value.split(',').map(|tag| {
        let quoted = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
        quoted.parse().ok()
    });
    tags.collect::<Option<_>>().ok_or_else(|| {
        Refusal::bad_parameter("If-Match", "must be a generation in quotes, as in ETag: \"3\"")
    })
}

/// Asks the host for its plan.
async fn plan(app: &App, id: &HostId, apps: &Apps) -> Result<PlanAnswer, Refusal> {
    let mut question = app.waiters.ask();
    app.publisher
        .publish(id.as_str(), encode_plan(apps, Some(&question.id)))
        .await
        .map_err(|error| publish_failed(&error))?;
    match timeout(app.plan_timeout, &mut question.answer).await {
        Ok(Ok(Reply::Plan(plan))) => Ok(*plan),
        Ok(Ok(Reply::Status(_))) => Err(Refusal::of(StatusCode::NOT_IMPLEMENTED)
            .kind(problem::UNSUPPORTED)
            .detail("the agent of the host is too old to make plans: upgrade it")),
        Ok(Err(_)) | Err(_) => Err(Refusal::of(StatusCode::GATEWAY_TIMEOUT)
            .kind(problem::NO_ANSWER)
            .detail(format!(
                "the host sent no plan within {} s: it is busy or not connected, or its agent is too old to make plans",
                app.plan_timeout.as_secs()
            ))),
    }
}
