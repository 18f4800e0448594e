//! `bbmaster token`: works without the API, which is how the first token is made.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use protocol::rest::{NewToken, Role};

use super::{open_store, print};
use crate::api::{check_new_token, new_secret};
use crate::settings::Settings;
use crate::store::token_digest;

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Creates a token and prints its secret. The secret is not shown again.
    Create {
        /// Who or what uses the token. Events have this name as the author of its changes.
        name: String,
        #[arg(long, value_enum, default_value = "operator")]
        role: RoleArg,
        /// Time until the token expires (30d, 12h). Default: it does not expire.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
    },
    /// Prints all tokens, without their secrets.
    List,
    /// Revokes a token.
    Revoke { name: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// May read everything.
    Viewer,
    /// May also change desired applications and labels, ping hosts and let hosts enrol.
    Operator,
    /// May also delete hosts, and create and revoke tokens.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// The author of changes made by this command.
const AUTHOR: &str = "bbmaster";

pub async fn execute(command: Token, settings: &Settings) -> anyhow::Result<ExitCode> {
    let store = open_store(settings).await?;
    match command {
        Token::Create {
            name,
            role,
            expires_in,
        } => {
            let new = NewToken {
                name,
                role: role.into(),
                expires_in: expires_in.map(|time| time.as_secs()),
            };
            if let Err((path, reason)) = check_new_token(&new) {
                bail!("{}: {reason}", path.trim_start_matches("$."));
            }
            let secret = new_secret().context("cannot read random bytes from /dev/urandom for a token")?;
            store.create_token(&new, &token_digest(&secret), AUTHOR).await?;
            print(&format!("{secret}\n"))
        }
        Token::List => {
            let mut text = String::new();
            for token in store.tokens().await? {
                let expires = token.expires_at.as_deref().unwrap_or("never");
                text.push_str(&format!(
                    "{:<32} {:<9} created {} by {}, expires {expires}\n",
                    token.name,
                    token.role.as_str(),
                    token.created_at,
                    token.created_by
                ));
            }
            print(&text)
        }
        Token::Revoke { name } => match store.revoke_token(&name, AUTHOR).await? {
            true => print(&format!("token {name} is revoked\n")),
            false => bail!("there is no token named {name:?}; `bbmaster token list` shows all"),
        },
    }
}
