//! The operator of the play: asks the master over its REST API, as `bbctl` and curl do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::rest::{DesiredApps, Host, PingAnswer, Problem};
use protocol::{Apps, HostId, PlanAnswer};
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use ureq::Agent;

/// For one request; a plan asks the host.
const PATIENCE: Duration = Duration::from_secs(40);
/// For the master to have taken in what the witness has seen already.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);

pub struct Operator {
    base: String,
    http: Agent,
    /// Desired states that were set.
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
            .timeout_global(Some(PATIENCE));
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

    /// Has `host` asked for a status; milliseconds until the master had it.
    pub async fn ping(&self, host: &HostId) -> Result<f64> {
        let answer: PingAnswer = self
            .ask(Verb::Post, format!("/v1/hosts/{host}/ping"), None)
            .await?;
        answer
            .round_trip_ms
            .with_context(|| format!("{host} was pinged, but not waited for"))
    }

    /// What `host` would do to get there.
    pub async fn plan(&self, host: &HostId, apps: &Apps) -> Result<PlanAnswer> {
        let path = format!("/v1/hosts/{host}/apps?dry_run=true");
        self.ask(Verb::Put, path, Some(serde_json::to_string(apps)?))
            .await
    }

    /// Sets what `host` is to run; the `id` of the message by which the master tells it so.
    pub async fn set(&mut self, host: &HostId, apps: &Apps, only_if_plan: Option<&str>) -> Result<String> {
        self.changes += 1;
        let query = only_if_plan.map_or(String::new(), |hash| format!("?only_if_plan={hash}"));
        let path = format!("/v1/hosts/{host}/apps{query}");
        let body = serde_json::to_string(apps)?;
        let stored: DesiredApps = self.ask(Verb::Put, path, Some(body)).await?;
        Ok(format!("desired-{}", stored.generation))
    }

    /// What the master knows of `host`, once that is as `wanted`; or as it is after a while.
    pub async fn host(&self, host: &HostId, wanted: impl Fn(&Host) -> bool) -> Result<Host> {
        let until = Instant::now() + KNOWN_WITHIN;
        loop {
            let known: Host = self.ask(Verb::Get, format!("/v1/hosts/{host}"), None).await?;
            if wanted(&known) || Instant::now() > until {
                return Ok(known);
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// On a thread of its own: the client blocks.
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
