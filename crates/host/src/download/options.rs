//! How packages are downloaded.

use std::path::PathBuf;
use std::time::Duration;

use protocol::url::ProxyUrl;

/// Limits, proxies and certificates of all downloads.
#[derive(Debug, Clone)]
pub struct DownloadOptions {
    pub allow_file_urls: bool,
    pub http_proxy: Option<ProxyUrl>,
    pub https_proxy: Option<ProxyUrl>,
    /// Names, addresses, networks or `*`, each perhaps with `:port`.
    pub no_proxy: Vec<String>,
    /// Bytes of one package.
    pub max_size: u64,
    pub stall_timeout: Duration,
    /// Bytes a second.
    pub min_rate: u64,
    pub max_parallel: u32,
    /// Bytes of all packages in the cache.
    pub max_cache_size: u64,
    pub max_redirects: u32,
    /// PEM file; `None`: the authorities that the host trusts.
    pub ca_certs: Option<PathBuf>,
    /// PEM file of this host's certificate chain.
    pub certfile: Option<PathBuf>,
    /// PEM file of its private key.
    pub keyfile: Option<PathBuf>,
}
