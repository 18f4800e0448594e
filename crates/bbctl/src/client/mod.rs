//! The master's REST API, typed.

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

pub use error::{ClientError, Whence};
pub use sse::Stream;

/// Asks one master. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    base: Url,
    token: Option<String>,
    agent: Agent,
    whence: Whence,
}

const CONNECT: Duration = Duration::from_secs(10);
/// Longer than a master waits for a host's plan.
const PATIENCE: Duration = Duration::from_secs(75);
/// For a desired state that a hundred thousand hosts get.
const PATIENCE_FOR_MANY: Duration = Duration::from_secs(600);
/// A master says something on a stream every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// Bytes of an answer; a page of 1000 hosts has about 1 MB.
const LARGEST: u64 = 64 << 20;

/// A request in the making.
struct Call<'a> {
    method: Method,
    /// Below the base, each escaped as needed.
    path: &'a [&'a str],
    query: Value,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    patience: Duration,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            path,
            query: Value::Null,
            headers: Vec::new(),
            body: None,
            patience: PATIENCE,
        }
    }

    fn get(path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, path)
    }

    fn query(mut self, query: &impl Serialize) -> Self {
        // Our own types, with string keys: this cannot fail.
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
            // A redirect would take the token elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
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
            whence: Whence {
                url: settings.url_origin.clone(),
                token: settings.token.as_ref().map(|(_, origin)| origin.clone()),
                token_kept_back: settings.token_kept_back,
            },
        })
    }

    fn url(&self, call: &Call) -> Url {
        let mut url = self.base.clone();
        // It has a host, so it has segments.
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

    /// The answer's head, if it is a success.
    fn send(&self, call: Call) -> Result<(Url, Response<Body>), ClientError> {
        let (url, mut response) = self.answer(call)?;
        match response.status().as_u16() {
            200..=299 => Ok((url, response)),
            _ => {
                let body = read(&mut response)
                    .map_err(|error| ClientError::unreachable(&url, error, &self.whence))?;
                Err(ClientError::refused(&url, &response, &body, &self.whence))
            }
        }
    }

    /// The answer's head, whatever it says.
    fn answer(&self, call: Call) -> Result<(Url, Response<Body>), ClientError> {
        let url = self.url(&call);
        let patience = call.patience;
        let mut request = Request::builder().method(call.method).uri(url.as_str());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let failed = |source: ureq::Error| ClientError::unreachable(&url, source, &self.whence);
        let sent = match call.body {
            Some(body) => self.run(request.body(body), patience),
            None => self.run(request.body(()), patience),
        };
        let response = sent.map_err(failed)?;
        Ok((url, response))
    }

    fn run(
        &self,
        request: http::Result<Request<impl ureq::AsSendBody>>,
        patience: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request.map_err(ureq::Error::Http)?);
        let request = match patience {
            // A stream: it may last, but not be silent.
            Duration::ZERO => request
                .timeout_recv_response(Some(PATIENCE))
                .timeout_per_read(Some(SILENCE)),
            patience => request.timeout_global(Some(patience)),
        };
        self.agent.run(request.build())
    }

    fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (url, mut response) = self.send(call)?;
        let body =
            read(&mut response).map_err(|error| ClientError::unreachable(&url, error, &self.whence))?;
        serde_json::from_slice(&body).map_err(|error| ClientError::NotAMaster {
            url: url.to_string(),
            origin: self.whence.url.clone(),
            reason: error.to_string(),
        })
    }

    /// What the master itself lacks, its broker for one. Where it does not say, nothing is known to be wrong.
    pub fn problems(&self) -> Vec<String> {
        let Ok((_, mut response)) = self.answer(Call::get(&["readyz"])) else {
            return Vec::new();
        };
        let health = read(&mut response)
            .ok()
            .and_then(|body| serde_json::from_slice::<Health>(&body).ok());
        health.map_or_else(Vec::new, |health| health.problems)
    }

    /// One page.
    pub fn hosts(&self, query: &HostQuery) -> Result<HostList, ClientError> {
        self.ask(Call::get(&["v1", "hosts", ""]).query(query))
    }

    /// One page.
    pub fn host_ids(&self, query: &HostQuery) -> Result<HostIds, ClientError> {
        self.ask(Call::get(&["v1", "hosts", "ids", ""]).query(query))
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
        self.ask(Call::get(&["v1", "hosts", id.as_str()]))
    }

    pub fn forget(&self, id: &HostId) -> Result<(), ClientError> {
        self.send(Call::new(Method::DELETE, &["v1", "hosts", id.as_str()]))
            .map(drop)
    }

    /// `None`: there is no such host.
    pub fn desired(&self, id: &HostId) -> Result<Option<DesiredApps>, ClientError> {
        match self.ask(Call::get(&["v1", "hosts", id.as_str(), "apps"])) {
            Ok(desired) => Ok(Some(desired)),
            Err(ClientError::Refused { problem, .. }) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `if_generation`: only if that is still the current one.
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

    /// One desired state for all that match; with `dry_run`, how many that would be.
    pub fn set_many(&self, query: &FleetQuery, apps: &Apps) -> Result<FleetSet, ClientError> {
        let mut call = Call::new(Method::PUT, &["v1", "apps"]).query(query).json(apps);
        call.patience = PATIENCE_FOR_MANY;
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
        match self.ask(Call::get(&["v1", "hosts", id.as_str(), "labels"])) {
            Ok(labels) => Ok(Some(labels)),
            Err(ClientError::Refused { problem, .. }) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn set_labels(&self, id: &HostId, labels: &Labels) -> Result<Labels, ClientError> {
        self.ask(Call::new(Method::PUT, &["v1", "hosts", id.as_str(), "labels"]).json(labels))
    }

    /// `wait` in seconds; 0 does not wait.
    pub fn ping(&self, id: &HostId, wait: f64) -> Result<PingAnswer, ClientError> {
        let query = PingQuery { wait: Some(wait) };
        self.ask(Call::new(Method::POST, &["v1", "hosts", id.as_str(), "ping"]).query(&query))
    }

    /// Has a host try again what failed.
    pub fn retry(&self, id: &HostId) -> Result<RetryAnswer, ClientError> {
        self.ask(Call::new(Method::POST, &["v1", "hosts", id.as_str(), "retry"]))
    }

    /// All hosts, without waiting for any.
    pub fn ping_all(&self) -> Result<PingAnswer, ClientError> {
        self.ask(Call::new(Method::POST, &["v1", "ping"]))
    }

    pub fn apps(&self) -> Result<AppList, ClientError> {
        self.ask(Call::get(&["v1", "apps", ""]))
    }

    /// One page.
    pub fn events(&self, query: &EventQuery) -> Result<EventList, ClientError> {
        self.ask(Call::get(&["v1", "events"]).query(query))
    }

    /// Events after `after`, as they happen.
    pub fn follow(&self, query: &EventQuery, after: u64) -> Result<Stream<impl Read + use<>>, ClientError> {
        let mut call = Call::get(&["v1", "events"])
            .query(query)
            .header("Accept", "text/event-stream".to_owned())
            .header("Last-Event-ID", after.to_string());
        call.patience = Duration::ZERO;
        let (_, response) = self.send(call)?;
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Stream::new(BufReader::new(reader)))
    }

    pub fn tokens(&self) -> Result<TokenList, ClientError> {
        self.ask(Call::get(&["v1", "tokens", ""]))
    }

    pub fn create_token(&self, new: &NewToken) -> Result<CreatedToken, ClientError> {
        self.ask(Call::new(Method::POST, &["v1", "tokens", ""]).json(new))
    }

    pub fn revoke_token(&self, name: &str) -> Result<(), ClientError> {
        self.send(Call::new(Method::DELETE, &["v1", "tokens", name]))
            .map(drop)
    }

    pub fn enroll_tokens(&self) -> Result<EnrollTokenList, ClientError> {
        self.ask(Call::get(&["v1", "enroll-tokens", ""]))
    }

    pub fn create_enroll_token(&self, new: &NewEnrollToken) -> Result<CreatedEnrollToken, ClientError> {
        self.ask(Call::new(Method::POST, &["v1", "enroll-tokens", ""]).json(new))
    }

    pub fn revoke_enroll_token(&self, name: &str) -> Result<(), ClientError> {
        self.send(Call::new(Method::DELETE, &["v1", "enroll-tokens", name]))
            .map(drop)
    }

    pub fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.ask(Call::get(&["v1", "whoami"]))
    }

    /// Events of all pages that match, newest first, at most `count`.
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

fn put_apps<'a>(path: &'a [&'a str], apps: &Apps, query: &PutQuery, if_generation: Option<u64>) -> Call<'a> {
    let call = Call::new(Method::PUT, path).query(query).json(apps);
    match if_generation {
        Some(generation) => call.header("If-Match", format!("\"{generation}\"")),
        None => call,
    }
}

fn read(response: &mut Response<Body>) -> Result<Vec<u8>, ureq::Error> {
    response.body_mut().with_config().limit(LARGEST).read_to_vec()
}
