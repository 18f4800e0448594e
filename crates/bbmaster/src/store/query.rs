//! The filters of `GET /v1/hosts/` as SQL that indexes answer.
//!
//! A statement starts with the table whose index fits the most selective kind of filter, and joins
//! the other tables by host id. `CROSS JOIN` makes SQLite keep this order; PostgreSQL, which has
//! statistics, treats it like any other join. The tests check SQLite's query plans.

use protocol::rest::{HostQuery, HostState};

use super::statement::Statement;
use super::{Result, StoreError};

/// The table that a statement starts with.
#[derive(Clone, Copy, PartialEq)]
enum StartTable {
    Apps,
    Labels,
    Hosts,
}

impl StartTable {
    fn of(wanted: &HostQuery) -> Self {
        if wanted.application.is_some() || wanted.version.is_some() {
            Self::Apps
        } else if labels(wanted).next().is_some() {
            Self::Labels
        } else {
            Self::Hosts
        }
    }

    /// The column that the id is read from.
    fn id(self) -> &'static str {
        match self {
            Self::Apps => "a.host_id",
            Self::Labels => "l.host_id",
            Self::Hosts => "h.host_id",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Apps => "host_apps a",
            Self::Labels => "labels l",
            Self::Hosts => "hosts h",
        }
    }
}

fn labels(wanted: &HostQuery) -> impl Iterator<Item = (&str, Option<&str>)> {
    let labels = wanted.label.iter().flat_map(|labels| labels.split(','));
    labels.map(|label| match label.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (label.trim(), None),
    })
}

/// Counts all hosts that match, on all pages. One row with one number.
pub(super) fn select_count(wanted: &HostQuery) -> Statement {
    let filters = HostQuery {
        limit: None,
        after: None,
        ..wanted.clone()
    };
    // Without a WHERE, SQLite counts whole pages of an index.
    if filters == HostQuery::default() {
        return Statement::new("SELECT COUNT(*) FROM hosts");
    }
    push_matching(Statement::new("SELECT COUNT(*) FROM ("), &filters).push(") m")
}

/// Adds a query for up to `rows` ids that match: a table of the one column `host_id`, in order.
pub(super) fn push_page(statement: Statement, wanted: &HostQuery, rows: i64) -> Statement {
    push_matching(statement, wanted)
        .push(" ORDER BY ")
        .push(StartTable::of(wanted).id())
        .push(" LIMIT ")
        .bind(rows)
}

/// `SELECT host_id ...` of the hosts that match, from `after` on.
fn push_matching(mut statement: Statement, wanted: &HostQuery) -> Statement {
    let start = StartTable::of(wanted);
    let id = start.id();
    // Two applications of a host may have the same version.
    let select = match (start, &wanted.application) {
        (StartTable::Apps, None) => "SELECT DISTINCT ",
        _ => "SELECT ",
    };
    statement = statement
        .push(select)
        .push(id)
        .push(" AS host_id FROM ")
        .push(start.table());
    let needs_hosts = wanted.status.is_some()
        || wanted.responding.is_some()
        || wanted.satisfied.is_some()
        || wanted.text.is_some();
    let joined = start != StartTable::Hosts && needs_hosts;
    if joined {
        statement = statement.push(" CROSS JOIN hosts h");
    }
    // The empty id is before all others.
    statement = statement
        .push(" WHERE ")
        .push(id)
        .push(" > ")
        .bind(wanted.after.as_deref().unwrap_or_default());
    if joined {
        statement = statement.push(" AND h.host_id = ").push(id);
    }
    let mut labels = labels(wanted);
    match start {
        StartTable::Apps => statement = push_app(statement, wanted),
        StartTable::Labels => {
            if let Some(label) = labels.next() {
                statement = push_label(statement, "l", label);
            }
        }
        StartTable::Hosts => {}
    }
    for label in labels {
        statement = statement
            .push(" AND EXISTS (SELECT 1 FROM labels o WHERE o.host_id = ")
            .push(id);
        statement = push_label(statement, "o", label).push(")");
    }
    push_host(statement, wanted)
}

fn push_app(mut statement: Statement, wanted: &HostQuery) -> Statement {
    statement = statement.push(" AND a.desired = 0");
    if let Some(name) = &wanted.application {
        statement = statement.push(" AND a.name = ").bind(name.as_str());
    }
    if let Some(version) = &wanted.version {
        statement = statement.push(" AND a.version = ").bind(version.as_str());
    }
    statement
}

fn push_label(
    mut statement: Statement,
    table: &'static str,
    (name, value): (&str, Option<&str>),
) -> Statement {
    statement = statement.push(" AND ").push(table).push(".name = ").bind(name);
    if let Some(value) = value {
        statement = statement.push(" AND ").push(table).push(".value = ").bind(value);
    }
    statement
}

/// The filters on columns of `hosts`.
fn push_host(mut statement: Statement, wanted: &HostQuery) -> Statement {
    // One index is to be used: that of the text, else that of "satisfied". Expressions keep the
    // database from the other indexes, which would make it read the rows of the table.
    let (state, responding) = match wanted.text.is_some() || wanted.satisfied.is_some() {
        true => (" AND h.state || '' = ", " AND h.responding + 0 = "),
        false => (" AND h.state = ", " AND h.responding = "),
    };
    if let Some(wanted) = wanted.status {
        statement = statement.push(state).bind(wanted.as_str());
    }
    if let Some(wanted) = wanted.responding {
        statement = statement.push(responding).bind(i64::from(wanted));
    }
    match (wanted.satisfied, &wanted.text) {
        (Some(satisfied), None) => {
            statement = statement.push(" AND h.satisfied = ").bind(i64::from(satisfied));
        }
        // Looked up only for the hosts that have the text.
        (Some(satisfied), Some(_)) => {
            statement = statement
                .push(" AND EXISTS (SELECT 1 FROM hosts s WHERE s.host_id = h.host_id AND s.satisfied + 0 = ")
                .bind(i64::from(satisfied))
                .push(")");
        }
        (None, _) => {}
    }
    if let Some(text) = &wanted.text {
        statement = statement
            .push(" AND h.search LIKE ")
            .bind(like(text))
            .push(" ESCAPE '!'");
    }
    statement
}

/// A pattern that finds `text` anywhere, ignoring case.
fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// What the filter "text" searches. Short enough for an index of PostgreSQL, which takes 2.7 kB.
pub(super) fn search_text(host_id: &str, hostname: &str, os_info: &str) -> String {
    const HOSTNAME: usize = 253;
    const OS: usize = 100;
    let mut text = format!("{host_id} ");
    text.extend(hostname.chars().take(HOSTNAME));
    text.push(' ');
    text.extend(os_info.chars().take(OS));
    text.to_lowercase()
}

/// Reads a state from its column.
pub(super) fn host_state(word: &str) -> Result<HostState> {
    HostState::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| StoreError::Content(format!("hosts.state {word:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::hosts::{APPS_OF, LABELS_OF};
    use super::*;

    #[test]
    fn characters_of_patterns_are_escaped() {
        assert_eq!(like("50%_A!"), "%50!%!_a!!%");
    }

    #[test]
    fn searched_text_fits_into_an_index() {
        let long = "\u{10348}".repeat(1024);
        assert!(search_text("h", &long, &long).len() < 2000);
        assert_eq!(
            search_text("02:AB", "Web.Example", "Debian"),
            "02:ab web.example debian"
        );
    }

    /// Every filter alone, and together with those that end up in the same statement.
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

    async fn plan(store: &Store, statement: Statement) -> Vec<String> {
        const DETAIL: usize = 3;
        let rows = store.read(statement).await.unwrap();
        rows.iter().map(|row| row.text(DETAIL).unwrap()).collect()
    }

    fn explain() -> Statement {
        Statement::new("EXPLAIN QUERY PLAN ")
    }

    /// Whether a step reads whole rows of a table one after the other, or sorts all that match.
    fn is_slow(step: &str) -> bool {
        let scans = step.starts_with("SCAN ") && !step.contains("USING COVERING INDEX");
        // These are results of subqueries, not tables: the ids of a page, and the hosts that are
        // counted.
        let scans = scans && !["SCAN p", "SCAN m"].contains(&step);
        // A row of `hosts` is looked up by its whole id, or the index has everything that is
        // needed. No index has "satisfied" together with others: the few hosts that are not
        // satisfied are read one by one.
        let looks_up = step.contains("(host_id=?")
            || step.contains("COVERING INDEX")
            || step.contains("INDEX hosts_by_satisfied (satisfied=?")
            // This index has installed applications only, so no row is read to check that.
            || step.contains("INDEX host_apps_by_");
        let reads_rows = step.starts_with("SEARCH ") && !looks_up;
        scans || reads_rows || step.contains("TEMP B-TREE")
    }

    #[tokio::test]
    async fn an_index_answers_every_filter() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("db")).await.unwrap();
        for filter in FILTERS {
            let mut wanted: HostQuery = serde_json::from_str(filter).unwrap();
            for after in [None, Some("h".to_owned())] {
                wanted.after = after;
                let page = push_page(explain(), &wanted, 101);
                let counted = explain().append(select_count(&wanted));
                for statement in [page, counted] {
                    let sql = statement.sql().to_owned();
                    let steps = plan(&store, statement).await;
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
    async fn rows_of_some_hosts_are_looked_up_by_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("db")).await.unwrap();
        let deletion = "DELETE FROM host_apps WHERE desired = 0 AND host_id IN ";
        for start in [APPS_OF, LABELS_OF, deletion] {
            let ids = (0..101).map(|n: i32| n.to_string());
            let statement = explain().push(start).list(ids);
            let steps = plan(&store, statement).await;
            assert!(!steps.is_empty());
            assert!(
                steps.iter().all(|step| step.contains("(host_id=?")),
                "{start}: {steps:#?}"
            );
        }
    }

    #[test]
    fn slow_plans_are_recognised() {
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
}
