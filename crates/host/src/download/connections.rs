//! What one transfer leaves to the next: a connection to the same server, and the certificates that TLS trusts. It goes
//! with the last download that is under way, so that an idle agent holds none of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ureq::Agent;
use ureq::tls::TlsConfig;
use url::{Origin, Url};

use super::DownloadOptions;
use super::client::tls_config;
use crate::HostError;

/// Those of one downloader.
#[derive(Default)]
pub struct Connections(Mutex<Weak<Shared>>);

impl Connections {
    /// For as long as a download holds it.
    pub fn hold(&self) -> Arc<Shared> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *current = Arc::downgrade(&new);
            new
        })
    }
}

/// Shared by the downloads that are under way.
#[derive(Default)]
pub struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    idle: Vec<Connected>,
    tls: Option<TlsConfig>,
}

/// An agent of one server; it may have a connection there.
pub struct Connected {
    pub origin: Origin,
    pub agent: Agent,
}

impl Shared {
    /// One that nobody else has.
    pub fn take(&self, url: &Url) -> Option<Connected> {
        let origin = url.origin();
        let idle = &mut self.state().idle;
        let at = idle.iter().position(|connected| connected.origin == origin)?;
        Some(idle.swap_remove(at))
    }

    pub fn give_back(&self, connected: Connected) {
        self.state().idle.push(connected);
    }

    /// Read once for all of them.
    pub fn tls(&self, settings: &DownloadOptions) -> Result<TlsConfig, HostError> {
        let known = &mut self.state().tls;
        if let Some(tls) = known {
            return Ok(tls.clone());
        }
        let tls = tls_config(settings)?;
        *known = Some(tls.clone());
        Ok(tls)
    }

    pub fn forget_tls(&self) {
        self.state().tls = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
