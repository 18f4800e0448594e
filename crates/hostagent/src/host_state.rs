//! The state of the host. Only the reconciler writes it; the reporter and the drift watch read it.

use std::sync::Arc;

use protocol::ErrorReport;
use tokio::sync::{mpsc, watch};

use crate::engine::observe::Observed;
use crate::ledger::Desired;

#[derive(Debug, Clone)]
pub struct HostState {
    pub desired: Arc<Desired>,
    /// `None` until the host was first observed.
    pub observed: Option<Arc<Observed>>,
    pub standing: Standing,
    /// Counts announcements, so that an observation from before the last one is known to be
    /// outdated.
    pub announced: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Observed satisfies desired, or there was never a desired state.
    Ok,
    /// Applying, or about to; what is being done, for the operator.
    Converging { detail: String },
    /// Everything is applied, and watched for a while before it counts as done.
    Watching { detail: String },
    /// The last attempt failed.
    Errors(Vec<ErrorReport>),
}

impl Standing {
    /// One line, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Ok => "the host is as desired".into(),
            Self::Converging { detail } | Self::Watching { detail } => format!("converging: {detail}"),
            Self::Errors(errors) => {
                let apps = errors.iter().map(|error| match &error.app {
                    Some(app) => app.as_str(),
                    None => "the host",
                });
                format!("errors: {}", apps.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A state that must be reported to the master, even if another follows at once: `converging`
/// before `ok`.
#[derive(Debug, Clone)]
pub struct Announcement {
    pub state: HostState,
    /// `id` of the message that this answers.
    pub reply_to: Option<String>,
}

/// The reconciler's side: publishes changes of the host's state.
pub struct Board {
    state: watch::Sender<HostState>,
    /// To the reporter. Unbounded: a few per attempt, and the reporter never waits for anything.
    announcements: mpsc::UnboundedSender<Announcement>,
}

impl Board {
    pub fn new(desired: Arc<Desired>) -> (Self, mpsc::UnboundedReceiver<Announcement>) {
        let state = HostState {
            desired,
            observed: None,
            standing: Standing::Converging {
                detail: "starting".into(),
            },
            announced: 0,
        };
        let (announcements, announced) = mpsc::unbounded_channel();
        (
            Self {
                state: watch::Sender::new(state),
                announcements,
            },
            announced,
        )
    }

    pub fn subscribe(&self) -> watch::Receiver<HostState> {
        self.state.subscribe()
    }

    pub fn standing(&self) -> Standing {
        self.state.borrow().standing.clone()
    }

    /// Stores the observed state and the standing; they are reported on request.
    pub fn note(&self, desired: &Arc<Desired>, observed: Option<&Arc<Observed>>, standing: Standing) {
        self.state.send_modify(|state| {
            state.desired = desired.clone();
            if let Some(observed) = observed {
                state.observed = Some(observed.clone());
            }
            state.standing = standing;
        });
    }

    /// Has the current state reported to the master.
    pub fn announce(&self, reply_to: Option<String>) {
        self.state.send_modify(|state| state.announced += 1);
        let state = self.state.borrow().clone();
        // One-shot commands have no reporter.
        let _ = self.announcements.send(Announcement { state, reply_to });
    }
}
