//! What a new status changes of the record of its host. Pure.
//!
//! Three digests are stored with each host. Up to 0.1.0 they were made by another hash, so that
//! each differs once from the stored one. This is harmless: at its first status after the upgrade,
//! a host is written in full although nothing has changed, and a host with errors gets one event
//! more (`still errors: ...`).

use protocol::rest::{EventKind, HostState};
use protocol::status::Health;
use protocol::{Apps, Category, Phase, Status, apps_satisfied};
use serde_json::json;

use super::digest::StableDigest;
use super::events::{EventData, NewEvent};
use super::{clean, signed};

/// What is stored of a host, without the last status itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// `None`: has never reported.
    pub first_seen: Option<i64>,
    pub last_seen: i64,
    pub boot_id: String,
    pub previous_boot_id: String,
    pub seq: i64,
    pub lost: i64,
    pub state: HostState,
    pub responding: bool,
    pub apps_digest: i64,
    pub errors_digest: i64,
    /// See [`HostFacts::digest`]. 0: unknown, so that the next status is written in full.
    pub facts_digest: i64,
}

impl Default for HostRecord {
    fn default() -> Self {
        Self {
            first_seen: None,
            last_seen: 0,
            boot_id: String::new(),
            previous_boot_id: String::new(),
            seq: 0,
            lost: 0,
            state: HostState::Missing,
            responding: false,
            apps_digest: 0,
            errors_digest: 0,
            facts_digest: 0,
        }
    }
}

/// Where a status belongs in the order of its host's statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusOrder {
    /// Newer than all before. `lost`: how many are missing between it and the last one.
    Newer { lost: i64 },
    /// Received before.
    Duplicate,
    /// Older than the last one.
    Late,
}

/// Statuses are ordered by `seq` within one start of the agent (`boot_id`); a new start replaces
/// the one before. If two agents report a duplicate host id, both are running, and the statuses of
/// both count.
pub fn order(record: &HostRecord, status: &Status) -> StatusOrder {
    let (boot_id, seq) = (clean(&status.boot_id), signed(status.seq));
    let boot_id = boot_id.as_str();
    let never_seen = record.first_seen.is_none();
    // Agents older than Backbone send no count.
    if never_seen || boot_id.is_empty() {
        return StatusOrder::Newer { lost: 0 };
    }
    if boot_id == record.boot_id {
        return match seq - record.seq {
            0 => StatusOrder::Duplicate,
            step if step > 0 => StatusOrder::Newer { lost: step - 1 },
            _ => StatusOrder::Late,
        };
    }
    match boot_id == record.previous_boot_id {
        true if reports_duplicate_id(status) || DUPLICATE_ID_DIGESTS.contains(&record.errors_digest) => {
            StatusOrder::Newer { lost: 0 }
        }
        true => StatusOrder::Late,
        false => StatusOrder::Newer {
            lost: (seq - 1).max(0),
        },
    }
}

/// Whether the agent reports that another agent has the same host id.
fn reports_duplicate_id(status: &Status) -> bool {
    let mut errors = status.errors.iter();
    errors.any(|error| error.phase == Phase::Connect && error.category == Category::Conflict)
}

/// Errors digests for a duplicate host id: reported by one of the two agents, reported by both.
const DUPLICATE_ID_DIGESTS: [i64; 2] = [i64::MIN, i64::MIN + 1];

/// Updates the record by a newer status. Returns the events of the change.
pub fn apply(record: &mut HostRecord, status: &Status, lost: i64, received_at: i64) -> Vec<NewEvent> {
    let state = HostState::from(status.status);
    let boot_id = clean(&status.boot_id);
    let errors_digest = match reports_duplicate_id(status) {
        true => duplicate_id_digest(record, &boot_id),
        false => errors_digest(status),
    };
    let mut events = Vec::new();
    let mut tell = |kind, message: String, data| {
        events.push(NewEvent {
            at: received_at,
            kind,
            host_id: Some(status.host_id.as_str().into()),
            author: None,
            message,
            data,
        });
    };
    if record.first_seen.is_none() {
        let message = format!("reported for the first time: {}", describe(status));
        tell(EventKind::HostAppeared, message, change(None, status));
    } else {
        if !record.responding {
            tell(EventKind::HostReturned, "reports again".to_owned(), None);
        }
        if state != record.state || errors_digest != record.errors_digest {
            let message = match state == record.state {
                // Its errors have changed.
                true => format!("still {}", describe(status)),
                false => format!("{} -> {}", record.state.as_str(), describe(status)),
            };
            tell(
                EventKind::StatusChanged,
                message,
                change(Some(record.state), status),
            );
        }
    }
    if boot_id != record.boot_id {
        record.previous_boot_id = std::mem::replace(&mut record.boot_id, boot_id);
    }
    record.first_seen.get_or_insert(received_at);
    record.last_seen = received_at.max(record.last_seen);
    record.seq = signed(status.seq);
    record.lost = record.lost.saturating_add(lost);
    record.state = state;
    record.responding = true;
    record.errors_digest = errors_digest;
    events
}

/// What the columns of a host have from its last status, beside [`HostRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub hostname: String,
    pub os_info: String,
    pub agent_version: String,
    pub error: Option<String>,
    pub satisfied: bool,
    /// Digest of everything written about a host except count and time of its statuses. Never 0.
    pub digest: i64,
}

impl HostFacts {
    /// The facts of a host whose last status is this one.
    pub fn of(record: &HostRecord, status: &Status, desired: Option<&Apps>) -> Self {
        let fact = |name| {
            let value = status.info.get(name).and_then(|fact| fact.as_str());
            clean(value.unwrap_or_default())
        };
        let mut facts = Self {
            hostname: fact("hostname"),
            os_info: fact("os_info"),
            agent_version: clean(&status.host_agent.version),
            error: first_error(status),
            satisfied: desired.is_none_or(|desired| apps_satisfied(desired, &status.apps)),
            digest: 0,
        };
        let mut digest = StableDigest::default();
        digest
            .text(&facts.hostname)
            .text(&facts.os_info)
            .text(&facts.agent_version)
            .text_or_none(facts.error.as_deref())
            .flag(facts.satisfied)
            .number_or_none(status.generation.map(signed))
            .number_or_none(record.first_seen)
            .text(&record.boot_id)
            .text(&record.previous_boot_id)
            .text(record.state.as_str())
            .flag(record.responding)
            .number(record.apps_digest)
            .number(record.errors_digest);
        facts.digest = match digest.finish() {
            0 => 1,
            digest => digest,
        };
        facts
    }
}

/// State and first error of a status, in words.
fn describe(status: &Status) -> String {
    let state = HostState::from(status.status).as_str();
    match first_error(status) {
        Some(error) => format!("{state}: {error}"),
        None => state.to_owned(),
    }
}

/// `app_foo: message` of the first error.
pub fn first_error(status: &Status) -> Option<String> {
    let error = status.errors.first()?;
    Some(clean(&match &error.app {
        Some(app) => format!("{app}: {}", error.message),
        None => error.message.clone(),
    }))
}

fn change(from: Option<HostState>, status: &Status) -> Option<EventData> {
    let mut data = json!({ "to": HostState::from(status.status) });
    if let Some(from) = from {
        data["from"] = json!(from);
    }
    if !status.errors.is_empty() {
        data["errors"] = json!(status.errors);
    }
    EventData::of(&data)
}

/// Changes with what is wrong, not with how often it was tried. 0: no errors.
fn errors_digest(status: &Status) -> i64 {
    if status.errors.is_empty() {
        return 0;
    }
    let mut digest = StableDigest::default();
    for error in &status.errors {
        digest
            .text_or_none(error.app.as_ref().map(|app| app.as_str()))
            .text(&error.phase.to_string())
            .text(&error.category.to_string())
            .text(&error.message);
    }
    digest.finish()
}

/// The errors digest of a duplicate host id. It changes when the first agent reports it and when
/// the second does, not with every status of either.
fn duplicate_id_digest(record: &HostRecord, boot_id: &str) -> i64 {
    let [one_says_so, both_say_so] = DUPLICATE_ID_DIGESTS;
    let said = DUPLICATE_ID_DIGESTS.contains(&record.errors_digest);
    match said && (boot_id != record.boot_id || record.errors_digest == both_say_so) {
        true => both_say_so,
        false => one_says_so,
    }
}

/// Changes with what `host_apps` has of the host. 0: no applications.
pub fn apps_digest(status: &Status) -> i64 {
    if status.apps.is_empty() {
        return 0;
    }
    let mut digest = StableDigest::default();
    for (name, app) in &status.apps {
        digest
            .text(name.as_str())
            .text(&app.version)
            .flag(app.running)
            .flag(app.health == Health::Failing);
    }
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(boot_id: &str, seq: i64) -> HostRecord {
        HostRecord {
            first_seen: Some(1),
            boot_id: boot_id.into(),
            previous_boot_id: "a".into(),
            seq,
            state: HostState::Ok,
            responding: true,
            ..HostRecord::default()
        }
    }

    #[test]
    fn statuses_are_ordered_by_start_and_seq() {
        for (boot_id, seq, expected) in [
            ("b", 6, StatusOrder::Newer { lost: 0 }),
            ("b", 9, StatusOrder::Newer { lost: 3 }),
            ("b", 5, StatusOrder::Duplicate),
            ("b", 4, StatusOrder::Late),
            ("a", 99, StatusOrder::Late),
            ("c", 1, StatusOrder::Newer { lost: 0 }),
            ("c", 3, StatusOrder::Newer { lost: 2 }),
            ("", 0, StatusOrder::Newer { lost: 0 }),
        ] {
            let status = status_of(json!({"boot_id": boot_id, "seq": seq}));
            assert_eq!(order(&known("b", 5), &status), expected, "{boot_id} {seq}");
        }
        let status = status_of(json!({"boot_id": "b", "seq": 7}));
        assert_eq!(
            order(&HostRecord::default(), &status),
            StatusOrder::Newer { lost: 0 }
        );
    }

    /// FAULTS.md row 13, the master's side.
    #[test]
    fn with_a_duplicate_host_id_both_agents_count_and_each_is_one_event() {
        let says = |boot_id: &str, seq: u32| {
            let message = format!("two hosts have the same host id. This is {boot_id}");
            status_of(
                json!({"boot_id": boot_id, "seq": seq, "status": "errors", "errors": [
                {"phase": "connect", "category": "conflict", "message": message, "attempt": 1, "rolled_back": false}]}),
            )
        };
        let mut host = known("b", 5);
        let mut told = Vec::new();
        // The first one ("a") was there before. Their statuses alternate, not in the order of
        // `seq`.
        for (boot_id, seq) in [
            ("b", 6),
            ("a", 50),
            ("a", 51),
            ("b", 7),
            ("b", 8),
            ("a", 52),
            ("b", 9),
        ] {
            let status = says(boot_id, seq);
            assert_eq!(
                order(&host, &status),
                StatusOrder::Newer { lost: 0 },
                "{boot_id} {seq}"
            );
            let events = apply(&mut host, &status, 0, 10);
            told.extend(events.into_iter().map(|event| event.message));
        }
        assert_eq!(
            told,
            [
                "ok -> errors: two hosts have the same host id. This is b",
                "still errors: two hosts have the same host id. This is a"
            ]
        );
        // That agent stops. The other one's statuses are not late for ever.
        let alone = status_of(json!({"boot_id": "a", "seq": 53}));
        assert_eq!(order(&host, &alone), StatusOrder::Newer { lost: 0 });
        assert_eq!(apply(&mut host, &alone, 0, 10)[0].message, "errors -> ok");
        assert_eq!(
            order(&host, &status_of(json!({"boot_id": "b", "seq": 10}))),
            StatusOrder::Late
        );
    }

    fn status_of(json: serde_json::Value) -> Status {
        let mut data = json!({"host_id": "h", "status": "ok", "boot_id": "b", "seq": 6});
        for (key, value) in json.as_object().unwrap() {
            data[key] = value.clone();
        }
        serde_json::from_value(data).unwrap()
    }

    fn error(message: &str, attempt: u32) -> serde_json::Value {
        json!([{"app": "foo", "phase": "install", "category": "script", "message": message,
            "attempt": attempt, "rolled_back": false}])
    }

    #[test]
    fn only_what_changes_is_an_event() {
        let mut host = HostRecord::default();
        for (status, expected) in [
            (json!({}), vec!["reported for the first time: ok"]),
            (json!({}), vec![]),
            (json!({"status": "converging"}), vec!["ok -> converging"]),
            (
                json!({"status": "errors", "errors": error("it broke", 1)}),
                vec!["converging -> errors: foo: it broke"],
            ),
            (
                json!({"status": "errors", "errors": error("it broke", 2)}),
                vec![],
            ),
            (
                json!({"status": "errors", "errors": error("it burned", 3)}),
                vec!["still errors: foo: it burned"],
            ),
            (json!({"boot_id": "c", "seq": 1}), vec!["errors -> ok"]),
        ] {
            let events = apply(&mut host, &status_of(status), 0, 10);
            let messages: Vec<&str> = events.iter().map(|event| event.message.as_str()).collect();
            assert_eq!(messages, expected);
        }
        assert_eq!(
            (host.boot_id.as_str(), host.previous_boot_id.as_str()),
            ("c", "b")
        );
        host.responding = false;
        let events = apply(&mut host, &status_of(json!({"boot_id": "c", "seq": 2})), 0, 10);
        assert_eq!(events[0].kind, EventKind::HostReturned);
    }
}
