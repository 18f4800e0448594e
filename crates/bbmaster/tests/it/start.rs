//! Starts of the real program that succeed and that fail.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn a_taken_address_fails_the_start_before_the_broker_is_called() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    broker.set_nonblocking(true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bbmaster"));
    command.args(["--config", "/dev/null"]);
    for setting in [
        format!("bbmaster.listen={}", taken.local_addr().unwrap()),
        format!("bbmaster.state_dir={}", folder.path().display()),
        "amqp.host=127.0.0.1".to_owned(),
        format!("amqp.port={}", broker.local_addr().unwrap().port()),
    ] {
        command.args(["--set", &setting]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot listen on"), "{said}");
    assert_eq!(broker.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A master that is stopped with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As systemd starts it, with a broker that does not answer.
#[test]
fn systemd_is_notified_when_it_listens_even_without_a_broker() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&address).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bbmaster"));
    command
        .args(["--config", "/dev/null"])
        .env("NOTIFY_SOCKET", &address);
    for setting in [
        "bbmaster.listen=127.0.0.1:0".to_owned(),
        format!("bbmaster.state_dir={}", folder.path().display()),
        "amqp.host=127.0.0.1".to_owned(),
        "amqp.port=1".to_owned(),
    ] {
        command.args(["--set", &setting]);
    }
    let mut master = Program(command.stderr(Stdio::null()).spawn().unwrap());
    let heard = || {
        let mut bytes = [0; 200];
        let length = systemd.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    let status = heard();
    let listening = status.strip_prefix("STATUS=listening on http://").unwrap();
    // It serves.
    TcpStream::connect(listening).unwrap();
    let killed = Command::new("kill")
        .arg(master.0.id().to_string())
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(heard(), "STOPPING=1");
    assert!(master.0.wait().unwrap().success());
}
