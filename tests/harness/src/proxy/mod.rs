//! A TCP proxy with faults, and a broker that sends wrong limits in its handshake.
//!
//! Each has its own thread and runtime, so that it works while a test's runtime is busy. It ends
//! when dropped.

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

/// What the proxy does with connections and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// Connections stay open and new ones are accepted, but no bytes are forwarded, as with an
    /// unplugged cable.
    Freeze,
    /// New connections are accepted (with a TLS handshake, if the proxy uses TLS) and get no
    /// answer.
    Mute,
    /// New connections are reset at once.
    Refuse,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<ProxyState>,
    _server: ServerThread,
}

struct ProxyState {
    upstream: u16,
    mode: watch::Sender<Mode>,
    reset: broadcast::Sender<()>,
    accepted: AtomicUsize,
    first_bytes: Mutex<Vec<u8>>,
}

impl Proxy {
    /// A proxy to a port of this computer.
    pub fn start(upstream: u16) -> Result<Self> {
        Self::listen(upstream, None)
    }

    /// As [`Self::start`], but clients must use TLS. The proxy has this certificate and forwards
    /// unencrypted.
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
        let shared = Arc::new(ProxyState {
            upstream,
            mode: watch::Sender::new(Mode::Forward),
            reset: broadcast::Sender::new(1),
            accepted: AtomicUsize::new(0),
            first_bytes: Mutex::default(),
        });
        let (port, server) = ServerThread::start("proxy", {
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
        // An error means that there is no connection.
        let _ = self.shared.reset.send(());
    }

    /// Number of accepted connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The first bytes that the newest client has sent.
    pub fn first_bytes(&self) -> Vec<u8> {
        self.shared
            .first_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn carry(shared: Arc<ProxyState>, tls: Option<TlsAcceptor>, client: TcpStream) {
    let mut mode = shared.mode.subscribe();
    let mut reset = shared.reset.subscribe();
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    // If the proxy ends the connection, it ends with a reset. If the peer behind the proxy has
    // ended it, it ends with a FIN, by `shutdown` below.
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
        // The result does not matter: the peer sees the end of its connection.
        _ = served => {}
        _ = reset.recv() => {}
    }
}

async fn serve(
    shared: &ProxyState,
    mode: &mut watch::Receiver<Mode>,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    if *mode.borrow() == Mode::Mute {
        // Reads, so that it notices when the client closes the connection.
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
        return Ok(());
    }
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream)).await?;
    let (mut from_client, mut from_upstream) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        wait_for(mode, |mode| mode != Mode::Freeze).await?;
        // Both reads are cancel-safe: a cancelled read has not read anything.
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

/// A listener with its own thread and runtime.
struct ServerThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ServerThread {
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
            thread: Some(thread.context("cannot start the proxy's thread")?),
        };
        Ok((port, server))
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
