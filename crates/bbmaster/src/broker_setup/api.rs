//! RabbitMQ's management API over HTTP.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, http};
use url::Url;

use super::wanted::{BrokerItem, SendMethod};

/// The login of an administrator of the broker.
#[derive(Clone)]
pub struct AdminLogin {
    pub user: String,
    pub password: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error(
        "{0:?} is not an http or https URL of a management API (example: http://rabbit.example.net:15672)"
    )]
    Url(String),
    #[error("{url}: {source}")]
    Http { url: String, source: Box<ureq::Error> },
    #[error("{url} answered {status}: {reason}")]
    Refused {
        url: String,
        status: u16,
        reason: String,
    },
    #[error("cannot use the certificates in {file}: {reason}")]
    Certificates { file: String, reason: String },
}

/// The management API of one broker.
pub struct ManagementApi {
    base: Url,
    authorization: String,
    agent: Agent,
}

const TIMEOUT: Duration = Duration::from_secs(30);

impl ManagementApi {
    /// `authorities`: PEM file of the trusted authorities of an https server. `None`: those of this
    /// host.
    pub fn new(base: &str, login: &AdminLogin, authorities: Option<&Path>) -> Result<Self, ManagementError> {
        let base = Url::parse(base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| ManagementError::Url(base.to_owned()))?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT));
        if base.scheme() == "https" {
            config = config.tls_config(tls(authorities)?);
        }
        let pair = format!("{}:{}", login.user, login.password);
        Ok(Self {
            base,
            authorization: format!("Basic {}", BASE64_STANDARD.encode(pair)),
            agent: config.build().new_agent(),
        })
    }

    fn url(&self, path: &[String]) -> String {
        let mut url = self.base.clone();
        // The URL has a host, so it has segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        url.to_string()
    }

    /// `None`: there is no such object.
    pub fn get(&self, path: &[String]) -> Result<Option<Value>, ManagementError> {
        let url = self.url(path);
        let request = self.agent.get(&url).header("Authorization", &self.authorization);
        let (status, body) = read(&url, request.call())?;
        match status {
            200 => Ok(Some(serde_json::from_str(&body).unwrap_or(Value::Null))),
            404 => Ok(None),
            _ => Err(refused(url, status, &body)),
        }
    }

    pub fn send(&self, item: &BrokerItem) -> Result<(), ManagementError> {
        let url = self.url(&item.path);
        let request = match item.method {
            SendMethod::Put => self.agent.put(&url),
            SendMethod::Post => self.agent.post(&url),
        };
        let request = request
            .header("Authorization", &self.authorization)
            .header("Content-Type", "application/json");
        let (status, body) = read(&url, request.send(item.body.to_string()))?;
        match status {
            200..=299 => Ok(()),
            _ => Err(refused(url, status, &body)),
        }
    }
}

fn read(
    url: &str,
    response: Result<http::Response<ureq::Body>, ureq::Error>,
) -> Result<(u16, String), ManagementError> {
    let failed = |source| ManagementError::Http {
        url: url.to_owned(),
        source: Box::new(source),
    };
    let mut response = response.map_err(failed)?;
    let body = response.body_mut().read_to_string().map_err(failed)?;
    Ok((response.status().as_u16(), body))
}

fn refused(url: String, status: u16, body: &str) -> ManagementError {
    let told: Option<Value> = serde_json::from_str(body).ok();
    let reason = match told.as_ref().and_then(|told| told["reason"].as_str()) {
        Some(reason) => reason.to_owned(),
        None if status == 401 => {
            "wrong user or password, or the user may not use the management API".to_owned()
        }
        None => "no reason given".to_owned(),
    };
    ManagementError::Refused { url, status, reason }
}

fn tls(authorities: Option<&Path>) -> Result<TlsConfig, ManagementError> {
    let roots = match authorities {
        Some(file) => certificates_of(file)?,
        None => rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect(),
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

fn certificates_of(file: &Path) -> Result<Vec<Certificate<'static>>, ManagementError> {
    let failed = |reason: String| ManagementError::Certificates {
        file: file.display().to_string(),
        reason,
    };
    let pem = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(failed(error.to_string()))),
        })
        .collect()
}
