//! Tokens by which hosts get their login at the broker, and which hosts have got one.

use protocol::HostId;
use protocol::rest::{EnrollToken, EventKind, NewEnrollToken};
use serde_json::json;

use super::events::{Json, NewEvent, insert_events};
use super::row::Columns;
use super::{Result, Store, StoreError, TokenError, now, reading, show_time, signed, unsigned, writing};

/// Why a token does not let a host in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLetIn {
    #[error("this enrolment token is unknown or revoked")]
    Unknown,
    #[error("this enrolment token has expired, at {0}")]
    Expired(String),
    #[error("this enrolment token has been used up")]
    UsedUp,
    #[error("this enrolment token is for host {0} alone")]
    OtherHost(HostId),
    #[error(
        "a host of this id is known already. If it is this one, let an operator make a token for it (host_id); if \
         not, one of the two needs another [hostagent] host_id"
    )]
    Known,
}

fn token(row: &impl Columns) -> Result<EnrollToken> {
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

const BY_NAME: &str = "SELECT name, uses_left, host_id, created_at, created_by, expires_at FROM enroll_tokens \
     ORDER BY name";
const BY_DIGEST: &str = "SELECT name, uses_left, host_id, created_at, created_by, expires_at FROM enroll_tokens \
     WHERE digest = $1";

/// Those that expired longer ago are deleted.
const REMEMBERED: i64 = 30 * 24 * 60 * 60 * 1_000_000;

fn event(kind: EventKind, host: Option<&HostId>, author: &str, message: String, token: &str) -> NewEvent {
    NewEvent {
        at: now(),
        kind,
        host_id: host.map(|host| host.as_str().into()),
        author: Some(author.into()),
        message,
        data: Json::of(&json!({ "name": token })),
    }
}

impl Store {
    /// Keeps a new token, whose secret has this digest.
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
        writing!(self, tx => {
            sqlx::query("DELETE FROM enroll_tokens WHERE expires_at < $1")
                .bind(created_at - REMEMBERED)
                .execute(&mut *tx)
                .await?;
            let created = sqlx::query(
                "INSERT INTO enroll_tokens (name, digest, uses_left, host_id, created_at, created_by, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
            )
            .bind(&new.name)
            .bind(digest)
            .bind(signed(uses))
            .bind(new.host_id.as_ref().map(HostId::to_string))
            .bind(created_at)
            .bind(author)
            .bind(expires_at)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if created == 0 {
                return Err(TokenError::Exists(new.name.clone()));
            }
            let whom = match &new.host_id {
                Some(host) => format!("host {host}"),
                None => format!("{uses} new host(s)"),
            };
            let message = format!("enrolment token {} lets in {whom}", new.name);
            let kind = EventKind::EnrollTokenCreated;
            insert_events!(self, tx, vec![event(kind, None, author, message, &new.name)]);
        });
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

    /// Whether there was one of that name.
    pub async fn revoke_enroll_token(&self, name: &str, author: &str) -> Result<bool> {
        let revoked = writing!(self, tx => {
            let revoked = sqlx::query("DELETE FROM enroll_tokens WHERE name = $1")
                .bind(name)
                .execute(&mut *tx)
                .await?
                .rows_affected()
                > 0;
            if revoked {
                let message = format!("enrolment token {name} is revoked");
                let kind = EventKind::EnrollTokenRevoked;
                insert_events!(self, tx, vec![event(kind, None, author, message, name)]);
            }
            revoked
        });
        self.refresh_newest_event().await?;
        Ok(revoked)
    }

    pub async fn enroll_tokens(&self) -> Result<Vec<EnrollToken>> {
        reading!(self, pool => {
            let rows = sqlx::query(BY_NAME).fetch_all(pool).await?;
            rows.iter().map(token).collect()
        })
    }

    /// The token of this digest, if it lets anyone in.
    pub async fn enroll_token(&self, digest: &str) -> Result<std::result::Result<EnrollToken, NotLetIn>> {
        reading!(self, pool => {
            let row = sqlx::query(BY_DIGEST).bind(digest).fetch_optional(pool).await?;
            let Some(row) = row else { return Ok(Err(NotLetIn::Unknown)) };
            let token = token(&row)?;
            if row.number(5)? <= now() {
                return Ok(Err(NotLetIn::Expired(token.expires_at)));
            }
            if token.uses_left == 0 {
                return Ok(Err(NotLetIn::UsedUp));
            }
            Ok(Ok(token))
        })
    }

    /// Lets `host` in by one use of the token, or says why not. Nothing is told to anyone yet.
    pub async fn use_enroll_token(
        &self,
        digest: &str,
        host: &HostId,
    ) -> Result<std::result::Result<EnrollToken, NotLetIn>> {
        let token = match self.enroll_token(digest).await? {
            Ok(token) => token,
            Err(why) => return Ok(Err(why)),
        };
        match &token.host_id {
            Some(only) if only != host => return Ok(Err(NotLetIn::OtherHost(only.clone()))),
            Some(_) | None => {}
        }
        writing!(self, tx => {
            // Who comes second waits here, and finds it used up.
            let used = sqlx::query(
                "UPDATE enroll_tokens SET uses_left = uses_left - 1 \
                 WHERE digest = $1 AND uses_left > 0 AND expires_at > $2",
            )
            .bind(digest)
            .bind(now())
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if used == 0 {
                // Since it was looked at it has been used up by another host, or has expired, or was revoked.
                let why = self.enroll_token(digest).await?.err();
                return Ok(Err(why.unwrap_or(NotLetIn::UsedUp)));
            }
            let enrolled = sqlx::query(
                "INSERT INTO enrolled (host_id, at, token) VALUES ($1, $2, $3) ON CONFLICT (host_id) DO NOTHING",
            )
            .bind(host.as_str())
            .bind(now())
            .bind(&token.name)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            let reported = sqlx::query("SELECT 1 FROM hosts WHERE host_id = $1 AND first_seen IS NOT NULL")
                .bind(host.as_str())
                .fetch_optional(&mut *tx)
                .await?
                .is_some();
            if token.host_id.is_none() && (enrolled == 0 || reported) {
                return Ok(Err(NotLetIn::Known));
            }
        });
        Ok(Ok(token))
    }

    /// The broker would not have it: as if it had not been tried.
    pub async fn give_back_enroll_token(&self, token: &EnrollToken, host: &HostId) -> Result<()> {
        writing!(self, tx => {
            sqlx::query("UPDATE enroll_tokens SET uses_left = uses_left + 1 WHERE name = $1")
                .bind(&token.name)
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM enrolled WHERE host_id = $1 AND token = $2")
                .bind(host.as_str())
                .bind(&token.name)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// `host` has its login.
    pub async fn tell_enrolled(&self, token: &EnrollToken, host: &HostId) -> Result<()> {
        writing!(self, tx => {
            let message = format!("got its login at the broker by the enrolment token {}", token.name);
            let event = event(EventKind::HostEnrolled, Some(host), &token.created_by, message, &token.name);
            insert_events!(self, tx, vec![event]);
        });
        self.refresh_newest_event().await
    }
}
