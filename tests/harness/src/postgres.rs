//! A private PostgreSQL cluster: its own folder and port. It ends with the thread that holds it.

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
    /// A new cluster; `None`, with a word on standard error, where PostgreSQL is not installed.
    pub fn start() -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            crate::skip::skipped(
                "tests on PostgreSQL",
                "no PostgreSQL server here (package postgresql)",
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
            .context("initdb")?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
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
            .context("postgres")?;
        let mut cluster = Self {
            server,
            port,
            _folder: folder,
        };
        cluster.wait_until_ready()?;
        Ok(Some(cluster))
    }

    /// Of the database that every cluster has.
    pub fn url(&self) -> String {
        format!("postgres://backbone@127.0.0.1:{}/postgres", self.port)
    }

    /// It listens before it serves, but then lets clients wait.
    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.server.try_wait()? {
                bail!("postgres ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("postgres does not listen after {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// The folder of the newest version's programs: distributions keep them out of PATH.
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

/// It refuses to run as root: then it runs as the user that its package made, or as nobody.
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
        .context("there is no user postgres or nobody to run PostgreSQL as")
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
