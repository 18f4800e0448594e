//! `bbctl login` and `bbctl logout`.

use std::io::{self, Read};

use anyhow::Context as _;
use clap::Args;
use toml_edit::Value;

use super::{Exit, UsageError};
use crate::client::Client;
use crate::output::{Terminal, note, print};
use crate::settings::{
    Flags, Origin, Settings, SettingsError, SettingsFile, Stored, check_token, is_this_machine,
};

#[derive(Debug, Args)]
pub struct Login {
    /// The master's URL; not given: the one that holds already.
    #[arg(value_name = "URL")]
    master: Option<String>,
    /// Read the token from standard input instead of asking for it.
    #[arg(long)]
    token_stdin: bool,
    /// Log in without a token, to a master that asks for none.
    #[arg(long, conflicts_with = "token_stdin")]
    no_token: bool,
}

impl Login {
    pub(super) fn execute(
        &self,
        flags: &Flags,
        file: &SettingsFile,
        terminal: Terminal,
    ) -> anyhow::Result<Exit> {
        // A file that is named need not exist yet.
        let stored = match file.path().exists() {
            true => file.read().map_err(SettingsError::from)?,
            false => Stored::default(),
        };
        let flags = Flags {
            url: self.master.clone().or_else(|| flags.url.clone()),
            token_file: None,
            ..flags.clone()
        };
        // Neither the old token nor one in the environment: the new one alone is tried.
        let known = Stored {
            token: None,
            ..stored
        };
        let environment = |name: &str| std::env::var(name).ok().filter(|_| name != "BBCTL_TOKEN");
        let mut settings = Settings::resolve(&flags, environment, &known, file.path())?;
        let token = self.token(&settings, terminal)?;
        if let Some(token) = &token {
            let origin = match self.token_stdin {
                true => Origin::Flag("--token-stdin"),
                false => Origin::Flag("login"),
            };
            check_token(token, &origin)?;
            settings.token = Some((token.clone(), origin));
        }
        let who = Client::new(&settings)?.whoami()?;
        let ca = match &settings.ca {
            Some(ca) => Some(
                std::path::absolute(ca)
                    .with_context(|| format!("cannot tell where {} is", ca.display()))?
                    .display()
                    .to_string(),
            ),
            None => None,
        };
        // It was allowed, or we would not have got here; and it is, for this master alone.
        let plain = settings.url.scheme() == "http" && !is_this_machine(&settings.url);
        file.change(&[
            ("url", Some(settings.url.as_str().into())),
            ("token", token.map(Value::from)),
            ("ca", ca.map(Value::from)),
            ("allow_plain_http", plain.then_some(true.into())),
        ])?;
        print(&format!(
            "Logged in at {} as {} ({}); bbmaster {}. Stored in {}\n",
            settings.url,
            who.name,
            who.role.as_str(),
            who.master_version,
            file.path().display()
        ))?;
        Ok(Exit::Ok)
    }

    fn token(&self, settings: &Settings, terminal: Terminal) -> anyhow::Result<Option<String>> {
        if self.no_token {
            return Ok(None);
        }
        if self.token_stdin {
            let mut token = String::new();
            io::stdin()
                .read_to_string(&mut token)
                .context("cannot read the token from standard input")?;
            return Ok(Some(token.trim().to_owned()));
        }
        if !terminal.can_ask {
            return Err(UsageError(
                "there is no terminal to ask for the token on: give it by --token-stdin, or say --no-token"
                    .to_owned(),
            )
            .into());
        }
        note(&format!(
            "Token for {} (an admin makes one: bbctl token create NAME; on the master: bbmaster token create NAME)",
            settings.url
        ));
        let token = rpassword::prompt_password("Token: ").context("cannot ask for the token")?;
        Ok(Some(token.trim().to_owned()))
    }
}

pub fn log_out(file: &SettingsFile) -> anyhow::Result<Exit> {
    let stored = match file.path().exists() {
        true => file.read().map_err(SettingsError::from)?,
        false => Stored::default(),
    };
    if stored.token.is_none() {
        print(&format!("there is no token in {}\n", file.path().display()))?;
        return Ok(Exit::Ok);
    }
    file.change(&[("token", None)])?;
    print(&format!(
        "the token is deleted from {}; it is good still: `bbctl token revoke NAME` makes it worthless\n",
        file.path().display()
    ))?;
    Ok(Exit::Ok)
}
