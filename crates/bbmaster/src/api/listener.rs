//! TLS of the REST API. A renewed certificate is used from the next connection on.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// Accepts connections and performs their handshakes. A slow handshake does not delay other
/// connections.
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<Connection>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file}: {source}")]
    Pem { file: String, source: pem::Error },
    #[error("cannot use [tls] certfile and keyfile: {0}")]
    Config(#[from] rustls::Error),
    #[error("cannot read the address of the listener: {0}")]
    Address(#[from] io::Error),
}

const HANDSHAKE: Duration = Duration::from_secs(10);

impl TlsListener {
    /// Starts to accept on `tcp`, with the certificate chain and key of these PEM files.
    pub fn start(tcp: TcpListener, certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let identity = ListenerIdentity::read(certificates, key)?;
        let address = tcp.local_addr()?;
        let (done, ready) = mpsc::channel(64);
        tokio::spawn(accept(tcp, identity, done));
        Ok(Self { address, ready })
    }
}

/// The certificate in use, and the files that it was read from.
struct ListenerIdentity {
    certificates: PathBuf,
    key: PathBuf,
    stamps: [Option<FileStamp>; 2],
    acceptor: TlsAcceptor,
}

/// Changes when a file is written or replaced.
type FileStamp = (u64, u64, SystemTime);

fn stamp(file: &Path) -> Option<FileStamp> {
    let found = std::fs::metadata(file).ok()?;
    Some((found.ino(), found.len(), found.modified().ok()?))
}

impl ListenerIdentity {
    fn read(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        // Before the files: a change during the read is noticed later.
        let stamps = [certificates, key].map(stamp);
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config(certificates, key)?)),
            certificates: certificates.to_owned(),
            key: key.to_owned(),
            stamps,
        })
    }

    /// The certificate of the files as they are now. If they cannot be used (one of them may not be
    /// written yet), the previous one.
    fn current(&mut self) -> TlsAcceptor {
        let stamps = [&self.certificates, &self.key].map(|file| stamp(file));
        if stamps != self.stamps {
            match Self::read(&self.certificates, &self.key) {
                Ok(renewed) => {
                    tracing::info!("reloaded the certificate of the listener");
                    *self = renewed;
                }
                Err(error) => {
                    tracing::warn!(
                        "cannot reload the certificate of the listener, the previous one stays in use: {error}"
                    );
                    self.stamps = stamps;
                }
            }
        }
        self.acceptor.clone()
    }
}

fn config(certificates: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let in_file = |file: &Path| {
        let file = file.display().to_string();
        move |source| TlsError::Pem { file, source }
    };
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(in_file(certificates))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(in_file(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn accept(tcp: TcpListener, mut identity: ListenerIdentity, done: mpsc::Sender<Connection>) {
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = done.closed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let handshake = identity.current().accept(stream);
                let done = done.clone();
                tokio::spawn(async move {
                    match timeout(HANDSHAKE, handshake).await {
                        // An error means that the master is stopping.
                        Ok(Ok(stream)) => drop(done.send((stream, peer)).await),
                        Ok(Err(error)) => tracing::debug!(%peer, "TLS handshake failed: {error}"),
                        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                    }
                });
            }
            Err(error) => {
                // Usually there are no free file descriptors. Wait for some.
                tracing::warn!("cannot accept a connection, will be retried: {error}");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task above ends after this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
