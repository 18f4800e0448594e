//! A private PostgreSQL cluster with its own folder and port. It ends with the thread that has
//! started it.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Postgres {
    server: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Postgres {
    /// A new cluster. `None`, with a message on standard error, if PostgreSQL is not installed.
    pub fn start() -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            crate::skip::skipped(
                "tests on PostgreSQL",
                "no PostgreSQL server is installed (package postgresql)",
            );
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("backbone-postgres-").tempdir()?;
        let owner = server_user()?;
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let data = folder.path().join("data");
        let made = command(&programs, "initdb", owner)
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=backbone",
                "--encoding=UTF8",
                "--no-locale",
                "-D",
            ])
            .arg(&data)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .output()
            .context("cannot start initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let server = command(&programs, "postgres", owner)
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
            ])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log"))?)
            .spawn()
            .context("cannot start postgres")?;
        let mut cluster = Self {
            server,
            port,
            _folder: folder,
        };
        cluster.wait_until_ready()?;
        Ok(Some(cluster))
    }

    /// The URL of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://backbone@127.0.0.1:{}/postgres", self.port)
    }

    /// Waits until it listens. If it is not ready then, clients wait.
    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.server.try_wait()? {
                bail!("postgres failed to start: {status}");
            }
            if Instant::now() > deadline {
                bail!("postgres does not listen after {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// The folder with the programs of the newest version. Distributions do not put it into PATH.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, folder)| folder)
        .or_else(|| Some(PathBuf::from("/usr/bin")))
        .filter(|folder| folder.join("initdb").exists())
}

/// The user to run PostgreSQL as, if this process runs as root: `postgres`, else `nobody`.
/// PostgreSQL does not run as root.
fn server_user() -> Result<Option<(u32, u32)>> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    ["postgres:", "nobody:"]
        .iter()
        .find_map(|name| {
            let mut fields = users
                .lines()
                .find(|line| line.starts_with(name))?
                .split(':')
                .skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .map(Some)
        .context("cannot run PostgreSQL: there is no user postgres or nobody")
}

fn command(programs: &Path, program: &str, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some((uid, gid)) = owner {
        command.args([
            &format!("--reuid={uid}"),
            &format!("--regid={gid}"),
            "--clear-groups",
        ]);
    }
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(programs.join(program));
    command.env_remove("PGDATA").env("LC_ALL", "C");
    command
}
