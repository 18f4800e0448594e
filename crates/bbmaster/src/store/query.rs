//! The filters of `GET /v1/hosts/` as SQL.

use protocol::rest::{HostQuery, HostState};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{Result, StoreError};

/// Adds ` WHERE ...` for the filters, less paging; the table is `hosts h`.
pub(super) fn push_filters<DB>(query: &mut QueryBuilder<DB>, wanted: &HostQuery)
where
    DB: Database,
    String: Encode<'static, DB> + Type<DB>,
    i64: Encode<'static, DB> + Type<DB>,
{
    query.push(" WHERE 1 = 1");
    if let Some(state) = wanted.status {
        query.push(" AND h.state = ").push_bind(state.as_str().to_owned());
    }
    if let Some(responding) = wanted.responding {
        query
            .push(" AND h.responding = ")
            .push_bind(i64::from(responding));
    }
    if let Some(satisfied) = wanted.satisfied {
        query.push(" AND h.satisfied = ").push_bind(i64::from(satisfied));
    }
    if wanted.application.is_some() || wanted.version.is_some() {
        query.push(" AND EXISTS (SELECT 1 FROM host_apps a WHERE a.host_id = h.host_id AND a.desired = 0");
        if let Some(name) = &wanted.application {
            query.push(" AND a.name = ").push_bind(name.clone());
        }
        if let Some(version) = &wanted.version {
            query.push(" AND a.version = ").push_bind(version.clone());
        }
        query.push(")");
    }
    for label in wanted.label.iter().flat_map(|labels| labels.split(',')) {
        let (name, value) = match label.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (label, None),
        };
        query
            .push(" AND EXISTS (SELECT 1 FROM labels l WHERE l.host_id = h.host_id AND l.name = ")
            .push_bind(name.trim().to_owned());
        if let Some(value) = value {
            query.push(" AND l.value = ").push_bind(value.trim().to_owned());
        }
        query.push(")");
    }
    if let Some(text) = &wanted.text {
        let pattern = like(text);
        query.push(" AND (");
        for (index, column) in ["h.host_id", "h.hostname", "h.os_info"].into_iter().enumerate() {
            query
                .push(if index == 0 { "" } else { " OR " })
                .push(format_args!("LOWER({column}) LIKE "))
                .push_bind(pattern.clone())
                .push(" ESCAPE '!'");
        }
        query.push(")");
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

/// The state of a column.
pub(super) fn host_state(word: &str) -> Result<HostState> {
    HostState::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| StoreError::Content(format!("hosts.state {word:?}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_searched_for_is_no_pattern() {
        assert_eq!(super::like("50%_A!"), "%50!%!_a!!%");
    }
}
