//! A row of either database, by column number.

use sqlx::Row;
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
                self.try_get(column)
            }
            fn text_or_null(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
                self.try_get(column)
            }
            fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
                self.try_get(column)
            }
            fn number_or_null(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(column)
            }
        }
    };
}
columns!(SqliteRow);
columns!(PgRow);
