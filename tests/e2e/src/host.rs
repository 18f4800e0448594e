//! One machine with the agent on it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::machine::{Forward, Machine};
use harness::packages::{Family, Package};
use harness::rabbitmq::RabbitMq;

/// Longest wait for anything that promises no time of its own.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Host {
    pub machine: Machine,
    /// What the machine sees of the world outside: the address of the ports that are forwarded.
    pub outside: String,
    /// Whose packages it takes.
    pub family: Family,
    forwards: Vec<Forward>,
}

impl Host {
    /// Boots it and connects it to its part of the network.
    pub fn boot() -> Result<Self> {
        Self::on(Machine::boot()?, Family::Deb)
    }

    /// `machine` takes packages of `family`.
    pub(crate) fn on(machine: Machine, family: Family) -> Result<Self> {
        let (outside, _) = machine.connect_network()?;
        Ok(Self {
            machine,
            outside: outside.to_string(),
            family,
            forwards: Vec::new(),
        })
    }

    /// Lets the machine reach `port` of this host.
    pub async fn forward(&mut self, port: u16) -> Result<()> {
        self.forwards.push(self.machine.forward(port).await?);
        Ok(())
    }

    /// Reboots it; the network is there again.
    pub fn reboot(&mut self) -> Result<()> {
        self.machine.reboot()?;
        self.machine.connect_network()?;
        Ok(())
    }

    /// Cuts its power and boots it again; the network is there again.
    pub fn power_cut(&mut self) -> Result<()> {
        self.machine.power_cut()?;
        self.machine.connect_network()?;
        Ok(())
    }

    /// What an operator would write into the agent's settings.
    pub fn configure_agent(&self, port: u16, vhost: &str, more: &str) -> Result<()> {
        let (user, password, outside) = (RabbitMq::USER, RabbitMq::PASSWORD, &self.outside);
        let settings = format!(
            "[hostagent]\nconnection_retry_period = 1\nbake_period = 3\nlog_level_name = DEBUG\n{more}\n\
             [amqp]\nhost = {outside}\nport = {port}\nusername = {user}\npassword = {password}\n\
             virtual_host = {vhost}\namqp_heartbeat_interval = 5\n[ssl]\ndisable = true\n"
        );
        self.machine.write("/etc/pf9/hostagent.conf", settings, 0o600)
    }

    /// Builds `package` and installs it with dpkg or rpm, as an operator would; the file stays at `/srv`.
    pub fn install(&self, package: &Package) -> Result<()> {
        let built = tempfile::tempdir()?;
        let file = package.build(self.family, built.path())?;
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .context("a name")?;
        let path = format!("/srv/{name}");
        self.machine.copy_in(&file, &path)?;
        let installer = match self.family {
            Family::Deb => "dpkg -i",
            Family::Rpm => "rpm -U",
        };
        self.machine.sh(&format!("{installer} {path} 2>&1"))?;
        Ok(())
    }

    pub fn start_agent(&self) -> Result<()> {
        self.machine.sh("systemctl start hostagent").map(|_| ())
    }

    /// The host id that the agent should find: the MAC address of the machine's network.
    pub fn mac(&self) -> Result<String> {
        let text = self.machine.sh("cat /sys/class/net/host0/address")?;
        Ok(text.trim().to_uppercase())
    }

    /// A value that systemd shows of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        let shown = self.machine.sh(&format!("systemctl show -P {property} {unit}"));
        shown.unwrap_or_default().trim().to_owned()
    }

    /// Version of a package, and dpkg's state of it where there is dpkg; empty: not known.
    pub fn package(&self, name: &str) -> String {
        let query = match self.family {
            Family::Deb => {
                format!("dpkg-query -W -f '${{Version}} ${{db:Status-Abbrev}}' {name} 2>/dev/null || true")
            }
            Family::Rpm => format!("rpm -q --queryformat '%{{VERSION}}-%{{RELEASE}}' {name} || echo"),
        };
        self.machine.sh(&query).unwrap_or_default().trim().to_owned()
    }

    /// What the agent has logged since the boot, without what the AMQP library says at each try to connect.
    pub fn log(&self) -> String {
        let journal = "journalctl --no-pager -o short-monotonic -u hostagent -u 'hostagent-*' 2>&1 \
             | grep -v -e ': still no link' -e ': Connection error' -e ': error doing IO' -e ': Socket was readable' \
             -e ': Exponential backoff' | tail -n 150";
        self.machine.sh(journal).unwrap_or_else(|error| error.to_string())
    }

    /// Waits until a shell script succeeds inside.
    pub async fn until(&self, script: &str) -> Result<()> {
        self.until_within(script, PATIENCE).await
    }

    pub async fn until_within(&self, script: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let mut command = self.machine.command(&["sh", "-c", script]);
            if command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?
                .success()
            {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "awaited in vain: {script}\nThe agent's log:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
