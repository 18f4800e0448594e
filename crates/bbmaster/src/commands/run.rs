//! `bbmaster run`.

use std::process::ExitCode;

use anyhow::Context;
use bus::amqp;
use notify::Notifier;
use tokio::signal::unix::{SignalKind, signal};

use super::open_store;
use crate::enroll::Enrollment;
use crate::master::{Config, Master};
use crate::settings::Settings;

pub async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    // Before all else: from here on, both end the master in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let store = open_store(settings).await?;
    let config = Config {
        enrollment: Enrollment::of(settings).context("hosts could not enrol")?,
        ..Config::of(settings)
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    const CANNOT: &str = "the master cannot start";
    let tcp = Master::listen(&config, &store).await.context(CANNOT)?;
    // Not before the address is its own: what is consumed is no longer there for a master that can serve.
    let link = amqp::connect(settings.broker(), settings.queue());
    let master = Master::start_on(tcp, config, store, link).context(CANNOT)?;
    let address = master.address();
    tracing::info!("listening on {scheme}://{address}");
    // The database is brought up to date and requests are answered; a broker that is away is waited for.
    let notifier = Notifier::of_process();
    notifier.ready();
    notifier.status(|| format!("listening on {scheme}://{address}"));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to terminate"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    notifier.stopping();
    master.end().await;
    Ok(ExitCode::SUCCESS)
}
