//! The client of the master's REST API.

mod error;
mod sse;
mod tls;

use std::io::{BufReader, Read};
use std::time::Duration;

use protocol::rest::{
    AppList, CreatedEnrollToken, CreatedToken, DesiredApps, EnrollTokenList, Event, EventList, EventQuery,
    FleetQuery, FleetSet, Health, Host, HostIds, HostList, HostQuery, Labels, NewEnrollToken, NewToken,
    PingAnswer, PingQuery, PlanAnswer, PutQuery, RetryAnswer, TokenList, WhoAmI,
};
use protocol::{Apps, HostId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body, http};
use url::Url;

use crate::settings::{Settings, is_this_machine};

pub use error::{ClientError, SettingOrigins};
pub use sse::EventStream;

/// The client of one master. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    base: Url,
    token: Option<String>,
    agent: Agent,
    origins: SettingOrigins,
}

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of a request. Longer than a master waits for a host's plan.
const REQUEST_LIMIT: Duration = Duration::from_secs(75);
/// Time limit of a request that sets the desired state of up to 100,000 hosts.
const FLEET_REQUEST_LIMIT: Duration = Duration::from_secs(600);
/// Longest silence on an event stream. A master sends something every 15 s.
const STREAM_SILENCE: Duration = Duration::from_secs(45);
/// Largest answer in bytes. A page of 1000 hosts has about 1 MB.
const LARGEST_ANSWER: u64 = 64 << 20;

/// A request to the master's API.
struct ApiRequest<'a> {
    method: Method,
    /// Segments of the path below the base URL, not yet escaped.
    path: &'a [&'a str],
    query: Value,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    limit: TimeLimit,
}

enum TimeLimit {
    /// For the whole answer.
    Whole(Duration),
    /// The answer is a stream: no limit in total, but [`STREAM_SILENCE`] between two reads.
    Stream,
}

impl<'a> ApiRequest<'a> {
    fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            path,
            query: Value::Null,
            headers: Vec::new(),
            body: None,
            limit: TimeLimit::Whole(REQUEST_LIMIT),
        }
    }

    fn get(path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, path)
    }

    fn query(mut self, query: &impl Serialize) -> Self {
        // This cannot fail: the types are ours and have string keys.
        self.query = serde_json::to_value(query).unwrap_or_default();
        self
    }

    fn json(mut self, body: &impl Serialize) -> Self {
        self.body = serde_json::to_vec(body).ok();
        self.headers.push(("Content-Type", "application/json".to_owned()));
        self
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl Client {
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would send the token to another server.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            .user_agent(concat!("bbctl/", env!("CARGO_PKG_VERSION")));
        if is_this_machine(&settings.url) {
            config = config.proxy(None);
        }
        if settings.url.scheme() == "https" {
            config = config.tls_config(tls::config(settings.ca.as_deref())?);
        }
        Ok(Self {
            base: settings.url.clone(),
            token: settings.token.as_ref().map(|(token, _)| token.clone()),
            agent: config.build().new_agent(),
            origins: SettingOrigins {
                url: settings.url_origin.clone(),
                token: settings.token.as_ref().map(|(_, origin)| origin.clone()),
                token_kept_back: settings.token_kept_back,
            },
        })
    }

    fn url(&self, call: &ApiRequest) -> Url {
        let mut url = self.base.clone();
        // The URL has a host, so it has segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(call.path);
        }
        if let Value::Object(query) = &call.query
            && !query.is_empty()
        {
            let mut pairs = url.query_pairs_mut();
            for (name, value) in query {
                match value {
                    Value::String(text) => pairs.append_pair(name, text),
                    other => pairs.append_pair(name, &other.to_string()),
                };
            }
        }
        url
    }

    /// Sends a request. An answer that is not a success is an error.
    fn send(&self, call: ApiRequest) -> Result<(Url, Response<Body>), ClientError> {
        let (url, mut response) = self.answer(call)?;
        match response.status().as_u16() {
            200..=299 => Ok((url, response)),
            _ => {
                let body = read(&mut response)
                    .map_err(|error| ClientError::unreachable(&url, error, &self.origins))?;
                Err(ClientError::refused(&url, &response, &body, &self.origins))
            }
        }
    }

    /// Sends a request and returns the answer with any status.
    fn answer(&self, call: ApiRequest) -> Result<(Url, Response<Body>), ClientError> {
        let url = self.url(&call);
        let limit = call.limit;
        let mut request = Request::builder().method(call.method).uri(url.as_str());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let failed = |source: ureq::Error| ClientError::unreachable(&url, source, &self.origins);
        let sent = match call.body {
            Some(body) => self.run(request.body(body), limit),
            None => self.run(request.body(()), limit),
        };
        let response = sent.map_err(failed)?;
        Ok((url, response))
    }

    fn run(
        &self,
        request: http::Result<Request<impl ureq::AsSendBody>>,
        limit: TimeLimit,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request.map_err(ureq::Error::Http)?);
        let request = match limit {
            TimeLimit::Stream => request
                .timeout_recv_response(Some(REQUEST_LIMIT))
                .timeout_per_read(Some(STREAM_SILENCE)),
            TimeLimit::Whole(limit) => request.timeout_global(Some(limit)),
        };
        self.agent.run(request.build())
    }

    fn ask<T: DeserializeOwned>(&self, call: ApiRequest) -> Result<T, ClientError> {
        let (url, mut response) = self.send(call)?;
        let body =
            read(&mut response).map_err(|error| ClientError::unreachable(&url, error, &self.origins))?;
        serde_json::from_slice(&body).map_err(|error| ClientError::NotAMaster {
            url: url.to_string(),
            origin: self.origins.url.clone(),
            reason: error.to_string(),
        })
    }

    /// Problems of the master itself, for example a lost connection to its broker. Empty if it
    /// cannot be asked.
    pub fn problems(&self) -> Vec<String> {
        let Ok((_, mut response)) = self.answer(ApiRequest::get(&["readyz"])) else {
            return Vec::new();
        };
        let health = read(&mut response)
            .ok()
            .and_then(|body| serde_json::from_slice::<Health>(&body).ok());
        health.map_or_else(Vec::new, |health| health.problems)
    }

    /// One page.
    pub fn hosts(&self, query: &HostQuery) -> Result<HostList, ClientError> {
        self.ask(ApiRequest::get(&["v1", "hosts", ""]).query(query))
    }

    /// One page.
    pub fn host_ids(&self, query: &HostQuery) -> Result<HostIds, ClientError> {
        self.ask(ApiRequest::get(&["v1", "hosts", "ids", ""]).query(query))
    }

    /// All pages.
    pub fn all_host_ids(&self, mut query: HostQuery) -> Result<Vec<HostId>, ClientError> {
        let mut ids = Vec::new();
        loop {
            let page = self.host_ids(&query)?;
            ids.extend(page.ids);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(ids),
            }
        }
    }

    pub fn host(&self, id: &HostId) -> Result<Host, ClientError> {
        self.ask(ApiRequest::get(&["v1", "hosts", id.as_str()]))
    }

    pub fn forget(&self, id: &HostId) -> Result<(), ClientError> {
        self.send(ApiRequest::new(Method::DELETE, &["v1", "hosts", id.as_str()]))
            .map(drop)
    }

    /// `None`: there is no such host.
    pub fn desired(&self, id: &HostId) -> Result<Option<DesiredApps>, ClientError> {
        match self.ask(ApiRequest::get(&["v1", "hosts", id.as_str(), "apps"])) {
            Ok(desired) => Ok(Some(desired)),
            Err(ClientError::Refused { problem, .. }) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// With `if_generation`: only if the current generation is still this one.
    pub fn set(
        &self,
        id: &HostId,
        apps: &Apps,
        query: &PutQuery,
        if_generation: Option<u64>,
    ) -> Result<DesiredApps, ClientError> {
        self.ask(put_apps(
            &["v1", "hosts", id.as_str(), "apps"],
            apps,
            query,
            if_generation,
        ))
    }

    /// Sets one desired state for all hosts that match. With `dry_run` it only counts them.
    pub fn set_many(&self, query: &FleetQuery, apps: &Apps) -> Result<FleetSet, ClientError> {
        let mut call = ApiRequest::new(Method::PUT, &["v1", "apps"])
            .query(query)
            .json(apps);
        call.limit = TimeLimit::Whole(FLEET_REQUEST_LIMIT);
        self.ask(call)
    }

    /// What the host would do.
    pub fn plan(&self, id: &HostId, apps: &Apps) -> Result<PlanAnswer, ClientError> {
        let query = PutQuery {
            dry_run: true,
            ..PutQuery::default()
        };
        self.ask(put_apps(
            &["v1", "hosts", id.as_str(), "apps"],
            apps,
            &query,
            None,
        ))
    }

    /// `None`: there is no such host.
    pub fn labels(&self, id: &HostId) -> Result<Option<Labels>, ClientError> {
        match self.ask(ApiRequest::get(&["v1", "hosts", id.as_str(), "labels"])) {
            Ok(labels) => Ok(Some(labels)),
            Err(ClientError::Refused { problem, .. }) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn set_labels(&self, id: &HostId, labels: &Labels) -> Result<Labels, ClientError> {
        self.ask(ApiRequest::new(Method::PUT, &["v1", "hosts", id.as_str(), "labels"]).json(labels))
    }

    /// `wait` in seconds; 0 does not wait.
    pub fn ping(&self, id: &HostId, wait: f64) -> Result<PingAnswer, ClientError> {
        let query = PingQuery { wait: Some(wait) };
        self.ask(ApiRequest::new(Method::POST, &["v1", "hosts", id.as_str(), "ping"]).query(&query))
    }

    /// Asks a host to retry what failed.
    pub fn retry(&self, id: &HostId) -> Result<RetryAnswer, ClientError> {
        self.ask(ApiRequest::new(
            Method::POST,
            &["v1", "hosts", id.as_str(), "retry"],
        ))
    }

    /// Pings all hosts and does not wait for their answers.
    pub fn ping_all(&self) -> Result<PingAnswer, ClientError> {
        self.ask(ApiRequest::new(Method::POST, &["v1", "ping"]))
    }

    pub fn apps(&self) -> Result<AppList, ClientError> {
        self.ask(ApiRequest::get(&["v1", "apps", ""]))
    }

    /// One page.
    pub fn events(&self, query: &EventQuery) -> Result<EventList, ClientError> {
        self.ask(ApiRequest::get(&["v1", "events"]).query(query))
    }

    /// Events after `after`, then new events as they happen.
    pub fn follow(
        &self,
        query: &EventQuery,
        after: u64,
    ) -> Result<EventStream<impl Read + use<>>, ClientError> {
        let mut call = ApiRequest::get(&["v1", "events"])
            .query(query)
            .header("Accept", "text/event-stream".to_owned())
            .header("Last-Event-ID", after.to_string());
        call.limit = TimeLimit::Stream;
        let (_, response) = self.send(call)?;
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(EventStream::new(BufReader::new(reader)))
    }

    pub fn tokens(&self) -> Result<TokenList, ClientError> {
        self.ask(ApiRequest::get(&["v1", "tokens", ""]))
    }

    pub fn create_token(&self, new: &NewToken) -> Result<CreatedToken, ClientError> {
        self.ask(ApiRequest::new(Method::POST, &["v1", "tokens", ""]).json(new))
    }

    pub fn revoke_token(&self, name: &str) -> Result<(), ClientError> {
        self.send(ApiRequest::new(Method::DELETE, &["v1", "tokens", name]))
            .map(drop)
    }

    pub fn enroll_tokens(&self) -> Result<EnrollTokenList, ClientError> {
        self.ask(ApiRequest::get(&["v1", "enroll-tokens", ""]))
    }

    pub fn create_enroll_token(&self, new: &NewEnrollToken) -> Result<CreatedEnrollToken, ClientError> {
        self.ask(ApiRequest::new(Method::POST, &["v1", "enroll-tokens", ""]).json(new))
    }

    pub fn revoke_enroll_token(&self, name: &str) -> Result<(), ClientError> {
        self.send(ApiRequest::new(Method::DELETE, &["v1", "enroll-tokens", name]))
            .map(drop)
    }

    pub fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.ask(ApiRequest::get(&["v1", "whoami"]))
    }

    /// The newest events that match, newest first, at most `count`.
    pub fn newest_events(&self, query: &EventQuery, count: usize) -> Result<Vec<Event>, ClientError> {
        let mut events = Vec::new();
        let mut query = query.clone();
        while events.len() < count {
            let left = u32::try_from(count - events.len()).unwrap_or(u32::MAX);
            query.limit = Some(left.min(1000));
            let page = self.events(&query)?;
            events.extend(page.events);
            match page.next {
                Some(next) => query.before = Some(next),
                None => break,
            }
        }
        Ok(events)
    }
}

fn put_apps<'a>(
    path: &'a [&'a str],
    apps: &Apps,
    query: &PutQuery,
    if_generation: Option<u64>,
) -> ApiRequest<'a> {
    let call = ApiRequest::new(Method::PUT, path).query(query).json(apps);
    match if_generation {
        Some(generation) => call.header("If-Match", format!("\"{generation}\"")),
        None => call,
    }
}

fn read(response: &mut Response<Body>) -> Result<Vec<u8>, ureq::Error> {
    response
        .body_mut()
        .with_config()
        .limit(LARGEST_ANSWER)
        .read_to_vec()
}
