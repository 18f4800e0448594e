//! Receives messages of hosts: decodes them, writes them in batches, acknowledges what is written.
//!
//! Two tasks: one decodes a batch while the other writes the one before. The busier the queue is,
//! the larger are the batches, and the fewer commits are needed per status.

use std::sync::Arc;
use std::time::Duration;

use bus::Delivery;
use protocol::rest::HostState;
use protocol::{HostId, Limits, PlanAnswer, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;
use crate::replies::{Reply, ReplyOwner, Waiters};
use crate::store::{Report, Store, StoreError, now};

/// Which messages are accepted.
#[derive(Debug, Clone)]
pub struct Policy {
    pub limits: Limits,
    pub require_user_id: bool,
    /// The user that must have sent a host's messages, with `{host_id}` in it. `None`: any user.
    pub host_user: Option<String>,
}

/// Receives messages and stores them.
#[derive(Clone)]
pub struct Collector {
    pub store: Store,
    pub policy: Policy,
    pub dispatcher: Dispatcher,
    pub waiters: Arc<Waiters>,
    pub metrics: Metrics,
    /// Statuses in one batch, at most.
    pub batch: usize,
}

/// Upper limit of a batch, whatever the broker delivers.
pub const MAX_BATCH: usize = 500;
/// Time between two batches when nobody waits for an answer. A commit costs more than ten statuses.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

/// A decoded message.
enum Incoming {
    Status(Box<Report>),
    Reply {
        id: String,
        reply: Reply,
    },
    /// Invalid: goes into quarantine.
    Bad {
        reason: String,
    },
}

struct Batch {
    incoming: Vec<(Incoming, Delivery)>,
}

impl Collector {
    /// Runs until the link ends.
    pub async fn run(self, mut deliveries: mpsc::Receiver<Delivery>) {
        let (batches, written) = mpsc::channel(1);
        let writer = tokio::spawn(self.clone().write_batches(written));
        let mut last = None;
        while let Some(incoming) = self.collect_batch(&mut deliveries, last).await {
            last = Some(Instant::now());
            if batches.send(Batch { incoming }).await.is_err() {
                break;
            }
        }
        drop(batches);
        // What is decoded is written before this ends.
        let _ = writer.await;
    }

    /// Collects the next batch: everything that has been delivered and, if the last batch was less
    /// than [`BATCH_INTERVAL`] ago, what is delivered until then. `None` at the end.
    async fn collect_batch(
        &self,
        deliveries: &mut mpsc::Receiver<Delivery>,
        last: Option<Instant>,
    ) -> Option<Vec<(Incoming, Delivery)>> {
        let mut incoming = Vec::new();
        let mut waiting = Vec::with_capacity(self.batch);
        if deliveries.recv_many(&mut waiting, self.batch).await == 0 {
            return None;
        }
        let full_at = last.map(|last| last + BATCH_INTERVAL);
        loop {
            let mut is_awaited = false;
            for delivery in waiting.drain(..) {
                let decoded = self.policy.decode(&delivery);
                is_awaited |= self.is_awaited(&decoded);
                incoming.push((decoded, delivery));
            }
            let room = self.batch - incoming.len();
            let Some(until) = full_at.filter(|_| room > 0 && !is_awaited) else {
                return Some(incoming);
            };
            match timeout_at(until, deliveries.recv_many(&mut waiting, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Some(incoming),
            }
        }
    }

    /// Whether a request may be waiting for this message.
    fn is_awaited(&self, incoming: &Incoming) -> bool {
        match incoming {
            // The id of a desired state is repeated in every later status: nobody waits for it.
            Incoming::Status(report) => {
                let id = report.status.reply_to.as_deref();
                id.is_some_and(|id| self.waiters.whose(id) != ReplyOwner::Nobody)
            }
            Incoming::Reply { .. } => true,
            Incoming::Bad { .. } => false,
        }
    }

    async fn write_batches(self, mut batches: mpsc::Receiver<Batch>) {
        while let Some(batch) = batches.recv().await {
            self.write_batch(batch).await;
        }
    }

    async fn write_batch(&self, batch: Batch) {
        let mut reports = Vec::with_capacity(batch.incoming.len());
        let mut deliveries = Vec::with_capacity(batch.incoming.len());
        let mut replies = Vec::new();
        for (incoming, delivery) in batch.incoming {
            match incoming {
                Incoming::Status(report) => {
                    if let Some(id) = report.status.reply_to.clone() {
                        let state = HostState::from(report.status.status);
                        replies.push((id, Reply::Status(state)));
                    }
                    reports.push(*report);
                    deliveries.push(delivery);
                }
                Incoming::Reply { id, reply } => {
                    self.metrics.count_statuses("reply", 1);
                    replies.push((id, reply));
                    delivery.ack();
                }
                Incoming::Bad { reason } => {
                    self.quarantine(&delivery, &reason).await;
                    delivery.ack();
                }
            }
        }
        if !reports.is_empty() {
            self.write_reports(&reports, &deliveries).await;
        }
        // After the write, so that whoever asked finds what was answered.
        for (id, reply) in replies {
            self.deliver_reply(&id, reply).await;
        }
        deliveries.into_iter().for_each(Delivery::ack);
    }

    /// Writes the statuses, and waits while there is no database. Those that the database refuses
    /// go into quarantine.
    async fn write_reports(&self, reports: &[Report], deliveries: &[Delivery]) {
        match self.write_with_retries(reports).await {
            Ok(()) => {}
            Err(refused) if reports.len() == 1 => {
                for delivery in deliveries {
                    self.quarantine(delivery, &refused.to_string()).await;
                }
            }
            Err(_) => {
                for (report, delivery) in reports.iter().zip(deliveries) {
                    if let Err(refused) = self.write_with_retries(std::slice::from_ref(report)).await {
                        self.quarantine(delivery, &refused.to_string()).await;
                    }
                }
            }
        }
    }

    /// Retries until the statuses are written or the database refuses their content.
    async fn write_with_retries(&self, reports: &[Report]) -> Result<(), StoreError> {
        let mut pause = Duration::from_millis(100);
        let started = Instant::now();
        loop {
            match self.store.ingest(reports).await {
                Ok(done) => {
                    let metrics = &self.metrics;
                    metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
                    metrics.batch_size.observe(reports.len() as f64);
                    metrics.count_statuses("accepted", done.accepted);
                    metrics.count_statuses("duplicate", done.duplicate);
                    metrics.count_statuses("late", done.late);
                    metrics.lost_statuses.inc_by(done.lost);
                    self.dispatcher.seen(done.reported);
                    return Ok(());
                }
                Err(error) if error.is_about_data() => return Err(error),
                Err(error) => {
                    tracing::error!("cannot write statuses to the database, will be retried: {error}");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    async fn quarantine(&self, delivery: &Delivery, reason: &str) {
        let user = delivery.user_id.as_deref();
        tracing::warn!(
            user = user.unwrap_or("-"),
            "invalid status put into quarantine: {reason}"
        );
        self.metrics.count_statuses("quarantined", 1);
        if let Err(error) = self.store.quarantine(user, reason, &delivery.body).await {
            tracing::error!("cannot write an invalid status to quarantine: {error}");
        }
    }

    async fn deliver_reply(&self, id: &str, reply: Reply) {
        match self.waiters.whose(id) {
            ReplyOwner::Own => self.waiters.answer(id, reply),
            ReplyOwner::Nobody => {}
            ReplyOwner::Other => {
                let forwarded = match serde_json::to_string(&reply) {
                    Ok(body) => self.store.forward_reply(id, &body).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = forwarded {
                    tracing::warn!("cannot forward a host's answer to the master that asked: {error}");
                }
            }
        }
    }
}

impl Policy {
    fn decode(&self, delivery: &Delivery) -> Incoming {
        let report = match Status::decode(&delivery.body, self.limits) {
            Ok(status) => self
                .check_user(&status.host_id, delivery.user_id.as_deref())
                .and_then(|()| {
                    let body = String::from_utf8(delivery.body.clone())
                        .map_err(|_| "the message is not UTF-8".to_owned())?;
                    Ok(Report {
                        status,
                        body,
                        received_at: now(),
                    })
                }),
            Err(error) => match self.decode_plan(delivery) {
                Some(reply) => return reply,
                None => Err(error.to_string()),
            },
        };
        match report {
            Ok(report) => Incoming::Status(Box::new(report)),
            Err(reason) => Incoming::Bad { reason },
        }
    }

    fn check_user(&self, host: &HostId, user: Option<&str>) -> Result<(), String> {
        match (user, &self.host_user) {
            (None, _) if self.require_user_id || self.host_user.is_some() => Err(format!(
                "a message of host {host} has no user_id, so its sender is not verified"
            )),
            (Some(user), Some(template)) if user != template.replace("{host_id}", host.as_str()) => Err(
                format!("a message of host {host} was sent by another user, {user:?}"),
            ),
            _ => Ok(()),
        }
    }

    /// Decodes the answer to a `plan` question. `None`: the message is something else.
    fn decode_plan(&self, delivery: &Delivery) -> Option<Incoming> {
        let mut plan = PlanAnswer::decode(&delivery.body, self.limits).ok()?;
        let id = plan.reply_to.take()?;
        Some(
            match self.check_user(&plan.host_id, delivery.user_id.as_deref()) {
                Ok(()) => Incoming::Reply {
                    id,
                    reply: Reply::Plan(Box::new(plan)),
                },
                Err(reason) => Incoming::Bad { reason },
            },
        )
    }
}
