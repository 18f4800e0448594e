//! The one table of routes.

use std::sync::LazyLock;

use axum::Json;
use axum::response::{IntoResponse, Response};
use protocol::rest::Role;
use serde_json::Value;

use super::access::Access;
use super::route::Route;
use super::signature::{Answer, Answers};
use super::{apps, enroll, events, fleet, health, hosts, openapi, ping, retry, tokens, ui};

const OPEN: Access = Access::Open;
const VIEWER: Access = Access::Needs(Role::Viewer);
const OPERATOR: Access = Access::Needs(Role::Operator);
const ADMIN: Access = Access::Needs(Role::Admin);

/// All routes, in the order of the documentation.
pub fn routes() -> Vec<Route> {
    let mut routes = routes_of_hosts();
    routes.extend(routes_of_the_fleet());
    routes.extend(routes_of_access());
    routes.extend(routes_of_enrolment());
    routes.extend(routes_of_the_master());
    routes
}

/// The OpenAPI document of all routes.
pub fn document() -> Value {
    openapi::document(&routes())
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// The document as an answer.
struct OpenApi;

impl IntoResponse for OpenApi {
    fn into_response(self) -> Response {
        Json(&*DOCUMENT).into_response()
    }
}

impl Answers for OpenApi {
    fn answers() -> Vec<Answer> {
        vec![Answer::raw("application/json")]
    }
}

async fn serve_document() -> OpenApi {
    OpenApi
}

fn routes_of_hosts() -> Vec<Route> {
    vec![
        Route::get("/v1/hosts/", VIEWER, hosts::list)
            .summary("Hosts, by id: one page of those that match all filters")
            .answer(200, "A page"),
        Route::get("/v1/hosts/ids/", VIEWER, hosts::ids)
            .summary("Ids of hosts")
            .answer(200, "A page"),
        Route::get("/v1/hosts/{id}", VIEWER, hosts::one)
            .summary("All that is known of a host")
            .answer(200, "The host")
            .problems(&[404]),
        Route::delete("/v1/hosts/{id}", ADMIN, hosts::forget)
            .summary("Forget a host and what is desired of it; it comes back if it reports")
            .answer(204, "Forgotten")
            .problems(&[404]),
        Route::get("/v1/hosts/{id}/apps", VIEWER, apps::desired)
            .summary("What a host should run")
            .answer(200, "The ETag is the generation")
            .problems(&[404]),
        Route::put("/v1/hosts/{id}/apps", OPERATOR, apps::put_desired)
            .summary(
                "Set what a host should run: applications that are not named are removed. A host that was never seen \
                 gets it when it appears",
            )
            .answer(200, "As it is stored now; with dry_run, what the host would do")
            .problems(&[409, 412, 501, 504]),
        Route::get("/v1/hosts/{id}/labels", VIEWER, hosts::labels)
            .summary("A host's labels")
            .answer(200, "All of them")
            .problems(&[404]),
        Route::put("/v1/hosts/{id}/labels", OPERATOR, hosts::put_labels)
            .summary("Replace a host's labels")
            .answer(200, "All of them"),
        Route::post("/v1/hosts/{id}/ping", OPERATOR, ping::one)
            .summary("Ask a host for its status, and wait for it")
            .answer(200, "It has answered")
            .answer(202, "With wait=0: it was asked")
            .problems(&[409, 504]),
        Route::post("/v1/hosts/{id}/retry", OPERATOR, retry::one)
            .summary("Have a host try again what failed and is held, though nothing else is desired of it than before")
            .answer(202, "It has been told")
            .problems(&[404, 409]),
    ]
}

fn routes_of_the_fleet() -> Vec<Route> {
    vec![
        Route::post("/v1/ping", OPERATOR, ping::all)
            .summary("Ask all hosts for their status, no faster than [bbmaster] ping_rate")
            .answer(202, "They are being asked"),
        Route::get("/v1/apps/", VIEWER, apps::usage)
            .summary("Every application of the fleet, and on how many hosts")
            .answer(200, "By name"),
        Route::put("/v1/apps/", OPERATOR, fleet::put_desired)
            .summary(
                "Set what every host that matches all filters should run, as PUT /v1/hosts/{id}/apps does for one. \
                 The same again changes nothing",
            )
            .answer(200, "All have it; with dry_run, how many would"),
        Route::get("/v1/events", VIEWER, events::events)
            .summary(
                "What happened, newest first; or, with after, oldest first; or, with Accept: \
                 text/event-stream, live",
            )
            .answer(200, "A page, or a stream"),
    ]
}

fn routes_of_access() -> Vec<Route> {
    vec![
        Route::get("/v1/tokens/", ADMIN, tokens::list)
            .summary("API tokens, without their secrets")
            .answer(200, "By name"),
        Route::post("/v1/tokens/", ADMIN, tokens::create)
            .summary("Make a token; its secret is shown once")
            .answer(201, "Made")
            .problems(&[409]),
        Route::delete("/v1/tokens/{name}", ADMIN, tokens::revoke)
            .summary("Revoke a token")
            .answer(204, "Revoked")
            .problems(&[404]),
        Route::get("/v1/whoami", VIEWER, tokens::whoami)
            .summary("Whose token this is")
            .answer(200, "Name and role"),
    ]
}

fn routes_of_enrolment() -> Vec<Route> {
    vec![
        Route::get("/v1/enroll-tokens/", OPERATOR, enroll::list)
            .summary("Enrolment tokens, without their secrets")
            .answer(200, "By name"),
        Route::post("/v1/enroll-tokens/", OPERATOR, enroll::create)
            .summary("Make a token that lets hosts in; its secret is shown once")
            .answer(201, "Made")
            .problems(&[409]),
        Route::delete("/v1/enroll-tokens/{name}", OPERATOR, enroll::revoke)
            .summary("Revoke an enrolment token")
            .answer(204, "Revoked")
            .problems(&[404]),
        Route::post("/v1/enroll", Access::NeedsEnrollToken, enroll::enroll)
            .summary("A host gets its login at the broker, by an enrolment token")
            .answer(201, "How it reaches the broker")
            .problems(&[409]),
    ]
}

fn routes_of_the_master() -> Vec<Route> {
    vec![
        Route::get("/healthz", OPEN, health::live)
            .summary("Whether the process lives")
            .answer(200, "It does"),
        Route::get("/readyz", OPEN, health::ready)
            .summary("Whether it has its database and its broker")
            .answer(200, "It has both")
            .answer(503, "What is missing"),
        Route::get("/metrics", VIEWER, health::metrics)
            .summary("Counters for Prometheus")
            .answer(200, "OpenMetrics text"),
        Route::get("/openapi.json", OPEN, serve_document)
            .summary("This document")
            .answer(200, "OpenAPI 3.1"),
        Route::get("/", OPEN, ui::page)
            .summary("The web page")
            .answer(200, "It asks for a token where one is needed"),
        Route::get("/ui.js", OPEN, ui::program)
            .summary("The web page's program")
            .answer(200, "JavaScript"),
        Route::get("/ui.css", OPEN, ui::style)
            .summary("The web page's looks")
            .answer(200, "CSS"),
    ]
}
