//! `bbctl enroll-token`: tokens with which new hosts enrol.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use protocol::HostId;
use protocol::rest::NewEnrollToken;

use super::token::expiry;
use super::{Context, Exit, host_id};
use crate::output::{Cell, Format, Table, ago, for_programs, note, print};

#[derive(Debug, Subcommand)]
pub enum EnrollTokenCommand {
    /// Creates a token and prints its secret. The secret is shown only once.
    Create {
        /// Name of the token: what it is for.
        name: String,
        /// Number of hosts that can enrol with it.
        #[arg(long, value_name = "COUNT", default_value_t = 1)]
        uses: u64,
        /// Time until it expires (30m, 7d).
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = super::time)]
        expires_in: Duration,
        /// Only for this host. It may be known already; then it gets a new password.
        #[arg(long, value_name = "HOST", value_parser = host_id)]
        host: Option<HostId>,
        /// Format of the output; with table, only the secret.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Lists all enrolment tokens, without their secrets.
    List {
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Revokes a token. Hosts that have enrolled with it stay enrolled.
    Revoke { name: String },
}

impl EnrollTokenCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Create {
                name,
                uses,
                expires_in,
                host,
                output,
            } => {
                let made = context.client.create_enroll_token(&NewEnrollToken {
                    name: name.clone(),
                    uses: Some(*uses),
                    expires_in: Some(expires_in.as_secs()),
                    host_id: host.clone(),
                })?;
                let text = for_programs(*output, &made)?;
                if text.is_none() {
                    note(
                        "On the host, run: BACKBONE_ENROLL_TOKEN=... hostagent enroll --master URL\nThe \
                         secret is shown only once:",
                    );
                }
                print(&text.unwrap_or_else(|| format!("{}\n", made.secret)))?;
            }
            Self::List { output } => {
                let list = context.client.enroll_tokens()?;
                let now = SystemTime::now();
                let mut table = Table::new(&["TOKEN", "LEFT", "FOR", "MADE", "BY", "EXPIRES"]);
                for token in &list.tokens {
                    let host = token.host_id.as_ref().map_or("new hosts", HostId::as_str);
                    table.row(vec![
                        Cell::new(&token.name),
                        Cell::new(&token.uses_left.to_string()),
                        Cell::new(host),
                        Cell::new(&ago(&token.created_at, now)),
                        Cell::new(&token.created_by),
                        expiry(Some(&token.expires_at), now),
                    ]);
                }
                let width = context.terminal.width;
                let text = for_programs(*output, &list)?;
                print(&text.unwrap_or_else(|| table.render(width, context.terminal.paint)))?;
            }
            Self::Revoke { name } => {
                context.client.revoke_enroll_token(name)?;
                print(&format!("enrolment token {name} revoked\n"))?;
            }
        }
        Ok(Exit::Ok)
    }
}
