//! Runs one frequent operation of the agent, for callgrind to count its instructions: `hotpaths
//! PATH TIMES`.
//!
//! The difference between two runs with different TIMES is the cost of the operation.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::agent::sandbox_with_apps;
use host::{self, Family, Host};
use hostagent::engine::observe::{Freshness, Observed, Observer};
use hostagent::engine::plan::{desired_targets, plan};
use hostagent::ledger::Records;
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
    let usage = "usage: hotpaths decode|read|observe|heartbeat|plan TIMES";
    let path = arguments.next().context(usage)?;
    let times: u32 = arguments.next().context(usage)?.parse().context(usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sandbox, desired) = sandbox_with_apps(APPS)?;
    let apps: Apps = serde_json::from_value(desired)?;
    let host = open(sandbox.root())?;
    runtime.block_on(async {
        let observer = Observer::new(host.clone());
        let records = Records::new();
        let observed = observer.observe(&apps, &records, Freshness::Full).await?;
        ensure!(
            observed.apps.len() == APPS,
            "{} applications",
            observed.apps.len()
        );
        if path == "heartbeat" {
            // A file that changed a moment ago is read each time.
            tokio::time::sleep(Duration::from_secs(5)).await;
            observer.observe(&apps, &records, Freshness::Full).await?;
        }
        for _ in 0..times {
            match path.as_str() {
                "decode" => decode_both(&apps)?,
                // The whole package database, as after each change of it.
                "read" => {
                    let packages = open(sandbox.root())?.packages.installed().await?;
                    ensure!(packages.len() >= APPS, "{} packages", packages.len());
                }
                // As for a ping.
                "observe" => {
                    let again = observer.observe(&apps, &records, Freshness::Light).await?;
                    ensure!(again.apps.len() == APPS, "{} applications", again.apps.len());
                }
                "heartbeat" => {
                    let again = observer.observe(&apps, &records, Freshness::Full).await?;
                    ensure!(again.apps.len() == APPS, "{} applications", again.apps.len());
                }
                "plan" => plan_nothing(&apps, &observed)?,
                other => bail!("unknown operation {other:?}; {usage}"),
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
        Inbound::SetConfig(set) => ensure!(
            set.apps == *apps,
            "the decoded state differs from the encoded one"
        ),
        other => bail!("not a set_config: {other:?}"),
    }
    decode(&protocol::encode_ping(Some("x")), Limits::default())?;
    Ok(())
}

fn plan_nothing(apps: &Apps, observed: &Observed) -> Result<()> {
    let targets = desired_targets(apps, observed, Family::Deb);
    let plan = plan(&targets, observed, Family::Deb);
    ensure!(
        plan.packages.len() + plan.settle.len() <= APPS,
        "the plan has more than one step for each application"
    );
    Ok(())
}
