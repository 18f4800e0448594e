//! What one more status means for what is known of its host. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use protocol::rest::{EventKind, HostState};
use protocol::{Apps, Category, Phase, Status, apps_satisfied};
use serde_json::json;

use super::events::{Json, NewEvent};
use super::{clean, signed};

/// What is known of a host, less the last status itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
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
    /// See [`Facts::digest`]; 0: not known.
    pub facts_digest: i64,
}

impl Default for Known {
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

/// How a status stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// So many between this one and the last were lost, or are late.
    Newer { lost: i64 },
    /// Seen already.
    Duplicate,
    /// Overtaken by a later one.
    Late,
}

/// Statuses are ordered by `seq` within a start of the agent; a start replaces the one before it. But where two agents at
/// once say that they have the same host id, the one before lives, and both are heard.
pub fn order(known: &Known, status: &Status) -> Order {
    let (boot_id, seq) = (clean(&status.boot_id), signed(status.seq));
    let boot_id = boot_id.as_str();
    let never_seen = known.first_seen.is_none();
    // An agent from before Backbone counts nothing.
    if never_seen || boot_id.is_empty() {
        return Order::Newer { lost: 0 };
    }
    if boot_id == known.boot_id {
        return match seq - known.seq {
            0 => Order::Duplicate,
            step if step > 0 => Order::Newer { lost: step - 1 },
            _ => Order::Late,
        };
    }
    match boot_id == known.previous_boot_id {
        true if is_of_two(status) || SAID_OF_TWO.contains(&known.errors_digest) => Order::Newer { lost: 0 },
        true => Order::Late,
        false => Order::Newer {
            lost: (seq - 1).max(0),
        },
    }
}

/// Whether the agent says that another one has the same host id.
fn is_of_two(status: &Status) -> bool {
    let mut errors = status.errors.iter();
    errors.any(|error| error.phase == Phase::Connect && error.category == Category::Conflict)
}

/// Digests of errors that say so: of one of the two agents, of both.
const SAID_OF_TWO: [i64; 2] = [i64::MIN, i64::MIN + 1];

/// Takes in a status that is newer, and says what happened by it.
pub fn take(known: &mut Known, status: &Status, lost: i64, received_at: i64) -> Vec<NewEvent> {
    let state = HostState::from(status.status);
    let boot_id = clean(&status.boot_id);
    let errors_digest = match is_of_two(status) {
        true => digest_of_two(known, &boot_id),
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
    if known.first_seen.is_none() {
        let message = format!("reported for the first time: {}", describe(status));
        tell(EventKind::HostAppeared, message, change(None, status));
    } else {
        if !known.responding {
            tell(EventKind::HostReturned, "reports again".to_owned(), None);
        }
        if state != known.state || errors_digest != known.errors_digest {
            let message = match state == known.state {
                // Its errors are others.
                true => format!("still {}", describe(status)),
                false => format!("{} -> {}", known.state.as_str(), describe(status)),
            };
            tell(
                EventKind::StatusChanged,
                message,
                change(Some(known.state), status),
            );
        }
    }
    if boot_id != known.boot_id {
        known.previous_boot_id = std::mem::replace(&mut known.boot_id, boot_id);
    }
    known.first_seen.get_or_insert(received_at);
    known.last_seen = received_at.max(known.last_seen);
    known.seq = signed(status.seq);
    known.lost = known.lost.saturating_add(lost);
    known.state = state;
    known.responding = true;
    known.errors_digest = errors_digest;
    events
}

/// What the columns of a host have from its last status, beside what is [`Known`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub hostname: String,
    pub os_info: String,
    pub agent_version: String,
    pub error: Option<String>,
    pub satisfied: bool,
    /// Of all that is written about a host but the count and the time of its statuses; never 0.
    pub digest: i64,
}

impl Facts {
    /// Of a host that has sent this status last.
    pub fn of(known: &Known, status: &Status, desired: Option<&Apps>) -> Self {
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
        let mut hasher = DefaultHasher::new();
        (&facts.hostname, &facts.os_info, &facts.agent_version).hash(&mut hasher);
        (&facts.error, facts.satisfied, status.generation).hash(&mut hasher);
        (known.first_seen, &known.boot_id, &known.previous_boot_id).hash(&mut hasher);
        (known.state.as_str(), known.responding).hash(&mut hasher);
        (known.apps_digest, known.errors_digest).hash(&mut hasher);
        facts.digest = hasher.finish().max(1).cast_signed();
        facts
    }
}

/// The status in words: state, and the first error.
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

fn change(from: Option<HostState>, status: &Status) -> Option<Json> {
    let mut data = json!({ "to": HostState::from(status.status) });
    if let Some(from) = from {
        data["from"] = json!(from);
    }
    if !status.errors.is_empty() {
        data["errors"] = json!(status.errors);
    }
    Json::of(&data)
}

/// Changes with what is wrong, not with how often it was tried.
fn errors_digest(status: &Status) -> i64 {
    digest(status.errors.iter().map(|error| {
        let app = error.app.as_ref().map(|app| app.as_str());
        (app, error.phase, error.category as u8, &error.message)
    }))
}

/// Of a host id that two agents have: changes when the first of them says so and when the second does, and not with each
/// turn that they take.
fn digest_of_two(known: &Known, boot_id: &str) -> i64 {
    let [one_says_so, both_say_so] = SAID_OF_TWO;
    let said = SAID_OF_TWO.contains(&known.errors_digest);
    match said && (boot_id != known.boot_id || known.errors_digest == both_say_so) {
        true => both_say_so,
        false => one_says_so,
    }
}

/// Changes with what `host_apps` has of the host.
pub fn apps_digest(status: &Status) -> i64 {
    digest(
        status
            .apps
            .iter()
            .map(|(name, app)| (name.as_str(), app.version.as_str(), app.running, app.health as u8)),
    )
}

/// 0 for nothing.
fn digest<T: Digestible>(items: impl Iterator<Item = T>) -> i64 {
    // Its keys are fixed: the same in each process.
    let mut hasher = DefaultHasher::new();
    let mut count = 0u64;
    for item in items {
        item.feed(&mut hasher);
        count += 1;
    }
    match count {
        0 => 0,
        _ => hasher.finish().cast_signed(),
    }
}

trait Digestible {
    fn feed(&self, hasher: &mut DefaultHasher);
}

impl Digestible for (&str, &str, bool, u8) {
    fn feed(&self, hasher: &mut DefaultHasher) {
        self.hash(hasher);
    }
}

impl Digestible for (Option<&str>, Phase, u8, &String) {
    fn feed(&self, hasher: &mut DefaultHasher) {
        (self.0, self.1 as u8, self.2, self.3).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(boot_id: &str, seq: i64) -> Known {
        Known {
            first_seen: Some(1),
            boot_id: boot_id.into(),
            previous_boot_id: "a".into(),
            seq,
            state: HostState::Ok,
            responding: true,
            ..Known::default()
        }
    }

    #[test]
    fn statuses_are_ordered_by_start_and_seq() {
        for (boot_id, seq, expected) in [
            ("b", 6, Order::Newer { lost: 0 }),
            ("b", 9, Order::Newer { lost: 3 }),
            ("b", 5, Order::Duplicate),
            ("b", 4, Order::Late),
            ("a", 99, Order::Late),
            ("c", 1, Order::Newer { lost: 0 }),
            ("c", 3, Order::Newer { lost: 2 }),
            ("", 0, Order::Newer { lost: 0 }),
        ] {
            let status = status_of(json!({"boot_id": boot_id, "seq": seq}));
            assert_eq!(order(&known("b", 5), &status), expected, "{boot_id} {seq}");
        }
        let status = status_of(json!({"boot_id": "b", "seq": 7}));
        assert_eq!(order(&Known::default(), &status), Order::Newer { lost: 0 });
    }

    /// FAULTS.md row 13, the master's side.
    #[test]
    fn of_two_agents_with_one_id_both_are_heard_and_each_is_an_event_once() {
        let says = |boot_id: &str, seq: u32| {
            let message = format!("two hosts have the same host id. This is {boot_id}");
            status_of(
                json!({"boot_id": boot_id, "seq": seq, "status": "errors", "errors": [
                {"phase": "connect", "category": "conflict", "message": message, "attempt": 1, "rolled_back": false}]}),
            )
        };
        let mut host = known("b", 5);
        let mut told = Vec::new();
        // The first one ("a") was there before; they take turns, and neither in order.
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
            assert_eq!(order(&host, &status), Order::Newer { lost: 0 }, "{boot_id} {seq}");
            let events = take(&mut host, &status, 0, 10);
            told.extend(events.into_iter().map(|event| event.message));
        }
        assert_eq!(
            told,
            [
                "ok -> errors: two hosts have the same host id. This is b",
                "still errors: two hosts have the same host id. This is a"
            ]
        );
        // That one goes, and is not taken for the newer one for ever.
        let alone = status_of(json!({"boot_id": "a", "seq": 53}));
        assert_eq!(order(&host, &alone), Order::Newer { lost: 0 });
        assert_eq!(take(&mut host, &alone, 0, 10)[0].message, "errors -> ok");
        assert_eq!(
            order(&host, &status_of(json!({"boot_id": "b", "seq": 10}))),
            Order::Late
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
        let mut host = Known::default();
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
            let events = take(&mut host, &status_of(status), 0, 10);
            let messages: Vec<&str> = events.iter().map(|event| event.message.as_str()).collect();
            assert_eq!(messages, expected);
        }
        assert_eq!(
            (host.boot_id.as_str(), host.previous_boot_id.as_str()),
            ("c", "b")
        );
        host.responding = false;
        let events = take(&mut host, &status_of(json!({"boot_id": "c", "seq": 2})), 0, 10);
        assert_eq!(events[0].kind, EventKind::HostReturned);
    }
}
