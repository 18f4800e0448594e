//! Pings all hosts, within the configured rate.

use std::sync::Arc;
use std::time::Duration;

use bus::{PublishError, Publisher};
use protocol::{encode_ping, topic};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// Pings all hosts. Cheap to clone.
#[derive(Clone)]
pub struct Pinger {
    store: Store,
    publisher: Publisher,
    metrics: Metrics,
    /// Hosts per second.
    rate: u32,
    /// Held during a round. A second round at the same time would double the rate and show nothing
    /// new.
    round: Arc<Mutex<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum PingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Time between two groups of pings.
const STEP: Duration = Duration::from_millis(100);

impl Pinger {
    pub fn new(store: Store, publisher: Publisher, metrics: Metrics, rate: u32) -> Self {
        Self {
            store,
            publisher,
            metrics,
            rate,
            round: Arc::default(),
        }
    }

    /// Pings all hosts: with one message, if all of them can answer within a second, else one by
    /// one. Does nothing while a round is in progress.
    pub async fn ping_all(&self) -> Result<(), PingError> {
        let Ok(_round) = self.round.try_lock() else {
            return Ok(());
        };
        let first = self.store.reporting_hosts("", self.rate + 1).await?;
        if first.len() <= usize::try_from(self.rate).unwrap_or(usize::MAX) {
            self.metrics.pings.inc();
            return match self.publisher.publish(topic::SLAVES, encode_ping(None)).await {
                // There is no host.
                Err(PublishError::Unroutable) => Ok(()),
                other => Ok(other?),
            };
        }
        let per_step = (self.rate / 10).max(1);
        let mut step = interval(STEP.max(Duration::from_secs(1) / self.rate));
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut after = String::new();
        loop {
            step.tick().await;
            let hosts = self.store.reporting_hosts(&after, per_step).await?;
            let Some(last) = hosts.last() else {
                return Ok(());
            };
            after = last.to_string();
            for host in &hosts {
                self.metrics.pings.inc();
                match self.publisher.publish(host.as_str(), encode_ping(None)).await {
                    Ok(()) | Err(PublishError::Unroutable) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}
