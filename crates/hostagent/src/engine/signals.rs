//! What reaches the engine while it works: it is looked at between two steps, and ends waits.

use std::sync::Arc;

use protocol::Apps;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::ledger::Desired;

/// Somebody wants to know whether the plan for `apps` still is the one that they were shown.
#[derive(Debug)]
pub struct PlanQuestion {
    pub apps: Apps,
    /// Of the plan's hash.
    pub hash: String,
    /// `Err`: why not, for the sender.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Where signals come from.
pub struct Signals {
    pub desired: watch::Receiver<Arc<Desired>>,
    pub stop: watch::Receiver<bool>,
    /// Somebody saw, or suspects, drift.
    pub wake: Arc<Notify>,
    pub questions: mpsc::Receiver<PlanQuestion>,
}

/// What ends an attempt at its next safe point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    Superseded,
    Stopped,
}

#[derive(Debug)]
pub enum Signal {
    Interrupt(Interrupt),
    Question(PlanQuestion),
    Wake,
}

impl Signals {
    /// Nothing reaches a one-shot command.
    pub fn none(desired: watch::Receiver<Arc<Desired>>) -> Self {
        let (_, stop) = watch::channel(false);
        let (_, questions) = mpsc::channel(1);
        Self {
            desired,
            stop,
            wake: Arc::new(Notify::new()),
            questions,
        }
    }

    /// What ends an attempt to reach `desired` now.
    pub fn pending(&self, desired: &Desired) -> Option<Interrupt> {
        if *self.stop.borrow() {
            Some(Interrupt::Stopped)
        } else if !self.desired.borrow().same_state(desired) {
            Some(Interrupt::Superseded)
        } else {
            None
        }
    }

    /// Returns when there is one. Cancel-safe: it only waits on watches.
    pub async fn interrupted(&mut self, desired: &Desired) -> Interrupt {
        loop {
            if let Some(interrupt) = self.pending(desired) {
                return interrupt;
            }
            // A closed channel stays quiet: nobody is left who could interrupt.
            tokio::select! {
                Ok(()) = self.desired.changed() => {}
                Ok(()) = self.stop.changed() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// A question, or what ends an attempt to reach `desired`. Cancel-safe.
    pub async fn asked_or_interrupted(&mut self, desired: &Desired) -> Signal {
        loop {
            if let Some(interrupt) = self.pending(desired) {
                return Signal::Interrupt(interrupt);
            }
            // A closed channel stays quiet.
            tokio::select! {
                Ok(()) = self.desired.changed() => {}
                Ok(()) = self.stop.changed() => {}
                Some(question) = self.questions.recv() => return Signal::Question(question),
                else => std::future::pending().await,
            }
        }
    }

    /// The next signal while nothing is to be done. A message that asks for the same as `desired` is news, too: somebody waits
    /// for its answer.
    pub async fn next_of_any(&mut self, desired: &Desired) -> Signal {
        loop {
            if *self.stop.borrow() {
                return Signal::Interrupt(Interrupt::Stopped);
            }
            if self.desired.borrow().serial != desired.serial {
                return Signal::Interrupt(Interrupt::Superseded);
            }
            if let Some(signal) = self.wait().await {
                return signal;
            }
        }
    }

    /// The next signal, while an attempt to reach `desired` has nothing to do. Cancel-safe: it only waits.
    pub async fn next(&mut self, desired: &Desired) -> Signal {
        loop {
            if let Some(interrupt) = self.pending(desired) {
                return Signal::Interrupt(interrupt);
            }
            if let Some(signal) = self.wait().await {
                return signal;
            }
        }
    }

    /// `None`: look again at what is desired.
    async fn wait(&mut self) -> Option<Signal> {
        tokio::select! {
            Ok(()) = self.desired.changed() => None,
            Ok(()) = self.stop.changed() => None,
            Some(question) = self.questions.recv() => Some(Signal::Question(question)),
            () = self.wake.notified() => Some(Signal::Wake),
        }
    }
}
