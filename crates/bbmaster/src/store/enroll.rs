//! Enrolment tokens, and the hosts that got a login at the broker by one.

use protocol::HostId;
use protocol::rest::{EnrollToken, EventKind, NewEnrollToken};
use serde_json::json;

use super::events::{EventData, NewEvent};
use super::row::Row;
use super::statement::Statement;
use super::transaction::Tx;
use super::{Result, Store, StoreError, TokenError, now, show_time, signed, unsigned};

/// Why a host cannot enrol by a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrollDenied {
    #[error("this enrolment token is unknown or revoked")]
    UnknownToken,
    #[error("this enrolment token has expired, at {0}")]
    Expired(String),
    #[error("this enrolment token has been used up")]
    UsedUp,
    #[error("this enrolment token is for host {0} only")]
    OtherHost(HostId),
    #[error(
        "a host with this id is already known. If it is this host, ask an operator for an enrolment token for this \
         id (host_id). If it is another host, set another [hostagent] host_id on one of them"
    )]
    KnownHost,
}

fn token(row: &Row) -> Result<EnrollToken> {
    Ok(EnrollToken {
        name: row.text(0)?,
        uses_left: unsigned(row.number(1)?),
        host_id: row
            .text_or_null(2)?
            .map(HostId::new)
            .transpose()
            .map_err(|_| StoreError::Content("enroll_tokens.host_id".to_owned()))?,
        created_at: show_time(row.number(3)?),
        created_by: row.text(4)?,
        expires_at: show_time(row.number(5)?),
    })
}

const SELECT: &str =
    "SELECT name, uses_left, host_id, created_at, created_by, expires_at FROM enroll_tokens ";

/// Tokens that expired longer ago, in microseconds, are deleted.
const REMEMBERED: i64 = 30 * 24 * 60 * 60 * 1_000_000;

fn event(kind: EventKind, host: Option<&HostId>, author: &str, message: String, token: &str) -> NewEvent {
    NewEvent {
        at: now(),
        kind,
        host_id: host.map(|host| host.as_str().into()),
        author: Some(author.into()),
        message,
        data: EventData::of(&json!({ "name": token })),
    }
}

impl Store {
    /// Stores a new token. `digest` is that of its secret.
    pub async fn create_enroll_token(
        &self,
        new: &NewEnrollToken,
        digest: &str,
        author: &str,
    ) -> std::result::Result<EnrollToken, TokenError> {
        let created_at = now();
        let life = new.expires_in.unwrap_or(NewEnrollToken::USUAL_LIFE);
        let expires_at = created_at.saturating_add(signed(life).saturating_mul(1_000_000));
        let uses = new.uses.unwrap_or(1);
        let mut tx = self.begin().await?;
        let delete = Statement::new("DELETE FROM enroll_tokens WHERE expires_at < ");
        tx.execute(delete.bind(created_at - REMEMBERED)).await?;
        let insert = Statement::new(
            "INSERT INTO enroll_tokens (name, digest, uses_left, host_id, created_at, created_by, expires_at) ",
        )
        .rows([[
            new.name.as_str().into(),
            digest.into(),
            signed(uses).into(),
            new.host_id.as_ref().map(HostId::as_str).into(),
            created_at.into(),
            author.into(),
            expires_at.into(),
        ]])
        .push(" ON CONFLICT (name) DO NOTHING");
        if tx.execute(insert).await? == 0 {
            return Err(TokenError::Exists(new.name.clone()));
        }
        let whom = match &new.host_id {
            Some(host) => format!("host {host}"),
            None => format!("{uses} new host(s)"),
        };
        let message = format!("enrolment token {} for {whom} was created", new.name);
        let event = event(EventKind::EnrollTokenCreated, None, author, message, &new.name);
        tx.insert_events(vec![event]).await?;
        tx.commit().await?;
        self.refresh_newest_event().await?;
        Ok(EnrollToken {
            name: new.name.clone(),
            uses_left: uses,
            host_id: new.host_id.clone(),
            created_at: show_time(created_at),
            created_by: author.to_owned(),
            expires_at: show_time(expires_at),
        })
    }

    /// Deletes a token. Returns whether it existed.
    pub async fn revoke_enroll_token(&self, name: &str, author: &str) -> Result<bool> {
        let mut tx = self.begin().await?;
        let delete = Statement::new("DELETE FROM enroll_tokens WHERE name = ").bind(name);
        let existed = tx.execute(delete).await? > 0;
        if existed {
            let message = format!("enrolment token {name} was revoked");
            let event = event(EventKind::EnrollTokenRevoked, None, author, message, name);
            tx.insert_events(vec![event]).await?;
        }
        tx.commit().await?;
        self.refresh_newest_event().await?;
        Ok(existed)
    }

    pub async fn enroll_tokens(&self) -> Result<Vec<EnrollToken>> {
        let select = Statement::new(SELECT).push("ORDER BY name");
        self.read(select).await?.iter().map(token).collect()
    }

    /// The token with this digest, if a host can enrol by it.
    pub async fn enroll_token(&self, digest: &str) -> Result<std::result::Result<EnrollToken, EnrollDenied>> {
        let select = Statement::new(SELECT).push("WHERE digest = ").bind(digest);
        let Some(row) = self.read_one(select).await? else {
            return Ok(Err(EnrollDenied::UnknownToken));
        };
        let token = token(&row)?;
        if row.number(5)? <= now() {
            return Ok(Err(EnrollDenied::Expired(token.expires_at)));
        }
        if token.uses_left == 0 {
            return Ok(Err(EnrollDenied::UsedUp));
        }
        Ok(Ok(token))
    }

    /// Takes one use of the token for `host`. Writes no event yet.
    pub async fn use_enroll_token(
        &self,
        digest: &str,
        host: &HostId,
    ) -> Result<std::result::Result<EnrollToken, EnrollDenied>> {
        let token = match self.enroll_token(digest).await? {
            Ok(token) => token,
            Err(denied) => return Ok(Err(denied)),
        };
        match &token.host_id {
            Some(only) if only != host => return Ok(Err(EnrollDenied::OtherHost(only.clone()))),
            Some(_) | None => {}
        }
        let mut tx = self.begin().await?;
        // A second request for the last use waits here, then finds the token used up.
        let update = Statement::new("UPDATE enroll_tokens SET uses_left = uses_left - 1 WHERE digest = ")
            .bind(digest)
            .push(" AND uses_left > 0 AND expires_at > ")
            .bind(now());
        if tx.execute(update).await? == 0 {
            // Since it was read above it was used up, has expired or was revoked.
            let denied = self.enroll_token(digest).await?.err();
            return Ok(Err(denied.unwrap_or(EnrollDenied::UsedUp)));
        }
        let is_known = record_enrolled(&mut tx, host, &token).await?;
        if token.host_id.is_none() && is_known {
            return Ok(Err(EnrollDenied::KnownHost));
        }
        tx.commit().await?;
        Ok(Ok(token))
    }

    /// Undoes [`Self::use_enroll_token`]: the broker made no login.
    pub async fn give_back_enroll_token(&self, token: &EnrollToken, host: &HostId) -> Result<()> {
        let mut tx = self.begin().await?;
        let update = Statement::new("UPDATE enroll_tokens SET uses_left = uses_left + 1 WHERE name = ");
        tx.execute(update.bind(token.name.as_str())).await?;
        let delete = Statement::new("DELETE FROM enrolled WHERE host_id = ")
            .bind(host.as_str())
            .push(" AND token = ")
            .bind(token.name.as_str());
        tx.execute(delete).await?;
        tx.commit().await
    }

    /// Writes the event that `host` has its login.
    pub async fn add_enrolled_event(&self, token: &EnrollToken, host: &HostId) -> Result<()> {
        let message = format!(
            "got its login at the broker with the enrolment token {}",
            token.name
        );
        let kind = EventKind::HostEnrolled;
        let event = event(kind, Some(host), &token.created_by, message, &token.name);
        let mut tx = self.begin().await?;
        tx.insert_events(vec![event]).await?;
        tx.commit().await?;
        self.refresh_newest_event().await
    }
}

/// Records that `host` has a login. Returns whether the host has enrolled or reported before.
async fn record_enrolled(tx: &mut Tx, host: &HostId, token: &EnrollToken) -> Result<bool> {
    let insert = Statement::new("INSERT INTO enrolled (host_id, at, token) ")
        .rows([[host.as_str().into(), now().into(), token.name.as_str().into()]])
        .push(" ON CONFLICT (host_id) DO NOTHING");
    let inserted = tx.execute(insert).await?;
    let select = Statement::new("SELECT 1 FROM hosts WHERE host_id = ")
        .bind(host.as_str())
        .push(" AND first_seen IS NOT NULL");
    let has_reported = !tx.fetch(select).await?.is_empty();
    Ok(inserted == 0 || has_reported)
}
