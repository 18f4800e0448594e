//! Reports the host's state to the master. No other task publishes.
//!
//! A status is sent when the reconciler announces one, when a message asks for an answer, when a
//! connection is made, and at every heartbeat. While the broker is unavailable or slow, waiting
//! statuses are merged: the newest one replaces the earlier ones.

mod looks;
mod outbox;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bus::{LinkState, PublishError, Publisher, slack};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use notify::Notifier;
use protocol::status::Rejected;
use protocol::{Apps, Category, ErrorReport, HostId, Phase, PlanAnswer, Status};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::alarm;
use crate::engine::Engine;
use crate::engine::forecast::{self, Forecast};
use crate::engine::observe::Freshness;
use crate::host_state::{Announcement, HostState, Standing};
use crate::status;
use host::{Facts, HostError};

use looks::{Look, Looking, Looks};
use outbox::{Outbox, OutgoingMessage};

/// A message that the reporter answers.
#[derive(Debug)]
pub enum Request {
    Ping {
        id: Option<String>,
    },
    /// A `set_config` was accepted. If the host is being changed towards an older one, the answer
    /// is `converging`, at once; else the reconciler answers in a moment.
    Accepted {
        id: Option<String>,
        serial: u64,
    },
    /// Asks for the plan for these applications.
    Plan {
        id: Option<String>,
        apps: Apps,
    },
    /// A message was refused; the desired state is unchanged.
    Rejected {
        rejected: Rejected,
        phase: Phase,
        category: Category,
    },
    /// A stale message; the answer is the current state.
    Stale {
        rejected: Rejected,
    },
}

pub struct Reporter {
    pub host_id: HostId,
    pub boot_id: String,
    pub engine: Arc<Engine>,
    pub state: watch::Receiver<HostState>,
    pub announcements: mpsc::UnboundedReceiver<Announcement>,
    pub requests: mpsc::Receiver<Request>,
    pub publisher: Publisher,
    pub link: watch::Receiver<LinkState>,
    /// Routing keys of installed applications.
    pub topics: watch::Sender<BTreeSet<String>>,
    /// Wakes the reconciler when a look at the host shows drift.
    pub wake: Arc<Notify>,
    pub heartbeat_period: Duration,
    pub collect_facts: Box<dyn Fn() -> Facts + Send + Sync>,
    pub notifier: Notifier,
    pub stop: watch::Receiver<bool>,
}

impl Reporter {
    /// Runs until told to stop, then sends what the broker takes within a short time.
    pub async fn run(mut self) {
        let started = Instant::now();
        let mut memory = ReporterMemory {
            started,
            facts: (self.collect_facts)(),
            last_rejected: None,
            epoch: 0,
            contested: false,
        };
        let mut outbox = Outbox::default();
        let mut looks = Looks::default();
        let mut plans = Plans::new();
        let mut due = first_heartbeat(self.heartbeat_period);
        let mut heartbeat = slack::not_before(due, self.heartbeat_period);
        loop {
            // A host with a duplicate id cannot consume, but it can report that.
            if !matches!(*self.link.borrow(), LinkState::Down { .. }) {
                outbox.publish_next(&self.publisher);
            }
            let retry_at = outbox.retry_at();
            // Each arm waits on a channel or a timer, or on a future that lives in `looks` or
            // `outbox`: nothing is lost when an arm is dropped.
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Plan { id, apps }) if plans.len() < MAX_PLANS => plans.push(self.forecast(id, apps)),
                    Some(Request::Plan { id, .. }) => outbox.queue(OutgoingMessage::Plan(self.too_many_plans(id))),
                    Some(request) => self.answer(request, &mut memory, &mut outbox, &mut looks),
                    None => return,
                },
                announcement = self.announcements.recv() => match announcement {
                    Some(announcement) => self.report_announcement(announcement, &mut memory, &mut outbox),
                    None => return,
                },
                changed = self.link.changed() => {
                    if changed.is_err() { return }
                    self.report_connection(&mut memory, &mut outbox);
                }
                () = tokio::time::sleep_until(heartbeat) => {
                    due = next_heartbeat(due, self.heartbeat_period);
                    heartbeat = slack::not_before(due, self.heartbeat_period);
                    self.begin_heartbeat(&mut memory, &mut outbox, &mut looks);
                }
                (kind, look) = looks.next() => match kind {
                    Freshness::Light => {
                        let answers = looks.take_answers();
                        self.report_look(look, answers, &mut memory, &mut outbox);
                        looks.start_light_if_asked(|| self.look(Freshness::Light));
                    }
                    Freshness::Full => self.report_look(look, vec![None], &mut memory, &mut outbox),
                },
                (message, result) = outbox.published() => {
                    if reports_an_outcome(&message, &result) && let Some(guard) = &self.engine.guard {
                        guard.stand_down();
                    }
                    outbox.note_result(message, result);
                }
                () = alarm::reached(retry_at) => outbox.retry_returned(),
                // Sent from here: this loop runs only while neither it nor the one thread of all
                // tasks hangs.
                () = self.notifier.alive_is_due() => self.notifier.alive(),
                answer = next_plan(&mut plans) => outbox.queue(OutgoingMessage::Plan(answer)),
                _ = self.stop.changed() => {
                    self.report_announcements(&mut memory, &mut outbox);
                    outbox.drain(&self.publisher).await;
                    return;
                }
            }
        }
    }

    /// Collects the facts and starts a full look; its result is reported.
    fn begin_heartbeat(&self, memory: &mut ReporterMemory, outbox: &mut Outbox, looks: &mut Looks) {
        memory.facts = (self.collect_facts)();
        // A look that is delayed by a hook does not delay the heartbeat.
        if !looks.start_full(|| self.look(Freshness::Full)) {
            outbox.queue(self.with_conflict(self.status(memory, None), memory));
        }
    }

    fn answer(
        &mut self,
        request: Request,
        memory: &mut ReporterMemory,
        outbox: &mut Outbox,
        looks: &mut Looks,
    ) {
        self.report_announcements(memory, outbox);
        match request {
            // Handled in `run`.
            Request::Plan { .. } => {}
            Request::Ping { id } => looks.ask_light(id, || self.look(Freshness::Light)),
            Request::Accepted { id, serial } => {
                let busy = {
                    let state = self.state.borrow();
                    matches!(
                        state.standing,
                        Standing::Converging { .. } | Standing::Watching { .. }
                    ) && state.desired.serial < serial
                };
                if busy {
                    let mut status = self.status(memory, id);
                    // The accepted state is newer than the one that the reconciler applies.
                    let desired = self.engine.ledger.desired();
                    status.generation = desired.generation;
                    status.desired_apps = Some(desired.apps.clone());
                    outbox.queue(status);
                }
            }
            Request::Rejected {
                rejected,
                phase,
                category,
            } => {
                memory.last_rejected = Some(rejected.clone());
                let mut status = self.status(memory, rejected.id.clone());
                status.errors.insert(0, rejection(&rejected, phase, category));
                status
                    .desired_apps
                    .get_or_insert_with(|| self.engine.ledger.desired().apps.clone());
                status.status = protocol::State::Errors;
                status.detail = None;
                outbox.queue(status);
            }
            Request::Stale { rejected } => {
                let id = rejected.id.clone();
                memory.last_rejected = Some(rejected);
                looks.ask_light(id, || self.look(Freshness::Light));
            }
        }
    }

    /// Queues earlier announcements, so that they are sent before what follows.
    fn report_announcements(&mut self, memory: &mut ReporterMemory, outbox: &mut Outbox) {
        while let Ok(announcement) = self.announcements.try_recv() {
            self.report_announcement(announcement, memory, outbox);
        }
    }

    fn report_announcement(
        &mut self,
        announcement: Announcement,
        memory: &mut ReporterMemory,
        outbox: &mut Outbox,
    ) {
        let Announcement { state, reply_to } = announcement;
        self.bind_topics(&state);
        outbox.queue(self.status_of(&state, memory, reply_to));
    }

    fn report_connection(&mut self, memory: &mut ReporterMemory, outbox: &mut Outbox) {
        let link = self.link.borrow_and_update().clone();
        let (epoch, contested) = match link {
            LinkState::Up { epoch } => (epoch, false),
            LinkState::Contested { epoch, .. } => (epoch, true),
            // A connection that does not consume has no messages to answer.
            LinkState::Clone { .. } => (memory.epoch, true),
            LinkState::Down { .. } => return,
        };
        let is_new = std::mem::replace(&mut memory.epoch, epoch) != epoch;
        let was_contested = std::mem::replace(&mut memory.contested, contested);
        let reply_to = if is_new { outbox.merge_waiting() } else { None };
        let answers = reply_to.is_some();
        if is_new || contested || was_contested {
            outbox.queue(self.with_conflict(self.status(memory, reply_to), memory));
        }
        if answers && contested {
            outbox.queue(self.with_conflict(self.status(memory, None), memory));
        }
    }

    /// Adds an error if another host has the same id. Answers stay unchanged.
    fn with_conflict(&self, mut status: Status, memory: &ReporterMemory) -> Status {
        if status.reply_to.is_some() {
            return status;
        }
        let reason = match &*self.link.borrow() {
            LinkState::Contested { reason, .. } | LinkState::Clone { reason } => reason.clone(),
            LinkState::Up { .. } | LinkState::Down { .. } => return status,
        };
        let hostname = memory.facts.get("hostname").and_then(|name| name.as_str());
        let conflict = ErrorReport {
            app: None,
            phase: Phase::Connect,
            category: Category::Conflict,
            message: format!(
                "{reason}. This is {}",
                hostname.unwrap_or("a host without a name")
            ),
            attempt: 1,
            next_retry: None,
            rolled_back: false,
        };
        status.errors.insert(0, conflict);
        status.status = protocol::State::Errors;
        status.detail = None;
        status
            .desired_apps
            .get_or_insert_with(|| self.engine.ledger.desired().apps.clone());
        status
    }

    /// Observes the host, unless it is being changed.
    fn look(&self, freshness: Freshness) -> Looking {
        let before = self.state.borrow().clone();
        let engine = self.engine.clone();
        Box::pin(async move {
            let observed = match before.standing {
                Standing::Converging { .. } | Standing::Watching { .. } => None,
                Standing::Ok | Standing::Errors(_) => {
                    Some(engine.observe(&before.desired.apps, freshness).await)
                }
            };
            Look {
                announced: before.announced,
                observed,
            }
        })
    }

    /// Reports the result of a look. Drift wakes the reconciler, and the status says `converging`,
    /// because the reconciler is about to begin.
    fn report_look(
        &mut self,
        look: Look,
        answers: Vec<Option<String>>,
        memory: &mut ReporterMemory,
        outbox: &mut Outbox,
    ) {
        self.report_announcements(memory, outbox);
        let mut state = self.state.borrow().clone();
        match look.observed {
            // The host was changed since: the reconciler's state is newer.
            _ if state.announced != look.announced => {}
            None => {}
            Some(Ok(observed)) => {
                if matches!(state.standing, Standing::Ok)
                    && state.desired.stated
                    && !self.engine.plan(&state.desired.apps, &observed).is_empty()
                {
                    tracing::info!("the host has drifted from its desired state");
                    state.standing = Standing::Converging {
                        detail: "drift was found".into(),
                    };
                    self.wake.notify_one();
                }
                if matches!(state.standing, Standing::Errors(_)) {
                    self.wake.notify_one();
                }
                state.observed = Some(Arc::new(observed));
            }
            Some(Err(error)) => {
                state.standing = Standing::Errors(vec![unobservable(&error)]);
                self.wake.notify_one();
            }
        }
        self.bind_topics(&state);
        for reply_to in answers {
            let status = self.status_of(&state, memory, reply_to);
            outbox.queue(self.with_conflict(status, memory));
        }
    }

    fn forecast(&self, reply_to: Option<String>, apps: Apps) -> BoxFuture<'static, PlanAnswer> {
        let (engine, host_id) = (self.engine.clone(), self.host_id.clone());
        Box::pin(async move {
            match Forecast::of(&engine, &apps).await {
                Ok(forecast) => forecast.answer(host_id, reply_to),
                Err(error) => forecast::no_answer(host_id, reply_to, &error),
            }
        })
    }

    fn too_many_plans(&self, reply_to: Option<String>) -> PlanAnswer {
        let message = format!("{MAX_PLANS} plans are being made already; ask again in a moment");
        forecast::no_answer(
            self.host_id.clone(),
            reply_to,
            &HostError::new(Category::Host, message),
        )
    }

    fn status(&self, memory: &ReporterMemory, reply_to: Option<String>) -> Status {
        let state = self.state.borrow().clone();
        self.status_of(&state, memory, reply_to)
    }

    fn status_of(&self, state: &HostState, memory: &ReporterMemory, reply_to: Option<String>) -> Status {
        let particulars = status::StatusDetails {
            host_id: &self.host_id,
            boot_id: &self.boot_id,
            facts: &memory.facts,
            started: memory.started,
            last_rejected: memory.last_rejected.as_ref(),
            reply_to,
        };
        status::build(state, &particulars)
    }

    /// An installed application has a topic of its own.
    fn bind_topics(&self, state: &HostState) {
        let Some(observed) = &state.observed else { return };
        let installed = observed
            .apps
            .iter()
            .filter(|(app, there)| there.managed && !self.host_id.collides_with(app));
        let topics: BTreeSet<String> = installed.map(|(app, _)| app.to_string()).collect();
        self.topics.send_if_modified(|bound| {
            let changed = *bound != topics;
            *bound = topics;
            changed
        });
    }
}

/// Answers to `plan` that are being made.
type Plans = FuturesUnordered<BoxFuture<'static, PlanAnswer>>;

/// Maximum of plans at a time; each observes the whole host.
const MAX_PLANS: usize = 4;

/// Pending while there is none.
async fn next_plan(plans: &mut Plans) -> PlanAnswer {
    match plans.next().await {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

/// Whether the broker has received the outcome of a convergence. (A missing master is no failure of
/// the agent.)
fn reports_an_outcome(message: &OutgoingMessage, result: &Result<(), PublishError>) -> bool {
    let reached = matches!(result, Ok(()) | Err(PublishError::Unroutable));
    let is_outcome = match message {
        OutgoingMessage::Status(status) => status.status != protocol::State::Converging,
        OutgoingMessage::Plan(_) => false,
    };
    reached && is_outcome
}

struct ReporterMemory {
    started: Instant,
    facts: Facts,
    last_rejected: Option<Rejected>,
    epoch: u64,
    /// The last status about the connection reported a duplicate host id.
    contested: bool,
}

/// At a random phase, so that hosts that were started together do not send together.
fn first_heartbeat(period: Duration) -> Instant {
    Instant::now() + period.mul_f64(fastrand::f64())
}

/// One period after the last was due, so that a late heartbeat does not shift the next ones.
fn next_heartbeat(last_due: Instant, period: Duration) -> Instant {
    let next = last_due + period;
    match next > Instant::now() {
        true => next,
        // The host was suspended, or the thread was blocked.
        false => Instant::now() + period,
    }
}

fn rejection(rejected: &Rejected, phase: Phase, category: Category) -> ErrorReport {
    ErrorReport {
        app: None,
        phase,
        category,
        message: rejected.reason.clone(),
        attempt: 1,
        next_retry: None,
        rolled_back: false,
    }
}

fn unobservable(error: &HostError) -> ErrorReport {
    ErrorReport {
        app: None,
        phase: Phase::Observe,
        category: error.category,
        message: error.message.clone(),
        attempt: 1,
        next_retry: None,
        rolled_back: false,
    }
}
