//! The common disk of all machines. It is created once and cached.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const SUITE: &str = "bookworm";

/// The folder with the disk. If several tests need it at the same time, one creates it and the
/// others wait.
pub(super) fn cached() -> Result<PathBuf> {
    let cache = cache_folder()?;
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let rootfs = cache.join(format!("rootfs-{SUITE}"));
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if rootfs.exists() {
        return Ok(rootfs);
    }
    let new = cache.join(format!("rootfs-{SUITE}.new"));
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    let mirror = mirror().context("no Debian mirror is configured under /etc/apt")?;
    eprintln!(
        "creating a {SUITE} disk with debootstrap from {mirror}; this takes about one minute, only once"
    );
    let output = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus", SUITE])
        .arg(&new)
        .arg(&mirror)
        .output()?;
    let log = String::from_utf8_lossy(&output.stdout);
    let end = log.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
    ensure!(
        output.status.success(),
        "debootstrap from {mirror}: {}: {end}",
        output.status
    );
    // Delete the downloaded packages: machines do not need them.
    let packages = new.join("var/cache/apt/archives");
    for file in fs::read_dir(&packages)?.flatten() {
        if file
            .path()
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            fs::remove_file(file.path())?;
        }
    }
    fs::rename(&new, &rootfs)?;
    Ok(rootfs)
}

/// Run in a separate mount namespace. Installs packages (further arguments) on the disk `$1`, and
/// leaves the changes in `$2/upper`.
const INSTALL: &str = r#"
rootfs=$1 out=$2; shift 2
work=$(mktemp -d)
mount -t tmpfs none "$work"
mkdir "$work/root" "$out/upper" "$out/work"
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$out/upper,workdir=$out/work" "$work/root"
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf > "$work/root/etc/resolv.conf"; fi
chroot "$work/root" apt-get -q update
DEBIAN_FRONTEND=noninteractive chroot "$work/root" apt-get -q -y --no-install-recommends install "$@"
chroot "$work/root" apt-get -q clean
"#;

/// The layers of a disk with the distribution's packages `names`, the uppermost first. The new
/// layer is cached.
pub(super) fn with_packages(names: &[&str]) -> Result<Vec<PathBuf>> {
    let rootfs = cached()?;
    if names.is_empty() {
        return Ok(vec![rootfs]);
    }
    let folder = keep(&format!("layer-{SUITE}-{}", names.join("+")), INSTALL, names)?;
    Ok(vec![folder.join("upper"), rootfs])
}

/// Run in a separate mount namespace. Downloads packages (further arguments) and their missing
/// dependencies for the disk `$1` to `$2`.
const DOWNLOAD: &str = r#"
rootfs=$1 out=$2; shift 2
work=$(mktemp -d)
mount -t tmpfs none "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$work/upper,workdir=$work/work" "$work/root"
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf > "$work/root/etc/resolv.conf"; fi
chroot "$work/root" apt-get -q update
chroot "$work/root" apt-get -q -y --no-install-recommends --download-only install "$@"
cp "$work"/root/var/cache/apt/archives/*.deb "$out"
"#;

/// A folder with the distribution's packages `names` and the dependencies that the common disk does
/// not have. It is cached.
pub(super) fn packages(names: &[&str]) -> Result<PathBuf> {
    keep(&format!("packages-{SUITE}-{}", names.join("+")), DOWNLOAD, names)
}

/// The folder `name` in the cache. If it does not exist, `script` fills it for these packages.
fn keep(name: &str, script: &str, names: &[&str]) -> Result<PathBuf> {
    let rootfs = cached()?;
    let cache = cache_folder()?;
    let folder = cache.join(name);
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if folder.exists() {
        return Ok(folder);
    }
    let new = folder.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir(&new)?;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh"])
        .args([&rootfs, &new])
        .args(names)
        .output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cannot download {names:?} for {name}: {}: {message}",
        output.status
    );
    fs::rename(&new, &folder)?;
    Ok(folder)
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("BACKBONE_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither BACKBONE_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/backbone"))
}

/// The Debian mirror that this computer uses.
fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let mut more: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|ext| ext == "list" || ext == "sources")
        })
        .collect();
    more.sort();
    files.append(&mut more);
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| uris(&text)).find(|uri| is_debian(uri))
}

fn is_debian(uri: &str) -> bool {
    uri.trim_end_matches('/').rsplit('/').next() == Some("debian")
}

/// URIs of a sources.list(5), in its one-line or its deb822 style.
fn uris(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    let uri = |line: &str| {
        if let Some(uris) = line.strip_prefix("URIs:") {
            return uris.split_whitespace().next().map(str::to_owned);
        }
        let rest = line.strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next().map(str::to_owned)
    };
    lines.filter_map(uri).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_both_styles() {
        let deb822 =
            "Types: deb\n# http://old.example/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(uris(deb822), ["http://mirror.example/debian"]);
        let one_line = "# deb http://no.example/debian x main\n\
                        deb-src http://src.example/debian bookworm main\n\
                        deb [arch=amd64 signed-by=/k.gpg] https://a.example/debian/ bookworm main\n\
                        deb http://b.example/other stable main\n";
        assert_eq!(
            uris(one_line),
            ["https://a.example/debian/", "http://b.example/other"]
        );
        assert!(is_debian("https://a.example/debian/"));
        assert!(!is_debian("http://b.example/debian-security"));
    }
}
