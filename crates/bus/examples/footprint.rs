//! Measures the resident memory and the threads of a connected link, idle and after traffic.
//!
//! `cargo run --release -p bus --example footprint HOST PORT VHOST [CA_FILE]`, as the user guest.

use std::time::Duration;

use anyhow::{Context, Result};
use bus::amqp::{AmqpSettings, Login, Roots, Secret, TlsSettings, connect};
use bus::{LinkState, Queue};
use protocol::HostId;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "HOST PORT VHOST [CA_FILE]";
    let host = arguments.next().context(usage)?;
    let port = arguments.next().context(usage)?.parse()?;
    let settings = AmqpSettings {
        login: Some(Login {
            username: "guest".into(),
            password: Secret::new("guest"),
        }),
        virtual_host: arguments.next().context(usage)?,
        tls: arguments.next().map(|ca| TlsSettings {
            roots: if ca == "system" {
                Roots::System
            } else {
                Roots::File(ca.into())
            },
            client: None,
            server_name: None,
        }),
        ..AmqpSettings::new(host, port)
    };
    report("started")?;
    let mut link = connect(settings, Queue::of_agent(&HostId::new("footprint")?, None));
    link.state.wait_for(LinkState::is_up).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    report("connected, idle")?;

    for _ in 0..3000 {
        link.publisher.publish("footprint", vec![b'x'; 8192]).await?;
        link.deliveries.recv().await.context("the link ended")?.ack();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    report("after 24 MB out and in")
}

fn report(when: &str) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    println!(
        "{when}: resident {} (anonymous {}, files {}), {} threads",
        field("VmRSS:"),
        field("RssAnon:"),
        field("RssFile:"),
        field("Threads:")
    );
    Ok(())
}
