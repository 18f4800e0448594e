//! The operator of the demo. Uses the master's REST API, as `bbctl` and curl do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::rest::{DesiredApps, Host, PingAnswer, Problem};
use protocol::{Apps, HostId, PlanAnswer};
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use ureq::Agent;

/// Time limit of a request. For a plan, the master waits for the host.
const REQUEST_LIMIT: Duration = Duration::from_secs(40);
/// Time limit for the master to process a status that the listener has already received.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(20);

pub struct Operator {
    base: String,
    http: Agent,
    /// Number of desired states that were set.
    changes: u32,
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Get,
    Put,
    Post,
}

impl Operator {
    pub fn new(master: SocketAddr) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_LIMIT));
        Self {
            base: format!("http://{master}"),
            http: config.build().new_agent(),
            changes: 0,
        }
    }

    pub fn url(&self) -> &str {
        &self.base
    }

    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Pings `host` through the master. Returns the milliseconds until the master had the status.
    pub async fn ping(&self, host: &HostId) -> Result<f64> {
        let answer: PingAnswer = self
            .ask(Verb::Post, format!("/v1/hosts/{host}/ping"), None)
            .await?;
        answer
            .round_trip_ms
            .with_context(|| format!("the answer to the ping of {host} has no round trip time"))
    }

    /// The plan of `host` for these applications.
    pub async fn plan(&self, host: &HostId, apps: &Apps) -> Result<PlanAnswer> {
        let path = format!("/v1/hosts/{host}/apps?dry_run=true");
        self.ask(Verb::Put, path, Some(serde_json::to_string(apps)?))
            .await
    }

    /// Sets the desired state of `host`. Returns the `id` of the master's message to the host.
    pub async fn set(&mut self, host: &HostId, apps: &Apps, only_if_plan: Option<&str>) -> Result<String> {
        self.changes += 1;
        let query = only_if_plan.map_or(String::new(), |hash| format!("?only_if_plan={hash}"));
        let path = format!("/v1/hosts/{host}/apps{query}");
        let body = serde_json::to_string(apps)?;
        let stored: DesiredApps = self.ask(Verb::Put, path, Some(body)).await?;
        Ok(format!("desired-{}", stored.generation))
    }

    /// The master's data about `host`, when it satisfies `wanted` or the time limit has passed.
    pub async fn host(&self, host: &HostId, wanted: impl Fn(&Host) -> bool) -> Result<Host> {
        let until = Instant::now() + KNOWN_WITHIN;
        loop {
            let known: Host = self.ask(Verb::Get, format!("/v1/hosts/{host}"), None).await?;
            if wanted(&known) || Instant::now() > until {
                return Ok(known);
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// Runs on a separate thread, because the client blocks.
    async fn ask<T: DeserializeOwned>(&self, verb: Verb, path: String, body: Option<String>) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let http = self.http.clone();
        let asking = {
            let url = url.clone();
            spawn_blocking(move || -> Result<(u16, String)> {
                let mut answer = match verb {
                    Verb::Get => http.get(&url).call(),
                    Verb::Post => http.post(&url).send_empty(),
                    Verb::Put => http
                        .put(&url)
                        .header("Content-Type", "application/json")
                        .send(body.unwrap_or_default()),
                }?;
                let status = answer.status().as_u16();
                Ok((status, answer.body_mut().read_to_string()?))
            })
        };
        let what = || format!("{verb:?} {url}");
        let (status, text) = asking.await?.with_context(what)?;
        if !(200..300).contains(&status) {
            let problem: Option<Problem> = serde_json::from_str(&text).ok();
            let detail = problem.and_then(|problem| problem.detail).unwrap_or(text);
            bail!("{}: {status}: {detail}", what());
        }
        serde_json::from_str(&text).with_context(what)
    }
}
