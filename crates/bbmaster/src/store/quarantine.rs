//! Statuses that could not be taken: the newest are kept, to be looked at.

use super::{Result, Store, clean, now, writing};

/// How many are kept, and how much of each.
const KEPT: i64 = 1000;
const LONGEST_BODY: usize = 4096;

impl Store {
    pub async fn quarantine(&self, user_id: Option<&str>, reason: &str, body: &[u8]) -> Result<()> {
        let shown = &body[..body.len().min(LONGEST_BODY)];
        let shown = String::from_utf8_lossy(shown).replace('\0', "\u{fffd}");
        writing!(self, tx => {
            sqlx::query("INSERT INTO quarantine (at, user_id, reason, body) VALUES ($1, $2, $3, $4)")
                .bind(now())
                .bind(user_id.map(clean))
                .bind(clean(reason))
                .bind(shown)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "DELETE FROM quarantine WHERE id <= (SELECT id FROM quarantine ORDER BY id DESC LIMIT 1 OFFSET $1)",
            )
            .bind(KEPT)
            .execute(&mut *tx)
            .await?;
        });
        Ok(())
    }
}
