//! Notifies systemd of a daemon's state (sd_notify(3)): readiness, a status line, and the watchdog.
//! Does nothing if systemd did not start the daemon.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::Instant;

/// The connection to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Time between two watchdog messages.
    period: Option<Duration>,
    /// When the next watchdog message is due.
    due: Option<Instant>,
}

impl Notifier {
    /// As systemd set it up in the environment of this process.
    pub fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok();
        let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let within = variable("WATCHDOG_USEC").filter(|_| is_ours);
        Self::new(variable("NOTIFY_SOCKET").as_deref(), within.as_deref())
    }

    /// `within`: microseconds. systemd kills a daemon that sends no watchdog message for this long.
    fn new(address: Option<&str>, within: Option<&str>) -> Self {
        let socket = address.and_then(|address| match connect(address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(
                    address,
                    %error,
                    "cannot connect to NOTIFY_SOCKET; systemd gets no state of this daemon"
                );
                None
            }
        });
        let within = within.and_then(|microseconds| microseconds.parse().ok());
        // Two messages may be lost.
        let period = within.map(|microseconds| Duration::from_micros(microseconds) / 3);
        let period = period.filter(|_| socket.is_some());
        Self {
            socket,
            period,
            due: period.map(|period| Instant::now() + period),
        }
    }

    /// The daemon has read its files and its tasks run.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Sends one line for `systemctl status`.
    pub fn status(&self, text: impl FnOnce() -> String) {
        if self.socket.is_some() {
            self.tell(&format!("STATUS={}", text().replace('\n', " ")));
        }
    }

    /// Returns when a watchdog message is due; never if the watchdog is off. Cancel-safe.
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
            tracing::debug!(what, %error, "cannot notify systemd");
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
    // A systemd that does not read must not block the daemon.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn systemd_is_notified_on_both_kinds_of_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let name = format!("backbone-notify-test-{}", std::process::id());
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
            notifier.status(|| "converging: installing\nx".to_owned());
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
    async fn without_systemd_nothing_is_sent() {
        let notifier = Notifier::new(None, Some("1000"));
        notifier.ready();
        let due = tokio::time::timeout(Duration::from_millis(20), notifier.alive_is_due());
        assert!(due.await.is_err());
    }
}
