//! One HTTP request: proxy, TLS, and a handle to end it from another task.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::Category;
use ureq::{Agent, Body, http};
use url::Url;

use super::DownloadOptions;
use super::connections::{ServerAgent, SharedConnections};
use super::proxy::Proxy;
use crate::HostError;

/// For each of the name lookup and the connection. The stall timeout applies to the rest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Per direction. Small: downloads are bound by the network, and the agent must use little memory.
const BUFFER: usize = 32 * 1024;

/// Shared by the thread that downloads and the task that watches it.
#[derive(Default)]
pub struct Transfer {
    stopped: AtomicBool,
    progress: AtomicU64,
    finishing: AtomicBool,
    /// The agent of the current request.
    current: Mutex<Option<ServerAgent>>,
}

impl Transfer {
    /// Ends the transfer: a blocked read or write fails at once, and nothing new begins. A name
    /// lookup or connect in progress ends at its own timeout.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(current) = self.release() {
            current.agent.shutdown();
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Counts bytes received, or read back from the disk: both are progress.
    pub fn add_progress(&self, bytes: usize) {
        self.progress.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// All bytes have arrived. The rest depends on the disk and is no stall, however long it takes.
    pub fn finish(&self) {
        self.finishing.store(true, Ordering::Relaxed);
    }

    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Relaxed)
    }

    /// From now on [`Transfer::stop`] shuts this agent down; at once if it was called before.
    fn watch(&self, server: ServerAgent) {
        let mut current = self.current();
        match self.is_stopped() {
            true => server.agent.shutdown(),
            false => *current = Some(server),
        }
    }

    /// The agent of the current request: from now on [`Transfer::stop`] does not affect it.
    pub fn release(&self) -> Option<ServerAgent> {
        self.current().take()
    }

    fn current(&self) -> MutexGuard<'_, Option<ServerAgent>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the requests of one transfer.
pub struct Client<'a> {
    pub settings: &'a DownloadOptions,
    pub transfer: &'a Transfer,
    pub shared: &'a SharedConnections,
}

impl Client<'_> {
    /// Sends a GET and returns the answer's head, whatever its status. Follows no redirect.
    pub fn get(&self, url: &Url, headers: &[(&str, String)]) -> Result<http::Response<Body>, HostError> {
        let proxy = Proxy::of(url, self.settings)?;
        let refused = |error| {
            // The cause may be certificates that are fixed before the next try.
            self.shared.forget_tls();
            HostError::new(Category::Network, describe(error))
        };
        if let Some(connected) = self.shared.take(url) {
            match self.request(connected, url, headers, proxy.as_ref()) {
                Ok(response) => return Ok(response),
                Err(error) if self.transfer.is_stopped() || !may_be_idle_close(&error) => {
                    return Err(refused(error));
                }
                Err(error) => tracing::debug!(%error, "repeating the request over a new connection"),
            }
        }
        let connected = ServerAgent {
            origin: url.origin(),
            agent: self.agent(url, proxy.as_ref())?,
        };
        self.request(connected, url, headers, proxy.as_ref())
            .map_err(refused)
    }

    fn request(
        &self,
        connected: ServerAgent,
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
            // Packages are compressed already, and the digest is of the unencoded bytes.
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
                // The connector rewrites only one request for each connection.
                let config = config.max_idle_connections(0).build();
                Agent::with_parts(config, connector, resolver)
            }
            None => config.max_idle_connections(1).build().new_agent(),
        })
    }
}

/// Whether the server may just have closed an idle connection. Such an error says nothing about the
/// server.
fn may_be_idle_close(error: &ureq::Error) -> bool {
    !matches!(error, ureq::Error::Timeout(_) | ureq::Error::HostNotFound)
}

/// Why a request failed. Without the URL, which may hold credentials: the caller shows it.
pub fn describe(error: ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "the URL is not valid".to_owned(),
        ureq::Error::Timeout(phase) => format!("timed out ({phase})"),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "the host name has no address".to_owned(),
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        other => other.to_string(),
    }
}
