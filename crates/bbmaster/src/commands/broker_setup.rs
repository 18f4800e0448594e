//! `bbmaster broker-setup`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use protocol::HostId;

use super::{FAILED, print};
use crate::api::new_secret;
use crate::broker_setup::{
    AdminLogin, BrokerItem, BrokerNames, EnsureOutcome, ManagementApi, ensure, wanted,
};
use crate::settings::Settings;

#[derive(Debug, Args)]
pub struct BrokerSetup {
    /// RabbitMQ's management API.
    #[arg(long, value_name = "URL", default_value = "http://localhost:15672")]
    management: String,
    /// User name of an administrator of RabbitMQ.
    #[arg(long, value_name = "USER", default_value = "guest")]
    admin: String,
    /// File with the administrator's password. Default: the value of the environment variable
    /// BBMASTER_ADMIN_PASSWORD, else `guest`.
    #[arg(long, value_name = "FILE")]
    admin_password_file: Option<PathBuf>,
    /// PEM file with the trusted authorities of an https management API. Default: those of this
    /// host.
    #[arg(long, value_name = "FILE")]
    management_ca: Option<PathBuf>,
    /// Create a user and a queue for this host. Can be repeated.
    #[arg(long = "host", value_name = "HOST_ID")]
    hosts: Vec<String>,
    /// An application whose topic hosts may bind. Can be repeated. Default: every name.
    #[arg(long = "app", value_name = "NAME")]
    apps: Vec<String>,
    /// Create the masters' queue as a quorum queue, which the nodes of a cluster replicate.
    #[arg(long)]
    quorum: bool,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub fn execute(command: &BrokerSetup, settings: &Settings) -> anyhow::Result<ExitCode> {
    let password = match &command.admin_password_file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .trim_end()
            .to_owned(),
        None => std::env::var("BBMASTER_ADMIN_PASSWORD").unwrap_or_else(|_| "guest".to_owned()),
    };
    let login = AdminLogin {
        user: command.admin.clone(),
        password,
    };
    let api = ManagementApi::new(&command.management, &login, command.management_ca.as_deref())?;
    let names = names(command, settings)?;
    let hosts = command
        .hosts
        .iter()
        .map(|id| {
            let id = HostId::new(id.clone()).with_context(|| format!("--host {id:?}"))?;
            Ok((
                id,
                new_secret().context("cannot read random bytes from /dev/urandom for a password")?,
            ))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut conflicts = false;
    for item in wanted(&names, &hosts) {
        let outcome = ensure(&api, &item, command.dry_run)?;
        print(&format!("{}\n", describe(&item, outcome)))?;
        if outcome == EnsureOutcome::Made
            && let Some((host, password)) = hosts
                .iter()
                .find(|(host, _)| is_user(&item, &names.host_user(host)))
        {
            print(&format!(
                "              {host}: [amqp] username = {}, password = {password} (shown only now)\n",
                names.host_user(host)
            ))?;
        }
        conflicts |= outcome == EnsureOutcome::Conflict;
    }
    Ok(match conflicts {
        true => ExitCode::from(FAILED),
        false => ExitCode::SUCCESS,
    })
}

fn names(command: &BrokerSetup, settings: &Settings) -> anyhow::Result<BrokerNames> {
    for app in &command.apps {
        protocol::AppName::new(app.clone()).with_context(|| format!("--app {app:?}"))?;
    }
    let amqp = &settings.amqp;
    if amqp.username.is_empty() {
        bail!(
            "[amqp] username is not set: set it. With a client certificate, set the user name that RabbitMQ reads \
             from the certificate"
        );
    }
    if amqp.username == command.admin {
        bail!(
            "[amqp] username is {:?}, the administrator, whose permissions would be reduced to what masters need. Set \
             [amqp] username and password for a separate user for masters",
            amqp.username
        );
    }
    let host_user = amqp
        .host_user
        .clone()
        .unwrap_or_else(|| BrokerNames::USUAL_HOST_USER.to_owned());
    if !command.hosts.is_empty() && !host_user.contains("{host_id}") {
        bail!("[amqp] host_user does not contain {{host_id}}: all hosts would share one user");
    }
    Ok(BrokerNames {
        vhost: amqp.virtual_host.clone(),
        master: amqp.username.clone(),
        master_password: amqp
            .password
            .as_ref()
            .map(|password| password.expose().to_owned()),
        master_queue: amqp.queue_name.clone(),
        quorum: command.quorum,
        host_user,
        apps: command.apps.clone(),
    })
}

fn is_user(item: &BrokerItem, name: &str) -> bool {
    item.is_user() && item.path.get(1).is_some_and(|user| user == name)
}

fn describe(item: &BrokerItem, outcome: EnsureOutcome) -> String {
    let what = &item.what;
    match outcome {
        EnsureOutcome::Kept => format!("unchanged     {what}"),
        EnsureOutcome::Made => format!("created       {what}"),
        EnsureOutcome::WouldMake => format!("would create  {what}"),
        EnsureOutcome::Conflict => format!(
            "CONFLICT      {what}: it exists with other properties. Stop masters and agents, delete it, and run this \
             again"
        ),
    }
}
