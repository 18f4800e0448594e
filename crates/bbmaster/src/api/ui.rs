//! The web page: three files in the binary. It loads nothing from other servers.

use std::marker::PhantomData;

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

use super::signature::{Answer, Answers};

/// The page may run, show and request only what the master serves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// A file of the page. `K` is its kind.
pub struct UiFile<K> {
    content: &'static str,
    kind: PhantomData<K>,
}

impl<K> UiFile<K> {
    fn new(content: &'static str) -> Self {
        Self {
            content,
            kind: PhantomData,
        }
    }
}

/// The kind of a file.
pub trait UiKind {
    const MEDIA_TYPE: &'static str;
}

pub struct Html;
pub struct JavaScript;
pub struct Css;

impl UiKind for Html {
    const MEDIA_TYPE: &'static str = "text/html";
}

impl UiKind for JavaScript {
    const MEDIA_TYPE: &'static str = "text/javascript";
}

impl UiKind for Css {
    const MEDIA_TYPE: &'static str = "text/css";
}

impl<K: UiKind> IntoResponse for UiFile<K> {
    fn into_response(self) -> Response {
        let headers = [
            (CONTENT_TYPE, format!("{}; charset=utf-8", K::MEDIA_TYPE)),
            (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            // A newer master has newer files under the same names.
            (CACHE_CONTROL, "no-cache".to_owned()),
        ];
        (headers, self.content).into_response()
    }
}

impl<K: UiKind> Answers for UiFile<K> {
    fn answers() -> Vec<Answer> {
        vec![Answer::raw(K::MEDIA_TYPE)]
    }
}

pub async fn page() -> UiFile<Html> {
    UiFile::new(include_str!("../../ui/index.html"))
}

pub async fn program() -> UiFile<JavaScript> {
    UiFile::new(include_str!("../../ui/ui.js"))
}

pub async fn style() -> UiFile<Css> {
    UiFile::new(include_str!("../../ui/ui.css"))
}
