//! What an agent does again and again, alone, for callgrind to count: `hotpaths PATH TIMES`.
//!
//! The difference between two runs, of different TIMES, is what PATH itself takes.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::agent::furnished;
use host::{self, Family, Host};
use hostagent::engine::observe::{Freshness, Observed, Observer};
use hostagent::engine::plan::plan;
use hostagent::ledger::Desired;
use hostagent::settings::{Settings, Sources};
use protocol::{Apps, Inbound, Limits, SetConfig, decode};

const APPS: usize = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hotpaths: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "decode | read | observe | heartbeat | plan, and how many times";
    let path = arguments.next().context(usage)?;
    let times: u32 = arguments.next().context(usage)?.parse().context(usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sandbox, desired) = furnished(APPS)?;
    let apps: Apps = serde_json::from_value(desired)?;
    let host = open(sandbox.root())?;
    runtime.block_on(async {
        let observer = Observer::new(host.clone());
        let wanted = Arc::new(Desired {
            apps: apps.clone(),
            ..Desired::default()
        });
        let records = Arc::default();
        let observed = observer.observe(&wanted, &records, Freshness::Full).await?;
        ensure!(
            observed.apps.len() == APPS,
            "{} applications",
            observed.apps.len()
        );
        if path == "heartbeat" {
            // What has changed a moment ago would be read each time.
            tokio::time::sleep(Duration::from_secs(5)).await;
            observer.observe(&wanted, &records, Freshness::Full).await?;
        }
        for _ in 0..times {
            match path.as_str() {
                "decode" => decode_both(&apps)?,
                // The package database itself, as after each change of it.
                "read" => {
                    let packages = open(sandbox.root())?.packages.installed().await?;
                    ensure!(packages.len() >= APPS, "{} packages", packages.len());
                }
                // As for each ping.
                "observe" => {
                    let again = observer.observe(&wanted, &records, Freshness::Light).await?;
                    ensure!(again.apps.len() == APPS, "{} applications", again.apps.len());
                }
                "heartbeat" => {
                    let again = observer.observe(&wanted, &records, Freshness::Full).await?;
                    ensure!(again.apps.len() == APPS, "{} applications", again.apps.len());
                }
                "plan" => plan_nothing(&apps, &observed)?,
                other => bail!("no path {other:?}: {usage}"),
            }
        }
        Ok(())
    })
}

fn open(root: &std::path::Path) -> Result<Host> {
    let sources = Sources {
        file: None,
        file_required: false,
        environment: Vec::new(),
        overrides: vec![
            format!("hostagent.root={}", root.display()),
            "hostagent.package_family=deb".to_owned(),
            "amqp.password=x".to_owned(),
        ],
    };
    let settings = Settings::load(&sources)?.settings;
    Ok(host::open(settings.host_options())?)
}

/// A desired state of 100 applications, and a ping.
fn decode_both(apps: &Apps) -> Result<()> {
    let message = SetConfig {
        id: Some("x".to_owned()),
        generation: Some(1),
        only_if_plan: None,
        retry: false,
        apps: apps.clone(),
    };
    match decode(&message.encode(), Limits::default())? {
        Inbound::SetConfig(set) => ensure!(set.apps == *apps, "another state than was sent"),
        other => bail!("no set_config: {other:?}"),
    }
    decode(&protocol::encode_ping(Some("x")), Limits::default())?;
    Ok(())
}

fn plan_nothing(apps: &Apps, observed: &Observed) -> Result<()> {
    let plan = plan(apps, observed, Family::Deb);
    ensure!(plan.steps.len() <= APPS, "more than adopting");
    Ok(())
}
