//! `bbctl login` and `bbctl logout`.

use std::io::{self, Read};

use anyhow::Context as _;
use clap::Args;
use toml_edit::Value;

use super::{Exit, UsageError};
use crate::client::Client;
use crate::output::{Terminal, note, print};
use crate::settings::{
    Origin, Settings, SettingsError, SettingsFile, SettingsFlags, StoredSettings, check_token,
    is_this_machine,
};

#[derive(Debug, Args)]
pub struct LoginCommand {
    /// The master's URL. Default: the URL from the settings.
    #[arg(value_name = "URL")]
    master: Option<String>,
    /// Read the token from standard input instead of asking for it.
    #[arg(long)]
    token_stdin: bool,
    /// Log in without a token, if the master does not require one.
    #[arg(long, conflicts_with = "token_stdin")]
    no_token: bool,
}

impl LoginCommand {
    pub(super) fn execute(
        &self,
        flags: &SettingsFlags,
        file: &SettingsFile,
        terminal: Terminal,
    ) -> anyhow::Result<Exit> {
        // Even a file named by --config need not exist yet.
        let stored = match file.path().exists() {
            true => file.read().map_err(SettingsError::from)?,
            false => StoredSettings::default(),
        };
        let flags = SettingsFlags {
            url: self.master.clone().or_else(|| flags.url.clone()),
            token_file: None,
            ..flags.clone()
        };
        // Only the new token is tried, not the old one or the one in the environment.
        let known = StoredSettings {
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
                    .with_context(|| format!("cannot make the path {} absolute", ca.display()))?
                    .display()
                    .to_string(),
            ),
            None => None,
        };
        // Plain http was allowed, or `resolve` would have failed. It stays allowed for this master
        // only.
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
                "cannot ask for the token without a terminal: use --token-stdin or --no-token".to_owned(),
            )
            .into());
        }
        note(&format!(
            "Enter the token for {}. (An admin creates tokens: bbctl token create NAME; on the master: \
             bbmaster token create NAME)",
            settings.url
        ));
        let token = rpassword::prompt_password("Token: ").context("cannot ask for the token")?;
        Ok(Some(token.trim().to_owned()))
    }
}

pub fn log_out(file: &SettingsFile) -> anyhow::Result<Exit> {
    let stored = match file.path().exists() {
        true => file.read().map_err(SettingsError::from)?,
        false => StoredSettings::default(),
    };
    if stored.token.is_none() {
        print(&format!("there is no token in {}\n", file.path().display()))?;
        return Ok(Exit::Ok);
    }
    file.change(&[("token", None)])?;
    print(&format!(
        "the token is deleted from {}; it is still valid: `bbctl token revoke NAME` revokes it\n",
        file.path().display()
    ))?;
    Ok(Exit::Ok)
}
