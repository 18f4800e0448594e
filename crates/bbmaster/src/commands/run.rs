//! `bbmaster run`.

use std::process::ExitCode;

use anyhow::Context;
use bus::amqp;
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
    let link = amqp::connect(settings.broker(), settings.queue());
    let config = Config {
        enrollment: Enrollment::of(settings).context("hosts could not enrol")?,
        ..Config::of(settings)
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let master = Master::start(config, store, link)
        .await
        .context("the master cannot start")?;
    tracing::info!("listening on {scheme}://{}", master.address());
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to terminate"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    master.end().await;
    Ok(ExitCode::SUCCESS)
}
