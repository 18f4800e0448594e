//! The tasks of the master, and the channels between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::{Link, LinkState};
use sqlx::postgres::PgListener;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::api::{self, App, Gate, TlsListener};
use crate::collect::{self, Collector, Policy};
use crate::dispatch::{Dispatcher, Pinger};
use crate::enroll::Enrollment;
use crate::metrics::Metrics;
use crate::replies::{Reply, Waiters};
use crate::settings::{Anonymous, Settings};
use crate::store::{Store, now};

/// What a master needs besides its store and its link.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Certificate chain and key of the listener.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub anonymous: Anonymous,
    pub policy: Policy,
    /// Statuses in one batch, at most.
    pub batch: usize,
    pub silent_after: Duration,
    pub event_retention: Duration,
    pub max_events: u64,
    pub ping_rate: u32,
    pub plan_timeout: Duration,
    /// `None`: enrolment is off.
    pub enrollment: Option<Arc<Enrollment>>,
}

impl Config {
    /// For a master that only this machine can reach, and for tests.
    pub fn local() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            anonymous: Anonymous::Auto,
            policy: Policy {
                limits: protocol::Limits::default(),
                require_user_id: false,
                host_user: None,
            },
            batch: collect::MAX_BATCH,
            silent_after: Duration::from_secs(180),
            event_retention: Duration::from_secs(30 * 24 * 60 * 60),
            max_events: 1_000_000,
            ping_rate: 500,
            plan_timeout: Duration::from_secs(30),
            enrollment: None,
        }
    }

    /// Reads the settings, which are valid. Does not set `enrollment`, which can fail.
    pub fn of(settings: &Settings) -> Self {
        let Settings {
            bbmaster, amqp, tls, ..
        } = settings;
        let local = Self::local();
        Self {
            listen: settings.listen().unwrap_or(local.listen),
            tls: tls.certfile.clone().zip(tls.keyfile.clone()),
            anonymous: bbmaster.allow_anonymous,
            policy: Policy {
                limits: protocol::Limits {
                    max_size: usize::try_from(amqp.max_message_size).unwrap_or(usize::MAX),
                    ..protocol::Limits::default()
                },
                require_user_id: amqp.require_user_id,
                host_user: amqp.host_user.clone(),
            },
            silent_after: bbmaster.silent_after,
            event_retention: bbmaster.event_retention,
            max_events: bbmaster.max_events,
            // Half of the prefetch: while one batch is written, the broker delivers the next.
            batch: usize::from(settings.queue().prefetch / 2).clamp(1, collect::MAX_BATCH),
            ping_rate: bbmaster.ping_rate,
            plan_timeout: bbmaster.plan_timeout,
            enrollment: None,
        }
    }

    fn cannot_listen(&self, source: std::io::Error) -> StartError {
        StartError::Listen {
            address: self.listen,
            source,
        }
    }
}

/// Why a master cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address} ([bbmaster] listen): {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] api::TlsError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(
        "{0} is not a loopback address, so every request requires a token, and there is none yet: create one with \
         `bbmaster token create NAME --role admin`"
    )]
    NoTokens(SocketAddr),
}

/// A running master. Dropped, it stops at once.
pub struct Master {
    address: SocketAddr,
    ending: watch::Sender<bool>,
    server: JoinHandle<()>,
    collector: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

impl Master {
    /// Binds the address of the settings. To be done before anything is consumed, because another
    /// master may be running here.
    pub async fn listen(config: &Config, store: &Store) -> Result<TcpListener, StartError> {
        if !config.listen.ip().is_loopback() && !store.has_tokens().await? {
            return Err(StartError::NoTokens(config.listen));
        }
        let bound = TcpListener::bind(config.listen).await;
        bound.map_err(|source| config.cannot_listen(source))
    }

    /// Starts all tasks. They stop with [`Master::end`], or when the master is dropped.
    pub async fn start(config: Config, store: Store, link: Link) -> Result<Self, StartError> {
        let tcp = Self::listen(&config, &store).await?;
        Self::start_on(tcp, config, store, link)
    }

    /// The same, with the socket of [`Master::listen`]. Must be called on a runtime.
    pub fn start_on(tcp: TcpListener, config: Config, store: Store, link: Link) -> Result<Self, StartError> {
        let address = tcp.local_addr().map_err(|source| config.cannot_listen(source))?;
        let metrics = Metrics::default();
        let waiters = Arc::new(Waiters::default());
        let dispatcher = Dispatcher::start(
            store.clone(),
            link.publisher.clone(),
            link.state.clone(),
            metrics.clone(),
        );
        let pinger = Pinger::new(
            store.clone(),
            link.publisher.clone(),
            metrics.clone(),
            config.ping_rate,
        );
        let collector = Collector {
            store: store.clone(),
            policy: config.policy.clone(),
            dispatcher: dispatcher.clone(),
            waiters: waiters.clone(),
            metrics: metrics.clone(),
            batch: config.batch,
        };
        let (ending, is_ending) = watch::channel(false);
        let app = App {
            store: store.clone(),
            publisher: link.publisher.clone(),
            link: link.state.clone(),
            dispatcher,
            pinger: pinger.clone(),
            waiters: waiters.clone(),
            metrics,
            gate: Arc::new(Gate::new(config.anonymous, address.ip().is_loopback())),
            plan_timeout: config.plan_timeout,
            enrollment: config.enrollment.clone(),
            ending: is_ending.clone(),
        };
        let server = serve(tcp, config.tls.as_ref(), app, is_ending.clone())?;
        let others = vec![
            tokio::spawn(ping_at_start(pinger, link.state.clone())),
            tokio::spawn(mark_silent_hosts(store.clone(), link.state, config.silent_after)),
            tokio::spawn(prune_events(
                store.clone(),
                config.event_retention,
                config.max_events,
            )),
            tokio::spawn(watch_other_masters(store, waiters)),
        ];
        let collector = tokio::spawn(end_with(collector.run(link.deliveries), is_ending));
        Ok(Self {
            address,
            ending,
            server,
            collector,
            others,
        })
    }

    /// The address of the REST API.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the requests in progress, for some seconds at most, and stops.
    pub async fn end(mut self) {
        const STOP_TIMEOUT: Duration = Duration::from_secs(5);
        self.ending.send_replace(true);
        // Nothing is lost: statuses that are not acknowledged are delivered again.
        let _ = timeout(STOP_TIMEOUT, &mut self.server).await;
        let _ = timeout(STOP_TIMEOUT, &mut self.collector).await;
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.server.abort();
        self.collector.abort();
        self.others.iter().for_each(JoinHandle::abort);
    }
}

/// Runs `work` until it is done or the master stops.
async fn end_with(work: impl Future<Output = ()>, mut ending: watch::Receiver<bool>) {
    tokio::select! {
        () = work => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
}

fn serve(
    tcp: TcpListener,
    tls: Option<&(PathBuf, PathBuf)>,
    app: App,
    mut ending: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let router = api::router(app);
    let ended = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    // Serving never fails: a listener that cannot accept retries.
    Ok(match tls {
        None => tokio::spawn(async move {
            let _ = axum::serve(tcp, router).with_graceful_shutdown(ended).await;
        }),
        Some((certificates, key)) => {
            let listener = TlsListener::start(tcp, certificates, key)?;
            tokio::spawn(async move {
                let _ = axum::serve(listener, router).with_graceful_shutdown(ended).await;
            })
        }
    })
}

/// Pings all hosts once. Their answers show which of them need their desired state.
async fn ping_at_start(pinger: Pinger, mut link: watch::Receiver<LinkState>) {
    while link.wait_for(LinkState::is_up).await.is_ok() {
        match pinger.ping_all().await {
            Ok(()) => return,
            Err(error) => tracing::warn!("cannot ping all hosts at start, will be retried: {error}"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Marks hosts that do not respond. Not while there is no broker, and for `silent_after` after
/// that, because no host can report then.
async fn mark_silent_hosts(store: Store, link: watch::Receiver<LinkState>, silent_after: Duration) {
    let period = (silent_after / 10).clamp(Duration::from_millis(100), Duration::from_secs(10));
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut up_since = Instant::now();
    loop {
        tick.tick().await;
        if !link.borrow().is_up() {
            up_since = Instant::now();
        }
        if up_since.elapsed() < silent_after {
            continue;
        }
        let micros = i64::try_from(silent_after.as_micros()).unwrap_or(i64::MAX);
        if let Err(error) = store.mark_silent(now().saturating_sub(micros)).await {
            tracing::warn!("cannot mark hosts that do not respond, will be retried: {error}");
        }
    }
}

async fn prune_events(store: Store, retention: Duration, max_events: u64) {
    let mut tick = interval(Duration::from_secs(60 * 60));
    loop {
        tick.tick().await;
        let micros = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        match store.prune_events(now().saturating_sub(micros), max_events).await {
            Ok(0) => {}
            Ok(pruned) => tracing::info!("deleted {pruned} old events"),
            Err(error) => tracing::warn!("cannot delete old events, will be retried in an hour: {error}"),
        }
    }
}

/// Looks for what other masters and commands have written: on each notification of PostgreSQL, and
/// once a second.
async fn watch_other_masters(store: Store, waiters: Arc<Waiters>) {
    const PERIOD: Duration = Duration::from_secs(1);
    let mut listener: Option<PgListener> = None;
    loop {
        if listener.is_none() {
            listener = store.listener().await.unwrap_or_else(|error| {
                tracing::warn!("LISTEN failed; polling for other masters' changes: {error}");
                None
            });
        }
        let heard = match &mut listener {
            Some(listener) => timeout(PERIOD, listener.recv()).await.ok(),
            None => {
                sleep(PERIOD).await;
                None
            }
        };
        match heard {
            Some(Ok(told)) if Store::is_about_replies(told.channel()) => {
                deliver_forwarded_reply(&store, &waiters, told.payload()).await;
                continue;
            }
            Some(Ok(_)) | None => {}
            Some(Err(error)) => {
                tracing::warn!(
                    "the connection for LISTEN failed; polling for other masters' changes: {error}"
                );
                listener = None;
                sleep(PERIOD).await;
            }
        }
        if let Err(error) = store.refresh_newest_event().await {
            tracing::warn!("cannot read events of other masters, will be retried: {error}");
            sleep(PERIOD).await;
        }
    }
}

/// Passes on a host's answer that another master received.
async fn deliver_forwarded_reply(store: &Store, waiters: &Waiters, id: &str) {
    if waiters.whose(id) != crate::replies::ReplyOwner::Own {
        return;
    }
    match store.take_reply(id).await {
        Ok(Some(body)) => match serde_json::from_str::<Reply>(&body) {
            Ok(reply) => waiters.answer(id, reply),
            Err(error) => {
                tracing::warn!("cannot decode a host's answer that another master forwarded: {error}")
            }
        },
        Ok(None) => {}
        Err(error) => tracing::warn!("cannot read a host's answer that another master forwarded: {error}"),
    }
}
