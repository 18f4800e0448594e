//! API tokens. Only the digests of their secrets are stored.

use protocol::rest::{EventKind, NewToken, Role, Token};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::events::{EventData, NewEvent};
use super::row::Row;
use super::statement::Statement;
use super::{Result, Store, StoreError, now, show_time, signed};

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("a token named {0:?} exists already")]
    Exists(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The digest of a secret that is stored: SHA-256 in hex. The secret has 256 random bits, so it
/// cannot be guessed and needs no salt.
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

fn token(row: &Row) -> Result<Token> {
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
        data: EventData::of(&json!({ "name": name })),
    }
}

impl Store {
    /// Stores a new token. `digest` is that of its secret.
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
        let mut tx = self.begin().await?;
        let insert =
            Statement::new("INSERT INTO tokens (name, digest, role, created_at, created_by, expires_at) ")
                .rows([[
                    new.name.as_str().into(),
                    digest.into(),
                    new.role.as_str().into(),
                    created_at.into(),
                    author.into(),
                    expires_at.into(),
                ]])
                .push(" ON CONFLICT (name) DO NOTHING");
        if tx.execute(insert).await? == 0 {
            return Err(TokenError::Exists(new.name.clone()));
        }
        let mark = Statement::new("INSERT INTO once (what, at) VALUES ('token_made', ")
            .bind(created_at)
            .push(") ON CONFLICT (what) DO NOTHING");
        tx.execute(mark).await?;
        let message = format!(
            "token {} with the role {} was created",
            new.name,
            new.role.as_str()
        );
        let event = event(EventKind::TokenCreated, &new.name, author, message);
        tx.insert_events(vec![event]).await?;
        tx.commit().await?;
        self.refresh_newest_event().await?;
        Ok(Token {
            name: new.name.clone(),
            role: new.role,
            created_at: show_time(created_at),
            created_by: author.to_owned(),
            expires_at: expires_at.map(show_time),
        })
    }

    /// Deletes a token. Returns whether it existed.
    pub async fn revoke_token(&self, name: &str, author: &str) -> Result<bool> {
        let mut tx = self.begin().await?;
        let delete = Statement::new("DELETE FROM tokens WHERE name = ").bind(name);
        let existed = tx.execute(delete).await? > 0;
        if existed {
            let message = format!("token {name} was revoked");
            let event = event(EventKind::TokenRevoked, name, author, message);
            tx.insert_events(vec![event]).await?;
        }
        tx.commit().await?;
        self.refresh_newest_event().await?;
        Ok(existed)
    }

    pub async fn tokens(&self) -> Result<Vec<Token>> {
        let select =
            Statement::new("SELECT name, role, created_at, created_by, expires_at FROM tokens ORDER BY name");
        self.read(select).await?.iter().map(token).collect()
    }

    /// Name and role of the token with this digest, unless it has expired.
    pub async fn token_by_digest(&self, digest: &str) -> Result<Option<(String, Role)>> {
        let select = Statement::new("SELECT name, role FROM tokens WHERE digest = ")
            .bind(digest)
            .push(" AND (expires_at IS NULL OR expires_at > ")
            .bind(now())
            .push(")");
        let Some(row) = self.read_one(select).await? else {
            return Ok(None);
        };
        Ok(Some((row.text(0)?, role(&row.text(1)?)?)))
    }

    /// Whether a token was ever made, revoked ones included.
    pub async fn has_had_tokens(&self) -> Result<bool> {
        // A master of an older version on the same database makes tokens without the mark in
        // `once`.
        let select = Statement::new(
            "SELECT what FROM once WHERE what = 'token_made' UNION ALL SELECT name FROM tokens LIMIT 1",
        );
        Ok(self.read_one(select).await?.is_some())
    }

    /// Whether there is any token.
    pub async fn has_tokens(&self) -> Result<bool> {
        let select = Statement::new("SELECT 1 FROM tokens LIMIT 1");
        Ok(self.read_one(select).await?.is_some())
    }
}
