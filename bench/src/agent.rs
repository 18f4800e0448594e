//! Agents under measurement: the real program on a sandbox root, and the caller that talks to it in
//! place of a master.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bus::{Link, Queue};
use harness::packages::{Family, Sandbox};
use harness::rabbitmq::RabbitMq;
use protocol::{Limits, State, Status, encode_ping};
use serde_json::{Value, json};
use tokio::time::timeout_at;

use crate::process::{DIE_WITH_PARENT, Process};
use crate::stage::{Stage, TIMEOUT};
use crate::trace;

/// How an agent is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub tls: bool,
    /// Seconds between heartbeats; 0: so many that none falls into a measurement.
    pub heartbeat: u32,
    /// Under strace, for [`Agent::children`].
    pub traced: bool,
}

pub struct Agent {
    process: Process,
    trace: PathBuf,
}

impl Agent {
    /// Starts `hostagent run` as `host_id` on this root.
    pub async fn start(stage: &Stage, sandbox: &Sandbox, host_id: &str, options: Options) -> Result<Self> {
        let mut arguments: Vec<String> = ["--config", "/dev/null"].map(str::to_owned).into();
        let mut set =
            |key: &str, value: &str| arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        let heartbeat = if options.heartbeat == 0 {
            86_400
        } else {
            options.heartbeat
        };
        set("hostagent.root", &sandbox.root().to_string_lossy());
        set("hostagent.host_id", host_id);
        set("hostagent.package_family", sandbox.family().extension());
        set("hostagent.bake_period", "0");
        set("hostagent.heartbeat_period", &heartbeat.to_string());
        set("amqp.username", RabbitMq::USER);
        set("amqp.password", RabbitMq::PASSWORD);
        if options.tls {
            set("amqp.host", "localhost");
            set("amqp.port", &stage.broker.tls_port().to_string());
            set("ssl.ca_certs", &stage.broker.authority_file().to_string_lossy());
        } else {
            set("amqp.host", "127.0.0.1");
            set("amqp.port", &stage.broker.port().to_string());
            set("ssl.disable", "true");
        }
        arguments.push("run".to_owned());
        let log = stage.path(&format!("agent-{host_id}"));
        let trace = stage.path(&format!("trace-{host_id}"));
        let _ = (fs::remove_file(&log), fs::remove_file(&trace));
        let program = stage.programs.get("hostagent")?;
        let process = if options.traced {
            let mut words = ["-f", "--seccomp-bpf", "-e", "trace=execve", "-o"]
                .map(str::to_owned)
                .to_vec();
            words.push(trace.to_string_lossy().into_owned());
            // Otherwise the agent would go on when strace is killed.
            words.push("setpriv".to_owned());
            words.extend(DIE_WITH_PARENT.map(str::to_owned));
            words.push(program.to_string_lossy().into_owned());
            words.extend(arguments);
            Process::start(Path::new("/usr/bin/strace"), &words, &log)?
        } else {
            Process::start(&program, &arguments, &log)?
        };
        Ok(Self { process, trace })
    }

    /// Its process id; that of strace if it is traced.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub async fn end(self) -> Result<()> {
        self.process.end().await
    }

    /// Number of programs that it has started so far, if it is traced.
    pub fn children(&self) -> usize {
        let log = fs::read_to_string(&self.trace).unwrap_or_default();
        // The first one is the agent itself.
        trace::programs(&log).saturating_sub(1)
    }
}

/// A link in place of a master's: sends pings and desired states, and receives the statuses.
pub struct Caller {
    link: Link,
    count: u32,
}

impl Caller {
    pub async fn new(stage: &Stage) -> Result<Self> {
        let link = stage.link(Queue::of_master("bench-q", 500)).await?;
        Ok(Self { link, count: 0 })
    }

    /// The body of the next message.
    pub async fn next_message(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let delivery = tokio::time::timeout(limit, self.link.deliveries.recv()).await;
        let mut delivery = delivery
            .with_context(|| format!("no message within {limit:?}"))?
            .context("the link has ended")?;
        let body = std::mem::take(&mut delivery.body);
        delivery.ack();
        Ok(body)
    }

    /// The next status of this host for which `wanted` is true.
    pub async fn wait_for(&mut self, host_id: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let until = Instant::now() + TIMEOUT;
        let mut last = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let body = self
                .next_message(left)
                .await
                .with_context(|| format!("the last status of {host_id}: {last:?}"))?;
            if let Ok(status) = Status::decode(&body, Limits::default())
                && status.host_id.as_str() == host_id
            {
                if wanted(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
        }
    }

    /// Publishes a message. Returns the first message that contains its `id` and the `marks`, and
    /// the time until then.
    async fn request(
        &mut self,
        key: &str,
        id: &str,
        body: Vec<u8>,
        marks: &[&str],
    ) -> Result<(Duration, Vec<u8>)> {
        let until = tokio::time::Instant::now() + TIMEOUT;
        let publisher = self.link.publisher.clone();
        let started = Instant::now();
        let deliveries = &mut self.link.deliveries;
        let receiving = async {
            loop {
                let delivery = timeout_at(until, deliveries.recv()).await;
                let mut delivery = delivery
                    .with_context(|| format!("{key} does not answer"))?
                    .context("the link has ended")?;
                let at = started.elapsed();
                let body = std::mem::take(&mut delivery.body);
                delivery.ack();
                if contains(&body, id.as_bytes()) && marks.iter().all(|mark| contains(&body, mark.as_bytes()))
                {
                    return anyhow::Ok((at, body));
                }
            }
        };
        let (published, received) = tokio::join!(publisher.publish(key, body), receiving);
        published.with_context(|| format!("cannot publish to {key}"))?;
        received
    }

    fn new_id(&mut self) -> String {
        self.count += 1;
        format!("bench-{:06}-q", self.count)
    }

    /// Pings a host or an echo.
    pub async fn ping(&mut self, key: &str) -> Result<(Duration, Vec<u8>)> {
        let id = self.new_id();
        self.request(key, &id, encode_ping(Some(&id)), &[]).await
    }

    /// Sends a desired state; returns the time until the host's status is `ok`.
    pub async fn converge(&mut self, host_id: &str, apps: &Value) -> Result<Duration> {
        let id = self.new_id();
        let message = json!({"opcode": "set_config", "id": id, "data": apps}).to_string();
        let mut answer = self
            .request(host_id, &id, message.into_bytes(), &["\"status\":"])
            .await?;
        let started = Instant::now();
        loop {
            let status = Status::decode(&answer.1, Limits::default())?;
            if status.host_id.as_str() == host_id && status.reply_to.as_deref() == Some(&id) {
                match status.status {
                    State::Ok => return Ok(answer.0),
                    State::Converging => {}
                    State::Errors => anyhow::bail!("{host_id} has errors: {:?}", status.errors),
                }
            }
            ensure!(
                started.elapsed() < TIMEOUT,
                "{host_id} has not converged within {TIMEOUT:?}"
            );
            let waited = Instant::now();
            let body = self.next_message(TIMEOUT).await?;
            answer = (answer.0 + waited.elapsed(), body);
        }
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

/// Number of packages of a typical host.
pub const PACKAGES: usize = 1500;

/// A sandbox root with [`PACKAGES`] installed packages, and the desired state that it satisfies.
/// `apps` of the packages are applications, each with a manifest and a config file.
pub fn sandbox_with_apps(apps: usize) -> Result<(Sandbox, Value)> {
    let sandbox = Sandbox::temporary(Family::Deb)?;
    let mut status = libraries(PACKAGES - apps)?;
    let info = sandbox.join("/var/lib/dpkg/info");
    let manifests = sandbox.join("/etc/hostagent/apps");
    fs::create_dir_all(&manifests)?;
    let mut desired = serde_json::Map::new();
    for number in 0..apps {
        let name = format!("app-{number}");
        add_package(&mut status, &name, "Provides: pf9app\n")?;
        fs::write(
            info.join(format!("{name}.list")),
            format!("/.\n/etc\n/etc/pf9\n/etc/pf9/{name}.ini\n"),
        )?;
        fs::write(
            sandbox.join(&format!("/etc/pf9/{name}.ini")),
            "[server]\nport = 8080\nworkers = 4\n",
        )?;
        let manifest = format!("[config.server]\nfile = \"/etc/pf9/{name}.ini\"\nformat = \"ini\"\n");
        fs::write(manifests.join(format!("{name}.toml")), manifest)?;
        // Without services: a sandbox has only SysV scripts, and each of them is a process.
        let spec = json!({"version": "1.2.3-4", "running": false, "config": {"server": {"port": 8080}}});
        desired.insert(name, spec);
    }
    fs::write(sandbox.join("/var/lib/dpkg/status"), status)?;
    Ok((sandbox, desired.into()))
}

/// Entries of dpkg's database for `count` installed packages that are not applications.
pub fn libraries(count: usize) -> Result<String> {
    let mut status = String::new();
    for number in 0..count {
        add_package(&mut status, &format!("{LIBRARY}{number}-dev"), "")?;
    }
    Ok(status)
}

/// The prefix of the names of [`libraries`].
pub const LIBRARY: &str = "libsomething";

/// Adds an entry to dpkg's database, about as long as those of Debian's own packages.
fn add_package(status: &mut String, name: &str, more: &str) -> Result<()> {
    writeln!(
        status,
        "Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 412\n\
         Maintainer: Debian Something Maintainers <pkg-something-devel@lists.example.net>\nArchitecture: amd64\n\
         Multi-Arch: same\nSource: something (1.2.3-4)\nVersion: 1.2.3-4\n{more}\
         Depends: libc6 (>= 2.36), libgcc-s1 (>= 3.0), libstdc++6 (>= 11), zlib1g (>= 1:1.2.11.dfsg), libssl3 (>= 3.0.0)\n\
         Suggests: something-doc\nBreaks: something (<< 1.0)\nReplaces: something (<< 1.0)\n\
         Description: library that does something, development files\n Something is a library for things that other \
         programs do not do by themselves. It is\n small, quick, and used by many of them.\n .\n This package contains \
         the headers and the static library that are needed to build\n programs with it.\nHomepage: \
         https://something.example.net/\nConffiles:\n /etc/something/{name}.conf 0123456789abcdef0123456789abcdef\n"
    )?;
    Ok(())
}
