//! Takes messages in: decodes, has the ledger make them durable, and only then acknowledges.
//!
//! Takes microseconds per message, whatever the host is busy with. A message that can't be made durable
//! (disk full) is kept, unacknowledged, and tried again; those behind it wait their turn, but pings do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bus::Delivery;
use protocol::status::Rejected;
use protocol::{AppName, Category, HostId, Inbound, Limits, Phase, SetConfig, inbound, topic};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::forecast::Forecast;
use crate::ledger::{AcceptError, Ledger, Scope};
use crate::report::Request;
use crate::status::now;

/// Between two tries to store a message.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// Unknown opcodes that are counted by name; the rest share one count.
const MAX_KINDS: usize = 32;

pub struct Inbox {
    pub host_id: HostId,
    pub limits: Limits,
    /// RabbitMQ users that may send `set_config`; empty: any whom the broker lets publish.
    pub trusted_users: Vec<String>,
    /// Topics of the applications that are installed. A binding that an earlier run of the agent left may still
    /// bring messages for others.
    pub topics: watch::Receiver<BTreeSet<String>>,
    pub ledger: Arc<Ledger>,
    pub engine: Arc<Engine>,
    pub deliveries: mpsc::Receiver<Delivery>,
    pub requests: mpsc::Sender<Request>,
}

/// A valid message that is not durable yet.
struct Unstored {
    delivery: Delivery,
    message: SetConfig,
    scope: Scope,
    /// The master has been told that it could not be stored so far.
    told: bool,
}

impl Inbox {
    /// Until the bus or the reporter ends.
    pub async fn run(mut self) {
        let mut unstored: VecDeque<Unstored> = VecDeque::new();
        let mut unknown = BTreeMap::new();
        let mut retry_at = Instant::now();
        loop {
            let request = tokio::select! {
                delivery = self.deliveries.recv() => match delivery {
                    Some(delivery) => self.take(delivery, &mut unstored, &mut unknown),
                    None => return,
                },
                () = tokio::time::sleep_until(retry_at), if !unstored.is_empty() => None,
            };
            if let Some(request) = request
                && self.requests.send(request).await.is_err()
            {
                return;
            }
            while let Some(next) = unstored.pop_front() {
                if let Some(request) = self.refuse_other_plan(&next).await {
                    next.delivery.ack();
                    if self.requests.send(request).await.is_err() {
                        return;
                    }
                    continue;
                }
                let (request, kept) = self.store(next);
                let failed = kept.is_some();
                if let Some(kept) = kept {
                    unstored.push_front(kept);
                    retry_at = Instant::now() + STORE_RETRY;
                }
                if let Some(request) = request
                    && self.requests.send(request).await.is_err()
                {
                    return;
                }
                if failed {
                    break;
                }
            }
        }
    }

    fn take(
        &self,
        delivery: Delivery,
        unstored: &mut VecDeque<Unstored>,
        unknown: &mut BTreeMap<String, u64>,
    ) -> Option<Request> {
        let scope = self.scope(&delivery.routing_key);
        if let Some(Scope::App(app)) = &scope
            && !self.topics.borrow().contains(app.as_str())
        {
            tracing::debug!(%app, "a message for an application that is not installed was ignored");
            delivery.ack();
            return None;
        }
        let decoded = inbound::decode(&delivery.body, self.limits);
        let refuse = |reason: String, id: Option<String>| {
            tracing::warn!(
                topic = delivery.routing_key,
                reason,
                "a message was refused; nothing was changed"
            );
            Some(refusal(reason, id, Phase::Decode, Category::Invalid))
        };
        let distrust = match &decoded {
            Ok(Inbound::SetConfig(SetConfig { id, .. }) | Inbound::Plan { id, .. }) => self
                .distrust(delivery.user_id.as_deref())
                .map(|reason| (reason, id.clone())),
            Ok(Inbound::Ping { .. } | Inbound::Unknown { .. }) | Err(_) => None,
        };
        if let Some((reason, id)) = distrust {
            let request = refuse(reason, id);
            delivery.ack();
            return request;
        }
        match decoded {
            Ok(Inbound::Ping { id }) => {
                delivery.ack();
                Some(Request::Ping { id })
            }
            Ok(Inbound::Plan { id, apps }) => {
                delivery.ack();
                Some(Request::Plan { id, apps })
            }
            Ok(Inbound::Unknown { opcode, .. }) => {
                count_unknown(unknown, opcode);
                delivery.ack();
                None
            }
            Ok(Inbound::SetConfig(message)) => {
                let Some(scope) = scope else {
                    let reason = format!(
                        "$: routing key {:?} is no topic of this host",
                        delivery.routing_key
                    );
                    let request = refuse(reason, message.id);
                    delivery.ack();
                    return request;
                };
                unstored.push_back(Unstored {
                    delivery,
                    message,
                    scope,
                    told: false,
                });
                None
            }
            Err(error) => {
                let request = refuse(error.to_string(), error.id);
                delivery.ack();
                request
            }
        }
    }

    /// Which entries a message on this topic may replace; `None`: it is no topic of ours.
    fn scope(&self, routing_key: &str) -> Option<Scope> {
        if routing_key == topic::SLAVES || routing_key == self.host_id.as_str() {
            return Some(Scope::Host);
        }
        AppName::new(routing_key).ok().map(Scope::App)
    }

    fn distrust(&self, user: Option<&str>) -> Option<String> {
        if self.trusted_users.is_empty()
            || user.is_some_and(|user| self.trusted_users.iter().any(|t| t == user))
        {
            return None;
        }
        let sender = user.map_or("a sender without user_id".to_owned(), |user| {
            format!("user {user:?}")
        });
        Some(format!(
            "$: sent by {sender}, who is not among [amqp] trusted_users of this host"
        ))
    }

    /// Whether a message that is tied to a plan meets another one.
    async fn refuse_other_plan(&self, unstored: &Unstored) -> Option<Request> {
        let hash = unstored.message.only_if_plan.as_deref()?;
        let id = unstored.message.id.clone();
        let refuse = |reason: String| {
            tracing::warn!("{reason}");
            Some(refusal(reason, id, Phase::Check, Category::Invalid))
        };
        // What is wrong with it otherwise, storing it will tell.
        let desired = self
            .ledger
            .preview(unstored.message.clone(), &unstored.scope)
            .ok()?;
        match Forecast::of(&self.engine, &desired.apps).await {
            Ok(forecast) if forecast.is(hash) => None,
            Ok(forecast) => refuse(format!(
                "$.only_if_plan: the plan is {} by now, not {hash}: the host has changed since it was made. Nothing was \
                 done; ask for the plan again",
                forecast.hash()
            )),
            Err(error) => refuse(format!(
                "$.only_if_plan: no plan can be made: {error}. Nothing was done"
            )),
        }
    }

    /// Gives the message back where it could not be stored for now.
    fn store(&self, unstored: Unstored) -> (Option<Request>, Option<Unstored>) {
        let Unstored {
            delivery,
            message,
            scope,
            told,
        } = unstored;
        let id = message.id.clone();
        match self.ledger.accept(message.clone(), &scope) {
            Ok(desired) => {
                delivery.ack();
                tracing::info!(
                    topic = delivery_topic(&scope),
                    applications = desired.apps.len(),
                    generation = desired.generation,
                    "a new desired state was accepted"
                );
                (
                    Some(Request::Accepted {
                        id,
                        serial: desired.serial,
                    }),
                    None,
                )
            }
            Err(AcceptError::NotStored(error)) => {
                let category = if error.is_disk_full() {
                    Category::DiskSpace
                } else {
                    Category::Host
                };
                let reason = format!("a set_config could not be stored, and is not acknowledged: {error}");
                let kept = Some(Unstored {
                    delivery,
                    message,
                    scope,
                    told: true,
                });
                if told {
                    return (None, kept);
                }
                tracing::error!("{reason}");
                (Some(refusal(reason, id, Phase::Check, category)), kept)
            }
            Err(error @ AcceptError::Stale { .. }) => {
                delivery.ack();
                tracing::warn!("{error}");
                (
                    Some(Request::Stale {
                        rejected: rejected(error.to_string(), id),
                    }),
                    None,
                )
            }
            Err(
                error @ (AcceptError::OutsideTopic { .. }
                | AcceptError::NamedAsHost { .. }
                | AcceptError::SharedPackage { .. }),
            ) => {
                delivery.ack();
                tracing::warn!("{error}");
                (
                    Some(refusal(error.to_string(), id, Phase::Decode, Category::Invalid)),
                    None,
                )
            }
        }
    }
}

fn rejected(reason: String, id: Option<String>) -> Rejected {
    Rejected {
        reason,
        timestamp: now(),
        id,
    }
}

/// Has the reporter answer a message that was refused.
fn refusal(reason: String, id: Option<String>, phase: Phase, category: Category) -> Request {
    Request::Rejected {
        rejected: rejected(reason, id),
        phase,
        category,
    }
}

fn delivery_topic(scope: &Scope) -> &str {
    match scope {
        Scope::Host => "host",
        Scope::App(app) => app.as_str(),
    }
}

/// Counts, and logs the first of each kind.
fn count_unknown(unknown: &mut BTreeMap<String, u64>, opcode: String) {
    let opcode: String = opcode.chars().take(64).collect();
    let kind = if unknown.len() < MAX_KINDS || unknown.contains_key(&opcode) {
        opcode
    } else {
        "(others)".to_owned()
    };
    let count = unknown.entry(kind).or_insert_with_key(|kind| {
        tracing::warn!(
            opcode = kind,
            "a message with an unknown opcode was ignored; further ones are counted only"
        );
        0
    });
    *count += 1;
}
