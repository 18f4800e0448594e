//! A TCP proxy that misbehaves on demand, and a broker that lies in its handshake.
//!
//! Each runs on a thread and runtime of its own: it goes on while a test's own runtime is busy, and ends
//! when it is dropped.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot, watch};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificate;

mod evil;
pub use evil::{EvilBroker, Tune};

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// Connections stay, new ones are accepted, and nothing moves: what a cable pulled out looks like.
    Freeze,
    /// New connections are accepted (and, where the proxy speaks TLS, shake hands) and get no answer.
    Mute,
    /// New connections are reset at once.
    Refuse,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    _server: Server,
}

struct Shared {
    upstream: u16,
    mode: watch::Sender<Mode>,
    reset: broadcast::Sender<()>,
    accepted: AtomicUsize,
    first_bytes: Mutex<Vec<u8>>,
}

impl Proxy {
    /// To a port of this machine.
    pub fn start(upstream: u16) -> Result<Self> {
        Self::listen(upstream, None)
    }

    /// The same behind TLS: ends it with this certificate and passes plain text on.
    pub fn start_tls(upstream: u16, certificate: &Certificate) -> Result<Self> {
        let chain =
            CertificateDer::pem_slice_iter(certificate.certificate.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Self::listen(upstream, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn listen(upstream: u16, tls: Option<TlsAcceptor>) -> Result<Self> {
        let shared = Arc::new(Shared {
            upstream,
            mode: watch::Sender::new(Mode::Forward),
            reset: broadcast::Sender::new(1),
            accepted: AtomicUsize::new(0),
            first_bytes: Mutex::default(),
        });
        let (port, server) = Server::start("proxy", {
            let shared = shared.clone();
            move |client| carry(shared.clone(), tls.clone(), client)
        })?;
        Ok(Self {
            port,
            shared,
            _server: server,
        })
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Ends all connections with a TCP reset.
    pub fn reset_all(&self) {
        // An error means that there is none.
        let _ = self.shared.reset.send(());
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// What the newest client said first, as it came over the wire.
    pub fn first_bytes(&self) -> Vec<u8> {
        self.shared
            .first_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn carry(shared: Arc<Shared>, tls: Option<TlsAcceptor>, client: TcpStream) {
    let mut mode = shared.mode.subscribe();
    let mut reset = shared.reset.subscribe();
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    // Whatever ends the connection from our side ends it with a reset; only what the other side of the
    // proxy ended is ended with a FIN, by `shutdown` below.
    let _ = client.set_zero_linger();
    if *mode.borrow() == Mode::Refuse {
        return;
    }
    let mut first = [0; 8];
    if let Ok(length) = client.peek(&mut first).await {
        *shared.first_bytes.lock().unwrap_or_else(PoisonError::into_inner) = first[..length].to_vec();
    }
    let served = async {
        match tls {
            Some(tls) => serve(&shared, &mut mode, tls.accept(client).await?).await,
            None => serve(&shared, &mut mode, client).await,
        }
    };
    tokio::select! {
        // Nobody is interested in why: the peer sees the end of its connection.
        _ = served => {}
        _ = reset.recv() => {}
    }
}

async fn serve(
    shared: &Shared,
    mode: &mut watch::Receiver<Mode>,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    if *mode.borrow() == Mode::Mute {
        // Reads, so that it sees the client go.
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
        return Ok(());
    }
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream)).await?;
    let (mut from_client, mut from_upstream) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        wait_for(mode, |mode| mode != Mode::Freeze).await?;
        // Both reads are cancel-safe: either all of a read happened, or nothing.
        let moved = tokio::select! {
            frozen = wait_for(mode, |mode| mode == Mode::Freeze) => {
                frozen?;
                continue;
            }
            length = client.read(&mut from_client) => {
                let length = length?;
                upstream.write_all(&from_client[..length]).await?;
                length
            }
            length = upstream.read(&mut from_upstream) => {
                let length = length?;
                client.write_all(&from_upstream[..length]).await?;
                client.flush().await?;
                length
            }
        };
        if moved == 0 {
            client.shutdown().await?;
            return Ok(());
        }
    }
}

async fn wait_for(mode: &mut watch::Receiver<Mode>, wanted: impl Fn(Mode) -> bool) -> Result<()> {
    while !wanted(*mode.borrow_and_update()) {
        mode.changed().await?;
    }
    Ok(())
}

/// A listener on a thread and runtime of its own.
struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start<F>(name: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<(u16, Self)>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let listener = {
            let _runtime = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async move {
                let accepting = async {
                    loop {
                        if let Ok((client, _)) = listener.accept().await {
                            tokio::spawn(serve(client));
                        }
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        let server = Self {
            stop: Some(stop),
            thread: Some(thread.context("a thread for the proxy")?),
        };
        Ok((port, server))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
