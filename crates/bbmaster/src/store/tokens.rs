//! API tokens: only their digests are kept.

use protocol::rest::{EventKind, NewToken, Role, Token};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::events::{Json, NewEvent, insert_events};
use super::row::Columns;
use super::{Result, Store, StoreError, now, reading, show_time, signed, writing};

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("there is a token named {0:?} already")]
    Exists(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for TokenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What is kept of a secret: SHA-256, in hex. The secret is 256 random bits, so there is nothing to guess.
pub fn digest(secret: &str) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(secret.as_bytes()) {
        use std::fmt::Write;
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn role(word: &str) -> Result<Role> {
    Role::ALL
        .into_iter()
        .find(|role| role.as_str() == word)
        .ok_or_else(|| StoreError::Content("tokens.role".to_owned()))
}

fn token(row: &impl Columns) -> Result<Token> {
    Ok(Token {
        name: row.text(0)?,
        role: role(&row.text(1)?)?,
        created_at: show_time(row.number(2)?),
        created_by: row.text(3)?,
        expires_at: row.number_or_null(4)?.map(show_time),
    })
}

fn event(kind: EventKind, name: &str, author: &str, message: String) -> NewEvent {
    NewEvent {
        at: now(),
        kind,
        host_id: None,
        author: Some(author.into()),
        message,
        data: Json::of(&json!({ "name": name })),
    }
}

impl Store {
    /// Keeps a new token, whose secret has this digest.
    pub async fn create_token(
        &self,
        new: &NewToken,
        digest: &str,
        author: &str,
    ) -> std::result::Result<Token, TokenError> {
        let created_at = now();
        let expires_at = new
            .expires_in
            .map(|seconds| created_at.saturating_add(signed(seconds).saturating_mul(1_000_000)));
        writing!(self, tx => {
            let created = sqlx::query(
                "INSERT INTO tokens (name, digest, role, created_at, created_by, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING",
            )
            .bind(&new.name)
            .bind(digest)
            .bind(new.role.as_str())
            .bind(created_at)
            .bind(author)
            .bind(expires_at)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if created == 0 {
                return Err(TokenError::Exists(new.name.clone()));
            }
            sqlx::query("INSERT INTO once (what, at) VALUES ('token_made', $1) ON CONFLICT (what) DO NOTHING")
                .bind(created_at)
                .execute(&mut *tx)
                .await?;
            let message = format!("token {} may do what a {} may", new.name, new.role.as_str());
            insert_events!(self, tx, vec![event(EventKind::TokenCreated, &new.name, author, message)]);
        });
        self.refresh_newest_event().await?;
        Ok(Token {
            name: new.name.clone(),
            role: new.role,
            created_at: show_time(created_at),
            created_by: author.to_owned(),
            expires_at: expires_at.map(show_time),
        })
    }

    /// Whether there was one of that name.
    pub async fn revoke_token(&self, name: &str, author: &str) -> Result<bool> {
        let revoked = writing!(self, tx => {
            let revoked = sqlx::query("DELETE FROM tokens WHERE name = $1")
                .bind(name)
                .execute(&mut *tx)
                .await?
                .rows_affected()
                > 0;
            if revoked {
                let message = format!("token {name} is revoked");
                insert_events!(self, tx, vec![event(EventKind::TokenRevoked, name, author, message)]);
            }
            revoked
        });
        self.refresh_newest_event().await?;
        Ok(revoked)
    }

    pub async fn tokens(&self) -> Result<Vec<Token>> {
        reading!(self, pool => {
            let rows = sqlx::query("SELECT name, role, created_at, created_by, expires_at FROM tokens ORDER BY name")
                .fetch_all(pool)
                .await?;
            rows.iter().map(token).collect()
        })
    }

    /// Whose token has this digest, unless it has expired.
    pub async fn token_by_digest(&self, digest: &str) -> Result<Option<(String, Role)>> {
        reading!(self, pool => {
            let row = sqlx::query(
                "SELECT name, role FROM tokens WHERE digest = $1 AND (expires_at IS NULL OR expires_at > $2)",
            )
            .bind(digest)
            .bind(now())
            .fetch_optional(pool)
            .await?;
            let Some(row) = row else { return Ok(None) };
            Ok(Some((row.text(0)?, role(&row.text(1)?)?)))
        })
    }

    /// Whether any token was ever made, even if it is revoked: whoever made one wants to be asked for it.
    pub async fn has_had_tokens(&self) -> Result<bool> {
        reading!(self, pool => {
            // A token without the mark: made meanwhile by a master of an older version on the same database.
            let sql = "SELECT what FROM once WHERE what = 'token_made' UNION ALL SELECT name FROM tokens LIMIT 1";
            Ok(sqlx::query(sql).fetch_optional(pool).await?.is_some())
        })
    }

    /// Whether there is any token.
    pub async fn has_tokens(&self) -> Result<bool> {
        reading!(self, pool => {
            Ok(sqlx::query("SELECT 1 FROM tokens LIMIT 1").fetch_optional(pool).await?.is_some())
        })
    }
}
