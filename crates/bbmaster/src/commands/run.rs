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
    // First, so that from here on both signals stop the master in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let store = open_store(settings).await?;
    let config = Config {
        enrollment: Enrollment::of(settings).context("cannot set up enrolment")?,
        ..Config::of(settings)
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    const CANNOT: &str = "the master cannot start";
    let tcp = Master::listen(&config, &store).await.context(CANNOT)?;
    // Only when the address is bound: otherwise messages would be consumed by a master that cannot
    // serve.
    let link = amqp::connect(settings.broker(), settings.queue());
    let master = Master::start_on(tcp, config, store, link).context(CANNOT)?;
    let address = master.address();
    tracing::info!("listening on {scheme}://{address}");
    // Ready: the database has the current schema and requests are answered. The broker may still be
    // missing.
    let notifier = Notifier::of_process();
    notifier.ready();
    notifier.status(|| format!("listening on {scheme}://{address}"));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("received SIGTERM, stopping"),
        _ = interrupt.recv() => tracing::info!("received SIGINT, stopping"),
    }
    notifier.stopping();
    master.end().await;
    Ok(ExitCode::SUCCESS)
}
