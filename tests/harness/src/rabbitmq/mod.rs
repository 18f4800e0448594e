//! A private RabbitMQ node with its own name, ports, data, users and epmd, so that a test can do
//! anything with it. It ends with the process that has started it, even if that process is killed.
//!
//! A start takes about five seconds of one core. Tests that do not stop or change the node share
//! one ([`RabbitMq::shared`]), each with its own virtual host. The shared node ends a few seconds
//! after its last test, so that the next test, in another process, can use it.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::certificates::Authority;

mod process;
use process::NodeProcess;

/// Where distributions install the scripts that do not require root.
const SCRIPTS: &[&str] = &["/usr/lib/rabbitmq/bin", "/usr/local/lib/rabbitmq/bin"];
const START_LIMIT: Duration = Duration::from_secs(120);

pub struct RabbitMq {
    files: NodeFiles,
    process: Mutex<Option<NodeProcess>>,
    /// Locked while a shared node is in use.
    _lease: Option<File>,
    /// The folder of a node that is not shared. It is deleted with the node.
    _folder: Option<tempfile::TempDir>,
}

/// Options of a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Enables the management plugin, with its HTTP API on a separate port. The start takes longer.
    pub management: bool,
}

/// A node's folder, ports and options.
#[derive(Debug, Clone)]
struct NodeFiles {
    folder: PathBuf,
    ports: Ports,
    options: Options,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    amqps: u16,
    management: u16,
    epmd: u16,
    distribution: u16,
}

impl RabbitMq {
    /// The only initial user. It has all permissions, from every address.
    pub const USER: &str = "guest";
    pub const PASSWORD: &str = "guest";

    /// A node for one test only, which may kill it.
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("backbone-rabbitmq-").tempdir()?;
        let files = NodeFiles::create(folder.path(), options)?;
        let node = Self {
            files,
            process: Mutex::new(None),
            _lease: None,
            _folder: Some(folder),
        };
        node.start_again().await?;
        Ok(node)
    }

    /// The node that all tests of this build share.
    pub async fn shared() -> Result<Self> {
        tokio::task::spawn_blocking(Self::lease).await?
    }

    fn lease() -> Result<Self> {
        let folder = shared_folder()?;
        std::fs::create_dir_all(&folder)?;
        let lease = File::create(folder.join("lease"))?;
        lease.lock_shared()?;
        let starting = File::create(folder.join("starting"))?;
        starting.lock()?;
        let started = folder.join("ports");
        let files = match Ports::read(&started) {
            Ok(ports) => NodeFiles {
                folder: folder.join("node"),
                ports,
                options: Options::default(),
            },
            Err(_) => {
                let node = folder.join("node");
                let _ = std::fs::remove_dir_all(&node);
                std::fs::create_dir_all(&node)?;
                let files = NodeFiles::create(&node, Options::default())?;
                process::spawn_leased(&files, &folder)?;
                files.wait_until_ready()?;
                files.ports.write(&started)?;
                files
            }
        };
        Ok(Self {
            files,
            process: Mutex::new(None),
            _lease: Some(lease),
            _folder: None,
        })
    }

    pub fn port(&self) -> u16 {
        self.files.ports.amqp
    }

    /// The port for AMQP over TLS. The certificate is for `localhost` and `broker.test`, signed by
    /// [`Self::authority_file`]. A client certificate is optional; its common name is the user name
    /// (EXTERNAL).
    pub fn tls_port(&self) -> u16 {
        self.files.ports.amqps
    }

    pub fn management_port(&self) -> u16 {
        self.files.ports.management
    }

    pub fn authority_file(&self) -> PathBuf {
        self.files.folder.join("ca.pem")
    }

    /// Certificate and key of the client `backbone-client`, signed by the same authority.
    pub fn client_files(&self) -> (PathBuf, PathBuf) {
        (
            self.files.folder.join("client.pem"),
            self.files.folder.join("client.key"),
        )
    }

    /// Kills the node with SIGKILL. Returns when it has ended.
    pub async fn kill9(&self) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        let process = process.context("the node is shared or not running; use RabbitMq::start")?;
        tokio::task::spawn_blocking(move || drop(process)).await?;
        Ok(())
    }

    /// Starts the node with its existing data. Returns when it accepts connections.
    pub async fn start_again(&self) -> Result<()> {
        let files = self.files.clone();
        let process = tokio::task::spawn_blocking(move || -> Result<NodeProcess> {
            let process = process::spawn(&files)?;
            files.wait_until_ready()?;
            Ok(process)
        })
        .await??;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// `kill9`, then `start_again`.
    pub async fn restart(&self) -> Result<()> {
        self.kill9().await?;
        self.start_again().await
    }

    /// Runs `rabbitmqctl ARGUMENTS` and returns its output.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.files.command("rabbitmqctl")?;
        command.arg("--quiet").args(arguments);
        let what = arguments.join(" ");
        tokio::task::spawn_blocking(move || -> Result<String> {
            let output = command.stdin(Stdio::null()).output()?;
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                bail!("rabbitmqctl {what}: {}", String::from_utf8_lossy(&text));
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .await?
    }

    /// Closes all connections and listeners. Erlang keeps running.
    pub async fn stop_app(&self) -> Result<()> {
        self.ctl(&["stop_app"]).await.map(drop)
    }

    pub async fn start_app(&self) -> Result<()> {
        self.ctl(&["start_app"]).await.map(drop)
    }

    /// 0.0 blocks all publishers (`connection.blocked`), 0.4 unblocks them.
    pub async fn set_memory_watermark(&self, fraction: f64) -> Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", &fraction.to_string()])
            .await
            .map(drop)
    }

    /// Adds a virtual host for [`Self::USER`] and returns its name.
    pub async fn add_vhost(&self) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let user = Self::USER;
        // One call of `eval`, because each call of rabbitmqctl takes almost one second.
        self.ctl(&[
            "eval",
            &format!(
                "rabbit_vhost:add(<<\"{name}\">>, <<\"test\">>), \
                 rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"{name}\">>, \
                 <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>)."
            ),
        ])
        .await?;
        Ok(name)
    }

    /// Adds a user with these permissions in `vhost`: regular expressions for configure, write and
    /// read.
    pub async fn add_user(
        &self,
        name: &str,
        password: &str,
        vhost: &str,
        permissions: [&str; 3],
    ) -> Result<()> {
        self.ctl(&["add_user", name, password]).await?;
        let [configure, write, read] = permissions;
        self.ctl(&["set_permissions", "-p", vhost, name, configure, write, read])
            .await
            .map(drop)
    }

    pub async fn delete_queue(&self, vhost: &str, queue: &str) -> Result<()> {
        self.ctl(&["delete_queue", "-p", vhost, queue]).await.map(drop)
    }

    pub async fn delete_exchange(&self, vhost: &str, exchange: &str) -> Result<()> {
        let name = format!("rabbit_misc:r(<<\"{vhost}\">>, exchange, <<\"{exchange}\">>)");
        self.ctl(&[
            "eval",
            &format!("rabbit_exchange:delete({name}, false, <<\"test\">>)."),
        ])
        .await
        .map(drop)
    }
}

impl NodeFiles {
    fn create(folder: &Path, options: Options) -> Result<Self> {
        let ports = Ports::choose()?;
        let files = Self {
            folder: folder.to_owned(),
            ports,
            options,
        };
        let authority = Authority::new("Backbone test CA")?;
        authority.write_certificate(&folder.join("ca.pem"))?;
        authority
            .server(&["localhost", "broker.test"])?
            .write(&folder.join("server.pem"), &folder.join("server.key"))?;
        authority
            .client("backbone-client")?
            .write(&folder.join("client.pem"), &folder.join("client.key"))?;
        let at = folder.display();
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {at}/ca.pem\n\
             ssl_options.certfile = {at}/server.pem\n\
             ssl_options.keyfile = {at}/server.key\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             ssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = EXTERNAL\n\
             loopback_users = none\n\
             log.file.level = warning\n",
            ports.amqp, ports.amqps
        );
        let mut plugins = vec!["rabbitmq_auth_mechanism_ssl"];
        if options.management {
            plugins.push("rabbitmq_management");
            config += &format!(
                "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\n",
                ports.management
            );
        }
        std::fs::write(folder.join("rabbitmq.conf"), config)?;
        std::fs::write(
            folder.join("enabled_plugins"),
            format!("[{}].\n", plugins.join(",")),
        )?;
        Ok(files)
    }

    /// A program of RabbitMQ with the environment of this node.
    fn command(&self, program: &str) -> Result<Command> {
        let scripts = SCRIPTS
            .iter()
            .map(Path::new)
            .find(|scripts| scripts.join("rabbitmq-server").exists())
            .with_context(|| {
                format!("RabbitMQ not found in {SCRIPTS:?}: install the package rabbitmq-server")
            })?;
        let mut command = Command::new(scripts.join(program));
        let at = |name: &str| self.folder.join(name);
        command
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.folder)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            // If it is set, the script executes Erlang instead of supervising it.
            .env("NOTIFY_SOCKET", "/nonexistent")
            .env("RABBITMQ_NODENAME", format!("test{}@localhost", self.ports.amqp))
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_LOGS", at("node.log"))
            // Few threads without busy waiting, so that the tests get the processor.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +SDcpu 1:1 +SDio 1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none +P 131072",
            );
        Ok(command)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        // The TLS listener opens after the AMQP listener.
        let mut ports = vec![self.ports.amqp, self.ports.amqps];
        ports.extend(self.options.management.then_some(self.ports.management));
        for port in ports {
            while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                if Instant::now() > until {
                    let log = std::fs::read_to_string(self.folder.join("out.log")).unwrap_or_default();
                    bail!("RabbitMQ did not start within {START_LIMIT:?}:\n{log}");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

impl Ports {
    fn choose() -> Result<Self> {
        // All are open at the same time, so that no two are equal. They are below the range that
        // the kernel uses for clients: otherwise a client could have a node's port when the node is
        // started again.
        let free = || {
            (0..1000)
                .find_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_000))).ok())
        };
        let listeners: Vec<TcpListener> = (0..5)
            .map(|_| free().context("no free port between 10000 and 32000"))
            .collect::<Result<_, _>>()?;
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port()))
            .collect::<Result<_>>()?;
        let [amqp, amqps, management, epmd, distribution] = ports[..] else {
            bail!("the number of ports is not five")
        };
        Ok(Self {
            amqp,
            amqps,
            management,
            epmd,
            distribution,
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let Self {
            amqp,
            amqps,
            management,
            epmd,
            distribution,
        } = self;
        std::fs::write(path, format!("{amqp} {amqps} {management} {epmd} {distribution}"))?;
        Ok(())
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let numbers: Vec<u16> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [amqp, amqps, management, epmd, distribution] = numbers[..] else {
            bail!("the number of ports is not five: {text}")
        };
        Ok(Self {
            amqp,
            amqps,
            management,
            epmd,
            distribution,
        })
    }
}

/// The folder of the shared node. There is one for each build and user, so checkouts do not share
/// it.
fn shared_folder() -> Result<PathBuf> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;

    let build = std::env::current_exe()?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    build.hash(&mut hasher);
    let user = std::fs::metadata("/proc/self")?.uid();
    Ok(std::env::temp_dir().join(format!("backbone-rabbitmq-{user}-{:016x}", hasher.finish())))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_management_api_answers_where_it_was_asked_for() {
        let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
        let mut http = TcpStream::connect((Ipv4Addr::LOCALHOST, node.management_port())).unwrap();
        let request =
            "GET /api/whoami HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n";
        http.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).unwrap();
        assert!(
            answer.contains(" 200 ") && answer.contains("\"name\":\"guest\""),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_node_killed_and_started_again_keeps_its_data() {
        let node = RabbitMq::start().await.unwrap();
        let vhost = node.add_vhost().await.unwrap();
        node.kill9().await.unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, node.port())).is_err());
        node.start_again().await.unwrap();
        assert!(node.ctl(&["list_vhosts"]).await.unwrap().contains(&vhost));
    }
}
