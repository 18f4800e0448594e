//! Parameters and bodies of requests, checked; what is wrong with them is said as a problem document.

use std::marker::PhantomData;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use protocol::{Apps, HostId, Limits, decode_apps};
use schemars::{JsonSchema, json_schema};
use serde::de::DeserializeOwned;

use super::App;
use super::problem::Refusal;
use super::signature::{Argument, Described};

/// A query, typed.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Refusal> {
        // No name or text that we look for holds one, and PostgreSQL takes none.
        if parts.uri.query().unwrap_or_default().contains("%00") {
            return Err(Refusal::bad_parameter("query", "holds a NUL character"));
        }
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|rejection| Refusal::bad_parameter("query", rejection.body_text()))
    }
}

impl<T: JsonSchema> Argument for Params<T> {
    fn describe(described: &mut Described) {
        described.query = Some(|generator| T::json_schema(generator));
        described.problems.push(400);
    }
}

/// Rows a page.
pub fn limit(wanted: Option<u32>) -> Result<u32, Refusal> {
    match wanted {
        None => Ok(100),
        Some(limit @ 1..=1000) => Ok(limit),
        Some(_) => Err(Refusal::bad_parameter("limit", "allowed are 1 to 1000")),
    }
}

/// The `{id}` of a path.
pub struct Id(pub HostId);

impl FromRequestParts<App> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Name(id) = Name::from_request_parts(parts, app).await?;
        HostId::new(id)
            .map(Self)
            .map_err(|error| Refusal::bad_parameter("id", format!("this is no host id: it {error}")))
    }
}

impl Argument for Id {
    fn describe(described: &mut Described) {
        described.path = Some(|generator| generator.subschema_for::<HostId>());
        described.problems.push(400);
    }
}

/// The one segment of a path that is not fixed.
pub struct Name(pub String);

impl FromRequestParts<App> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Path(name) =
            Path::<String>::from_request_parts(parts, app)
                .await
                .map_err(|rejection: PathRejection| {
                    Refusal::of(rejection.status()).detail(rejection.body_text())
                })?;
        match name.contains('\0') {
            true => Err(Refusal::bad_parameter("name", "holds a NUL character")),
            false => Ok(Self(name)),
        }
    }
}

impl Argument for Name {
    fn describe(described: &mut Described) {
        described.path = Some(|_| json_schema!({ "type": "string", "minLength": 1 }));
        described.problems.push(400);
    }
}

/// A JSON body that holds a `T`. It is decoded by the handler, after its other checks.
pub struct Body<T> {
    bytes: Bytes,
    holds: PhantomData<fn() -> T>,
}

impl<T> FromRequest<App> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        let mime = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        // Also what keeps foreign web pages out: other types they may send without asking first.
        if mime != "application/json" && !mime.ends_with("+json") {
            let refusal = Refusal::of(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            return Err(refusal.detail("send Content-Type: application/json"));
        }
        let bytes = Bytes::from_request(request, app)
            .await
            .map_err(|rejection: BytesRejection| {
                Refusal::of(rejection.status()).detail(rejection.body_text())
            })?;
        Ok(Self {
            bytes,
            holds: PhantomData,
        })
    }
}

impl<T: JsonSchema> Argument for Body<T> {
    fn describe(described: &mut Described) {
        described.body = Some(|generator| generator.subschema_for::<T>());
        described.problems.extend([413, 415, 422]);
    }
}

impl<T: DeserializeOwned> Body<T> {
    /// The path of an error is `$`: serde gives no other.
    pub fn parse(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.bytes).map_err(|error| Refusal::invalid("$", error.to_string()))
    }
}

/// Bytes that a message has around its applications, and some more.
const ENVELOPE: usize = 1024;

impl Body<Apps> {
    /// The applications, within the limits of agents. Errors have the path of what is wrong.
    pub fn apps(&self) -> Result<Apps, Refusal> {
        let agents = Limits::default();
        let limits = Limits {
            max_size: agents.max_size - ENVELOPE,
            ..agents
        };
        Ok(decode_apps(&self.bytes, limits)?)
    }
}
