//! What the host's repositories offer, and when its package lists are refreshed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::Category;
use protocol::satisfied::version_satisfied;

use super::{Family, compare_versions};
use crate::HostError;

/// How many versions an error names.
const NAMED: usize = 5;

/// A version of a package in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub version: String,
    /// apt's: pins change it, and a negative one forbids the version. 0 where there are no
    /// priorities.
    pub priority: i32,
}

impl Offer {
    /// Without priorities.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            priority: 0,
        }
    }
}

/// Of the offers that satisfy `version`, the one that the package manager prefers; of equal ones
/// the newest.
pub fn best<'a>(family: Family, version: &str, offers: &'a [Offer]) -> Option<&'a Offer> {
    let allowed = offers.iter().filter(|offer| offer.priority >= 0);
    allowed
        .filter(|offer| version_satisfied(version, &offer.version))
        .max_by(|a, b| {
            let newer = || compare_versions(family, &a.version, &b.version);
            a.priority.cmp(&b.priority).then_with(newer)
        })
}

/// The state of the package lists when no offer was found.
#[derive(Debug)]
pub enum Lists {
    /// Present; refreshed if that was due.
    Present,
    /// Could not be refreshed, because of this.
    Stale(HostError),
    /// There are none: no repository is configured, or its lists were never fetched, because of
    /// this.
    Absent(Option<HostError>),
}

/// The error for a version that is not offered.
pub fn not_offered(package: &str, version: &str, offers: &[Offer], lists: Lists) -> HostError {
    let names = |offers: &[&Offer]| {
        let names: Vec<&str> = offers.iter().take(NAMED).map(|offer| &*offer.version).collect();
        names.join(", ")
    };
    let (allowed, pinned): (Vec<&Offer>, Vec<&Offer>) = offers.iter().partition(|offer| offer.priority >= 0);
    let forbidden: Vec<&Offer> = pinned
        .iter()
        .copied()
        .filter(|offer| version_satisfied(version, &offer.version))
        .collect();
    let mut message = if !forbidden.is_empty() {
        format!(
            "package {package} {} is offered, but a pin with a negative priority forbids it: see apt-cache policy {package}",
            names(&forbidden)
        )
    } else if !allowed.is_empty() {
        format!(
            "the host's repositories do not offer package {package} at {version}, only at {}",
            names(&allowed)
        )
    } else {
        format!("the host's repositories do not offer package {package}: add a url, or a repository")
    };
    let category = match lists {
        Lists::Present => Category::NotFound,
        Lists::Stale(error) => {
            message =
                format!("{message}. The package lists may be old, they could not be refreshed: {error}");
            Category::NotFound
        }
        Lists::Absent(None) => {
            message = format!(
                "package {package} cannot be found: the host has no package lists, so no repository is configured; \
                 add a url, or a repository"
            );
            Category::NotFound
        }
        // The network may come back.
        Lists::Absent(Some(error)) => {
            message = format!(
                "package {package} cannot be found: the host has no package lists, and they could not be fetched: {error}"
            );
            error.category
        }
    };
    HostError::new(category, message)
}

/// Limits how often package lists are refreshed for a missing offer: at once, then not before the
/// interval has passed.
#[derive(Debug)]
pub struct Refreshes {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl Refreshes {
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: Mutex::new(None),
        }
    }

    /// Whether to refresh now; then the interval begins.
    pub fn begin(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= self.interval);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(version: &str, priority: i32) -> Offer {
        Offer {
            version: version.into(),
            priority,
        }
    }

    #[test]
    fn what_policy_prefers_is_taken_and_then_the_newest() {
        let offers = [
            offer("2.1-5~bpo12+1", 100),
            offer("2.1-1", 500),
            offer("2.0-9", 500),
            offer("3.0-1", -1),
        ];
        for (wanted, expected) in [
            ("2.1", Some("2.1-1")),
            ("2.1-5~bpo12+1", Some("2.1-5~bpo12+1")),
            ("*", Some("2.1-1")),
            ("2.0*", Some("2.0-9")),
            ("3.0", None),
            ("3.0-1", None),
            ("4", None),
        ] {
            let found = best(Family::Deb, wanted, &offers).map(|offer| &*offer.version);
            assert_eq!(found, expected, "{wanted}");
        }
        let equal = ["1.22.9-1", "1.22.10-1", "1.21.30-1"].map(Offer::new);
        let found = best(Family::Rpm, "1.22.*", &equal).map(|offer| &*offer.version);
        assert_eq!(found, Some("1.22.10-1"));
    }

    #[test]
    fn an_error_says_why_there_is_no_offer() {
        let offers = [offer("3.0-1", -1), offer("2.0-1", 500)];
        let network = || HostError::new(Category::Network, "no route");
        for (wanted, offers, lists, category, text) in [
            (
                "9",
                &offers[..],
                Lists::Present,
                Category::NotFound,
                "at 9, only at 2.0-1",
            ),
            (
                "3.0",
                &offers[..],
                Lists::Present,
                Category::NotFound,
                "a pin with a negative priority",
            ),
            (
                "9",
                &[][..],
                Lists::Present,
                Category::NotFound,
                "do not offer package web: add a url",
            ),
            (
                "9",
                &[][..],
                Lists::Stale(network()),
                Category::NotFound,
                "could not be refreshed: no route",
            ),
            (
                "9",
                &[][..],
                Lists::Absent(None),
                Category::NotFound,
                "no repository is configured",
            ),
            (
                "9",
                &[][..],
                Lists::Absent(Some(network())),
                Category::Network,
                "could not be fetched: no route",
            ),
        ] {
            let error = not_offered("web", wanted, offers, lists);
            assert_eq!(error.category, category, "{error}");
            assert!(error.message.contains(text), "{error}");
        }
    }

    #[test]
    fn lists_are_refreshed_at_once_and_then_after_the_interval() {
        let refreshes = Refreshes::new(Duration::from_secs(3600));
        assert!(refreshes.begin());
        assert!(!refreshes.begin());
        let eager = Refreshes::new(Duration::ZERO);
        assert!(eager.begin() && eager.begin());
    }
}
