//! The connection to systemd, with its signals flowing into a [`View`].

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use zbus::wire::{OwnedObjectPath, Variant};
use zbus::{Message, MessageStream};

use super::unit::is_running;
use super::view::{EndedJob, View};
use crate::Root;
use crate::systemd::{MANAGER, MANAGER_PATH, SystemdClient, SystemdError, UNIT};

/// Closed when its last clone is dropped.
#[derive(Clone)]
pub(super) struct WatchedClient {
    pub(super) client: SystemdClient,
    flushes: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Ends the task that reads signals.
    _listener: Arc<AbortOnDrop>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl WatchedClient {
    pub(super) async fn connect(root: &Root, view: Arc<View>) -> Result<Self, SystemdError> {
        let client = SystemdClient::connect(root).await?;
        // One stream for all signals keeps them in order.
        let signals = client.signals(MANAGER_PATH).await?;
        let (flushes, flushed) = mpsc::unbounded_channel();
        let listener = tokio::spawn(listen(signals, flushed, view)).abort_handle();
        Ok(Self {
            client,
            flushes,
            _listener: Arc::new(AbortOnDrop(listener)),
        })
    }

    /// Returns when the [`View`] has the signals of all that systemd has done until now: systemd
    /// sends them before it answers the next call, and then the listener reads them all.
    pub(super) async fn flush(&self) {
        let version = self.client.property::<String>(MANAGER_PATH, MANAGER, "Version");
        if version.await.is_ok() {
            let (done, flushed) = oneshot::channel();
            let _ = self.flushes.send(done);
            // Dropped without an answer if the connection was lost: then no signal follows.
            let _ = flushed.await;
        }
    }
}

/// Reads systemd's signals until the connection ends. Never waits for anything else: unread signals
/// block the connection.
async fn listen(
    mut signals: MessageStream,
    mut flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    view: Arc<View>,
) {
    loop {
        // Biased: a flush is answered when no signal is pending. Both arms only take from queues.
        tokio::select! {
            biased;
            signal = signals.next() => {
                let Some(Ok(signal)) = signal else { break };
                // An unexpected shape: another version of systemd. What is known may be wrong.
                if note(&signal, &view).is_none() {
                    view.unit_files_changed();
                }
            }
            Some(done) = flushes.recv() => {
                let _ = done.send(());
            }
        }
    }
    // Answers those who wait for a flush.
    drop(flushes);
    view.disconnected();
}

fn note(signal: &Message, view: &View) -> Option<()> {
    let header = signal.header();
    let body = signal.body();
    match header.member()?.as_str() {
        "PropertiesChanged" => {
            let path = header.path()?;
            let (interface, changed): (&str, HashMap<&str, Variant<'_>>) =
                body.deserialize_ignore_signature().ok()?;
            if interface != UNIT {
                return Some(());
            }
            let text = |name| match changed.get(name) {
                Some(Variant::Str(text)) => Some(text.as_str()),
                _ => None,
            };
            let running = text("ActiveState").zip(text("SubState"));
            view.unit_changed(
                path.as_str(),
                running.map(|(active, sub)| is_running(active, sub)),
            );
        }
        "JobRemoved" => {
            let (_, job, unit, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
            let job = job.to_string();
            view.job_ended(&unit, EndedJob { job, result });
        }
        "UnitFilesChanged" => view.unit_files_changed(),
        // Sent twice: `true` before, `false` after.
        "Reloading" => match body.deserialize::<bool>().ok()? {
            true => {}
            false => view.unit_files_changed(),
        },
        // UnitNew and UnitRemoved: reading a unit that is not loaded causes both. JobNew: no result
        // yet.
        _ => {}
    }
    Some(())
}
