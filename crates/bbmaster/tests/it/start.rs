//! How the real program starts, or does not.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

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
