//! What a route is: a method on a path, who may call it, and what the OpenAPI document says of it.

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};

use super::App;
use super::access::Access;
use super::signature::{Described, Signature};

/// A method on a path.
pub struct Route {
    pub method: Method,
    /// As in OpenAPI; a collection's ends in `/`. Both are served with and without it.
    pub path: &'static str,
    pub access: Access,
    pub(super) doc: RouteDoc,
    pub(super) handler: MethodRouter<App>,
}

/// What the OpenAPI document says of a route.
pub(super) struct RouteDoc {
    pub summary: &'static str,
    /// From the signature of the handler.
    pub described: Described,
    /// What each status of an answer means.
    pub texts: Vec<(u16, &'static str)>,
}

impl Route {
    pub(super) fn get<H, T, A>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, App> + Signature<A>,
        T: 'static,
    {
        let described = H::described();
        Self::new(Method::GET, path, access, routing::get(handler), described)
    }

    pub(super) fn put<H, T, A>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, App> + Signature<A>,
        T: 'static,
    {
        let described = H::described();
        Self::new(Method::PUT, path, access, routing::put(handler), described)
    }

    pub(super) fn post<H, T, A>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, App> + Signature<A>,
        T: 'static,
    {
        let described = H::described();
        Self::new(Method::POST, path, access, routing::post(handler), described)
    }

    pub(super) fn delete<H, T, A>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, App> + Signature<A>,
        T: 'static,
    {
        let described = H::described();
        Self::new(Method::DELETE, path, access, routing::delete(handler), described)
    }

    fn new(
        method: Method,
        path: &'static str,
        access: Access,
        handler: MethodRouter<App>,
        described: Described,
    ) -> Self {
        Self {
            method,
            path,
            access,
            handler,
            doc: RouteDoc {
                summary: "",
                described,
                texts: Vec::new(),
            },
        }
    }

    pub(super) fn summary(mut self, summary: &'static str) -> Self {
        self.doc.summary = summary;
        self
    }

    /// What an answer of this status means.
    pub(super) fn answer(mut self, status: u16, text: &'static str) -> Self {
        self.doc.texts.push((status, text));
        self
    }

    /// Statuses of problem documents, beside those of its arguments and its access.
    pub(super) fn problems(mut self, problems: &[u16]) -> Self {
        self.doc.described.problems.extend(problems);
        self
    }

    /// With and without a slash at the end.
    pub fn paths(&self) -> Vec<String> {
        match self.path.trim_end_matches('/') {
            "" => vec!["/".to_owned()],
            bare => vec![bare.to_owned(), format!("{bare}/")],
        }
    }

    /// The names in braces.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }
}
