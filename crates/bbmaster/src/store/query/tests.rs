//! The plans of SQLite, and that filters find what they say.

use protocol::rest::HostQuery;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::super::hosts::{APPS_OF, LABELS_OF};
use super::super::{Pools, Store};
use super::*;

#[test]
fn what_is_searched_for_is_no_pattern() {
    assert_eq!(like("50%_A!"), "%50!%!_a!!%");
}

#[test]
fn text_that_is_searched_fits_an_index() {
    let long = "\u{10348}".repeat(1024);
    assert!(search_text("h", &long, &long).len() < 2000);
    assert_eq!(
        search_text("02:AB", "Web.Example", "Debian"),
        "02:ab web.example debian"
    );
}

/// Every filter alone, and together with those that it shares a statement with.
const FILTERS: [&str; 17] = [
    "{}",
    r#"{"status": "ok"}"#,
    r#"{"status": "ok", "responding": true, "satisfied": false}"#,
    r#"{"responding": false}"#,
    r#"{"responding": false, "satisfied": false}"#,
    r#"{"satisfied": false}"#,
    r#"{"application": "app"}"#,
    r#"{"application": "app", "version": "1"}"#,
    r#"{"version": "1"}"#,
    r#"{"label": "site"}"#,
    r#"{"label": "site=berlin"}"#,
    r#"{"label": "site=berlin,rack"}"#,
    r#"{"text": "web"}"#,
    r#"{"text": "web", "status": "ok", "responding": true, "satisfied": true}"#,
    r#"{"application": "app", "status": "errors"}"#,
    r#"{"application": "app", "version": "1", "label": "site=berlin"}"#,
    r#"{"label": "site=berlin", "satisfied": false, "text": "web"}"#,
];

async fn plan(store: &Store, mut query: QueryBuilder<Sqlite>) -> Vec<String> {
    let Pools::Sqlite { read, .. } = &store.pools else {
        panic!("this is SQLite")
    };
    let rows = query.build().fetch_all(read).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}

/// Reads whole rows of a table, one after the other, or sorts all that match.
fn is_slow(step: &str) -> bool {
    let scans = step.starts_with("SCAN ") && !step.contains("USING COVERING INDEX");
    // What a subquery yields is no table: a page's ids, or the hosts that are counted.
    let scans = scans && !["SCAN p", "SCAN m"].contains(&step);
    // Whatever starts with a row of `hosts` that is not looked up by its whole id has an index that holds all it needs.
    // "satisfied" together with others is in no index: the few that are not are looked at one by one.
    let looks_up = step.contains("(host_id=?")
        || step.contains("COVERING INDEX")
        || step.contains("INDEX hosts_by_satisfied (satisfied=?")
        // Of installed applications alone, so that whether they are is not asked of a row.
        || step.contains("INDEX host_apps_by_");
    let reads_rows = step.starts_with("SEARCH ") && !looks_up;
    scans || reads_rows || step.contains("TEMP B-TREE")
}

#[tokio::test]
async fn every_filter_is_answered_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("db")).await.unwrap();
    for filter in FILTERS {
        let mut wanted: HostQuery = serde_json::from_str(filter).unwrap();
        for after in [None, Some("h".to_owned())] {
            wanted.after = after;
            let mut page = QueryBuilder::new("EXPLAIN QUERY PLAN ");
            push_page(&mut page, &wanted, 101);
            let mut counted = QueryBuilder::new("EXPLAIN QUERY PLAN ");
            push_count(&mut counted, &wanted);
            for query in [page, counted] {
                let sql = query.sql().as_str().to_owned();
                let steps = plan(&store, query).await;
                assert!(!steps.is_empty());
                assert!(
                    !steps.iter().any(|step| is_slow(step)),
                    "{filter}: {sql}\n{steps:#?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_belongs_to_some_hosts_is_looked_up_by_their_ids() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("db")).await.unwrap();
    let deletion = "DELETE FROM host_apps WHERE desired = 0 AND host_id IN (";
    for start in [APPS_OF, LABELS_OF, deletion] {
        let mut query = QueryBuilder::new("EXPLAIN QUERY PLAN ");
        query.push(start);
        let mut list = query.separated(", ");
        (0..101).for_each(|n| {
            list.push_bind(n.to_string());
        });
        query.push(")");
        let steps = plan(&store, query).await;
        assert!(!steps.is_empty());
        assert!(
            steps.iter().all(|step| step.contains("(host_id=?")),
            "{start}: {steps:#?}"
        );
    }
}

#[test]
fn a_plan_that_reads_everything_is_seen() {
    for (step, expected) in [
        ("SCAN h", true),
        ("SEARCH h USING INDEX hosts_by_state (state=?)", true),
        ("USE TEMP B-TREE FOR ORDER BY", true),
        ("SCAN h USING COVERING INDEX hosts_by_text", false),
        ("SEARCH h USING INDEX sqlite_autoindex_hosts_1 (host_id=?)", false),
        ("SCAN m", false),
    ] {
        assert_eq!(is_slow(step), expected, "{step}");
    }
}
