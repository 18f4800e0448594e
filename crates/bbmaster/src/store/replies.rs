//! Answers of hosts that came to another master than the one that asked.

use super::row::Columns;
use super::{Result, Store, now, writing};

/// PostgreSQL tells all masters here which answer is there, by its id.
pub(super) const CHANNEL: &str = "bbmaster_replies";

impl Store {
    /// Puts an answer where the master that asked finds it. Nothing is done on SQLite, where there is one master.
    pub async fn forward_reply(&self, id: &str, body: &str) -> Result<()> {
        const MINUTE: i64 = 60 * 1_000_000;
        if !self.is_postgres() {
            return Ok(());
        }
        writing!(self, tx => {
            sqlx::query("DELETE FROM replies WHERE at < $1")
                .bind(now() - 10 * MINUTE)
                .execute(&mut *tx)
                .await?;
            sqlx::query("INSERT INTO replies (id, at, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING")
                .bind(id)
                .bind(now())
                .bind(body)
                .execute(&mut *tx)
                .await?;
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(id)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Takes an answer out.
    pub async fn take_reply(&self, id: &str) -> Result<Option<String>> {
        let body = writing!(self, tx => {
            let row = sqlx::query("DELETE FROM replies WHERE id = $1 RETURNING body")
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
            row.map(|row| row.text(0)).transpose()?
        });
        Ok(body)
    }
}
