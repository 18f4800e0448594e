//! What was worked out of a host's state, for as long as that stays the same: an observation that finds nothing new is the
//! very value of the one before ([`Observer::observe`](crate::engine::observe::Observer::observe)), and neither it nor what is
//! desired can change. Held weakly: the value is let go with the host's state (it has the whole package database with it), and
//! its place in memory is not taken by another one meanwhile.

use std::sync::{Arc, Weak};

use crate::engine::Engine;
use crate::engine::observe::Observed;
use crate::ledger::Desired;
use crate::status::EncodedApps;

#[derive(Default)]
pub struct Known {
    apps: Option<(Of, Arc<EncodedApps>)>,
    satisfied: Option<Of>,
    bound: Weak<Observed>,
}

/// What something was worked out of.
struct Of {
    desired: Arc<Desired>,
    /// Empty: the host has not been looked at.
    observed: Weak<Observed>,
}

impl Of {
    fn new(desired: &Arc<Desired>, observed: Option<&Arc<Observed>>) -> Self {
        Self {
            desired: desired.clone(),
            observed: observed.map(Arc::downgrade).unwrap_or_default(),
        }
    }

    fn is(&self, desired: &Arc<Desired>, observed: Option<&Arc<Observed>>) -> bool {
        Arc::ptr_eq(&self.desired, desired)
            && match observed {
                Some(observed) => is(&self.observed, observed),
                None => Weak::ptr_eq(&self.observed, &Weak::new()),
            }
    }
}

fn is(known: &Weak<Observed>, observed: &Arc<Observed>) -> bool {
    std::ptr::eq(known.as_ptr(), Arc::as_ptr(observed))
}

impl Known {
    /// The applications of a status.
    pub fn apps(&mut self, desired: &Arc<Desired>, observed: Option<&Arc<Observed>>) -> Arc<EncodedApps> {
        if let Some((of, apps)) = &self.apps
            && of.is(desired, observed)
        {
            return apps.clone();
        }
        let apps = Arc::new(EncodedApps::new(&desired.apps, observed.map(Arc::as_ref)));
        self.apps = Some((Of::new(desired, observed), apps.clone()));
        apps
    }

    /// Whether there is nothing to do.
    pub fn is_satisfied(
        &mut self,
        desired: &Arc<Desired>,
        observed: &Arc<Observed>,
        engine: &Engine,
    ) -> bool {
        if self
            .satisfied
            .as_ref()
            .is_some_and(|of| of.is(desired, Some(observed)))
        {
            return true;
        }
        let satisfied = engine.plan(desired, observed).is_empty();
        self.satisfied = satisfied.then(|| Of::new(desired, Some(observed)));
        satisfied
    }

    /// Whether topics were not yet bound as this says.
    pub fn is_news_to_topics(&mut self, observed: &Arc<Observed>) -> bool {
        let news = !is(&self.bound, observed);
        if news {
            self.bound = Arc::downgrade(observed);
        }
        news
    }
}
