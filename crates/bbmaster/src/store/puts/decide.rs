//! What each PUT of a batch does. Pure, except for the time.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{AppName, Apps, HostId};
use tokio::sync::oneshot;

use super::super::desired::{Desired, PutError, StoredDesired, desired_changed};
use super::super::events::NewEvent;
use super::super::now;

/// A PUT that is not written yet.
pub struct PendingPut {
    pub host: HostId,
    pub apps: Arc<Apps>,
    pub only_if_plan: Option<String>,
    pub if_match: Option<Vec<u64>>,
    pub author: Arc<str>,
    pub done: oneshot::Sender<Result<StoredDesired, PutError>>,
}

/// The stored generation is not one of the PUT's `If-Match`.
pub struct GenerationMismatch {
    pub current: u64,
}

/// The result of each PUT of a batch.
pub type PutAnswers = Vec<Result<StoredDesired, GenerationMismatch>>;

/// The hosts of a batch, sorted by id; with each its id as statements take it.
pub type BatchIds<'a> = BTreeMap<&'a str, (&'a HostId, Arc<str>)>;

/// The hosts of a batch that have a row, by id.
pub type PutTargets<'a> = BTreeMap<&'a str, PutTarget>;

/// What one batch does to one host.
pub struct PutTarget {
    pub id: Arc<str>,
    /// The generation that the host has.
    pub reported: u64,
    pub satisfied: bool,
    pub before: Option<Desired>,
    pub now: Option<Desired>,
    /// This transaction has inserted its row.
    pub is_new: bool,
}

impl PutTarget {
    fn current(&self) -> Option<&Desired> {
        self.now.as_ref().or(self.before.as_ref())
    }

    /// Decides one PUT.
    fn decide(&mut self, put: &PendingPut) -> Result<StoredDesired, GenerationMismatch> {
        let current = self.current().map_or(0, |current| current.generation);
        if put
            .if_match
            .as_ref()
            .is_some_and(|wanted| !wanted.contains(&current))
        {
            return Err(GenerationMismatch { current });
        }
        if let Some(current) = self.current()
            && current.apps == put.apps
            && current.only_if_plan == put.only_if_plan
        {
            return Ok(StoredDesired {
                desired: current.clone(),
                is_change: false,
            });
        }
        let desired = Desired {
            apps: put.apps.clone(),
            // Higher than the generation of the host, too: after a restore of the database the
            // host's may be the higher one, and the host would refuse a lower one.
            generation: current.max(self.reported).saturating_add(1),
            author: put.author.clone(),
            changed_at: now(),
            only_if_plan: put.only_if_plan.clone(),
            is_taken: false,
        };
        self.now = Some(desired.clone());
        Ok(StoredDesired {
            desired,
            is_change: true,
        })
    }

    /// Whether applications, versions or `running` have changed: what `host_apps` has.
    pub fn lists_change(&self) -> bool {
        fn listed(desired: Option<&Desired>) -> impl Iterator<Item = (&AppName, &str, bool)> {
            let apps = desired.into_iter().flat_map(|desired| desired.apps.iter());
            apps.map(|(name, spec)| (name, spec.version.as_str(), spec.running))
        }
        listed(self.before.as_ref()).ne(listed(self.now.as_ref()))
    }
}

/// A host whose desired state the batch changes.
pub struct DesiredChange<'a> {
    pub id: &'a Arc<str>,
    pub target: &'a PutTarget,
    pub desired: &'a Desired,
}

impl<'a> DesiredChange<'a> {
    pub fn of(target: &'a PutTarget) -> Option<Self> {
        let (id, desired) = (&target.id, target.now.as_ref()?);
        Some(Self { id, target, desired })
    }
}

/// Decides the PUTs in order. Returns the answers and the events. The error is a host without a
/// row.
pub fn decide_all<'a>(
    batch: &'a [PendingPut],
    targets: &mut PutTargets<'_>,
) -> Result<(PutAnswers, Vec<NewEvent>), &'a HostId> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut events = Vec::new();
    for put in batch {
        let target = targets.get_mut(put.host.as_str()).ok_or(&put.host)?;
        let decided = target.decide(put);
        if let Ok(stored) = &decided
            && stored.is_change
        {
            events.push(desired_changed(&target.id, &stored.desired));
        }
        answers.push(decided);
    }
    Ok((answers, events))
}
