//! Access control: bearer tokens with roles.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use protocol::rest::Role;
use tokio::time::Instant;

use super::App;
use super::problem::{Refusal, enroll_denied};
use super::signature::Argument;
use crate::settings::Anonymous;
use crate::store::{Result, Store, token_digest};

/// What a route requires of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the route shows no data and changes nothing.
    Open,
    Needs(Role),
    /// An enrolment token, which is accepted by this kind of route only.
    NeedsEnrollToken,
}

/// The digest of a request's enrolment token, which was valid when the request arrived.
#[derive(Debug, Clone)]
pub struct EnrollDigest(pub String);

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the token. Events have it as their author.
    pub name: String,
    pub role: Role,
}

/// Authenticates callers.
pub struct Gate {
    anonymous: Anonymous,
    /// Whether the master listens on a loopback address.
    loopback: bool,
    recent: Mutex<RecentTokens>,
}

/// A cache of tokens. A token that another master or the command has revoked works until its entry
/// expires, after [`REMEMBERED`].
#[derive(Default)]
struct RecentTokens {
    /// By digest of the secret.
    principals: HashMap<String, (Principal, Instant)>,
    /// Whether a token was ever made.
    any_token: Option<(bool, Instant)>,
}

const REMEMBERED: Duration = Duration::from_secs(2);

impl Gate {
    pub fn new(anonymous: Anonymous, loopback: bool) -> Self {
        Self {
            anonymous,
            loopback,
            recent: Mutex::default(),
        }
    }

    fn recent(&self) -> MutexGuard<'_, RecentTokens> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears the cache, after a token was made or revoked here.
    pub fn clear_cache(&self) {
        *self.recent() = RecentTokens::default();
    }

    async fn bearer(&self, store: &Store, secret: &str) -> Result<Option<Principal>> {
        let digest = token_digest(secret);
        let now = Instant::now();
        {
            let mut recent = self.recent();
            recent.principals.retain(|_, (_, until)| *until > now);
            if let Some((principal, _)) = recent.principals.get(&digest) {
                return Ok(Some(principal.clone()));
            }
        }
        let Some((name, role)) = store.token_by_digest(&digest).await? else {
            return Ok(None);
        };
        let principal = Principal { name, role };
        let entry = (principal.clone(), now + REMEMBERED);
        self.recent().principals.insert(digest, entry);
        Ok(Some(principal))
    }

    async fn allows_anonymous(&self, store: &Store) -> Result<bool> {
        match self.anonymous {
            _ if !self.loopback => Ok(false),
            Anonymous::Yes => Ok(true),
            Anonymous::No => Ok(false),
            Anonymous::Auto => Ok(!self.any_token(store).await?),
        }
    }

    async fn any_token(&self, store: &Store) -> Result<bool> {
        let now = Instant::now();
        let known = self.recent().any_token;
        if let Some((any, until)) = known
            && until > now
        {
            return Ok(any);
        }
        let any = store.has_had_tokens().await?;
        self.recent().any_token = Some((any, now + REMEMBERED));
        Ok(any)
    }

    async fn identify(&self, store: &Store, headers: &HeaderMap) -> std::result::Result<Principal, Refusal> {
        let unauthorized = |detail: &str| Refusal::of(StatusCode::UNAUTHORIZED).detail(detail);
        if headers.contains_key(AUTHORIZATION) {
            let Some(secret) = bearer(headers) else {
                return Err(unauthorized("the Authorization header must be: Bearer TOKEN"));
            };
            let principal = self.bearer(store, secret).await?;
            return principal.ok_or_else(|| unauthorized("this token is unknown, revoked or expired"));
        }
        if !self.allows_anonymous(store).await? {
            return Err(unauthorized(
                "a token is required: create one with `bbmaster token create NAME`, and send Authorization: Bearer TOKEN",
            ));
        }
        if !is_from_this_machine(headers) {
            return Err(unauthorized(
                "a request without a token must address the master as localhost, 127.0.0.1 or [::1], and must \
                 not come from the web page of another site",
            ));
        }
        Ok(Principal {
            name: "anonymous".to_owned(),
            role: Role::Admin,
        })
    }
}

/// The secret of a request (RFC 6750). The name of the scheme is compared ignoring case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

async fn enroll_digest(app: &App, headers: &HeaderMap) -> std::result::Result<EnrollDigest, Refusal> {
    let Some(secret) = bearer(headers) else {
        return Err(Refusal::of(StatusCode::UNAUTHORIZED)
            .detail("an enrolment token is required: send Authorization: Bearer TOKEN"));
    };
    let digest = token_digest(secret);
    match app.store.enroll_token(&digest).await? {
        Ok(_) => Ok(EnrollDigest(digest)),
        Err(why) => Err(enroll_denied(&why)),
    }
}

/// Whether a request addresses this machine and was not sent by a web page of another origin. A
/// browser on this machine must not act for such a page (DNS rebinding, cross-site requests).
fn is_from_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host else { return false };
    let origin_fits = match headers.get(ORIGIN).map(|origin| origin.to_str()) {
        None => true,
        Some(Ok(origin)) => origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority == host),
        Some(Err(_)) => false,
    };
    origin_fits && is_loopback_name(host)
}

/// `localhost`, or a loopback address, with or without a port.
fn is_loopback_name(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => authority.split(':').next(),
    };
    name.is_some_and(|name| {
        name.eq_ignore_ascii_case("localhost")
            || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    })
}

/// Passes a request to its handler, or refuses it.
pub async fn admit(app: App, access: Access, mut request: Request, next: Next) -> Response {
    let role = match access {
        Access::Open => return next.run(request).await,
        Access::NeedsEnrollToken => {
            return match enroll_digest(&app, request.headers()).await {
                Err(refusal) => refusal.into_response(),
                Ok(digest) => {
                    request.extensions_mut().insert(digest);
                    next.run(request).await
                }
            };
        }
        Access::Needs(role) => role,
    };
    match app.gate.identify(&app.store, request.headers()).await {
        Err(refusal) => refusal.into_response(),
        Ok(principal) if principal.role < role => Refusal::of(StatusCode::FORBIDDEN)
            .detail(format!(
                "this request requires the role {}; the token {} has the role {}",
                role.as_str(),
                principal.name,
                principal.role.as_str()
            ))
            .into_response(),
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
    }
}

impl FromRequestParts<App> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> std::result::Result<Self, Refusal> {
        // `admit` has inserted it, on every route that is not open.
        let principal = parts.extensions.get::<Self>().cloned();
        principal.ok_or_else(|| Refusal::of(StatusCode::UNAUTHORIZED))
    }
}

impl Argument for Principal {}

/// Makes the secret of a token: 256 random bits in hex, with a prefix that secret scanners can
/// recognise.
pub fn new_secret() -> io::Result<String> {
    secret("bbm")
}

/// Makes the secret of an enrolment token.
pub fn new_enroll_secret() -> io::Result<String> {
    secret("bbe")
}

fn secret(beginning: &str) -> io::Result<String> {
    let mut bits = [0u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bits)?;
    let hex: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{beginning}_{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_of_this_machine_are_recognised_as_local() {
        for (host, origin, expected) in [
            ("localhost:8082", None, true),
            ("127.0.0.1:8082", None, true),
            ("[::1]:8082", None, true),
            ("[::1]", None, true),
            ("localhost:8082", Some("http://localhost:8082"), true),
            ("localhost:8082", Some("http://evil.example"), false),
            ("localhost:8082", Some("http://localhost:9999"), false),
            ("localhost:8082", Some("null"), false),
            ("evil.example:8082", None, false),
            ("localhost.evil.example", None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(is_from_this_machine(&headers), expected, "{host} {origin:?}");
        }
        assert!(!is_from_this_machine(&HeaderMap::new()));
    }
}
