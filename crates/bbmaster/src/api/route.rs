//! The one table of routes.

use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};
use protocol::Apps;
use protocol::rest::{
    AppList, CreatedEnrollToken, CreatedToken, DesiredApps, Enroll, EnrollTokenList, Enrolled, EventList,
    EventQuery, FleetQuery, FleetSet, Health, Host, HostIds, HostList, HostQuery, Labels, NewEnrollToken,
    NewToken, PingAnswer, PingQuery, PutQuery, RetryAnswer, Role, TokenList, WhoAmI,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::access::Access;
use super::{App, apps, enroll, events, fleet, health, hosts, openapi, ping, retry, tokens, ui};

/// A method on a path.
pub struct Route {
    pub method: Method,
    /// As in OpenAPI; a collection's ends in `/`. Both are served with and without it.
    pub path: &'static str,
    pub access: Access,
    pub doc: Doc,
    pub(super) handler: MethodRouter<App>,
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What the OpenAPI document says of a route.
#[derive(Default)]
pub struct Doc {
    pub summary: &'static str,
    pub query: Option<SchemaOf>,
    pub body: Option<SchemaOf>,
    /// Name, description and pattern.
    pub headers: &'static [(&'static str, &'static str, &'static str)],
    pub answers: Vec<Answer>,
    /// Statuses of problem documents beside those that every route may give.
    pub problems: &'static [u16],
}

pub struct Answer {
    pub status: u16,
    /// Empty: no body.
    pub media_type: &'static str,
    pub schema: Option<SchemaOf>,
    pub text: &'static str,
}

impl Doc {
    fn new(summary: &'static str) -> Self {
        Self {
            summary,
            ..Self::default()
        }
    }

    fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(|generator| T::json_schema(generator));
        self
    }

    fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(|generator| generator.subschema_for::<T>());
        self
    }

    fn answer<T: JsonSchema>(mut self, status: u16, text: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            media_type: "application/json",
            schema: Some(|generator| generator.subschema_for::<T>()),
            text,
        });
        self
    }

    fn raw(mut self, status: u16, media_type: &'static str, text: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            media_type,
            schema: None,
            text,
        });
        self
    }

    fn headers(mut self, headers: &'static [(&'static str, &'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }

    fn problems(mut self, problems: &'static [u16]) -> Self {
        self.problems = problems;
        self
    }
}

impl Route {
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

const OPEN: Access = Access::Open;
const VIEWER: Access = Access::Needs(Role::Viewer);
const OPERATOR: Access = Access::Needs(Role::Operator);
const ADMIN: Access = Access::Needs(Role::Admin);

/// All of them, in the order of the documentation.
pub fn routes() -> Vec<Route> {
    let mut routes = of_hosts();
    routes.extend(of_the_fleet());
    routes.extend(of_access());
    routes.extend(of_enrolment());
    routes.extend(of_the_master());
    routes
}

fn route(method: Method, path: &'static str, access: Access, handler: MethodRouter<App>, doc: Doc) -> Route {
    Route {
        method,
        path,
        access,
        doc,
        handler,
    }
}

fn of_hosts() -> Vec<Route> {
    let put_apps = Doc::new(
        "Set what a host should run: applications that are not named are removed. A host that was never seen \
         gets it when it appears",
    )
    .query::<PutQuery>()
    .headers(&[(
        "If-Match",
        "Generation that is to be replaced, in quotes: \"3\"",
        r#"^(\*|"[0-9]{1,19}"(, ?"[0-9]{1,19}"){0,15})$"#,
    )])
    .body::<Apps>()
    .answer::<openapi::DesiredOrPlan>(200, "As it is stored now; with dry_run, what the host would do")
    .problems(&[409, 412, 413, 415, 422, 501, 504]);
    vec![
        route(
            Method::GET,
            "/v1/hosts/",
            VIEWER,
            get(hosts::list),
            Doc::new("Hosts, by id: one page of those that match all filters")
                .query::<HostQuery>()
                .answer::<HostList>(200, "A page"),
        ),
        route(
            Method::GET,
            "/v1/hosts/ids/",
            VIEWER,
            get(hosts::ids),
            Doc::new("Ids of hosts")
                .query::<HostQuery>()
                .answer::<HostIds>(200, "A page"),
        ),
        route(
            Method::GET,
            "/v1/hosts/{id}",
            VIEWER,
            get(hosts::one),
            Doc::new("All that is known of a host")
                .answer::<Host>(200, "The host")
                .problems(&[404]),
        ),
        route(
            Method::DELETE,
            "/v1/hosts/{id}",
            ADMIN,
            delete(hosts::forget),
            Doc::new("Forget a host and what is desired of it; it comes back if it reports")
                .raw(204, "", "Forgotten")
                .problems(&[404]),
        ),
        route(
            Method::GET,
            "/v1/hosts/{id}/apps",
            VIEWER,
            get(apps::desired),
            Doc::new("What a host should run")
                .answer::<DesiredApps>(200, "The ETag is the generation")
                .problems(&[404]),
        ),
        route(
            Method::PUT,
            "/v1/hosts/{id}/apps",
            OPERATOR,
            put(apps::put_desired),
            put_apps,
        ),
        route(
            Method::GET,
            "/v1/hosts/{id}/labels",
            VIEWER,
            get(hosts::labels),
            Doc::new("A host's labels")
                .answer::<Labels>(200, "All of them")
                .problems(&[404]),
        ),
        route(
            Method::PUT,
            "/v1/hosts/{id}/labels",
            OPERATOR,
            put(hosts::put_labels),
            Doc::new("Replace a host's labels")
                .body::<openapi::LabelsBody>()
                .answer::<Labels>(200, "All of them")
                .problems(&[413, 415, 422]),
        ),
        route(
            Method::POST,
            "/v1/hosts/{id}/ping",
            OPERATOR,
            post(ping::one),
            Doc::new("Ask a host for its status, and wait for it")
                .query::<PingQuery>()
                .answer::<PingAnswer>(200, "It has answered")
                .answer::<PingAnswer>(202, "With wait=0: it was asked")
                .problems(&[409, 504]),
        ),
        route(
            Method::POST,
            "/v1/hosts/{id}/retry",
            OPERATOR,
            post(retry::one),
            Doc::new(
                "Have a host try again what failed and is held, though nothing else is desired of it than before",
            )
            .answer::<RetryAnswer>(202, "It has been told")
            .problems(&[404, 409]),
        ),
    ]
}

fn of_the_fleet() -> Vec<Route> {
    vec![
        route(
            Method::POST,
            "/v1/ping",
            OPERATOR,
            post(ping::all),
            Doc::new("Ask all hosts for their status, no faster than [bbmaster] ping_rate")
                .answer::<PingAnswer>(202, "They are being asked"),
        ),
        route(
            Method::GET,
            "/v1/apps/",
            VIEWER,
            get(apps::usage),
            Doc::new("Every application of the fleet, and on how many hosts")
                .answer::<AppList>(200, "By name"),
        ),
        route(
            Method::PUT,
            "/v1/apps/",
            OPERATOR,
            put(fleet::put_desired),
            Doc::new(
                "Set what every host that matches all filters should run, as PUT /v1/hosts/{id}/apps does for one. \
                 The same again changes nothing",
            )
            .query::<FleetQuery>()
            .body::<Apps>()
            .answer::<FleetSet>(200, "All have it; with dry_run, how many would")
            .problems(&[413, 415, 422]),
        ),
        route(
            Method::GET,
            "/v1/events",
            VIEWER,
            get(events::events),
            Doc::new(
                "What happened, newest first; or, with after, oldest first; or, with Accept: \
                 text/event-stream, live",
            )
            .query::<EventQuery>()
            .headers(&[("Last-Event-ID", "Where a stream goes on", "^[0-9]{1,19}$")])
            .answer::<EventList>(200, "A page, or a stream")
            .raw(200, "text/event-stream", "One event each, its data as in a page"),
        ),
    ]
}

fn of_access() -> Vec<Route> {
    vec![
        route(
            Method::GET,
            "/v1/tokens/",
            ADMIN,
            get(tokens::list),
            Doc::new("API tokens, without their secrets").answer::<TokenList>(200, "By name"),
        ),
        route(
            Method::POST,
            "/v1/tokens/",
            ADMIN,
            post(tokens::create),
            Doc::new("Make a token; its secret is shown once")
                .body::<NewToken>()
                .answer::<CreatedToken>(201, "Made")
                .problems(&[409, 413, 415, 422]),
        ),
        route(
            Method::DELETE,
            "/v1/tokens/{name}",
            ADMIN,
            delete(tokens::revoke),
            Doc::new("Revoke a token")
                .raw(204, "", "Revoked")
                .problems(&[404]),
        ),
        route(
            Method::GET,
            "/v1/whoami",
            VIEWER,
            get(tokens::whoami),
            Doc::new("Whose token this is").answer::<WhoAmI>(200, "Name and role"),
        ),
    ]
}

fn of_enrolment() -> Vec<Route> {
    vec![
        route(
            Method::GET,
            "/v1/enroll-tokens/",
            OPERATOR,
            get(enroll::list),
            Doc::new("Enrolment tokens, without their secrets").answer::<EnrollTokenList>(200, "By name"),
        ),
        route(
            Method::POST,
            "/v1/enroll-tokens/",
            OPERATOR,
            post(enroll::create),
            Doc::new("Make a token that lets hosts in; its secret is shown once")
                .body::<NewEnrollToken>()
                .answer::<CreatedEnrollToken>(201, "Made")
                .problems(&[409, 413, 415, 422]),
        ),
        route(
            Method::DELETE,
            "/v1/enroll-tokens/{name}",
            OPERATOR,
            delete(enroll::revoke),
            Doc::new("Revoke an enrolment token")
                .raw(204, "", "Revoked")
                .problems(&[404]),
        ),
        route(
            Method::POST,
            "/v1/enroll",
            Access::NeedsEnrollToken,
            post(enroll::enroll),
            Doc::new("A host gets its login at the broker, by an enrolment token")
                .body::<Enroll>()
                .answer::<Enrolled>(201, "How it reaches the broker")
                .problems(&[409, 413, 415, 422]),
        ),
    ]
}

fn of_the_master() -> Vec<Route> {
    vec![
        route(
            Method::GET,
            "/healthz",
            OPEN,
            get(health::live),
            Doc::new("Whether the process lives").answer::<Health>(200, "It does"),
        ),
        route(
            Method::GET,
            "/readyz",
            OPEN,
            get(health::ready),
            Doc::new("Whether it has its database and its broker")
                .answer::<Health>(200, "It has both")
                .answer::<Health>(503, "What is missing"),
        ),
        route(
            Method::GET,
            "/metrics",
            VIEWER,
            get(health::metrics),
            Doc::new("Counters for Prometheus").raw(200, health::OPENMETRICS, "OpenMetrics text"),
        ),
        route(
            Method::GET,
            "/openapi.json",
            OPEN,
            get(openapi::serve),
            Doc::new("This document").raw(200, "application/json", "OpenAPI 3.1"),
        ),
        route(
            Method::GET,
            "/",
            OPEN,
            get(ui::page),
            Doc::new("The web page").raw(200, "text/html", "It asks for a token where one is needed"),
        ),
        route(
            Method::GET,
            "/ui.js",
            OPEN,
            get(ui::program),
            Doc::new("The web page's program").raw(200, "text/javascript", "JavaScript"),
        ),
        route(
            Method::GET,
            "/ui.css",
            OPEN,
            get(ui::style),
            Doc::new("The web page's looks").raw(200, "text/css", "CSS"),
        ),
    ]
}
