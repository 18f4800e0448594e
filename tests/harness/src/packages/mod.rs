//! Small real packages, built from one description for both families, and sandbox roots to install
//! them into.
//!
//! In a sandbox root, maintainer scripts, init scripts and hooks run as processes of this computer,
//! and `BACKBONE_ROOT` is the root. On a real host `BACKBONE_ROOT` is unset.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

mod example;
mod rpm_file;
mod sandbox;

pub use example::example_app;
pub use sandbox::Sandbox;

/// A fixed time, so that the same description gives the same bytes.
const SOURCE_DATE_EPOCH: u32 = 1_700_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Deb,
    Rpm,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Deb, Self::Rpm];

    /// File extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }

    /// Whether this computer can build and install its packages.
    pub fn is_available(self) -> bool {
        let tools: &[&str] = match self {
            Self::Deb => &["dpkg", "dpkg-deb"],
            // Without rpmbuild, a library builds the packages.
            Self::Rpm => &["rpm"],
        };
        tools.iter().all(|tool| is_installed(tool))
    }
}

fn is_installed(tool: &str) -> bool {
    let folders = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    folders.iter().any(|folder| Path::new(folder).join(tool).exists())
}

/// When a maintainer script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    BeforeInstall,
    AfterInstall,
    BeforeRemove,
    AfterRemove,
}

#[derive(Debug, Clone)]
struct ShippedFile {
    /// Absolute path on the host.
    path: String,
    mode: u32,
    content: Vec<u8>,
    conffile: bool,
}

/// Description of a package. Its version is `[EPOCH:]VERSION-RELEASE` in both families.
#[derive(Debug, Clone)]
pub struct Package {
    name: String,
    epoch: Option<u32>,
    version: String,
    release: String,
    arch: Option<String>,
    files: Vec<ShippedFile>,
    provides: Vec<String>,
    depends: Vec<String>,
    conflicts: Vec<String>,
    scripts: Vec<(Moment, String)>,
}

impl Package {
    /// Release 1, no epoch, for any architecture.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.into(),
            epoch: None,
            version: version.into(),
            release: "1".into(),
            arch: None,
            files: Vec::new(),
            provides: Vec::new(),
            depends: Vec::new(),
            conflicts: Vec::new(),
            scripts: Vec::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The full version, as in the package database.
    pub fn full_version(&self) -> String {
        let epoch = self.epoch.map(|epoch| format!("{epoch}:")).unwrap_or_default();
        format!("{epoch}{}-{}", self.version, self.release)
    }

    pub fn release(mut self, release: &str) -> Self {
        self.release = release.into();
        self
    }

    pub fn epoch(mut self, epoch: u32) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// The architecture in the family's own notation: `amd64`, `x86_64`.
    pub fn arch(mut self, arch: &str) -> Self {
        self.arch = Some(arch.into());
        self
    }

    /// Adds a file. It replaces an earlier one with the same path.
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.ship(ShippedFile {
            path: path.into(),
            mode,
            content: content.into(),
            conffile: false,
        })
    }

    /// Adds a file that administrators may change. Their changes are kept in upgrades.
    pub fn conffile(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.ship(ShippedFile {
            path: path.into(),
            mode: 0o644,
            content: content.into(),
            conffile: true,
        })
    }

    fn ship(mut self, file: ShippedFile) -> Self {
        self.files.retain(|other| other.path != file.path);
        self.files.push(file);
        self
    }

    /// Removes the file with this path.
    pub fn without_file(mut self, path: &str) -> Self {
        self.files.retain(|other| other.path != path);
        self
    }

    pub fn provides(mut self, name: &str) -> Self {
        self.provides.push(name.into());
        self
    }

    pub fn depends(mut self, name: &str) -> Self {
        self.depends.push(name.into());
        self
    }

    pub fn conflicts(mut self, name: &str) -> Self {
        self.conflicts.push(name.into());
        self
    }

    /// Adds a maintainer script in POSIX sh. It replaces an earlier one for the same moment.
    /// `$ACTION` is `install`, `upgrade` or `remove`; `$ROOT` is empty on a real host.
    pub fn script(mut self, moment: Moment, body: &str) -> Self {
        self.scripts.retain(|(other, _)| *other != moment);
        self.scripts.push((moment, body.into()));
        self
    }

    /// Builds it as `FOLDER/NAME_VERSION.EXTENSION` and returns that path.
    pub fn build(&self, family: Family, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let file = folder.join(format!(
            "{}_{}-{}.{}",
            self.name,
            self.version,
            self.release,
            family.extension()
        ));
        let work = tempfile::tempdir()?;
        match family {
            Family::Deb => self.build_deb(work.path(), &file),
            Family::Rpm if is_installed("rpmbuild") => self.build_rpm(work.path(), &file),
            Family::Rpm => rpm_file::write(self, &file),
        }
        .with_context(|| format!("cannot build {}", file.display()))?;
        Ok(file)
    }

    fn build_deb(&self, work: &Path, file: &Path) -> Result<()> {
        let control = work.join("DEBIAN");
        fs::create_dir(&control)?;
        self.write_payload(work)?;
        let list = |field: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!("{field}: {}\n", names.join(", ")),
        };
        let text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Nobody <nobody@example.com>\n\
             Installed-Size: {}\n{}{}{}Description: built by a test\n",
            self.name,
            self.full_version(),
            self.arch.as_deref().unwrap_or("all"),
            self.files
                .iter()
                .map(|file| file.content.len())
                .sum::<usize>()
                .div_ceil(1024),
            list("Provides", &self.provides),
            list("Depends", &self.depends),
            list("Conflicts", &self.conflicts),
        );
        write(&control.join("control"), 0o644, text.as_bytes())?;
        let conffiles: String = self
            .files
            .iter()
            .filter(|file| file.conffile)
            .map(|file| format!("{}\n", file.path))
            .collect();
        if !conffiles.is_empty() {
            write(&control.join("conffiles"), 0o644, conffiles.as_bytes())?;
        }
        for (moment, body) in &self.scripts {
            // The calls of dpkg that belong to this moment. dpkg uses other calls to undo failed
            // steps.
            let (name, first_argument) = match moment {
                Moment::BeforeInstall => ("preinst", "install) ACTION=install;; upgrade) ACTION=upgrade;;"),
                Moment::AfterInstall => ("postinst", "configure) ACTION=${2:+upgrade};;"),
                Moment::BeforeRemove => ("prerm", "remove) ACTION=remove;; upgrade) ACTION=upgrade;;"),
                Moment::AfterRemove => ("postrm", "remove) ACTION=remove;; upgrade) ACTION=upgrade;;"),
            };
            let script = format!(
                "#!/bin/sh\nROOT=${{BACKBONE_ROOT:-}}\ncase \"$1\" in {first_argument} *) exit 0;; esac\n\
                 ACTION=${{ACTION:-install}}\n{body}\n"
            );
            write(&control.join(name), 0o755, script.as_bytes())?;
        }
        run(Command::new("dpkg-deb")
            .args(["--build", "--root-owner-group", "-Znone"])
            .arg(work)
            .arg(file)
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string()))
    }

    fn build_rpm(&self, work: &Path, file: &Path) -> Result<()> {
        let payload = work.join("payload");
        fs::create_dir(&payload)?;
        self.write_payload(&payload)?;
        let spec = work.join("package.spec");
        write(&spec, 0o644, self.spec(&payload).as_bytes())?;
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            bail!("{} is not the path of a file", file.display());
        };
        run(Command::new("rpmbuild")
            .args(["-bb", "--quiet"])
            .arg("--define")
            .arg(format!("_topdir {}", work.join("top").display()))
            .arg("--define")
            .arg(format!("_rpmdir {}", folder.display()))
            .arg("--define")
            .arg(format!("_rpmfilename {}", name.to_string_lossy()))
            .arg("--target")
            .arg(format!("{}-linux", self.arch.as_deref().unwrap_or("noarch")))
            .arg(&spec)
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .env("HOME", work))
    }

    fn spec(&self, payload: &Path) -> String {
        let mut spec = String::from(
            "%global debug_package %{nil}\n%global __os_install_post %{nil}\n%global _build_id_links none\n\
             %global _binary_payload w1.gzdio\n%global _buildhost localhost\n\
             %global _binaries_in_noarch_packages_terminate_build 0\n\
             %global use_source_date_epoch_as_buildtime 1\n%global clamp_mtime_to_source_date_epoch 1\n",
        );
        let (name, version, release) = (&self.name, &self.version, &self.release);
        spec += &format!("Name: {name}\nVersion: {version}\nRelease: {release}\n");
        if let Some(epoch) = self.epoch {
            spec += &format!("Epoch: {epoch}\n");
        }
        spec += "Summary: built by a test\nLicense: none\nAutoReqProv: no\n";
        for (tag, names) in [
            ("Provides", &self.provides),
            ("Requires", &self.depends),
            ("Conflicts", &self.conflicts),
        ] {
            spec.extend(names.iter().map(|name| format!("{tag}: {name}\n")));
        }
        spec += "%description\nbuilt by a test\n%install\nmkdir -p %{buildroot}\n";
        spec += &format!("cp -a '{}'/. %{{buildroot}}/\n", payload.display());
        for (moment, script) in self.rpm_scripts() {
            let section = match moment {
                Moment::BeforeInstall => "pre",
                Moment::AfterInstall => "post",
                Moment::BeforeRemove => "preun",
                Moment::AfterRemove => "postun",
            };
            spec += &format!("%{section} -p /bin/sh\n{}", script.replace('%', "%%"));
        }
        spec += "%files\n%defattr(-,root,root)\n";
        for file in &self.files {
            let config = if file.conffile { "%config(noreplace) " } else { "" };
            spec += &format!("%attr({:o},root,root) {config}{}\n", file.mode, file.path);
        }
        spec
    }

    fn rpm_scripts(&self) -> impl Iterator<Item = (Moment, String)> {
        self.scripts.iter().map(|(moment, body)| {
            let first_argument = match moment {
                Moment::BeforeInstall | Moment::AfterInstall => "1) ACTION=install;; *) ACTION=upgrade;;",
                Moment::BeforeRemove | Moment::AfterRemove => "0) ACTION=remove;; *) ACTION=upgrade;;",
            };
            let script = format!("ROOT=${{BACKBONE_ROOT:-}}\ncase \"$1\" in {first_argument} esac\n{body}\n");
            (*moment, script)
        })
    }

    fn write_payload(&self, folder: &Path) -> Result<()> {
        for file in &self.files {
            let path = folder.join(file.path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            write(&path, file.mode, &file.content)?;
        }
        Ok(())
    }
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
