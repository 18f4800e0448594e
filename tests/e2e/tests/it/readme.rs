//! The README's way from packages to a managed host, run as it is written there.

use anyhow::{Context, Result};
use e2e::app::app_that_runs;
use harness::http::HttpServer;
use harness::machine::{self, Machine};
use harness::packages::Family;
use harness::rabbitmq::{Options, RabbitMq};

use crate::our_packages::packages;

const README: &str = include_str!("../../../../README.md");

/// The first block of commands under `heading`.
fn commands(heading: &str) -> Result<&'static str> {
    let section = README.split(heading).nth(1).context("the heading is not there")?;
    let block = section.split("```sh\n").nth(1).context("no commands there")?;
    block.split("```").next().context("it has no end")
}

// The ports are forwarded by tasks, while this one waits for the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_from_packages_to_a_managed_host_is_as_the_readme_says() -> Result<()> {
    if machine::skip("the_way_from_packages_to_a_managed_host_is_as_the_readme_says") {
        return Ok(());
    }
    let broker = RabbitMq::start_with(Options { management: true }).await?;
    let server = HttpServer::start().await?;
    let machine = Machine::boot()?;
    let (outside, _) = machine.connect_network()?;
    let ports = [broker.port(), broker.management_port(), server.address().port()];
    let mut forwards = Vec::new();
    for port in ports {
        forwards.push(machine.forward(port).await?);
    }

    let folder = tempfile::tempdir()?;
    packages("0.1.0", folder.path())?;
    for file in std::fs::read_dir(folder.path())?.flatten() {
        let name = file.file_name();
        machine.copy_in(&file.path(), &format!("/srv/{}", name.to_string_lossy()))?;
    }
    let app = app_that_runs("greeting", "1.0", "while :; do sleep 1000 & wait $!; done");
    let file = app.build(Family::Deb, folder.path())?;
    server.put_file("/greeting.deb", std::fs::read(file)?);

    // Only the first two lines, which name what is elsewhere, are ours.
    let written = commands("## With packages")?;
    let rest = written
        .splitn(3, '\n')
        .nth(2)
        .context("it begins with two lines of variables")?;
    let (user, password) = (RabbitMq::USER, RabbitMq::PASSWORD);
    let [amqp, management, http] = ports;
    let script = format!(
        "cd /srv; RABBIT={outside} PORT={amqp} API=http://{outside}:{management} ADMIN={user} ADMIN_PASSWORD={password}\n\
         URL=http://{outside}:{http}/greeting.deb\n{rest}"
    );
    machine.write("/srv/readme.sh", script, 0o755)?;
    let shown = machine.sh("bash -eux -o pipefail /srv/readme.sh 2>&1")?;
    let last = shown.lines().last().unwrap_or_default();
    assert!(last.contains(" ok "), "{shown}");
    machine.sh("systemctl is-active greeting && systemctl is-enabled hostagent")?;
    Ok(())
}
