//! `no_proxy`: hosts that are reached without the proxy, as curl reads it. Pure.

use std::net::IpAddr;

use url::{Host, Url};

/// One entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NoProxyEntry {
    All,
    /// This domain and all below it.
    Domain(String, Option<u16>),
    Network(IpAddr, u32, Option<u16>),
}

impl NoProxyEntry {
    /// `None`: it can never match.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        let (host, port) = split_port(&text)?;
        if let Some((address, length)) = host.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let length: u32 = length.parse().ok()?;
            return (length <= bits_of(address)).then_some(Self::Network(address, length, port));
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Network(address, bits_of(address), port));
        }
        let domain = host.strip_prefix('*').unwrap_or(host);
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = !domain.is_empty() && domain.chars().all(allowed);
        is_name.then(|| Self::Domain(domain.to_owned(), port))
    }

    fn matches(&self, host: &Host<&str>, port: Option<u16>) -> bool {
        let port_matches = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        let address = match host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::from(*address)),
            Host::Ipv6(address) => Some(IpAddr::from(*address)),
        };
        match (self, host, address) {
            (Self::All, ..) => true,
            (Self::Domain(domain, wanted), Host::Domain(host), _) => {
                let below = host.strip_suffix(domain.as_str());
                let is_same = below.is_some_and(|below| below.is_empty() || below.ends_with('.'));
                is_same && port_matches(wanted)
            }
            (Self::Network(network, length, wanted), _, Some(address)) => {
                contains(*network, *length, address) && port_matches(wanted)
            }
            (Self::Domain(..) | Self::Network(..), ..) => false,
        }
    }
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        // More than one colon: an IPv6 address.
        Some((host, port)) if !port.contains(':') => Some((host, Some(port.parse().ok()?))),
        _ => Some((text, None)),
    }
}

fn bits_of(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn contains(network: IpAddr, length: u32, address: IpAddr) -> bool {
    // The bits below the network's, shifted out; a shift by all bits leaves nothing to compare.
    let (different, bits) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (u128::from(network.to_bits() ^ address.to_bits()), 32),
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits() ^ address.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    different.checked_shr(bits - length).unwrap_or(0) == 0
}

/// Whether `url` is reached without the proxy.
pub(super) fn bypasses_proxy(url: &Url, no_proxy: &[String]) -> bool {
    let Some(host) = url.host() else { return false };
    no_proxy
        .iter()
        .filter_map(|entry| NoProxyEntry::parse(entry))
        .any(|entry| entry.matches(&host, url.port_or_known_default()))
}

/// Whether an entry of `no_proxy` can match any host.
pub fn is_no_proxy_entry(text: &str) -> bool {
    NoProxyEntry::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bypasses(url: &str, list: &[&str]) -> bool {
        let list: Vec<String> = list.iter().map(|entry| (*entry).to_owned()).collect();
        bypasses_proxy(&Url::parse(url).unwrap(), &list)
    }

    /// R33.
    #[test]
    fn entries_match_as_in_curl() {
        let list = [
            ".corp.example",
            "Localhost",
            "*.x",
            "10.0.0.0/8",
            "::1",
            "fd00::/8",
            "repo.example:8080",
            "[fe80::1]:81",
        ];
        for (url, expected) in [
            ("http://a.corp.example/a", true),
            ("http://corp.example/a", true),
            ("http://evilcorp.example/a", false),
            ("http://LOCALHOST/a", true),
            ("http://localhost.evil/a", false),
            ("http://a.x/a", true),
            ("http://10.1.2.3/a", true),
            ("http://11.1.2.3/a", false),
            ("http://[::1]:8000/a", true),
            ("http://[::2]/a", false),
            ("https://[fd12::3]/a", true),
            ("http://repo.example:8080/a", true),
            ("http://repo.example/a", false),
            ("http://[fe80::1]:81/a", true),
            ("http://[fe80::1]/a", false),
        ] {
            assert_eq!(bypasses(url, &list), expected, "{url}");
        }
        assert!(bypasses("http://any/", &["*"]));
        assert!(!bypasses("http://any/", &[]));
        assert!(bypasses("http://1.2.3.4/", &["0.0.0.0/0"]));
    }

    #[test]
    fn an_entry_that_never_matches_is_known() {
        for entry in ["*", "a.b", ".a", "a:1", "10.0.0.0/8", "::1", "[::1]:1"] {
            assert!(is_no_proxy_entry(entry), "{entry}");
        }
        for entry in ["", "http://a", "a/b", "10.0.0.0/33", "a:b", "a b", "[::1"] {
            assert!(!is_no_proxy_entry(entry), "{entry}");
        }
    }
}
