//! Receives messages: decodes them, stores them in the ledger, and only then acknowledges them.
//!
//! This takes microseconds per message, even while the host is being changed. A `set_config` that
//! cannot be stored (disk full), or that is tied to a plan which the engine has not confirmed yet,
//! stays unacknowledged. Later `set_config` messages wait behind it; other messages do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bus::Delivery;
use protocol::status::Rejected;
use protocol::{AppName, Category, HostId, Inbound, Limits, Phase, SetConfig, inbound, topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::engine::signals::PlanQuestion;
use crate::ledger::{AcceptError, Ledger, Scope};
use crate::report::Request;
use crate::status::now;

/// Pause between two attempts to store a message.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// Unknown opcodes that are counted by name; the rest share one count.
const MAX_KINDS: usize = 32;

pub struct Inbox {
    pub host_id: HostId,
    pub limits: Limits,
    /// RabbitMQ users that may send `set_config`; empty: every user whom the broker allows to
    /// publish.
    pub trusted_users: Vec<String>,
    /// Topics of the installed applications. A binding left by an earlier run of the agent may
    /// still deliver messages for other applications.
    pub topics: watch::Receiver<BTreeSet<String>>,
    pub ledger: Arc<Ledger>,
    /// To the engine: only it observes the host.
    pub questions: mpsc::Sender<PlanQuestion>,
    pub deliveries: mpsc::Receiver<Delivery>,
    pub requests: mpsc::Sender<Request>,
}

/// A valid message that is not durable yet.
struct Unstored {
    delivery: Delivery,
    message: SetConfig,
    scope: Scope,
    /// The master was told that it is not stored yet.
    told: bool,
    plan: PlanTie,
}

impl Unstored {
    fn new(delivery: Delivery, message: SetConfig, scope: Scope) -> Self {
        let plan = message.only_if_plan.clone();
        Self {
            delivery,
            message,
            scope,
            told: false,
            plan: plan.map_or(PlanTie::None, PlanTie::Unasked),
        }
    }
}

/// Whether a message is tied to a plan (`only_if_plan`).
enum PlanTie {
    None,
    /// To the plan of this hash.
    Unasked(String),
    Asked(String, oneshot::Receiver<Result<(), String>>),
    Confirmed,
}

/// The engine's answer about a plan.
enum Verdict {
    Confirmed,
    /// Why.
    Refused(String),
    /// It had something else to do: it is asked again.
    Dropped,
}

/// The engine's answer about the plan that the first message is tied to. Pending if the engine was
/// not asked. Cancel-safe.
async fn verdict_of(unstored: &mut VecDeque<Unstored>) -> Verdict {
    match unstored.front_mut() {
        Some(Unstored {
            plan: PlanTie::Asked(_, verdict),
            ..
        }) => match verdict.await {
            Ok(Ok(())) => Verdict::Confirmed,
            Ok(Err(reason)) => Verdict::Refused(reason),
            Err(_) => Verdict::Dropped,
        },
        _ => std::future::pending().await,
    }
}

fn waits_for_storage(unstored: &VecDeque<Unstored>) -> bool {
    let first = unstored.front();
    first.is_some_and(|first| matches!(first.plan, PlanTie::None | PlanTie::Confirmed))
}

impl Inbox {
    /// Runs until the bus or the reporter ends.
    pub async fn run(mut self) {
        let mut unstored: VecDeque<Unstored> = VecDeque::new();
        let mut unknown = BTreeMap::new();
        let mut retry_at = Instant::now();
        loop {
            // Cancel-safe: each arm only waits, and the channel of the verdict stays in its
            // message.
            let request = tokio::select! {
                delivery = self.deliveries.recv() => match delivery {
                    Some(delivery) => self.take(delivery, &mut unstored, &mut unknown),
                    None => return,
                },
                verdict = verdict_of(&mut unstored) => self.take_verdict(verdict, &mut unstored),
                () = tokio::time::sleep_until(retry_at), if waits_for_storage(&unstored) => None,
            };
            if let Some(request) = request
                && self.requests.send(request).await.is_err()
            {
                return;
            }
            while let Some(mut next) = unstored.pop_front() {
                if !self.may_be_stored(&mut next) {
                    unstored.push_front(next);
                    break;
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

    /// False: the engine has not confirmed the plan that the message is tied to. Asks the engine if
    /// it was not asked yet.
    fn may_be_stored(&self, unstored: &mut Unstored) -> bool {
        let hash = match &unstored.plan {
            PlanTie::None | PlanTie::Confirmed => return true,
            PlanTie::Asked(..) => return false,
            PlanTie::Unasked(hash) => hash.clone(),
        };
        // Other errors in the message are reported when it is stored.
        let Ok(desired) = self.ledger.preview(unstored.message.clone(), &unstored.scope) else {
            return true;
        };
        if desired.same_state(&self.ledger.desired()) {
            // Delivered again: it was accepted before.
            return true;
        }
        let (answer, verdict) = oneshot::channel();
        let question = PlanQuestion {
            apps: desired.apps,
            hash: hash.clone(),
            answer,
        };
        match self.questions.try_send(question) {
            Ok(()) => unstored.plan = PlanTie::Asked(hash, verdict),
            // Only one question is open at a time, so the channel is not full: the engine has
            // ended, and the agent is about to end.
            Err(error) => tracing::debug!(%error, "the engine accepts no questions"),
        }
        false
    }

    fn take_verdict(&self, verdict: Verdict, unstored: &mut VecDeque<Unstored>) -> Option<Request> {
        let first = unstored.front_mut()?;
        let reason = match verdict {
            Verdict::Confirmed => {
                first.plan = PlanTie::Confirmed;
                return None;
            }
            Verdict::Dropped => {
                if let PlanTie::Asked(hash, _) = std::mem::replace(&mut first.plan, PlanTie::None) {
                    first.plan = PlanTie::Unasked(hash);
                }
                return None;
            }
            Verdict::Refused(reason) => reason,
        };
        let refused = unstored.pop_front()?;
        tracing::warn!("a set_config was refused: {reason}");
        refused.delivery.ack();
        Some(refusal(
            reason,
            refused.message.id,
            Phase::Check,
            Category::Invalid,
        ))
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
        let distrust = match &decoded {
            Ok(Inbound::SetConfig(SetConfig { id, .. }) | Inbound::Plan { id, .. }) => self
                .distrust(delivery.user_id.as_deref())
                .map(|reason| (reason, id.clone())),
            Ok(Inbound::Ping { .. } | Inbound::Unknown { .. }) | Err(_) => None,
        };
        if let Some((reason, id)) = distrust {
            return Some(refuse(delivery, reason, id));
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
            Ok(Inbound::SetConfig(message)) => match scope {
                Some(scope) => {
                    unstored.push_back(Unstored::new(delivery, message, scope));
                    None
                }
                None => {
                    let key = &delivery.routing_key;
                    let reason = format!("$: routing key {key:?} is not a topic of this host");
                    Some(refuse(delivery, reason, message.id))
                }
            },
            Err(error) => Some(refuse(delivery, error.to_string(), error.id)),
        }
    }

    /// Which entries a message on this topic may replace; `None`: it is not a topic of this host.
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
            "$: sent by {sender}, who is not in [amqp] trusted_users of this host"
        ))
    }

    /// Stores the message. Returns it if it cannot be stored now.
    fn store(&self, unstored: Unstored) -> (Option<Request>, Option<Unstored>) {
        let Unstored {
            delivery,
            message,
            scope,
            told,
            plan,
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
                let reason = format!("cannot store a set_config, so it is not acknowledged: {error}");
                let kept = Some(Unstored {
                    delivery,
                    message,
                    scope,
                    told: true,
                    plan,
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

/// Acknowledges a message that is not valid or not trusted, and has it answered.
fn refuse(delivery: Delivery, reason: String, id: Option<String>) -> Request {
    tracing::warn!(
        topic = delivery.routing_key,
        reason,
        "a message was refused; nothing was changed"
    );
    delivery.ack();
    refusal(reason, id, Phase::Decode, Category::Invalid)
}

/// A request to answer a refused message.
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
