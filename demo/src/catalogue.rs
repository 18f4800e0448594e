//! The packages of the demo. They are built with this machine's tools, and served over HTTP on
//! loopback.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::http::HttpServer;
use harness::packages::{Family, Package, example_app};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

/// The packages that are built for each family.
const PACKAGES: [(&str, &str); 4] = [
    ("shop", "1.0"),
    ("shop", "2.0"),
    ("cache", "1.0"),
    ("cache", "1.1"),
];

pub struct Catalogue {
    server: HttpServer,
    packages: Vec<Built>,
}

struct Built {
    family: Family,
    app: &'static str,
    version: &'static str,
    bytes: Vec<u8>,
}

impl Catalogue {
    pub async fn build(families: &BTreeSet<&'static str>, folder: &Path) -> Result<Self> {
        let families = Family::ALL
            .into_iter()
            .filter(|family| families.contains(family.extension()));
        // Concurrently: a build mostly waits for processes.
        let mut building = Vec::new();
        for family in families {
            for (app, version) in PACKAGES {
                let package = example_app(app, version);
                let folder = folder.to_owned();
                let build = spawn_blocking(move || build(&package, family, &folder));
                building.push((family, app, version, build));
            }
        }
        let server = HttpServer::start()
            .await
            .context("cannot start an HTTP server on 127.0.0.1")?;
        let mut packages = Vec::new();
        for (family, app, version, build) in building {
            let bytes = build.await??;
            server.put_file(&path("packages", app, version, family), bytes.clone());
            packages.push(Built {
                family,
                app,
                version,
                bytes,
            });
        }
        Ok(Self { server, packages })
    }

    pub fn address(&self) -> String {
        self.server.url("/packages/")
    }

    /// One URL for all hosts. Hosts of the other family replace the extension by their own.
    pub fn url(&self, app: &str, version: &str) -> String {
        self.server.url(&path("packages", app, version, Family::Rpm))
    }

    /// SHA-256 of the original package.
    pub fn digest(&self, app: &str, version: &str, family: Family) -> Result<String> {
        Ok(hex(&Sha256::digest(&self.find(app, version, family)?.bytes)))
    }

    /// Serves a copy with one changed bit, and returns its URL.
    pub fn tampered_url(&self, app: &str, version: &str, family: Family) -> Result<String> {
        let mut bytes = self.find(app, version, family)?.bytes.clone();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        Ok(self.server.put_file(&path("mirror", app, version, family), bytes))
    }

    /// Number of downloads of all packages.
    pub fn downloads(&self) -> usize {
        let count = |folder, built: &Built| {
            self.server
                .count(&path(folder, built.app, built.version, built.family))
        };
        let of = |built| count("packages", built) + count("mirror", built);
        self.packages.iter().map(of).sum()
    }

    fn find(&self, app: &str, version: &str, family: Family) -> Result<&Built> {
        self.packages
            .iter()
            .find(|built| (built.app, built.version, built.family) == (app, version, family))
            .with_context(|| format!("{app} {version} was not built as {}", family.extension()))
    }
}

fn build(package: &Package, family: Family, folder: &Path) -> Result<Vec<u8>> {
    let file = package.build(family, folder)?;
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", file.display());
    Ok(bytes)
}

fn path(folder: &str, app: &str, version: &str, family: Family) -> String {
    format!("/{folder}/{app}_{version}-1.{}", family.extension())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
