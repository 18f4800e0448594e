//! A host comes in over TLS alone: by a master with a certificate of a private authority, to a broker with one of another.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::agent_package::{agent_package, program};
use e2e::app::app_with_hook;
use e2e::host::Host;
use harness::certificates::Authority;
use harness::http::HttpServer;
use harness::machine;
use harness::packages::Family;
use harness::rabbitmq::{Options, RabbitMq};

const PATIENCE: Duration = Duration::from_secs(60);

/// The real program, outside the machine; ends with the test.
struct Master(Child);

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Sets the broker up for it and starts it, to be reached as `localhost` and as `master.test`. It is on the broker's machine and
/// speaks plain text there; hosts are not to.
fn start_master(broker: &RabbitMq, authority: &Authority, port: u16, folder: &Path) -> Result<Master> {
    let (certificate, key) = (folder.join("master.pem"), folder.join("master.key"));
    authority
        .server(&["localhost", "master.test"])?
        .write(&certificate, &key)?;
    let management = format!("http://127.0.0.1:{}", broker.management_port());
    let settings = format!(
        "[bbmaster]\nlisten = 127.0.0.1:{port}\nstate_dir = {state}\n\
         [tls]\ncertfile = {certificate}\nkeyfile = {key}\n\
         [amqp]\nhost = localhost\nport = {amqp}\nusername = bbmaster\npassword = secret-of-the-master\n\
         require_user_id = true\nhost_user = host-{{host_id}}\n\
         [enroll]\nmanagement = {management}\nusername = {user}\npassword = {password}\n\
         amqp_host = broker.test\namqp_port = {amqps}\namqp_ca = {ca}\n",
        state = folder.join("state").display(),
        certificate = certificate.display(),
        key = key.display(),
        amqp = broker.port(),
        amqps = broker.tls_port(),
        ca = broker.authority_file().display(),
        user = RabbitMq::USER,
        password = RabbitMq::PASSWORD,
    );
    let file = folder.join("bbmaster.conf");
    std::fs::write(&file, settings)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let master = |arguments: &[&str]| {
        let mut command = Command::new(program("bbmaster")?);
        command.arg("--config").arg(&file).args(arguments);
        Ok::<_, anyhow::Error>(command)
    };
    run(&mut master(&["broker-setup", "--management", &management])?)?;
    Ok(Master(master(&["run"])?.spawn().context("bbmaster")?))
}

// The ports are forwarded by tasks, while this one waits for the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_enrols_over_tls_and_is_managed_over_tls() -> Result<()> {
    if machine::skip("a_host_enrols_over_tls_and_is_managed_over_tls") {
        return Ok(());
    }
    let broker = RabbitMq::start_with(Options { management: true }).await?;
    let server = HttpServer::start().await?;
    let folder = tempfile::tempdir()?;
    let authority = Authority::new("The operator's own CA")?;
    let ca = folder.path().join("ca.pem");
    authority.write_certificate(&ca)?;
    let port = free_port()?;
    let _master = start_master(&broker, &authority, port, folder.path())?;
    let bbctl = |arguments: &[&str]| -> Result<String> {
        let url = format!("https://localhost:{port}");
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(program("bbctl")?);
        run(command.env("BBCTL_URL", url).env("BBCTL_CA", &ca).args(arguments))
    };

    let mut host = Host::boot()?;
    // Not AMQP in plain text: the machine has no way there.
    for port in [port, broker.tls_port(), server.address().port()] {
        host.forward(port).await?;
    }
    let names = format!("127.0.0.1 localhost\n{} master.test broker.test\n", host.outside);
    host.machine.write("/etc/hosts", names, 0o644)?;
    host.machine.copy_in(&ca, "/srv/ca.pem")?;
    host.machine.copy_in(&broker.authority_file(), "/srv/other.pem")?;
    host.install(&agent_package("1.0")?)?;

    let deadline = Instant::now() + PATIENCE;
    let token = loop {
        match bbctl(&["enroll-token", "create", "first"]) {
            Ok(token) => break token,
            Err(error) => ensure!(
                Instant::now() < deadline,
                "the master does not come up: {error:#}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let enroll = |ca: &str| {
        host.machine.sh(&format!(
            "BACKBONE_ENROLL_TOKEN={} hostagent enroll --master https://master.test:{port} --ca {ca} 2>&1",
            token.trim()
        ))
    };
    // A master that this authority does not vouch for is not told the token, which is good for one host only.
    let refused = enroll("/srv/other.pem").unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let said = enroll("/srv/ca.pem")?;
    assert!(said.contains("is enabled and started"), "{said}");
    let drop_in = "/etc/pf9/hostagent.conf.d/90-enrolled.conf";
    let written = host
        .machine
        .sh(&format!("stat -c '%a %U' {drop_in}; cat {drop_in}"))?;
    assert!(written.starts_with("600 root\n"), "{written}");
    assert!(written.contains("disable = false"), "{written}");

    let app = app_with_hook("greeting", "1.0");
    let file = app.build(Family::Deb, folder.path())?;
    server.put_file("/greeting.deb", std::fs::read(file)?);
    let url = server.url("/greeting.deb").replace("127.0.0.1", &host.outside);
    let desired = folder.path().join("desired.yaml");
    let text =
        format!("greeting:\n  version: \"1.0\"\n  url: {url}\n  config: {{greeting: {{greeting: hi}}}}\n");
    std::fs::write(&desired, text)?;
    let id = host.mac()?;
    let file = desired.to_string_lossy();
    bbctl(&["set", &id, "--wait", "-f", &file])
        .with_context(|| format!("the agent's log:\n{}", host.log()))?;
    let hosts = bbctl(&["hosts"])?;
    assert!(hosts.contains(&id) && hosts.contains(" ok "), "{hosts}");
    assert_eq!(host.package("greeting"), "1.0-1 ii");
    bbctl(&["ping", &id, "-c", "1", "-W", "20"])?;
    Ok(())
}
