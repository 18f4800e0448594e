//! A simulated fleet, for trying out a master.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::fleet::{Fleet, Plan, Script, Wiring};
use bus::amqp::{AmqpSettings, Login, Roots, Secret, TlsSettings};
use clap::Parser;
use tokio::time::{Instant, MissedTickBehavior, interval};
use url::Url;

/// Simulates a fleet of hosts: real AMQP connections and the real protocol, but nothing is installed.
///
/// Examples:
///   1,000 hosts with a connection each, like real ones:
///     fleet --url amqp://guest:guest@127.0.0.1 --hosts 1000
///   100,000 hosts over 8 connections, a heartbeat a minute, one change in fifty fails:
///     fleet --url amqp://guest:guest@127.0.0.1 --hosts 100000 --connections 8 --failure-rate 0.02
#[derive(Parser)]
#[command(name = "fleet", version, verbatim_doc_comment)]
struct Cli {
    /// amqp://USER:PASSWORD@HOST[:PORT][/VHOST], or amqps:// for TLS
    #[arg(long)]
    url: Url,
    /// PEM file of the authorities for the broker's certificate [default: those of this machine]
    #[arg(long)]
    ca: Option<std::path::PathBuf>,
    /// Number of hosts
    #[arg(long, default_value_t = 100)]
    hosts: usize,
    /// Number of connections that the hosts share [default: one connection and queue for each host]
    #[arg(long)]
    connections: Option<usize>,
    /// New connections a second, if each host has its own
    #[arg(long, default_value_t = 200)]
    connect_rate: u32,
    /// Prefix of the host ids
    #[arg(long, default_value = "SIM-")]
    prefix: String,
    /// Seconds between a host's heartbeats; 0: none
    #[arg(long, default_value_t = 60.0)]
    heartbeat: f64,
    /// Seconds that a change takes: a number, or MIN..MAX
    #[arg(long, default_value = "0.5..5", value_parser = span)]
    install_time: (Duration, Duration),
    /// Share of changes that fail, from 0 to 1
    #[arg(long, default_value_t = 0.0)]
    failure_rate: f64,
    /// Mean seconds between restarts of an agent; 0: none
    #[arg(long, default_value_t = 0.0)]
    restarts: f64,
    /// Applications that each host has from the start
    #[arg(long, default_value_t = 2)]
    applications: usize,
    /// With shared connections: do not bind the host ids, so that only messages to all hosts arrive
    #[arg(long)]
    unreachable: bool,
    /// Seconds until the program ends; 0: never
    #[arg(long, default_value_t = 0.0)]
    duration: f64,
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,
}

fn span(text: &str) -> Result<(Duration, Duration)> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let seconds = |text: &str| -> Result<Duration> {
        let number: f64 = text
            .trim()
            .parse()
            .with_context(|| format!("{text:?} is not a number"))?;
        Duration::try_from_secs_f64(number).with_context(|| format!("{text:?} is not a number of seconds"))
    };
    let (min, max) = (seconds(min)?, seconds(max)?);
    if min > max {
        bail!("{text:?}: the minimum is larger than the maximum");
    }
    Ok((min, max))
}

/// `None` for 0.
fn seconds(number: f64, what: &str) -> Result<Option<Duration>> {
    let time = Duration::try_from_secs_f64(number)
        .with_context(|| format!("{what}: {number} is not a number of seconds"))?;
    Ok(Some(time).filter(|time| !time.is_zero()))
}

impl Cli {
    fn amqp(&self) -> Result<AmqpSettings> {
        let tls = match self.url.scheme() {
            "amqp" => false,
            "amqps" => true,
            other => bail!("--url: expected amqp:// or amqps://, not {other}://"),
        };
        let host = self.url.host_str().context("--url has no host")?;
        let port = self.url.port().unwrap_or(if tls { 5671 } else { 5672 });
        let decoded = |text: &str| -> Result<String> {
            // Form decoding would turn a plus sign into a space.
            let escaped = text.replace('+', "%2B");
            let pair = format!("x={escaped}");
            let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
            Ok(pairs
                .next()
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default())
        };
        let vhost = decoded(self.url.path().trim_start_matches('/'))?;
        Ok(AmqpSettings {
            login: Some(Login {
                username: decoded(self.url.username())?,
                password: Secret::new(decoded(self.url.password().unwrap_or_default())?),
            }),
            virtual_host: if vhost.is_empty() { "/".to_owned() } else { vhost },
            frame_max: match self.connections {
                None => AmqpSettings::FRAME_MAX_SMALL,
                Some(_) => AmqpSettings::FRAME_MAX_LARGE,
            },
            tls: tls.then(|| TlsSettings {
                roots: self.ca.clone().map_or(Roots::System, Roots::File),
                client: None,
                server_name: None,
            }),
            ..AmqpSettings::new(host, port)
        })
    }

    fn plan(&self) -> Result<Plan> {
        let wiring = match self.connections {
            None => Wiring::OneEach,
            Some(connections) => Wiring::Shared { connections },
        };
        if !(0.0..=1.0).contains(&self.failure_rate) {
            bail!("--failure-rate: {} is not between 0 and 1", self.failure_rate);
        }
        let (min, max) = self.install_time;
        Ok(Plan {
            prefix: self.prefix.clone(),
            script: Script {
                install_time: min..=max,
                failure_rate: self.failure_rate,
                heartbeat: seconds(self.heartbeat, "--heartbeat")?,
                restart_mean: seconds(self.restarts, "--restarts")?,
                applications: self.applications,
            },
            reachable: !self.unreachable,
            connect_rate: self.connect_rate,
            ..Plan::new(self.amqp()?, self.hosts, wiring)
        })
    }
}

async fn run(cli: Cli) -> Result<()> {
    let duration = seconds(cli.duration, "--duration")?;
    let plan = cli.plan()?;
    let started = Instant::now();
    let connecting = Fleet::start(plan);
    let fleet = tokio::select! {
        fleet = connecting => fleet?,
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
    };
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => report(&fleet, started, cli.json)?,
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
        if duration.is_some_and(|duration| started.elapsed() >= duration) {
            return Ok(());
        }
    }
}

fn report(fleet: &Fleet, started: Instant, json: bool) -> Result<()> {
    let counts = fleet.counts();
    let (up, all, at) = (fleet.up(), fleet.connections(), started.elapsed().as_secs());
    if json {
        let mut line = serde_json::to_value(counts)?;
        line["seconds"] = at.into();
        line["connections_up"] = up.into();
        println!("{line}");
        return Ok(());
    }
    println!(
        "{at:>5} s  {up} of {all} connected; sent {} statuses, {} unroutable; received {} pings, {} desired states; \
         {} converged, {} failed; {} restarts",
        counts.statuses,
        counts.unroutable,
        counts.pings,
        counts.set_configs,
        counts.converged,
        counts.failed,
        counts.restarts
    );
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
