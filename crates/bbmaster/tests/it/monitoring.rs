//! The shipped alert rules use only metrics that exist.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::agent::{Agent, Script};
use crate::fleet::{Fleet, until};

const RULES: &str = include_str!("../../../../dist/prometheus/backbone.rules.yml");

/// `bbmaster_NAME` of all expressions, with the values of labels that they use.
fn asked_for() -> Vec<(String, Option<String>)> {
    let lines = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    let mut asked = Vec::new();
    for expression in lines {
        let starts = expression.match_indices("bbmaster_");
        for (at, _) in starts {
            let rest = &expression[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            let label = after
                .strip_prefix('{')
                .and_then(|label| label.split_once('}'))
                .map(|(label, _)| label.to_owned());
            asked.push((name.to_owned(), label));
        }
    }
    asked
}

/// Statuses that count as `accepted` and `quarantined`, a desired state that is `sent` and one that
/// is not, requests with each class of status code: they make every family of metrics appear.
#[tokio::test]
async fn the_alert_rules_use_metrics_that_the_master_has() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    let apps = json!({"foo": {"version": "1"}});
    client.put("/v1/hosts/h1/apps", &apps).await.expect(200);
    until(&client, "/v1/hosts/h1", |host| {
        host["satisfied"] == Value::Bool(true)
    })
    .await;
    agent.publish(b"no status").await;
    let shown = String::from_utf8(client.get("/metrics").await.body).unwrap();
    let there: BTreeSet<&str> = shown
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split([' ', '{']).next())
        .collect();

    let asked = asked_for();
    assert!(asked.len() >= 12, "the rules are not read: {asked:?}");
    // The master's own source states the values of a label.
    let values =
        include_str!("../../src/metrics.rs").to_owned() + include_str!("../../../protocol/src/rest/hosts.rs");
    for (name, label) in asked {
        assert!(there.contains(name.as_str()), "{name} is not in\n{shown}");
        let Some((_, value)) = label.as_deref().and_then(|label| label.split_once('=')) else {
            continue;
        };
        let value = value.trim_matches('"');
        assert!(values.contains(value), "{name} never has {value}");
    }
}
