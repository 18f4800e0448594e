//! The HTTP proxy: a tunnel (`CONNECT`) for https. For http the proxy gets the request itself, with
//! the whole URL: most proxies tunnel only to port 443, and cache http.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::Category;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport,
};
use ureq::{Error, ProxyProtocol};
use url::Url;

use super::DownloadOptions;
use super::no_proxy::bypasses_proxy;
use crate::HostError;

/// How one request goes through its proxy.
pub enum Proxy {
    Tunnel(ureq::Proxy),
    Forward {
        proxy: Uri,
        /// Comes before the request's path: `http://host:port`.
        origin: String,
        authorization: Option<String>,
    },
}

impl Proxy {
    /// The proxy for `url`, if there is one and `no_proxy` does not name the host.
    pub fn of(url: &Url, settings: &DownloadOptions) -> Result<Option<Self>, HostError> {
        let is_https = url.scheme() == "https";
        let configured = match is_https {
            true => &settings.https_proxy,
            false => &settings.http_proxy,
        };
        let Some(configured) = configured else {
            return Ok(None);
        };
        if bypasses_proxy(url, &settings.no_proxy) {
            return Ok(None);
        }
        let proxy = Url::parse(configured.expose()).ok();
        let made = proxy.and_then(|proxy| match is_https {
            true => tunnel(&proxy),
            false => forward(&proxy, url),
        });
        match made {
            Some(proxy) => Ok(Some(proxy)),
            None => {
                let message = format!("the proxy URL {configured} is not valid");
                Err(HostError::new(Category::Host, message))
            }
        }
    }

    pub fn tunnel(&self) -> Option<ureq::Proxy> {
        match self {
            Self::Tunnel(proxy) => Some(proxy.clone()),
            Self::Forward { .. } => None,
        }
    }

    /// Makes an agent connect to the proxy instead of the server.
    pub fn forwarding(&self) -> Option<(impl Resolver, impl Connector)> {
        match self {
            Self::Tunnel(_) => None,
            Self::Forward { proxy, origin, .. } => {
                let whole_urls = WholeUrls {
                    origin: origin.clone(),
                };
                let connector = ().chain(TcpConnector::default()).chain(whole_urls);
                Some((ProxyResolver(proxy.clone()), connector))
            }
        }
    }

    /// The header with the credentials for a forwarding proxy. (For a tunnel `CONNECT` has it.)
    pub fn authorization(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Tunnel(_) => None,
            Self::Forward { authorization, .. } => Some(("proxy-authorization", authorization.as_deref()?)),
        }
    }
}

fn tunnel(proxy: &Url) -> Option<Proxy> {
    let mut builder = ureq::Proxy::builder(ProxyProtocol::Http)
        .host(proxy.host_str()?)
        .port(proxy.port_or_known_default()?)
        // The proxy resolves the name: this host may not be able to.
        .resolve_target(false);
    if let Some((user, password)) = credentials(proxy) {
        builder = builder.username(&user).password(&password);
    }
    builder.build().ok().map(Proxy::Tunnel)
}

fn forward(proxy: &Url, url: &Url) -> Option<Proxy> {
    let origin_of = |url: &Url| {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        Some(format!("http://{host}:{port}"))
    };
    let authorization = credentials(proxy)
        .map(|(user, password)| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
    Some(Proxy::Forward {
        proxy: origin_of(proxy)?.parse().ok()?,
        origin: origin_of(url)?,
        authorization,
    })
}

fn credentials(proxy: &Url) -> Option<(String, String)> {
    let user = decode_percent(proxy.username());
    let password = decode_percent(proxy.password().unwrap_or_default());
    (!user.is_empty()).then_some((user, password))
}

fn decode_percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = match escaped {
            Some(_) => &tail[2..],
            None => tail,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Resolves the proxy's name instead of the server's.
#[derive(Debug)]
struct ProxyResolver(Uri);

impl Resolver for ProxyResolver {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        DefaultResolver::default().resolve(&self.0, config, timeout)
    }
}

/// Wraps connections so that requests carry whole URLs.
#[derive(Debug)]
struct WholeUrls {
    origin: String,
}

impl<In: Transport> Connector<In> for WholeUrls {
    type Out = Either<In, WholeUrlTransport<In>>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| {
            Either::B(WholeUrlTransport {
                inner,
                origin: Some(self.origin.clone()),
            })
        }))
    }
}

#[derive(Debug)]
struct WholeUrlTransport<T> {
    inner: T,
    /// Taken by the first request; the connection is not used for a second one.
    origin: Option<String>,
}

impl<T: Transport> Transport for WholeUrlTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let Some(origin) = self.origin.take() else {
            return self.inner.transmit_output(amount, timeout);
        };
        let output = self.inner.buffers().output();
        let head = output
            .get(..amount)
            .and_then(|head| with_whole_url(head, &origin));
        let Some((head, room)) = head.and_then(|head| {
            let length = head.len();
            Some((head, output.get_mut(..length)?))
        }) else {
            return Err(Error::Io(std::io::Error::other(
                "the request is too long for the proxy",
            )));
        };
        room.copy_from_slice(&head);
        self.inner.transmit_output(head.len(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

/// `GET /path ...` -> `GET http://host:port/path ...`
fn with_whole_url(head: &[u8], origin: &str) -> Option<Vec<u8>> {
    let path = head.strip_prefix(b"GET ")?;
    Some([b"GET ", origin.as_bytes(), path].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_and_garbage_kept() {
        for (text, decoded) in [
            ("a%40b%3A", "a@b:"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("", ""),
        ] {
            assert_eq!(decode_percent(text), decoded);
        }
    }
}
