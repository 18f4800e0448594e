//! The web page: three files in the binary, nothing from anywhere else.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

/// Only what the master itself serves is run, shown and asked.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // A newer master has newer files under the same names.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

pub async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("../../ui/index.html"))
}

pub async fn program() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../../ui/ui.js"))
}

pub async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("../../ui/ui.css"))
}
