//! Answers of hosts that arrived at another master than the one that asked.

use super::statement::Statement;
use super::{Result, Store, now};

/// The PostgreSQL channel that carries the ids of new answers to all masters.
pub(super) const CHANNEL: &str = "bbmaster_replies";

impl Store {
    /// Stores an answer for the master that asked, and notifies it. Does nothing on SQLite, where
    /// there is only one master.
    pub async fn forward_reply(&self, id: &str, body: &str) -> Result<()> {
        const MINUTE: i64 = 60 * 1_000_000;
        if !self.is_postgres() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        let delete = Statement::new("DELETE FROM replies WHERE at < ");
        tx.execute(delete.bind(now() - 10 * MINUTE)).await?;
        let insert = Statement::new("INSERT INTO replies (id, at, body) ")
            .rows([[id.into(), now().into(), body.into()]])
            .push(" ON CONFLICT (id) DO NOTHING");
        tx.execute(insert).await?;
        tx.execute(Statement::new("SELECT pg_notify").list([CHANNEL, id]))
            .await?;
        tx.commit().await
    }

    /// Removes an answer and returns it.
    pub async fn take_reply(&self, id: &str) -> Result<Option<String>> {
        let mut tx = self.begin().await?;
        let delete = Statement::new("DELETE FROM replies WHERE id = ")
            .bind(id)
            .push(" RETURNING body");
        let rows = tx.fetch(delete).await?;
        let body = rows.first().map(|row| row.text(0)).transpose()?;
        tx.commit().await?;
        Ok(body)
    }
}
