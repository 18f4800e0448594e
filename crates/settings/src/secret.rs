//! Values that must not appear in a log, an error or a support bundle.

use std::fmt;

/// What is shown in place of a secret.
pub const HIDDEN: &str = "******";

/// A password: neither `Debug` nor `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for code that sends it to the peer.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// `http://[user:password@]host:port`: shown without the user and the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// With its credentials.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

/// A URL as it may be printed: without `user:password@`, query and fragment (a pre-signed URL has
/// its signature there). Accepts any text, not only valid URLs.
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match path.split_once(['?', '#']) {
        Some((path, _)) => format!("{scheme}{host}{path}?..."),
        None => format!("{scheme}{host}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "****** ******");
        let proxy = ProxyUrl::new("http://me:hunter2@proxy:3128");
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "http://proxy:3128 http://proxy:3128"
        );
    }

    #[test]
    fn urls_lose_credentials_and_query_only() {
        for (url, shown) in [
            ("https://h/a.deb", "https://h/a.deb"),
            ("https://u:p@h:8/a.deb", "https://h:8/a.deb"),
            ("https://u:p@x@h/a@b.deb", "https://h/a@b.deb"),
            ("https://h/a.deb?X-Signature=abc", "https://h/a.deb?..."),
            ("https://u:p@h?q", "https://h?..."),
            ("https://h/a#f", "https://h/a?..."),
            ("u:p@h", "h"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(url), shown, "{url}");
        }
    }
}
