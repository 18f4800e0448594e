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
            .summary("List hosts: one page of those that match all filters, sorted by id")
            .answer(200, "A page"),
        Route::get("/v1/hosts/ids/", VIEWER, hosts::ids)
            .summary("List the ids of hosts that match all filters")
            .answer(200, "A page"),
        Route::get("/v1/hosts/{id}", VIEWER, hosts::one)
            .summary("Get everything known about a host")
            .answer(200, "The host")
            .problems(&[404]),
        Route::delete("/v1/hosts/{id}", ADMIN, hosts::forget)
            .summary("Delete a host and its desired state. If it reports again, it is listed again")
            .answer(204, "Deleted")
            .problems(&[404]),
        Route::get("/v1/hosts/{id}/apps", VIEWER, apps::desired)
            .summary("Get the desired applications of a host")
            .answer(200, "The ETag is the generation")
            .problems(&[404]),
        Route::put("/v1/hosts/{id}/apps", OPERATOR, apps::put_desired)
            .summary(
                "Set the desired applications of a host. Applications that are not named are removed from it. A host \
                 that has never reported gets them when it reports",
            )
            .answer(200, "The stored desired state; with dry_run, the plan of the host")
            .problems(&[409, 412, 501, 504]),
        Route::get("/v1/hosts/{id}/labels", VIEWER, hosts::labels)
            .summary("Get the labels of a host")
            .answer(200, "All labels of the host")
            .problems(&[404]),
        Route::put("/v1/hosts/{id}/labels", OPERATOR, hosts::put_labels)
            .summary("Replace all labels of a host")
            .answer(200, "All labels of the host"),
        Route::post("/v1/hosts/{id}/ping", OPERATOR, ping::one)
            .summary("Ask a host for its status, and wait for the answer")
            .answer(200, "The host has answered")
            .answer(202, "With wait=0: the host was asked")
            .problems(&[409, 504]),
        Route::post("/v1/hosts/{id}/retry", OPERATOR, retry::one)
            .summary("Have a host retry applications that failed and are held, without a change of its desired state")
            .answer(202, "The host was told")
            .problems(&[404, 409]),
    ]
}

fn routes_of_the_fleet() -> Vec<Route> {
    vec![
        Route::post("/v1/ping", OPERATOR, ping::all)
            .summary("Ask all hosts for their status, no faster than [bbmaster] ping_rate")
            .answer(202, "The hosts are being asked"),
        Route::get("/v1/apps/", VIEWER, apps::usage)
            .summary("List the applications of the fleet, with the number of hosts of each")
            .answer(200, "Sorted by name"),
        Route::put("/v1/apps/", OPERATOR, fleet::put_desired)
            .summary(
                "Set the desired applications of every host that matches all filters, as PUT /v1/hosts/{id}/apps does \
                 for one host. Repeating the request changes nothing",
            )
            .answer(200, "How many hosts match, and how many were changed; with dry_run, how many would be"),
        Route::get("/v1/events", VIEWER, events::events)
            .summary(
                "List events, newest first; with after, oldest first. With Accept: text/event-stream, stream them as \
                 they happen",
            )
            .answer(200, "A page, or a stream"),
    ]
}

fn routes_of_access() -> Vec<Route> {
    vec![
        Route::get("/v1/tokens/", ADMIN, tokens::list)
            .summary("List API tokens, without their secrets")
            .answer(200, "Sorted by name"),
        Route::post("/v1/tokens/", ADMIN, tokens::create)
            .summary("Create a token. Its secret is shown only in this answer")
            .answer(201, "Created")
            .problems(&[409]),
        Route::delete("/v1/tokens/{name}", ADMIN, tokens::revoke)
            .summary("Revoke a token")
            .answer(204, "Revoked")
            .problems(&[404]),
        Route::get("/v1/whoami", VIEWER, tokens::whoami)
            .summary("Get name and role of the token of this request")
            .answer(200, "Name and role"),
    ]
}

fn routes_of_enrolment() -> Vec<Route> {
    vec![
        Route::get("/v1/enroll-tokens/", OPERATOR, enroll::list)
            .summary("List enrolment tokens, without their secrets")
            .answer(200, "Sorted by name"),
        Route::post("/v1/enroll-tokens/", OPERATOR, enroll::create)
            .summary("Create an enrolment token. Its secret is shown only in this answer")
            .answer(201, "Created")
            .problems(&[409]),
        Route::delete("/v1/enroll-tokens/{name}", OPERATOR, enroll::revoke)
            .summary("Revoke an enrolment token")
            .answer(204, "Revoked")
            .problems(&[404]),
        Route::post("/v1/enroll", Access::NeedsEnrollToken, enroll::enroll)
            .summary("Create a host's login at the broker. Authorized by an enrolment token")
            .answer(201, "The login and the address of the broker")
            .problems(&[409]),
    ]
}

fn routes_of_the_master() -> Vec<Route> {
    vec![
        Route::get("/healthz", OPEN, health::live)
            .summary("Check that the process is running")
            .answer(200, "It is running"),
        Route::get("/readyz", OPEN, health::ready)
            .summary("Check the connections to database and broker")
            .answer(200, "Both work")
            .answer(503, "What does not work"),
        Route::get("/metrics", VIEWER, health::metrics)
            .summary("Get metrics for Prometheus")
            .answer(200, "OpenMetrics text"),
        Route::get("/openapi.json", OPEN, serve_document)
            .summary("Get this document")
            .answer(200, "OpenAPI 3.1"),
        Route::get("/", OPEN, ui::page)
            .summary("Get the web page")
            .answer(200, "HTML"),
        Route::get("/ui.js", OPEN, ui::program)
            .summary("Get the program of the web page")
            .answer(200, "JavaScript"),
        Route::get("/ui.css", OPEN, ui::style)
            .summary("Get the style of the web page")
            .answer(200, "CSS"),
    ]
}
