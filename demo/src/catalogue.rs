//! The packages of the play: built on the spot by the machine's own tools, served over HTTP on loopback.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::http::HttpServer;
use harness::packages::{Family, Package, example_app};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

/// What is built, for each family.
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
        // Side by side: a build is mostly waiting for processes.
        let mut building = Vec::new();
        for family in families {
            for (app, version) in PACKAGES {
                let package = example_app(app, version);
                let folder = folder.to_owned();
                let build = spawn_blocking(move || build(&package, family, &folder));
                building.push((family, app, version, build));
            }
        }
        let server = HttpServer::start().await.context("no HTTP server on 127.0.0.1")?;
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

    /// One URL for all hosts: those of the other family put their own extension in its place.
    pub fn url(&self, app: &str, version: &str) -> String {
        self.server.url(&path("packages", app, version, Family::Rpm))
    }

    /// SHA-256 of the true package.
    pub fn digest(&self, app: &str, version: &str, family: Family) -> Result<String> {
        Ok(hex(&Sha256::digest(&self.find(app, version, family)?.bytes)))
    }

    /// Puts up a copy with one bit changed, and returns its URL.
    pub fn tampered_url(&self, app: &str, version: &str, family: Family) -> Result<String> {
        let mut bytes = self.find(app, version, family)?.bytes.clone();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        Ok(self.server.put_file(&path("mirror", app, version, family), bytes))
    }

    /// How often a package has been fetched, from wherever it is served.
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
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", file.display());
    Ok(bytes)
}

fn path(folder: &str, app: &str, version: &str, family: Family) -> String {
    format!("/{folder}/{app}_{version}-1.{}", family.extension())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
