//! What the signature of a handler says about its route. The OpenAPI document is made from it, so
//! that the document cannot differ from what the handler takes and answers.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use super::problem::Refusal;

pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a route takes and answers.
#[derive(Default)]
pub struct Described {
    /// Of the segment of the path that is not fixed.
    pub path: Option<SchemaOf>,
    pub query: Option<SchemaOf>,
    pub body: Option<SchemaOf>,
    pub headers: Vec<Header>,
    pub answers: Vec<Answer>,
    /// Statuses of problem documents.
    pub problems: Vec<u16>,
}

/// A header that a request may have.
pub struct Header {
    pub name: &'static str,
    pub description: &'static str,
    pub pattern: &'static str,
}

/// One status and media type that a handler answers with.
pub struct Answer {
    pub status: StatusCode,
    /// Empty: no body.
    pub media_type: &'static str,
    pub schema: Option<SchemaOf>,
}

impl Answer {
    pub fn json<T: JsonSchema>(status: StatusCode) -> Self {
        Self {
            status,
            media_type: "application/json",
            schema: Some(|generator| generator.subschema_for::<T>()),
        }
    }

    /// A body without a schema.
    pub fn raw(media_type: &'static str) -> Self {
        Self {
            status: StatusCode::OK,
            media_type,
            schema: None,
        }
    }
}

/// An argument of a handler.
pub trait Argument {
    /// Adds what a request must have for this argument.
    fn describe(_: &mut Described) {}
}

impl<S> Argument for State<S> {}
impl<T> Argument for Extension<T> {}

/// What a handler returns.
pub trait Answers {
    fn answers() -> Vec<Answer>;
}

impl<T: JsonSchema> Answers for Json<T> {
    fn answers() -> Vec<Answer> {
        vec![Answer::json::<T>(StatusCode::OK)]
    }
}

/// The problems of a route are in the table of routes: every handler has the same error type.
impl<T: Answers> Answers for Result<T, Refusal> {
    fn answers() -> Vec<Answer> {
        T::answers()
    }
}

/// Status 201 and what was created.
pub struct Created<T>(pub T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: JsonSchema> Answers for Created<T> {
    fn answers() -> Vec<Answer> {
        vec![Answer::json::<T>(StatusCode::CREATED)]
    }
}

/// Status 202: the work goes on after the answer.
pub struct Accepted<T>(pub T);

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

impl<T: JsonSchema> Answers for Accepted<T> {
    fn answers() -> Vec<Answer> {
        vec![Answer::json::<T>(StatusCode::ACCEPTED)]
    }
}

/// Status 204.
pub struct NoContent;

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl Answers for NoContent {
    fn answers() -> Vec<Answer> {
        vec![Answer {
            status: StatusCode::NO_CONTENT,
            media_type: "",
            schema: None,
        }]
    }
}

/// A handler. `A`: the tuple of its arguments.
pub trait Signature<A> {
    fn described() -> Described;
}

macro_rules! signature {
    ($($argument:ident)*) => {
        impl<F, R, $($argument),*> Signature<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R,
            R: Future,
            R::Output: Answers,
            $($argument: Argument),*
        {
            fn described() -> Described {
                #[allow(unused_mut, reason = "a handler without arguments")]
                let mut described = Described {
                    answers: R::Output::answers(),
                    ..Described::default()
                };
                $($argument::describe(&mut described);)*
                described
            }
        }
    };
}
signature!();
signature!(A1);
signature!(A1 A2);
signature!(A1 A2 A3);
signature!(A1 A2 A3 A4);
signature!(A1 A2 A3 A4 A5);
signature!(A1 A2 A3 A4 A5 A6);
