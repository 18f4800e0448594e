//! What systemd is told of the agent (sd_notify(3)): that it is ready, how the host stands, and that it is not wedged.
//! Nothing, where systemd did not start it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::Instant;

use crate::host_state::Standing;

/// The way to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that the agent is alive.
    period: Option<Duration>,
    /// When it is to hear so next.
    due: Option<Instant>,
}

impl Notifier {
    /// As the environment of this process says.
    pub fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok();
        let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let within = variable("WATCHDOG_USEC").filter(|_| is_ours);
        Self::new(variable("NOTIFY_SOCKET").as_deref(), within.as_deref())
    }

    /// `within`: microseconds, after which silence counts as the agent's death.
    fn new(address: Option<&str>, within: Option<&str>) -> Self {
        let socket = address.and_then(|address| match connect(address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(address, %error, "systemd can't be told how the agent is");
                None
            }
        });
        let within = within.and_then(|microseconds| microseconds.parse().ok());
        // Two may get lost.
        let period = within.map(|microseconds| Duration::from_micros(microseconds) / 3);
        let period = period.filter(|_| socket.is_some());
        Self {
            socket,
            period,
            due: period.map(|period| Instant::now() + period),
        }
    }

    /// The state is read, and the tasks run.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// For `systemctl status`.
    pub fn standing(&self, standing: &Standing) {
        if self.socket.is_some() {
            self.tell(&format!("STATUS={}", describe(standing)));
        }
    }

    /// Returns when systemd must be told that the agent is alive; never, where it does not want to know. Cancel-safe.
    pub async fn alive_is_due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    pub fn alive(&mut self) {
        self.tell("WATCHDOG=1");
        self.due = self.period.map(|period| Instant::now() + period);
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(what.as_bytes())
        {
            tracing::debug!(what, %error, "systemd was not told");
        }
    }
}

fn connect(address: &str) -> std::io::Result<UnixDatagram> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A systemd that reads nothing must not hold the agent up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One line.
fn describe(standing: &Standing) -> String {
    match standing {
        Standing::Ok => "the host is as desired".into(),
        Standing::Converging { detail } => format!("converging: {}", detail.replace('\n', " ")),
        Standing::Errors(errors) => {
            let apps = errors.iter().map(|error| match &error.app {
                Some(app) => app.as_str(),
                None => "the host",
            });
            format!("errors: {}", apps.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn systemd_is_told_on_both_kinds_of_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let name = format!("hostagent-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path),
            (
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
                format!("@{name}"),
            ),
        ] {
            let mut notifier = Notifier::new(Some(&address), Some("30000"));
            notifier.ready();
            let detail = "installing\nx".to_owned();
            notifier.standing(&Standing::Converging { detail });
            notifier.alive_is_due().await;
            notifier.alive();
            notifier.stopping();
            let expected = [
                "READY=1",
                "STATUS=converging: installing x",
                "WATCHDOG=1",
                "STOPPING=1",
            ];
            for expected in expected {
                let mut bytes = [0; 100];
                let length = socket.recv(&mut bytes).unwrap();
                assert_eq!(&bytes[..length], expected.as_bytes());
            }
        }
    }

    #[tokio::test]
    async fn without_systemd_there_is_nothing_to_tell() {
        let notifier = Notifier::new(None, Some("1000"));
        notifier.ready();
        let due = tokio::time::timeout(Duration::from_millis(20), notifier.alive_is_due());
        assert!(due.await.is_err());
    }
}
