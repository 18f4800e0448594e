//! `bbctl token`.

use std::time::{Duration, SystemTime};

use clap::{Subcommand, ValueEnum};
use protocol::rest::{NewToken, Role};

use super::{Context, Exit};
use crate::output::{Cell, Format, Style, Table, ago, for_programs, note, print, since};

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Creates a token and prints its secret. The secret is shown only once.
    Create {
        /// Name of the token: who or what uses it. It is recorded as author of changes.
        name: String,
        /// What the token allows.
        #[arg(long, value_enum, default_value = "operator")]
        role: RoleArg,
        /// Time until it expires (30d, 12h). Default: it does not expire.
        #[arg(long, value_name = "TIME", value_parser = super::time)]
        expires_in: Option<Duration>,
        /// Format of the output; with table, only the secret.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Lists all tokens, without their secrets.
    List {
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Revokes a token.
    Revoke { name: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// Allows reading.
    Viewer,
    /// Also allows changing desired applications and labels, pings, and enrolment tokens.
    Operator,
    /// Also allows deleting hosts, and creating and revoking tokens.
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

impl TokenCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Create {
                name,
                role,
                expires_in,
                output,
            } => {
                let made = context.client.create_token(&NewToken {
                    name: name.clone(),
                    role: (*role).into(),
                    expires_in: expires_in.map(|time| time.as_secs()),
                })?;
                let text = for_programs(*output, &made)?;
                if text.is_none() {
                    note(&format!(
                        "Token {name} ({}). The secret is shown only once:",
                        made.token.role.as_str()
                    ));
                }
                print(&text.unwrap_or_else(|| format!("{}\n", made.secret)))?;
            }
            Self::List { output } => {
                let list = context.client.tokens()?;
                let now = SystemTime::now();
                let mut table = Table::new(&["TOKEN", "ROLE", "MADE", "BY", "EXPIRES"]);
                for token in &list.tokens {
                    table.row(vec![
                        Cell::new(&token.name),
                        Cell::new(token.role.as_str()),
                        Cell::new(&ago(&token.created_at, now)),
                        Cell::new(&token.created_by),
                        expiry(token.expires_at.as_deref(), now),
                    ]);
                }
                let width = context.terminal.width;
                let text = for_programs(*output, &list)?;
                print(&text.unwrap_or_else(|| table.render(width, context.terminal.paint)))?;
            }
            Self::Revoke { name } => {
                context.client.revoke_token(name)?;
                print(&format!("token {name} revoked\n"))?;
            }
        }
        Ok(Exit::Ok)
    }
}

/// When a token expires; red in its last week.
pub(super) fn expiry(time: Option<&str>, now: SystemTime) -> Cell {
    const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    match time {
        None => Cell::styled("never", Style::Faint),
        Some(time) => {
            let soon = since(time, now).is_some_and(|left| left < SOON);
            Cell::styled(&ago(time, now), if soon { Style::Bad } else { Style::Plain })
        }
    }
}
