//! The filters of `GET /v1/hosts/` as SQL that indexes answer.
//!
//! A statement starts from the table whose index fits the rarest kind of filter, and joins the others to it by
//! host id: `CROSS JOIN` has SQLite keep to this order (to PostgreSQL, which has statistics, it is a join like any
//! other). `tests` hold the plans.

use protocol::rest::{HostQuery, HostState};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{Result, StoreError};

/// Where a statement starts from.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    Apps,
    Labels,
    Hosts,
}

impl Start {
    fn of(wanted: &HostQuery) -> Self {
        if wanted.application.is_some() || wanted.version.is_some() {
            Self::Apps
        } else if labels(wanted).next().is_some() {
            Self::Labels
        } else {
            Self::Hosts
        }
    }

    /// Where the id is read from.
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

/// How many match, on all pages: a statement with one number.
pub(super) fn push_count<DB>(query: &mut QueryBuilder<DB>, wanted: &HostQuery)
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
    i64: Encode<'static, DB> + Type<DB>,
{
    let filters = HostQuery {
        limit: None,
        after: None,
        ..wanted.clone()
    };
    // Without a WHERE, SQLite counts whole pages of an index.
    if filters == HostQuery::default() {
        query.push("SELECT COUNT(*) FROM hosts");
        return;
    }
    query.push("SELECT COUNT(*) FROM (");
    push_matching(query, &filters);
    query.push(") m");
}

/// The ids of a page, and of the first host of the next one; as a table of the one column `host_id`, in order.
pub(super) fn push_page<DB>(query: &mut QueryBuilder<DB>, wanted: &HostQuery, rows: i64)
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
    i64: Encode<'static, DB> + Type<DB>,
{
    push_matching(query, wanted);
    query
        .push(format_args!(" ORDER BY {} LIMIT ", Start::of(wanted).id()))
        .push_bind(rows);
}

/// `SELECT host_id ...` of the hosts that match, from `after` on.
fn push_matching<DB>(query: &mut QueryBuilder<DB>, wanted: &HostQuery)
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
    i64: Encode<'static, DB> + Type<DB>,
{
    let start = Start::of(wanted);
    let id = start.id();
    // Two applications of a host may have the same version.
    let distinct = match (start, &wanted.application) {
        (Start::Apps, None) => "DISTINCT ",
        _ => "",
    };
    query.push(format_args!(
        "SELECT {distinct}{id} AS host_id FROM {}",
        start.table()
    ));
    let of_host = wanted.status.is_some()
        || wanted.responding.is_some()
        || wanted.satisfied.is_some()
        || wanted.text.is_some();
    let joined = start != Start::Hosts && of_host;
    if joined {
        query.push(" CROSS JOIN hosts h");
    }
    // From `after` on; the empty id is before all.
    query
        .push(format_args!(" WHERE {id} > "))
        .push_bind(wanted.after.clone().unwrap_or_default());
    if joined {
        query.push(format_args!(" AND h.host_id = {id}"));
    }
    let mut labels = labels(wanted);
    match start {
        Start::Apps => push_app(query, wanted),
        Start::Labels => {
            if let Some(label) = labels.next() {
                push_label(query, "l", label);
            }
        }
        Start::Hosts => {}
    }
    for label in labels {
        query.push(format_args!(
            " AND EXISTS (SELECT 1 FROM labels o WHERE o.host_id = {id}"
        ));
        push_label(query, "o", label);
        query.push(")");
    }
    push_host(query, wanted);
}

fn push_app<DB>(query: &mut QueryBuilder<DB>, wanted: &HostQuery)
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
{
    query.push(" AND a.desired = 0");
    if let Some(name) = &wanted.application {
        query.push(" AND a.name = ").push_bind(name.clone());
    }
    if let Some(version) = &wanted.version {
        query.push(" AND a.version = ").push_bind(version.clone());
    }
}

fn push_label<DB>(query: &mut QueryBuilder<DB>, table: &str, (name, value): (&str, Option<&str>))
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
{
    query
        .push(format_args!(" AND {table}.name = "))
        .push_bind(name.to_owned());
    if let Some(value) = value {
        query
            .push(format_args!(" AND {table}.value = "))
            .push_bind(value.to_owned());
    }
}

/// What is in the columns of `hosts`.
fn push_host<DB>(query: &mut QueryBuilder<DB>, wanted: &HostQuery)
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
    i64: Encode<'static, DB> + Type<DB>,
{
    // The index that leads has the text, else "satisfied". Others are kept away by an expression: they would lead to
    // the rows of the table for what they do not have.
    let (text, number) = match wanted.text.is_some() || wanted.satisfied.is_some() {
        true => (" || ''", " + 0"),
        false => ("", ""),
    };
    if let Some(state) = wanted.status {
        query
            .push(format_args!(" AND h.state{text} = "))
            .push_bind(state.as_str().to_owned());
    }
    if let Some(responding) = wanted.responding {
        query
            .push(format_args!(" AND h.responding{number} = "))
            .push_bind(i64::from(responding));
    }
    match (wanted.satisfied, &wanted.text) {
        (Some(satisfied), None) => {
            query.push(" AND h.satisfied = ").push_bind(i64::from(satisfied));
        }
        // Looked up of those alone that have the text.
        (Some(satisfied), Some(_)) => {
            query
                .push(" AND EXISTS (SELECT 1 FROM hosts s WHERE s.host_id = h.host_id AND s.satisfied + 0 = ")
                .push_bind(i64::from(satisfied))
                .push(")");
        }
        (None, _) => {}
    }
    if let Some(text) = &wanted.text {
        query
            .push(" AND h.search LIKE ")
            .push_bind(like(text))
            .push(" ESCAPE '!'");
    }
}

/// A pattern that finds `text` anywhere, in any case.
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

/// What the filter "text" looks at. Short enough for an index of PostgreSQL, which takes 2.7 kB.
pub(super) fn search_text(host_id: &str, hostname: &str, os_info: &str) -> String {
    const HOSTNAME: usize = 253;
    const OS: usize = 100;
    let mut text = format!("{host_id} ");
    text.extend(hostname.chars().take(HOSTNAME));
    text.push(' ');
    text.extend(os_info.chars().take(OS));
    text.to_lowercase()
}

/// The state of a column.
pub(super) fn host_state(word: &str) -> Result<HostState> {
    HostState::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| StoreError::Content(format!("hosts.state {word:?}")))
}

#[cfg(test)]
mod tests;
