//! Errors of requests to a master.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use protocol::rest::Problem;
use rustls::{CertificateError, InvalidMessage};
use ureq::http::Response;
use url::Url;

use crate::settings::Origin;

/// The origins of the settings of a request, for error messages.
#[derive(Debug, Clone)]
pub struct SettingOrigins {
    pub url: Origin,
    /// `None`: there was no token.
    pub token: Option<Origin>,
    /// There is a stored token, but for another master.
    pub token_kept_back: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the master at {url} ({origin}): {reason}{advice}")]
    Unreachable {
        url: String,
        origin: Origin,
        reason: String,
        advice: &'static str,
    },
    /// The master answered with a problem.
    #[error("{text}")]
    Refused { problem: Box<Problem>, text: String },
    #[error(
        "the server at {url} ({origin}) is not a bbmaster, or its version does not match: {reason}\nTo see \
         its answer: curl {url}"
    )]
    NotAMaster {
        url: String,
        origin: Origin,
        reason: String,
    },
    #[error("the certificates in {file} (--ca, BBCTL_CA or ca in bbctl.toml) cannot be used: {reason}")]
    Authorities { file: PathBuf, reason: String },
}

impl ClientError {
    pub(super) fn unreachable(url: &Url, error: ureq::Error, origins: &SettingOrigins) -> Self {
        let (reason, advice) = match &error {
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => (
                "connection refused".to_owned(),
                "\nStart the master (`bbmaster run`), or use another URL: --url, BBCTL_URL, or `bbctl \
                 login URL`",
            ),
            ureq::Error::HostNotFound => ("the host name is unknown".to_owned(), USE_ANOTHER_URL),
            ureq::Error::Timeout(_) => ("it did not answer in time".to_owned(), ""),
            ureq::Error::Io(io) => (chain(io), advice_on_tls(io)),
            error => (chain(error), ""),
        };
        Self::Unreachable {
            url: base(url),
            origin: origins.url.clone(),
            reason,
            advice,
        }
    }

    pub(super) fn refused<B>(
        url: &Url,
        response: &Response<B>,
        body: &[u8],
        origins: &SettingOrigins,
    ) -> Self {
        let status = response.status();
        let is_problem = response
            .headers()
            .get("Content-Type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/problem+json"));
        let problem: Option<Problem> = is_problem.then(|| serde_json::from_slice(body).ok()).flatten();
        if let Some(problem) = problem {
            let text = in_words(&problem, url, origins);
            return Self::Refused {
                problem: Box::new(problem),
                text,
            };
        }
        let reason = match response.headers().get("Location").and_then(|to| to.to_str().ok()) {
            Some(to) => format!("it answers {status} with a redirect to {to}"),
            None => format!("it answers {status} without a reason"),
        };
        Self::NotAMaster {
            url: url.to_string(),
            origin: origins.url.clone(),
            reason,
        }
    }

    /// Whether a retry may succeed: the master is not reachable or not ready.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => problem.status == 503,
            // The answer of a proxy whose master is not reachable.
            Self::NotAMaster { reason, .. } => reason.contains(" 50"),
            Self::Authorities { .. } => false,
        }
    }

    /// The kind of the problem, if the master answered with one.
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.kind),
            Self::Unreachable { .. } | Self::NotAMaster { .. } | Self::Authorities { .. } => None,
        }
    }
}

const USE_ANOTHER_URL: &str = "\nUse another URL: --url, BBCTL_URL, or `bbctl login URL`";

fn advice_on_tls(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "\nThis system does not trust the authority that signed the master's certificate. Name the \
             authority's file with --ca, BBCTL_CA or ca in bbctl.toml"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "\nUse a host name that is in the master's certificate",
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "\nThe server does not use TLS on this port. If it uses plain http, write http:// instead of \
             https://"
        }
        _ => "",
    }
}

/// An error and its sources, without repetitions.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {part}");
        }
        next = source.source();
    }
    text
}

/// The URL of the master, without the route.
fn base(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn in_words(problem: &Problem, url: &Url, origins: &SettingOrigins) -> String {
    let mut text = match (&problem.path, &problem.detail) {
        (Some(path), Some(detail)) => format!("{path}: {detail}"),
        (None, Some(detail)) => detail.clone(),
        (_, None) => problem.title.clone(),
    };
    let master = base(url);
    // Writing to a string cannot fail.
    let _ = match problem.status {
        401 => write!(text, "\n{}", advice_on_tokens(origins, &master)),
        403 => write!(
            text,
            "\nUse a token with that role: `bbctl login {master}`, or BBCTL_TOKEN"
        ),
        404 if problem.path.is_none() => write!(text, " ({})", url.path()),
        _ => Ok(()),
    };
    format!(
        "the master at {master} answers {} {}: {text}",
        problem.status, problem.title
    )
}

fn advice_on_tokens(origins: &SettingOrigins, master: &str) -> String {
    let advice = format!(
        "`bbctl login {master}` stores a token; BBCTL_TOKEN or --token-file set one for a single command"
    );
    match &origins.token {
        Some(origin) => format!("The token was taken {origin}. {advice}"),
        None if origins.token_kept_back => {
            format!("The stored token is for another master, so it was not sent. {advice}")
        }
        None => format!("No token was sent. {advice}"),
    }
}
