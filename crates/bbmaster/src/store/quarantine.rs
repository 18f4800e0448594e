//! Statuses that could not be stored. The newest are kept, so that somebody can look at them.

use super::statement::{Statement, Value};
use super::{Result, Store, clean, now};

/// How many are kept, and how many bytes of each.
const KEPT: i64 = 1000;
const LONGEST_BODY: usize = 4096;

impl Store {
    pub async fn quarantine(&self, user_id: Option<&str>, reason: &str, body: &[u8]) -> Result<()> {
        let shown = &body[..body.len().min(LONGEST_BODY)];
        let shown = String::from_utf8_lossy(shown).replace('\0', "\u{fffd}");
        let row: [Value; 4] = [
            now().into(),
            user_id.map(clean).as_deref().into(),
            clean(reason).into(),
            shown.into(),
        ];
        let mut tx = self.begin().await?;
        let insert = Statement::new("INSERT INTO quarantine (at, user_id, reason, body) ");
        tx.execute(insert.rows([row])).await?;
        let delete = Statement::new(
            "DELETE FROM quarantine WHERE id <= (SELECT id FROM quarantine ORDER BY id DESC LIMIT 1 OFFSET ",
        );
        tx.execute(delete.bind(KEPT).push(")")).await?;
        tx.commit().await
    }
}
