//! Retrying applications that failed and are held.

use axum::extract::State;
use axum::http::StatusCode;
use protocol::rest::{RetryAnswer, problem};

use super::App;
use super::access::Principal;
use super::extract::Id;
use super::problem::{Refusal, publish_failed};
use super::signature::Accepted;
use crate::dispatch::set_config;

/// Sends the desired state again and tells the host to retry. It is sent once: a host that is not
/// connected is not told later, because the retry may no longer be wanted then.
pub async fn one(
    State(app): State<App>,
    Id(id): Id,
    principal: Principal,
) -> Result<Accepted<RetryAnswer>, Refusal> {
    let Some(desired) = app.store.desired(&id).await? else {
        return Err(match app.store.labels(&id).await? {
            Some(_) => Refusal::of(StatusCode::CONFLICT)
                .kind(problem::NOTHING_DESIRED)
                .detail("this host has no desired state, so there is nothing to retry"),
            None => Refusal::no_such_host(),
        });
    };
    let generation = desired.generation;
    let mut message = set_config(desired);
    message.retry = true;
    app.publisher
        .publish(id.as_str(), message.encode())
        .await
        .map_err(|error| publish_failed(&error))?;
    app.store
        .add_retry_event(&id, generation, &principal.name)
        .await?;
    Ok(Accepted(RetryAnswer { generation }))
}
