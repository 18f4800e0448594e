//! What goes wrong between here and a master, in words.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use protocol::rest::Problem;
use rustls::{CertificateError, InvalidMessage};
use ureq::http::Response;
use url::Url;

use crate::settings::Origin;

/// Where the settings of a request come from, for what is said when it fails.
#[derive(Debug, Clone)]
pub struct Whence {
    pub url: Origin,
    /// `None`: there was no token.
    pub token: Option<Origin>,
    /// There is one, for another master.
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
    /// The master said no.
    #[error("{text}")]
    Refused { problem: Box<Problem>, text: String },
    #[error(
        "what answers at {url} ({origin}) is no bbmaster, or one of another version: {reason}\nSee what is there: \
         curl {url}"
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
    pub(super) fn unreachable(url: &Url, error: ureq::Error, whence: &Whence) -> Self {
        let (reason, advice) = match &error {
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => (
                "nothing listens there".to_owned(),
                "\nStart the master (`bbmaster run`), or name another one: --url, BBCTL_URL, or `bbctl login URL`",
            ),
            ureq::Error::HostNotFound => ("there is no machine of this name".to_owned(), NAME_ANOTHER),
            ureq::Error::Timeout(_) => ("it did not answer in time".to_owned(), ""),
            ureq::Error::Io(io) => (chain(io), advice_on_tls(io)),
            error => (chain(error), ""),
        };
        Self::Unreachable {
            url: base(url),
            origin: whence.url.clone(),
            reason,
            advice,
        }
    }

    pub(super) fn refused<B>(url: &Url, response: &Response<B>, body: &[u8], whence: &Whence) -> Self {
        let status = response.status();
        let is_problem = response
            .headers()
            .get("Content-Type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/problem+json"));
        let told: Option<Problem> = is_problem.then(|| serde_json::from_slice(body).ok()).flatten();
        if let Some(problem) = told {
            let text = in_words(&problem, url, whence);
            return Self::Refused {
                problem: Box::new(problem),
                text,
            };
        }
        let reason = match response.headers().get("Location").and_then(|to| to.to_str().ok()) {
            Some(to) => format!("it answers {status} and sends us on to {to}"),
            None => format!("it answers {status} without saying why"),
        };
        Self::NotAMaster {
            url: url.to_string(),
            origin: whence.url.clone(),
            reason,
        }
    }

    /// Whether the same request may succeed a little later: the master is away, or not ready.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => problem.status == 503,
            // A proxy before a master that is away.
            Self::NotAMaster { reason, .. } => reason.contains(" 50"),
            Self::Authorities { .. } => false,
        }
    }

    /// The kind of a problem document, where it is one.
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.kind),
            Self::Unreachable { .. } | Self::NotAMaster { .. } | Self::Authorities { .. } => None,
        }
    }
}

const NAME_ANOTHER: &str = "\nName another one: --url, BBCTL_URL, or `bbctl login URL`";

fn advice_on_tls(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "\nIts certificate is by an authority that this system does not trust: name the authority's file with \
             --ca, BBCTL_CA or ca in bbctl.toml"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "\nUse a name that its certificate is for",
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "\nIt does not speak TLS there: is it http:// rather than https://?"
        }
        _ => "",
    }
}

/// An error and what is under it, without what repeats it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {said}");
        }
        next = source.source();
    }
    text
}

/// A URL as the operator gave it, without the route.
fn base(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn in_words(problem: &Problem, url: &Url, whence: &Whence) -> String {
    let mut text = match (&problem.path, &problem.detail) {
        (Some(path), Some(detail)) => format!("{path}: {detail}"),
        (None, Some(detail)) => detail.clone(),
        (_, None) => problem.title.clone(),
    };
    let master = base(url);
    // Writing to a string cannot fail.
    let _ = match problem.status {
        401 => write!(text, "\n{}", on_tokens(whence, &master)),
        403 => write!(
            text,
            "\nUse a token of that role: `bbctl login {master}`, or BBCTL_TOKEN"
        ),
        404 if problem.path.is_none() => write!(text, " ({})", url.path()),
        _ => Ok(()),
    };
    format!(
        "the master at {master} says {} {}: {text}",
        problem.status, problem.title
    )
}

fn on_tokens(whence: &Whence, master: &str) -> String {
    let advice = format!("`bbctl login {master}` stores one; BBCTL_TOKEN or --token-file give one for once");
    match &whence.token {
        Some(origin) => format!("The token was taken {origin}. {advice}"),
        None if whence.token_kept_back => {
            format!("The token that is stored is for another master, and was not sent. {advice}")
        }
        None => format!("No token was sent. {advice}"),
    }
}
