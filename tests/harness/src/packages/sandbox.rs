//! A folder that an agent uses as its host's `/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Family, Package, run};

/// A root with an empty package database and the folders that applications expect. A temporary one
/// is deleted when dropped. Needs no privileges.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    family: Family,
    _temporary: Option<tempfile::TempDir>,
}

impl Sandbox {
    /// A sandbox in a new temporary folder.
    pub fn temporary(family: Family) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut sandbox = Self::create(folder.path(), family)?;
        sandbox._temporary = Some(folder);
        Ok(sandbox)
    }

    /// A sandbox in `folder`, which is not deleted. An existing sandbox is used as it is.
    pub fn create(folder: &Path, family: Family) -> Result<Self> {
        for path in [
            "etc/init.d",
            "etc/pf9",
            "opt/pf9",
            "run",
            "tmp",
            "var/cache",
            "var/lib",
            "var/log",
        ] {
            let path = folder.join(path);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let sandbox = Self {
            root: folder.canonicalize()?,
            family,
            _temporary: None,
        };
        match family {
            Family::Deb => sandbox.create_dpkg_database()?,
            Family::Rpm => sandbox.create_rpm_database()?,
        }
        Ok(sandbox)
    }

    /// Its absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// The real path of a path in the sandbox.
    pub fn join(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The contents of a file in the sandbox. An error names the file.
    pub fn read(&self, path: &str) -> Result<String> {
        let path = self.join(path);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Runs an init script in the sandbox, as the agent does. Returns the exit code.
    pub fn service(&self, name: &str, action: &str) -> Result<i32> {
        let script = self.join(&format!("/etc/init.d/{name}"));
        let status = Command::new(&script)
            .arg(action)
            .env("BACKBONE_ROOT", &self.root)
            .status();
        let status = status.with_context(|| format!("cannot start {}", script.display()))?;
        Ok(status.code().unwrap_or(-1))
    }

    fn create_dpkg_database(&self) -> Result<()> {
        let admin = self.join("/var/lib/dpkg");
        for folder in ["info", "updates", "triggers"] {
            fs::create_dir_all(admin.join(folder))?;
        }
        for file in ["status", "available"] {
            if !admin.join(file).exists() {
                fs::write(admin.join(file), "")?;
            }
        }
        Ok(())
    }

    /// A database with one package that provides the interpreter of maintainer scripts, which every
    /// rpm package requires.
    fn create_rpm_database(&self) -> Result<()> {
        let database = self.join("/var/lib/rpm");
        if database.exists() {
            return Ok(());
        }
        let work = tempfile::tempdir()?;
        let shell = Package::new("sandbox-shell", "1").provides("/bin/sh");
        let file = shell.build(Family::Rpm, work.path())?;
        fs::create_dir_all(&database)?;
        run(Command::new("rpm")
            .arg("--dbpath")
            .arg(&database)
            .args(["-i", "--justdb", "--"])
            .arg(file))
    }
}
