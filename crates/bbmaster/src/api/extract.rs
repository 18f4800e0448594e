//! Parameters and bodies of requests. Each one that is invalid becomes a problem document.

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

/// The query of a request.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Refusal> {
        // No stored text contains NUL, and PostgreSQL accepts none.
        if parts.uri.query().unwrap_or_default().contains("%00") {
            return Err(Refusal::bad_parameter("query", "contains a NUL character"));
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

/// Rows of a page.
pub fn limit(wanted: Option<u32>) -> Result<u32, Refusal> {
    match wanted {
        None => Ok(100),
        Some(limit @ 1..=1000) => Ok(limit),
        Some(_) => Err(Refusal::bad_parameter("limit", "must be 1 to 1000")),
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
            .map_err(|error| Refusal::bad_parameter("id", format!("is not a host id: it {error}")))
    }
}

impl Argument for Id {
    fn describe(described: &mut Described) {
        described.path = Some(|generator| generator.subschema_for::<HostId>());
        described.problems.push(400);
    }
}

/// The variable segment of a path.
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
            true => Err(Refusal::bad_parameter("name", "contains a NUL character")),
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
        // This also stops cross-site requests: a web page may send other types without a preflight.
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

/// Room for what a message has besides its applications.
const ENVELOPE: usize = 1024;

impl Body<Apps> {
    /// Decodes the applications, within the limits of agents. An error has the path of the invalid
    /// value.
    pub fn apps(&self) -> Result<Apps, Refusal> {
        let agents = Limits::default();
        let limits = Limits {
            max_size: agents.max_size - ENVELOPE,
            ..agents
        };
        Ok(decode_apps(&self.bytes, limits)?)
    }
}
