//! API tokens.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use protocol::rest::{CreatedToken, NewToken, TokenList, WhoAmI};

use super::App;
use super::access::{Principal, new_secret};
use super::extract::{Body, Name};
use super::problem::Refusal;
use super::signature::{Created, NoContent};
use crate::store::{TokenError, token_digest};

pub async fn list(State(app): State<App>) -> Result<Json<TokenList>, Refusal> {
    let tokens = app.store.tokens().await?;
    Ok(Json(TokenList { tokens }))
}

pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Body<NewToken>,
) -> Result<Created<CreatedToken>, Refusal> {
    let new = body.parse()?;
    check(&new).map_err(|(path, reason)| Refusal::invalid(path, reason))?;
    let secret = new_secret().map_err(|error| {
        tracing::error!("cannot read random bytes from /dev/urandom for a token: {error}");
        Refusal::of(StatusCode::INTERNAL_SERVER_ERROR)
    })?;
    let digest = token_digest(&secret);
    let made = app.store.create_token(&new, &digest, &principal.name).await;
    app.gate.clear_cache();
    match made {
        Ok(token) => Ok(Created(CreatedToken { token, secret })),
        Err(error @ TokenError::Exists(_)) => {
            Err(Refusal::of(StatusCode::CONFLICT).detail(error.to_string()))
        }
        Err(TokenError::Store(error)) => Err(error.into()),
    }
}

/// Checks a new token. The error is path and reason.
pub fn check(new: &NewToken) -> Result<(), (&'static str, String)> {
    const LONGEST_LIFE: u64 = 3_155_760_000;
    check_name(&new.name)?;
    match new.expires_in {
        Some(seconds) if !(1..=LONGEST_LIFE).contains(&seconds) => {
            Err(("$.expires_in", format!("1 to {LONGEST_LIFE} seconds are allowed")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks the name of a token of either kind.
pub(super) fn check_name(name: &str) -> Result<(), (&'static str, String)> {
    const LONGEST_NAME: usize = 64;
    let good = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+._@-".contains(&b));
    if !good {
        let reason = format!(
            "up to {LONGEST_NAME} letters, digits and + . _ @ - are allowed, starting with a letter or digit"
        );
        return Err(("$.name", reason));
    }
    Ok(())
}

pub async fn revoke(
    State(app): State<App>,
    Name(name): Name,
    principal: Principal,
) -> Result<NoContent, Refusal> {
    let revoked = app.store.revoke_token(&name, &principal.name).await?;
    app.gate.clear_cache();
    match revoked {
        true => Ok(NoContent),
        false => Err(Refusal::of(StatusCode::NOT_FOUND).detail("there is no token with this name")),
    }
}

pub async fn whoami(principal: Principal) -> Json<WhoAmI> {
    Json(WhoAmI {
        name: principal.name,
        role: principal.role,
        master_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
