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

/// SQL, and the values at its `$1`, `$2`. No text but the program's own gets into the SQL.
#[derive(Debug, PartialEq)]
pub(super) struct Statement {
    sql: String,
    values: Vec<Value>,
}

/// What is bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// The same for many rows.
    SharedText(Arc<str>),
    TextOrNull(Option<String>),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Statement {
    pub(super) fn new(sql: &'static str) -> Self {
        Self {
            sql: sql.to_owned(),
            values: Vec::new(),
        }
    }

    pub(super) fn push(mut self, sql: &'static str) -> Self {
        self.sql.push_str(sql);
        self
    }

    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self.sql.push_str(&format!("${}", self.values.len()));
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

macro_rules! query {
    ($database:ty, $statement:expr) => {{
        let Statement { sql, values } = $statement;
        let mut arguments = <$database as Database>::Arguments::default();
        // Grown value by value it would be copied again and again.
        arguments.reserve(values.len(), 0);
        for value in values {
            let added = match value {
                Value::Text(text) => arguments.add(text),
                Value::SharedText(text) => arguments.add(text),
                Value::TextOrNull(text) => arguments.add(text),
                Value::Number(number) => arguments.add(number),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        sqlx::query_with(AssertSqlSafe(sql), arguments)
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
                query!(Sqlite, statement).execute(&mut **tx).await?;
            }
            Self::Postgres(tx) => {
                query!(Postgres, statement).execute(&mut **tx).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>> {
        Ok(match self {
            Self::Sqlite(tx) => {
                let rows = query!(Sqlite, statement).fetch_all(&mut **tx).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(tx) => {
                let rows = query!(Postgres, statement).fetch_all(&mut **tx).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// As the transaction's last act: see [`insert_events`].
    pub(super) async fn insert_events(&mut self, store: &Store, events: &[NewEvent]) -> Result<()> {
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
    fn values_are_numbered_through_and_never_in_the_text() {
        let rows = [("a", 1), ("b'; --", 2)].map(|(text, number)| [Value::from(text), Value::from(number)]);
        let statement = Statement::new("INSERT INTO t (a, b) ")
            .rows(rows)
            .push(" ON CONFLICT (a) DO UPDATE SET b = ")
            .bind(3)
            .push(" WHERE a IN ")
            .list(["c", "d"]);
        assert_eq!(
            statement.sql,
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
