//! A row of either database, by column number.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

/// What both databases' rows hold.
pub trait Columns {
    fn text(&self, column: usize) -> Result<String, sqlx::Error>;
    fn text_or_null(&self, column: usize) -> Result<Option<String>, sqlx::Error>;
    fn number(&self, column: usize) -> Result<i64, sqlx::Error>;
    fn number_or_null(&self, column: usize) -> Result<Option<i64>, sqlx::Error>;
    fn flag(&self, column: usize) -> Result<bool, sqlx::Error> {
        Ok(self.number(column)? != 0)
    }
}

macro_rules! columns {
    ($row:ty) => {
        impl Columns for $row {
            fn text(&self, column: usize) -> Result<String, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }
            fn text_or_null(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }
            fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }
            fn number_or_null(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }
        }
    };
}
columns!(SqliteRow);
columns!(PgRow);

/// A row of whichever database it is.
pub enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! of_either {
    ($row:expr, $method:ident, $column:expr) => {
        match $row {
            Row::Sqlite(row) => Columns::$method(row, $column),
            Row::Postgres(row) => Columns::$method(row, $column),
        }
    };
}

impl Columns for Row {
    fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        of_either!(self, text, column)
    }
    fn text_or_null(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        of_either!(self, text_or_null, column)
    }
    fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
        of_either!(self, number, column)
    }
    fn number_or_null(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        of_either!(self, number_or_null, column)
    }
}
