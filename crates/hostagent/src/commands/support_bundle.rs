//! `hostagent support-bundle`: information for the analysis of a problem, without secrets, in one
//! tar file.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::check_config::show_warnings;
use super::redact::redact;
use super::{Exit, id, print};
use crate::settings::{Loaded, PackageFamily, Settings, SettingsError, Sources, show};
use host::Root;
use host::command::{Command, Overflow};
use host::{facts, packages, services};

const DEFAULT_OUTPUT: &str = "hostagent-support.tar";
const LOG_LINES: &str = "2000";
const LOG_CAP: usize = 4 * 1024 * 1024;
const JOURNAL_DEADLINE: Duration = Duration::from_secs(20);
/// A larger state file is only listed.
const MAX_STATE_FILE: u64 = 16 * 1024 * 1024;

/// One file of the bundle.
struct BundleItem {
    name: String,
    about: &'static str,
    content: String,
}

/// Writes the bundle and prints its contents. Works also if the settings are not valid.
pub async fn support_bundle(
    loaded: &Result<Loaded, SettingsError>,
    output: Option<&Path>,
) -> anyhow::Result<Exit> {
    let settings = match loaded {
        Ok(loaded) => loaded.settings.clone(),
        Err(_) => Settings::load(&Sources::default())?.settings,
    };
    let root = settings.root();
    let mut items = vec![
        item(
            "versions.txt",
            "the agent, the kernel, the distribution",
            versions(&root),
        ),
        item(
            "settings.txt",
            "settings and their sources, secrets hidden",
            show_settings(loaded),
        ),
        item(
            "identity.txt",
            "the host id and its source",
            show_identity(&settings),
        ),
        item(
            "facts.json",
            "the host's facts, as in a status",
            show_facts(&settings, &root),
        ),
        item(
            "cache.txt",
            "names and sizes of downloaded packages",
            list(&root.join(&settings.hostagent.app_cache_dir)),
        ),
    ];
    items.extend(state(&root.join(&settings.hostagent.state_dir)));
    if root.is_host() {
        items.push(item(
            "log.txt",
            "the newest log lines of the agent",
            newest_log_lines().await,
        ));
    }
    items.insert(0, contents(&items));
    let output = output.map_or_else(|| PathBuf::from(DEFAULT_OUTPUT), Path::to_owned);
    write(&output, &items).with_context(|| format!("cannot write {}", output.display()))?;
    print(&format!(
        "{}\nwritten to {}\n",
        items[0].content,
        output.display()
    ))?;
    Ok(Exit::Ok)
}

fn item(name: impl Into<String>, about: &'static str, content: String) -> BundleItem {
    BundleItem {
        name: name.into(),
        about,
        content,
    }
}

fn contents(items: &[BundleItem]) -> BundleItem {
    let mut text = String::from(
        "Support bundle of a Backbone host agent. It contains no passwords, no values of applications'\n\
         config and no credentials in URLs. It contains names of hosts and applications, and versions.\n\n",
    );
    for item in items {
        let _ = writeln!(
            text,
            "{:<24} {:>8} bytes  {}",
            item.name,
            item.content.len(),
            item.about
        );
    }
    item("CONTENTS.txt", "this list", text)
}

fn versions(root: &Root) -> String {
    let system = rustix::system::uname();
    let distribution =
        fs::read_to_string(root.join("/etc/os-release")).unwrap_or_else(|error| error.to_string());
    format!(
        "hostagent {}\n{} {} {}\n\n{distribution}",
        env!("CARGO_PKG_VERSION"),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy(),
    )
}

fn show_settings(loaded: &Result<Loaded, SettingsError>) -> String {
    match loaded {
        Ok(loaded) => format!("{}{}", show::effective(loaded), show_warnings(&loaded.warnings)),
        Err(error) => format!("{error}\n{}", show_warnings(&error.warnings)),
    }
}

fn show_facts(settings: &Settings, root: &Root) -> String {
    let family = match settings.hostagent.package_family {
        PackageFamily::Fixed(family) => Ok(family),
        PackageFamily::Auto => {
            packages::detect(root, packages::Options::default()).map(|packages| packages.family())
        }
    };
    let init = match services::is_systemd(root) {
        true => "systemd",
        false => "sysv",
    };
    match family {
        Ok(family) => format!(
            "{:#}\n",
            Value::from_iter(facts::Collector::new(root, family, init).collect())
        ),
        Err(error) => format!("not included: {error}\n"),
    }
}

fn show_identity(settings: &Settings) -> String {
    match id::identify(settings) {
        Ok(identity) => format!("{}\nfrom: {}\n", identity.host_id, identity.source),
        Err(error) => format!("{error}\n"),
    }
}

fn list(folder: &Path) -> String {
    let mut lines: Vec<String> = match fs::read_dir(folder) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                format!("{size:>12}  {}\n", entry.file_name().display())
            })
            .collect(),
        Err(error) => vec![format!("{}: {error}\n", folder.display())],
    };
    lines.sort();
    lines.concat()
}

/// The agent's state files, without the values of config.
fn state(folder: &Path) -> Vec<BundleItem> {
    let listing = item("state.txt", "names and sizes of state files", list(folder));
    let mut items = vec![listing];
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().display().to_string();
        items.push(item(
            format!("state/{name}"),
            "state file, values of config hidden",
            redacted(&path),
        ));
    }
    items
}

/// A file that is not JSON is not included: its secrets are unknown.
fn redacted(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let size = fs::metadata(path)?.len();
        match size > MAX_STATE_FILE {
            true => Err(io::Error::other(format!("{size} bytes are too many"))),
            false => fs::read(path),
        }
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) => return format!("not included: {error}\n"),
    };
    match serde_json::Deserializer::from_slice(&bytes)
        .into_iter::<Value>()
        .next()
    {
        Some(Ok(mut document)) => {
            redact(&mut document);
            format!("{document:#}\n")
        }
        Some(Err(_)) | None => format!("not included: {} bytes that are not JSON\n", bytes.len()),
    }
}

async fn newest_log_lines() -> String {
    let command = Command::new("journalctl")
        .args([
            "--unit",
            "hostagent",
            // The guard, hook runners, package managers.
            "--unit",
            "hostagent-*",
            "--lines",
            LOG_LINES,
            "--no-pager",
            "--output",
            "short-iso",
        ])
        .deadline(JOURNAL_DEADLINE)
        .output_cap(LOG_CAP, Overflow::KeepTail);
    match command.run().await {
        Ok(output) => output.stdout_text(),
        Err(error) => format!("not included: {error}\n"),
    }
}

/// Only its owner can read it; the operator decides who else may.
fn write(path: &Path, items: &[BundleItem]) -> io::Result<()> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut archive = tar::Builder::new(file);
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(item.content.len() as u64);
        archive.append_data(
            &mut header,
            format!("hostagent-support/{}", item.name),
            item.content.as_bytes(),
        )?;
    }
    archive.into_inner()?.sync_all()
}
