//! Which master, with which token. The command line overrides the environment, which overrides
//! `bbctl.toml`, which overrides the defaults.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::{Host, Url};

mod file;

pub use file::{FileError, SettingsFile};

const DEFAULT_URL: &str = "http://127.0.0.1:8082/";

/// The origin of a setting, for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(file) => write!(f, "from {}", file.display()),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::Flag(name) => write!(f, "from {name}"),
        }
    }
}

/// The contents of `bbctl.toml`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSettings {
    pub url: Option<String>,
    pub token: Option<String>,
    pub ca: Option<PathBuf>,
    pub allow_plain_http: Option<bool>,
}

/// The settings on the command line.
#[derive(Debug, Clone, Default)]
pub struct SettingsFlags {
    pub url: Option<String>,
    pub token_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub allow_plain_http: bool,
}

/// The effective settings.
pub struct Settings {
    pub url: Url,
    pub url_origin: Origin,
    /// The secret and its origin.
    pub token: Option<(String, Origin)>,
    /// PEM file of the certificate authorities that are trusted for the master. `None`: the
    /// system's.
    pub ca: Option<PathBuf>,
    /// The file has a token, but for another master.
    pub token_kept_back: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{url:?} ({origin}) is not the URL of a master: {reason}; an example is http://127.0.0.1:8082")]
    Url {
        url: String,
        origin: Origin,
        reason: String,
    },
    #[error("cannot read the token file {file} (from --token-file)")]
    TokenFile { file: PathBuf, source: std::io::Error },
    #[error("the token {origin} is not valid: a token is one line of printable ASCII characters")]
    Token { origin: Origin },
    #[error("{name} is {value:?}; allowed are 1, true, 0 and false")]
    Boolean { name: &'static str, value: String },
    #[error(
        "{url} ({origin}) is unencrypted http to another machine: the token and the configs of \
         applications could be read on the network. Use https, or allow http with --allow-plain-http, \
         BBCTL_ALLOW_PLAIN_HTTP=1, or allow_plain_http = true in bbctl.toml"
    )]
    PlainHttp { url: Url, origin: Origin },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Settings {
    /// Combines all sources. `environment` returns the value of a variable.
    pub fn resolve(
        flags: &SettingsFlags,
        environment: impl Fn(&str) -> Option<String>,
        stored: &StoredSettings,
        file: &Path,
    ) -> Result<Self, SettingsError> {
        let environment = |name| environment(name).filter(|value| !value.is_empty());
        let in_file = || Origin::File(file.to_owned());
        let (url, url_origin) = if let Some(url) = &flags.url {
            (url.clone(), Origin::Flag("--url"))
        } else if let Some(url) = environment("BBCTL_URL") {
            (url, Origin::Environment("BBCTL_URL"))
        } else if let Some(url) = &stored.url {
            (url.clone(), in_file())
        } else {
            (DEFAULT_URL.to_owned(), Origin::Default)
        };
        let url = parse_url(&url, &url_origin)?;
        let plain_allowed = flags.allow_plain_http
            || match environment("BBCTL_ALLOW_PLAIN_HTTP") {
                Some(value) => boolean("BBCTL_ALLOW_PLAIN_HTTP", value)?,
                None => stored.allow_plain_http.unwrap_or(false),
            };
        if url.scheme() == "http" && !is_this_machine(&url) && !plain_allowed {
            return Err(SettingsError::PlainHttp {
                url,
                origin: url_origin,
            });
        }
        let mut token_kept_back = false;
        let token = if let Some(file) = &flags.token_file {
            let secret = std::fs::read_to_string(file).map_err(|source| SettingsError::TokenFile {
                file: file.clone(),
                source,
            })?;
            Some((secret.trim().to_owned(), Origin::Flag("--token-file")))
        } else if let Some(secret) = environment("BBCTL_TOKEN") {
            Some((secret, Origin::Environment("BBCTL_TOKEN")))
        } else if let Some(secret) = &stored.token {
            // The token is only for the master of that file and is not sent to others.
            let meant_for = stored.url.as_deref().unwrap_or(DEFAULT_URL);
            let fits = Url::parse(meant_for).is_ok_and(|meant| meant.origin() == url.origin());
            token_kept_back = !fits;
            fits.then(|| (secret.clone(), in_file()))
        } else {
            None
        };
        if let Some((secret, origin)) = &token {
            check_token(secret, origin)?;
        }
        let ca = flags
            .ca
            .clone()
            .or_else(|| environment("BBCTL_CA").map(PathBuf::from))
            .or_else(|| stored.ca.clone());
        Ok(Self {
            url,
            url_origin,
            token,
            ca,
            token_kept_back,
        })
    }
}

/// Checks that the secret can be sent in an HTTP header.
pub fn check_token(secret: &str, origin: &Origin) -> Result<(), SettingsError> {
    match !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(SettingsError::Token {
            origin: origin.clone(),
        }),
    }
}

pub fn parse_url(text: &str, origin: &Origin) -> Result<Url, SettingsError> {
    let refused = |reason: String| SettingsError::Url {
        url: text.to_owned(),
        origin: origin.clone(),
        reason,
    };
    let url = Url::parse(text).map_err(|error| refused(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("http or https is needed".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "it contains a user or password, which masters do not accept".to_owned(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it must not contain ? or #".to_owned()));
    }
    Ok(url)
}

fn boolean(name: &'static str, value: String) -> Result<bool, SettingsError> {
    match value.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(SettingsError::Boolean { name, value }),
    }
}

/// Whether the URL is on this machine, so that nothing is sent over a network.
pub fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests;
