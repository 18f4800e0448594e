//! URLs as they may be shown: credentials and signatures are left out.

use std::fmt;

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

/// A URL as it may be printed: without `user:password@`, without query and fragment (pre-signed URLs
/// carry their signature there). Works on whatever text there is, valid URL or not.
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
    fn a_proxy_url_is_shown_without_its_credentials() {
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
