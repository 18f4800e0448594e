//! `hostagent run`: the daemon.

use anyhow::Context as _;
use bus::amqp::{self, AmqpSettings, ClientCertificate, Login, Roots, TlsSettings};
use bus::{Link, Queue};
use notify::Notifier;
use protocol::Limits;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::context::Context;
use crate::agent::{Agent, Parts};
use crate::lock::Lock;
use crate::settings::Settings;

/// Runs the agent until SIGTERM or SIGINT. A running package manager is waited for.
pub async fn run(settings: Settings) -> anyhow::Result<Exit> {
    let context = Context::open(&settings)?;
    context.create_state_dir()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Sent by `hostagent retry`.
    let mut retry = signal(SignalKind::user_defined1())?;
    // After the signal handlers: `hostagent retry` signals the process that holds the lock.
    let _lock = Lock::take(&context.state_dir)?;

    tracing::info!(
        host_id = %context.host_id,
        version = env!("CARGO_PKG_VERSION"),
        broker = %format_args!("{}:{}", settings.amqp.host, settings.amqp_port()),
        "hostagent starts"
    );
    let collect_facts = context.facts(&settings);
    let mut agent = Agent::start(Parts {
        host_id: context.host_id.clone(),
        host: context.host.clone(),
        state_dir: context.state_dir.clone(),
        link: connect(&settings, &context),
        limits: Limits {
            max_size: usize::try_from(settings.hostagent.max_message_size).unwrap_or(usize::MAX),
            ..Limits::default()
        },
        trusted_users: settings.amqp.trusted_users.clone(),
        heartbeat_period: settings.hostagent.heartbeat_period,
        bake_period: settings.hostagent.bake_period,
        max_crashes: settings.hostagent.max_converge_attempts,
        collect_facts: Box::new(collect_facts),
    })
    .context("the agent could not start")?;
    let notifier = Notifier::of_process();
    notifier.ready();
    let mut state = agent.state.clone();

    loop {
        let standing = state.borrow_and_update().standing.clone();
        notifier.status(|| standing.describe());
        tokio::select! {
            // If its sender is gone, `failed` returns.
            Ok(()) = state.changed() => {}
            _ = terminate.recv() => {
                tracing::info!("SIGTERM: ending at the next safe point");
                break;
            }
            _ = interrupt.recv() => {
                tracing::info!("SIGINT: ending at the next safe point");
                break;
            }
            _ = retry.recv() => agent.retry_failed(),
            task = agent.failed() => {
                anyhow::bail!("the {task} task ended unexpectedly; see the log lines before this one")
            }
        }
    }
    notifier.stopping();
    agent.stop().await;
    tracing::info!("hostagent has ended");
    Ok(Exit::Ok)
}

fn connect(settings: &Settings, context: &Context) -> Link {
    let queue = Queue::of_agent(&context.host_id, settings.amqp.queue_name.clone());
    amqp::connect(amqp_settings(settings, context), queue)
}

/// How this host reaches its broker.
pub(super) fn amqp_settings(settings: &Settings, context: &Context) -> AmqpSettings {
    let amqp = &settings.amqp;
    let ssl = &settings.ssl;
    let client = match (&ssl.certfile, &ssl.keyfile) {
        (Some(certificate), Some(key)) => Some(ClientCertificate {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        // One without the other: refused when the settings were read.
        (Some(_), None) | (None, Some(_)) | (None, None) => None,
    };
    let tls = (!ssl.disable).then(|| TlsSettings {
        roots: ssl.ca_certs.clone().map_or(Roots::System, Roots::File),
        client,
        server_name: None,
    });
    // Without a password, the client certificate is the login (mechanism EXTERNAL).
    let login = amqp.password.as_ref().map(|password| Login {
        username: amqp.username.clone(),
        password: amqp::Secret::new(password.expose()),
    });
    AmqpSettings {
        login,
        certificate_user: Some(amqp.username.clone()).filter(|user| !user.is_empty()),
        virtual_host: amqp.virtual_host.clone(),
        heartbeat: amqp.amqp_heartbeat_interval,
        connect_timeout: amqp.connect_timeout,
        retry_period: settings.hostagent.connection_retry_period,
        connection_name: format!("hostagent {}", context.host_id),
        tls,
        ..AmqpSettings::new(amqp.host.clone(), settings.amqp_port())
    }
}
