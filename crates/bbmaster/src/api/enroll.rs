//! Enrolment: its tokens, and the request of a host.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use protocol::rest::{CreatedEnrollToken, Enroll, EnrollTokenList, Enrolled, NewEnrollToken, problem};
use tokio::task::spawn_blocking;

use super::App;
use super::access::{EnrollDigest, Principal, new_enroll_secret, new_secret};
use super::extract::{Body, Name};
use super::problem::{Refusal, enroll_denied};
use super::signature::{Created, NoContent};
use super::tokens::check_name;
use crate::store::{TokenError, token_digest};

pub async fn list(State(app): State<App>) -> Result<Json<EnrollTokenList>, Refusal> {
    let tokens = app.store.enroll_tokens().await?;
    Ok(Json(EnrollTokenList { tokens }))
}

pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Body<NewEnrollToken>,
) -> Result<Created<CreatedEnrollToken>, Refusal> {
    let new = body.parse()?;
    check(&new).map_err(|(path, reason)| Refusal::invalid(path, reason))?;
    if app.enrollment.is_none() {
        return Err(off());
    }
    let secret = new_enroll_secret().map_err(no_random_bits)?;
    let digest = token_digest(&secret);
    match app
        .store
        .create_enroll_token(&new, &digest, &principal.name)
        .await
    {
        Ok(token) => Ok(Created(CreatedEnrollToken { token, secret })),
        Err(error @ TokenError::Exists(_)) => {
            Err(Refusal::of(StatusCode::CONFLICT).detail(error.to_string()))
        }
        Err(TokenError::Store(error)) => Err(error.into()),
    }
}

fn check(new: &NewEnrollToken) -> Result<(), (&'static str, String)> {
    check_name(&new.name)?;
    let within = |path, value: Option<u64>, most| match value {
        Some(value) if !(1..=most).contains(&value) => Err((path, format!("1 to {most} are allowed"))),
        Some(_) | None => Ok(()),
    };
    within("$.uses", new.uses, NewEnrollToken::MOST_USES)?;
    within("$.expires_in", new.expires_in, NewEnrollToken::LONGEST_LIFE)
}

fn off() -> Refusal {
    Refusal::of(StatusCode::CONFLICT)
        .kind(problem::ENROLMENT_OFF)
        .detail("enrolment is off on this master: set [enroll] management, username and password_file")
}

fn no_random_bits(error: std::io::Error) -> Refusal {
    tracing::error!("cannot read random bytes from /dev/urandom for a secret: {error}");
    Refusal::of(StatusCode::INTERNAL_SERVER_ERROR)
}

pub async fn revoke(
    State(app): State<App>,
    Name(name): Name,
    principal: Principal,
) -> Result<NoContent, Refusal> {
    match app.store.revoke_enroll_token(&name, &principal.name).await? {
        true => Ok(NoContent),
        false => Err(Refusal::of(StatusCode::NOT_FOUND).detail("there is no enrolment token with this name")),
    }
}

/// Makes the login of a host at the broker.
pub async fn enroll(
    State(app): State<App>,
    Extension(EnrollDigest(digest)): Extension<EnrollDigest>,
    body: Body<Enroll>,
) -> Result<Created<Enrolled>, Refusal> {
    let Enroll { host_id } = body.parse()?;
    let Some(enrollment) = app.enrollment.clone() else {
        return Err(off());
    };
    let password = new_secret().map_err(no_random_bits)?;
    let token = match app.store.use_enroll_token(&digest, &host_id).await? {
        Ok(token) => token,
        Err(why) => return Err(enroll_denied(&why)),
    };
    let host = host_id.clone();
    let done = spawn_blocking(move || enrollment.create_host_login(&host, password)).await;
    let reason = match done {
        Ok(Ok(enrolled)) => {
            app.store.add_enrolled_event(&token, &host_id).await?;
            tracing::info!(host = %host_id, token = token.name, "host enrolled");
            return Ok(Created(enrolled));
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(host = %host_id, "cannot enrol the host: RabbitMQ's management API failed: {reason}");
    app.store.give_back_enroll_token(&token, &host_id).await?;
    Err(Refusal::of(StatusCode::SERVICE_UNAVAILABLE)
        .detail("RabbitMQ's management API failed; see the master's log. The token can be used again"))
}
