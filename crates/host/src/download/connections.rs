//! What downloads share: idle connections, and the TLS set-up with the trusted certificates.
//! Dropped with the last download in progress, so that an idle agent keeps none of it in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ureq::Agent;
use ureq::tls::TlsConfig;
use url::{Origin, Url};

use super::DownloadOptions;
use super::tls::{ClientFiles, tls_config};
use crate::HostError;

/// The connections of one downloader.
#[derive(Default)]
pub struct Connections(Mutex<Weak<SharedConnections>>);

impl Connections {
    /// Kept as long as a download holds it.
    pub fn hold(&self) -> Arc<SharedConnections> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *current = Arc::downgrade(&new);
            new
        })
    }
}

/// Shared by the downloads in progress.
#[derive(Default)]
pub struct SharedConnections(Mutex<IdleConnections>);

#[derive(Default)]
struct IdleConnections {
    agents: Vec<ServerAgent>,
    tls: Option<TlsConfig>,
}

/// An HTTP agent for one server. It may hold an open connection.
pub struct ServerAgent {
    pub origin: Origin,
    pub agent: Agent,
}

impl SharedConnections {
    /// An idle agent for the server of `url`.
    pub fn take(&self, url: &Url) -> Option<ServerAgent> {
        let origin = url.origin();
        let agents = &mut self.idle().agents;
        let at = agents.iter().position(|server| server.origin == origin)?;
        Some(agents.swap_remove(at))
    }

    pub fn give_back(&self, server: ServerAgent) {
        self.idle().agents.push(server);
    }

    /// Made once for all downloads in progress.
    pub fn tls(&self, settings: &DownloadOptions) -> Result<TlsConfig, HostError> {
        let known = &mut self.idle().tls;
        if let Some(tls) = known {
            return Ok(tls.clone());
        }
        let client = match (&settings.certfile, &settings.keyfile) {
            (Some(certfile), Some(keyfile)) => Some(ClientFiles { certfile, keyfile }),
            _ => None,
        };
        let tls = tls_config(settings.ca_certs.as_deref(), client)?;
        *known = Some(tls.clone());
        Ok(tls)
    }

    pub fn forget_tls(&self) {
        self.idle().tls = None;
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
