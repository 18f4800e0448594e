//! One HTTP request: proxy, TLS, and a handle that ends it from outside.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::Category;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body, http};
use url::Url;

use super::DownloadOptions;
use super::connections::{Connected, Shared};
use super::proxy::Proxy;
use crate::HostError;

/// For the name lookup and for the connection, each. What comes after is under the stall limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Per direction: downloads are bound by the network, and memory is what the agent must not use.
const BUFFER: usize = 32 * 1024;

/// Shared by the thread that downloads and the task that watches it.
#[derive(Default)]
pub struct Transfer {
    stopped: AtomicBool,
    progress: AtomicU64,
    finishing: AtomicBool,
    /// That of the request under way.
    connected: Mutex<Option<Connected>>,
}

impl Transfer {
    /// Ends the transfer: what blocks in a read or write fails at once, what comes later is not begun. A
    /// name lookup or connect under way ends at its own limit.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(connected) = self.let_go() {
            connected.agent.shutdown();
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Notes bytes received, or read back from the disk: either way it moves.
    pub fn add_progress(&self, bytes: usize) {
        self.progress.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// All bytes are here. What is left is up to the disk, and no stall however long it takes.
    pub fn finish(&self) {
        self.finishing.store(true, Ordering::Relaxed);
    }

    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Relaxed)
    }

    /// Makes this the one to shut down. After [`Transfer::stop`] that happens here and now.
    fn watch(&self, connected: Connected) {
        let mut watched = self.connected();
        match self.is_stopped() {
            true => connected.agent.shutdown(),
            false => *watched = Some(connected),
        }
    }

    /// What was watched: from now on a stop does nothing to it.
    pub fn let_go(&self) -> Option<Connected> {
        self.connected().take()
    }

    fn connected(&self) -> MutexGuard<'_, Option<Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the requests of one transfer.
pub struct Client<'a> {
    pub settings: &'a DownloadOptions,
    pub transfer: &'a Transfer,
    pub shared: &'a Shared,
}

impl Client<'_> {
    /// Sends a GET and waits for the answer's head, whatever its status. No redirect is followed.
    pub fn get(&self, url: &Url, headers: &[(&str, String)]) -> Result<http::Response<Body>, HostError> {
        let proxy = Proxy::of(url, self.settings)?;
        let refused = |error| {
            // Certificates may be what was wrong, and be mended before the next try.
            self.shared.forget_tls();
            HostError::new(Category::Network, describe(error))
        };
        if let Some(connected) = self.shared.take(url) {
            match self.request(connected, url, headers, proxy.as_ref()) {
                Ok(response) => return Ok(response),
                Err(error) if self.transfer.is_stopped() || !may_be_of_age(&error) => {
                    return Err(refused(error));
                }
                Err(error) => tracing::debug!(%error, "asking again, over a new connection"),
            }
        }
        let connected = Connected {
            origin: url.origin(),
            agent: self.agent(url, proxy.as_ref())?,
        };
        self.request(connected, url, headers, proxy.as_ref())
            .map_err(refused)
    }

    fn request(
        &self,
        connected: Connected,
        url: &Url,
        headers: &[(&str, String)],
        proxy: Option<&Proxy>,
    ) -> Result<http::Response<Body>, ureq::Error> {
        let mut request = connected.agent.get(url.as_str());
        self.transfer.watch(connected);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some((name, value)) = proxy.and_then(Proxy::authorization) {
            request = request.header(name, value);
        }
        request.call()
    }

    fn agent(&self, url: &Url, proxy: Option<&Proxy>) -> Result<Agent, HostError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy.and_then(Proxy::tunnel))
            .user_agent(concat!("hostagent/", env!("CARGO_PKG_VERSION")))
            // Packages are compressed; a digest is over the bytes as they are.
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER);
        if url.scheme() == "https" {
            config = config.tls_config(self.shared.tls(self.settings)?);
        }
        Ok(match proxy.and_then(Proxy::forwarding) {
            Some((resolver, connector)) => {
                // That connector gives one request its whole URL.
                let config = config.max_idle_connections(0).build();
                Agent::with_parts(config, connector, resolver)
            }
            None => config.max_idle_connections(1).build().new_agent(),
        })
    }
}

/// Whether a server may just have closed a connection that it took for idle: that says nothing of the server.
fn may_be_of_age(error: &ureq::Error) -> bool {
    !matches!(error, ureq::Error::Timeout(_) | ureq::Error::HostNotFound)
}

/// TLS with the roots that this host trusts, and nothing of `[download]`.
pub fn host_tls() -> Result<TlsConfig, HostError> {
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&host_certificates()?))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// TLS as `[download]` wants it.
pub fn tls_config(settings: &DownloadOptions) -> Result<TlsConfig, HostError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match &settings.ca_certs {
        Some(path) => certificates_of(path)?,
        None => host_certificates()?,
    };
    let client = match (&settings.certfile, &settings.keyfile) {
        (Some(certfile), Some(keyfile)) => Some(client_certificate(certfile, keyfile, &provider)?),
        _ => None,
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn host_certificates() -> Result<Vec<Certificate<'static>>, HostError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(HostError::new(
            Category::Host,
            "this host has no CA certificates: install its package ca-certificates, or set ca_certs in [download]",
        ));
    }
    let to_owned = |der: CertificateDer<'_>| Certificate::from_der(&der).to_owned();
    Ok(found.certs.into_iter().map(to_owned).collect())
}

fn certificates_of(path: &Path) -> Result<Vec<Certificate<'static>>, HostError> {
    let certificates: Vec<_> = pem_items(path)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(pem_error(path, "holds no PEM certificate")),
        false => Ok(certificates),
    }
}

fn client_certificate(
    certfile: &Path,
    keyfile: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientCert, HostError> {
    let chain = certificates_of(certfile)?;
    let key: PrivateKey<'static> = pem_items(keyfile)?
        .into_iter()
        .find_map(|item| match item {
            PemItem::PrivateKey(key) => Some(key),
            _ => None,
        })
        .ok_or_else(|| pem_error(keyfile, "holds no PEM private key"))?;
    // ureq panics on a key that does not fit, so it is tried here first.
    let der_chain = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()));
    PrivateKeyDer::try_from(key.der().to_vec())
        .map_err(str::to_owned)
        .and_then(|key| {
            rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_client_auth_cert(der_chain.collect(), key)
                .map_err(|error| error.to_string())
        })
        .map_err(|reason| pem_error(keyfile, &format!("does not fit {}: {reason}", certfile.display())))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn pem_items(path: &Path) -> Result<Vec<PemItem<'static>>, HostError> {
    let bytes = std::fs::read(path).map_err(|error| pem_error(path, &format!("cannot be read: {error}")))?;
    ureq::tls::parse_pem(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(path, &format!("is not valid PEM: {}", describe(error))))
}

fn pem_error(path: &Path, reason: &str) -> HostError {
    HostError::new(
        Category::Host,
        format!("{} of [download] {reason}", path.display()),
    )
}

/// Why a request failed, without the URL: it may hold credentials, and the caller names it.
pub fn describe(error: ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "the URL is not valid for a request".to_owned(),
        ureq::Error::Timeout(phase) => format!("timed out ({phase})"),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "the host's name has no address".to_owned(),
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        other => other.to_string(),
    }
}
