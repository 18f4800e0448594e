//! SQL and its values, for either database.

use std::sync::Arc;

/// SQL with a `?` for each value. The SQL consists of the program's own text only.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Statement {
    sql: String,
    values: Vec<Value>,
}

/// A value that is bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Shared, because several rows and statements may hold the same text.
    Text(Arc<str>),
    TextOrNull(Option<Arc<str>>),
    Number(i64),
    NumberOrNull(Option<i64>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<&Arc<str>> for Value {
    fn from(text: &Arc<str>) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Option<Arc<str>>> for Value {
    fn from(text: Option<Arc<str>>) -> Self {
        Self::TextOrNull(text)
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::TextOrNull(text.map(Into::into))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::NumberOrNull(number)
    }
}

impl Statement {
    /// `sql` must not contain a `?`.
    pub(super) fn new(sql: &'static str) -> Self {
        debug_assert!(!sql.contains('?'), "{sql}");
        Self {
            sql: sql.to_owned(),
            values: Vec::new(),
        }
    }

    /// As in [`Self::new`].
    pub(super) fn push(mut self, sql: &'static str) -> Self {
        debug_assert!(!sql.contains('?'), "{sql}");
        self.sql.push_str(sql);
        self
    }

    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self.sql.push('?');
        self
    }

    /// `(a, b, c)`.
    pub(super) fn list<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        let mut before = "(";
        for value in values {
            self = self.push(before).bind(value);
            before = ", ";
        }
        self.push(")")
    }

    /// `VALUES (a, b), (c, d)`.
    pub(super) fn rows<const N: usize>(mut self, rows: impl IntoIterator<Item = [Value; N]>) -> Self {
        let mut before = "VALUES ";
        for row in rows {
            self = self.push(before).list(row);
            before = ", ";
        }
        self
    }

    /// The SQL with `$1`, `$2` in place of each `?`, and the values. PostgreSQL accepts only `$1`.
    pub(super) fn into_numbered(self) -> (String, Vec<Value>) {
        let mut pieces = self.sql.split('?');
        let mut numbered = pieces.next().unwrap_or_default().to_owned();
        for (piece, number) in pieces.zip(1..) {
            numbered.push_str(&format!("${number}{piece}"));
        }
        (numbered, self.values)
    }

    /// The SQL with a `?` for each value, and the values. SQLite accepts `$1` as well, but sqlx
    /// then looks up each name among all names, which takes longer than a large statement itself.
    pub(super) fn into_unnumbered(self) -> (String, Vec<Value>) {
        (self.sql, self.values)
    }

    #[cfg(test)]
    pub(super) fn append(mut self, other: Self) -> Self {
        self.sql.push_str(&other.sql);
        self.values.extend(other.values);
        self
    }

    #[cfg(test)]
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order_and_never_enter_the_sql() {
        let rows = [("a", 1), ("b'; --", 2)].map(|(text, number)| [Value::from(text), Value::from(number)]);
        let statement = Statement::new("INSERT INTO t (a, b) ")
            .rows(rows)
            .push(" ON CONFLICT (a) DO UPDATE SET b = ")
            .bind(3)
            .push(" WHERE a IN ")
            .list(["c", "d"]);
        assert_eq!(
            statement.sql,
            "INSERT INTO t (a, b) VALUES (?, ?), (?, ?) ON CONFLICT (a) DO UPDATE SET b = ? WHERE a IN (?, ?)"
        );
        let values = [
            "a".into(),
            1.into(),
            "b'; --".into(),
            2.into(),
            3.into(),
            "c".into(),
            "d".into(),
        ];
        assert_eq!(statement.values, values);
        assert_eq!(
            statement.into_numbered().0,
            "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT (a) DO UPDATE SET b = $5 WHERE a IN ($6, $7)"
        );
    }
}
