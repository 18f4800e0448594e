//! What should exist in RabbitMQ, as values. Pure.

use protocol::{HostId, topic};
use serde_json::{Value, json};

/// One object in RabbitMQ.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerItem {
    /// Its description, for people.
    pub what: String,
    /// Segments of the path below `/api`, not yet encoded.
    pub path: Vec<String>,
    pub method: SendMethod,
    pub body: Value,
    /// Its properties cannot be changed.
    pub is_fixed: bool,
    /// Only its existence is checked: a password cannot be compared, and the type of a queue is the
    /// operator's choice.
    pub may_differ: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendMethod {
    Put,
    /// To a collection (bindings, topic permissions) that should contain it.
    Post,
}

impl BrokerItem {
    /// Whether the found object has all properties of this one.
    pub fn is_satisfied_by(&self, found: &Value) -> bool {
        match found {
            Value::Array(members) => members.iter().any(|member| has_all(member, &self.body)),
            found => self.may_differ || has_all(found, &self.body),
        }
    }

    /// Whether it is a user.
    pub fn is_user(&self) -> bool {
        self.path.first().is_some_and(|kind| kind == "users")
    }
}

/// Whether every key of `wanted` has the same value in `found`.
fn has_all(found: &Value, wanted: &Value) -> bool {
    wanted
        .as_object()
        .is_some_and(|wanted| wanted.iter().all(|(key, value)| found.get(key) == Some(value)))
}

/// Names in RabbitMQ, and the password of a new user.
#[derive(Debug, Clone)]
pub struct BrokerNames {
    pub vhost: String,
    /// The user of the masters.
    pub master: String,
    pub master_password: Option<String>,
    pub master_queue: String,
    /// Whether a new queue of the masters is a quorum queue, which the nodes of a cluster
    /// replicate.
    pub quorum: bool,
    /// The user of a host: contains `{host_id}`.
    pub host_user: String,
    /// Names of applications that hosts may bind. Empty: every name.
    pub apps: Vec<String>,
}

impl BrokerNames {
    /// The user of a host, unless the settings name another.
    pub const USUAL_HOST_USER: &str = "host-{host_id}";

    pub fn host_user(&self, host: &HostId) -> String {
        self.host_user.replace("{host_id}", host.as_str())
    }
}

/// A pattern that matches nothing.
const NOTHING: &str = "^$";

fn put(what: String, path: &[&str], body: Value) -> BrokerItem {
    BrokerItem {
        what,
        path: path.iter().map(|segment| (*segment).to_owned()).collect(),
        method: SendMethod::Put,
        body,
        is_fixed: false,
        may_differ: false,
    }
}

/// All items, in the order in which they can be created. `hosts`: with the password of each new
/// user.
pub fn wanted(names: &BrokerNames, hosts: &[(HostId, String)]) -> Vec<BrokerItem> {
    let mut items = for_masters(names);
    for (host, password) in hosts {
        items.extend(wanted_for_host(names, host, password));
    }
    items
}

fn for_masters(names: &BrokerNames) -> Vec<BrokerItem> {
    let BrokerNames { vhost, master, .. } = names;
    let queue = &names.master_queue;
    let exact = [topic::EXCHANGE, queue].map(escape).join("|");
    let kind = if names.quorum { "quorum" } else { "classic" };
    let mut items = vec![
        put(format!("virtual host {vhost}"), &["vhosts", vhost], json!({})),
        BrokerItem {
            is_fixed: true,
            ..put(
                format!("topic exchange {}", topic::EXCHANGE),
                &["exchanges", vhost, topic::EXCHANGE],
                json!({ "type": "topic", "durable": true }),
            )
        },
        BrokerItem {
            may_differ: true,
            ..put(
                format!("queue {queue}"),
                &["queues", vhost, queue],
                json!({ "durable": true, "arguments": { "x-queue-type": kind } }),
            )
        },
        BrokerItem {
            method: SendMethod::Post,
            ..put(
                format!("binding of {queue} to {}", topic::MASTER),
                &["bindings", vhost, "e", topic::EXCHANGE, "q", queue],
                json!({ "routing_key": topic::MASTER }),
            )
        },
    ];
    items.extend(policies(names));
    if let Some(password) = &names.master_password {
        items.push(user(master, password));
    }
    items.push(permissions(
        vhost,
        master,
        &format!("^{}$", escape(queue)),
        &format!("^({exact})$"),
    ));
    items.push(topic_permissions(
        vhost,
        master,
        ".*",
        &format!("^{}$", topic::MASTER),
    ));
    items
}

/// What one host needs besides what all share. `password`: of its user, if that is new.
pub fn wanted_for_host(names: &BrokerNames, host: &HostId, password: &str) -> Vec<BrokerItem> {
    let vhost = &names.vhost;
    let name = names.host_user(host);
    let queue = topic::agent_queue(host);
    let own = [topic::EXCHANGE, queue.as_str()].map(escape).join("|");
    let id = escape(host.as_str());
    let apps = match names.apps.is_empty() {
        true => "[A-Za-z0-9][A-Za-z0-9+._-]{0,127}".to_owned(),
        false => names
            .apps
            .iter()
            .map(|app| escape(app))
            .collect::<Vec<_>>()
            .join("|"),
    };
    vec![
        // Not declared by the host: with permission to declare queues it could declare the queue of
        // another host first. So the queue must not expire, because the host could not declare it
        // again.
        BrokerItem {
            may_differ: true,
            ..put(
                format!("queue {queue}"),
                &["queues", vhost, &queue],
                json!({ "durable": true, "arguments": {} }),
            )
        },
        user(&name, password),
        // To bind its queue, a host writes to the queue and reads from the exchange.
        permissions(vhost, &name, NOTHING, &format!("^({own})$")),
        // The host writes to its own key for a probe that shows whether messages still arrive. A
        // name of an application that equals the key of the masters is excluded.
        topic_permissions(
            vhost,
            &name,
            &format!("^({}|{id})$", topic::MASTER),
            &format!("^(?!{}$)({}|{id}|{apps})$", topic::MASTER, topic::SLAVES),
        ),
    ]
}

/// Limits of the queues, because the broker's memory and disk are shared. The oldest messages are
/// dropped; both masters and agents need the newest only. Operators can change the limits once the
/// policies exist.
fn policies(names: &BrokerNames) -> [BrokerItem; 2] {
    const GIB: u64 = 1 << 30;
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let vhost = &names.vhost;
    let policy = |name: &str, pattern: String, definition: Value| BrokerItem {
        may_differ: true,
        ..put(
            format!("policy {name}"),
            &["policies", vhost, name],
            json!({ "pattern": pattern, "apply-to": "queues", "priority": 0, "definition": definition }),
        )
    };
    let mut of_masters = json!({ "max-length-bytes": GIB, "overflow": "drop-head" });
    if names.quorum {
        // RabbitMQ 4 drops a message after 20 deliveries, which happens when masters are killed.
        of_masters["delivery-limit"] = json!(1_000_000);
    }
    let pattern_of_hosts = format!("^{}", escape(QUEUES_OF_HOSTS));
    [
        policy(
            "backbone-masters",
            format!("^{}$", escape(&names.master_queue)),
            of_masters,
        ),
        policy(
            "backbone-hosts",
            pattern_of_hosts,
            json!({ "max-length": 1000, "overflow": "drop-head", "message-ttl": DAY_MS }),
        ),
    ]
}

/// The prefix of [`topic::agent_queue`].
const QUEUES_OF_HOSTS: &str = "bbslave-q-";

fn user(name: &str, password: &str) -> BrokerItem {
    BrokerItem {
        may_differ: true,
        ..put(
            format!("user {name}"),
            &["users", name],
            json!({ "password": password, "tags": "" }),
        )
    }
}

fn permissions(vhost: &str, user: &str, configure: &str, use_of: &str) -> BrokerItem {
    put(
        format!("permissions of {user}"),
        &["permissions", vhost, user],
        json!({ "configure": configure, "write": use_of, "read": use_of }),
    )
}

fn topic_permissions(vhost: &str, user: &str, write: &str, read: &str) -> BrokerItem {
    put(
        format!("topic permissions of {user}"),
        &["topic-permissions", vhost, user],
        json!({ "exchange": topic::EXCHANGE, "write": write, "read": read }),
    )
}

/// Escapes text for a regular expression (PCRE).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_use_only_its_own_objects() {
        let names = BrokerNames {
            vhost: "/".into(),
            master: "bbmaster".into(),
            master_password: None,
            master_queue: "bbmaster-q".into(),
            quorum: false,
            host_user: "host-{host_id}".into(),
            apps: vec!["app_foo".into(), "a+b".into()],
        };
        let host = HostId::new("02:FC.1").unwrap();
        let items = wanted_for_host(&names, &host, "secret");
        let by_path = |first: &str| items.iter().find(|item| item.path[0] == first).unwrap();
        assert_eq!(by_path("users").path, ["users", "host-02:FC.1"]);
        assert_eq!(
            by_path("permissions").body,
            json!({"configure": "^$", "write": r"^(pf9\-bbone|bbslave\-q\-02\:FC\.1)$",
                "read": r"^(pf9\-bbone|bbslave\-q\-02\:FC\.1)$"})
        );
        assert_eq!(
            by_path("topic-permissions").body,
            json!({"exchange": "pf9-bbone", "write": r"^(master|02\:FC\.1)$",
                "read": r"^(?!master$)(slaves|02\:FC\.1|app_foo|a\+b)$"})
        );
    }

    #[test]
    fn the_policy_of_hosts_matches_their_queues() {
        let queue = topic::agent_queue(&HostId::new("h1").unwrap());
        assert!(queue.starts_with(QUEUES_OF_HOSTS), "{queue}");
    }

    #[test]
    fn an_item_is_satisfied_by_an_object_with_more_properties() {
        let exchange = &wanted(
            &BrokerNames {
                vhost: "v".into(),
                master: "m".into(),
                master_password: None,
                master_queue: "q".into(),
                quorum: true,
                host_user: String::new(),
                apps: vec![],
            },
            &[],
        )[1];
        for (found, expected) in [
            (
                json!({"type": "topic", "durable": true, "name": "pf9-bbone"}),
                true,
            ),
            (json!({"type": "direct", "durable": true}), false),
            (json!([{"type": "x"}, {"type": "topic", "durable": true}]), true),
            (json!([]), false),
        ] {
            assert_eq!(exchange.is_satisfied_by(&found), expected, "{found}");
        }
    }
}
