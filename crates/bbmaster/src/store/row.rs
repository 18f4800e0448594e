//! A row of either database; columns are read by their number.

use sqlx::postgres::{PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row as _, Type};

pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        self.get(column)
    }

    pub fn text_or_null(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        self.get(column)
    }

    pub fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
        self.get(column)
    }

    pub fn number_or_null(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        self.get(column)
    }

    pub fn flag(&self, column: usize) -> Result<bool, sqlx::Error> {
        Ok(self.number(column)? != 0)
    }

    fn get<'r, T>(&'r self, column: usize) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}
