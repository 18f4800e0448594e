//! A transaction that one function can hand to the next, and what it carries out, on either database.
//!
//! What fits into one function is written inside of `writing!` and by sqlx alone.

use std::sync::Arc;

use sqlx::postgres::Postgres;
use sqlx::sqlite::Sqlite;
use sqlx::{Arguments, AssertSqlSafe, Database, Transaction};

use super::events::{NewEvent, insert_events};
use super::row::Row;
use super::{Pools, Result, Store};

/// SQL, and the values at each `?` of it. No text but the program's own gets into the SQL.
#[derive(Debug, PartialEq)]
pub(super) struct Statement {
    sql: String,
    values: Vec<Value>,
}

/// What is bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Shared: the same is in many rows, or in several statements.
    Text(Arc<str>),
    TextOrNull(Option<Arc<str>>),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<&Arc<str>> for Value {
    fn from(text: &Arc<str>) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Statement {
    /// `sql`: without a `?` of its own.
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
}

/// Rolled back when it is dropped without [`Tx::commit`].
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// With `$1`, `$2` in place of each `?`: PostgreSQL knows no other. SQLite does, but sqlx would look up the name of each
/// among all of them, which of many costs more than the statement itself.
fn numbered(sql: &str) -> String {
    let mut pieces = sql.split('?');
    let mut numbered = pieces.next().unwrap_or_default().to_owned();
    for (piece, number) in pieces.zip(1..) {
        numbered.push_str(&format!("${number}{piece}"));
    }
    numbered
}

macro_rules! query {
    ($database:ty, $sql:expr, $values:expr) => {{
        let values: Vec<Value> = $values;
        let mut arguments = <$database as Database>::Arguments::default();
        // Grown value by value it would be copied again and again.
        arguments.reserve(values.len(), 0);
        for value in values {
            let added = match value {
                Value::Text(text) => arguments.add(text),
                Value::TextOrNull(text) => arguments.add(text),
                Value::Number(number) => arguments.add(number),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        sqlx::query_with(AssertSqlSafe($sql), arguments)
    }};
}

impl Store {
    pub(super) async fn begin(&self) -> Result<Tx> {
        Ok(match &self.pools {
            // At once for writing: a lock taken later could fail.
            Pools::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Pools::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }
}

impl Tx {
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    pub(super) async fn execute(&mut self, statement: Statement) -> Result<()> {
        match self {
            Self::Sqlite(tx) => {
                query!(Sqlite, statement.sql, statement.values)
                    .execute(&mut **tx)
                    .await?;
            }
            Self::Postgres(tx) => {
                query!(Postgres, numbered(&statement.sql), statement.values)
                    .execute(&mut **tx)
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>> {
        Ok(match self {
            Self::Sqlite(tx) => {
                let rows = query!(Sqlite, statement.sql, statement.values)
                    .fetch_all(&mut **tx)
                    .await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(tx) => {
                let rows = query!(Postgres, numbered(&statement.sql), statement.values)
                    .fetch_all(&mut **tx)
                    .await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// As the transaction's last act: see [`insert_events`].
    pub(super) async fn insert_events(&mut self, store: &Store, events: Vec<NewEvent>) -> Result<()> {
        match self {
            Self::Sqlite(tx) => {
                let tx = &mut **tx;
                insert_events!(store, tx, events);
            }
            Self::Postgres(tx) => {
                let tx = &mut **tx;
                insert_events!(store, tx, events);
            }
        }
        Ok(())
    }

    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_their_order_and_never_in_the_text() {
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
        assert_eq!(
            numbered(&statement.sql),
            "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT (a) DO UPDATE SET b = $5 WHERE a IN ($6, $7)"
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
    }
}
