//! How statements are executed: alone, or in a transaction that functions can pass on.

use sqlx::postgres::Postgres;
use sqlx::sqlite::Sqlite;
use sqlx::{Arguments, AssertSqlSafe, Database, Transaction};

use super::row::Row;
use super::statement::{Statement, Value};
use super::{Pools, Result, Store};

/// A transaction that writes. Dropped without [`Tx::commit`], it is rolled back.
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

macro_rules! query {
    ($database:ty, $statement:expr) => {{
        let (sql, values): (String, Vec<Value>) = $statement;
        let mut arguments = <$database as Database>::Arguments::default();
        // One allocation instead of many.
        arguments.reserve(values.len(), 0);
        for value in values {
            let added = match value {
                Value::Text(text) => arguments.add(text),
                Value::TextOrNull(text) => arguments.add(text),
                Value::Number(number) => arguments.add(number),
                Value::NumberOrNull(number) => arguments.add(number),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        sqlx::query_with(AssertSqlSafe(sql), arguments)
    }};
}

impl Store {
    pub(super) async fn begin(&self) -> Result<Tx> {
        Ok(match &self.pools {
            // IMMEDIATE takes the write lock now; taking it later could fail.
            Pools::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Pools::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    /// All rows of a statement, outside of a transaction.
    pub(super) async fn read(&self, statement: Statement) -> Result<Vec<Row>> {
        Ok(match &self.pools {
            Pools::Sqlite { read, .. } => {
                let query = query!(Sqlite, statement.into_unnumbered());
                let rows = query.fetch_all(read).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Pools::Postgres(pool) => {
                let query = query!(Postgres, statement.into_numbered());
                let rows = query.fetch_all(pool).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// The first row of a statement, outside of a transaction.
    pub(super) async fn read_one(&self, statement: Statement) -> Result<Option<Row>> {
        Ok(match &self.pools {
            Pools::Sqlite { read, .. } => {
                let query = query!(Sqlite, statement.into_unnumbered());
                query.fetch_optional(read).await?.map(Row::Sqlite)
            }
            Pools::Postgres(pool) => {
                let query = query!(Postgres, statement.into_numbered());
                query.fetch_optional(pool).await?.map(Row::Postgres)
            }
        })
    }
}

impl Tx {
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Executes a statement. Returns how many rows were affected.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64> {
        Ok(match self {
            Self::Sqlite(tx) => {
                let query = query!(Sqlite, statement.into_unnumbered());
                query.execute(&mut **tx).await?.rows_affected()
            }
            Self::Postgres(tx) => {
                let query = query!(Postgres, statement.into_numbered());
                query.execute(&mut **tx).await?.rows_affected()
            }
        })
    }

    pub(super) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>> {
        Ok(match self {
            Self::Sqlite(tx) => {
                let query = query!(Sqlite, statement.into_unnumbered());
                let rows = query.fetch_all(&mut **tx).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(tx) => {
                let query = query!(Postgres, statement.into_numbered());
                let rows = query.fetch_all(&mut **tx).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}
