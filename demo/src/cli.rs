//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use bus::amqp::{AmqpSettings, Login, Secret};
use clap::Parser;
use url::Url;

const ABOUT: &str = "\
Runs bbmaster and three hosts on this machine. Each host is an agent with a sandbox folder as its /. \
Packages (deb, rpm or both, depending on this machine's tools), services and messages are real. The demo \
prints each message. After each of its eight parts it compares what the agents report with what is on the \
hosts. A table at the end shows the result.

The demo needs no root, no settings and no network except loopback, and leaves nothing behind. Without \
--broker everything runs in one process.";

const EXIT_CODES: &str = "\
Exit codes: 0 all hosts are as desired, 1 they are not, 2 wrong command line, 130 interrupted.
With --keep, Ctrl-C after the last part is the normal end, not an interruption.
Colours are used on a terminal, unless NO_COLOR is set.";

#[derive(Debug, Parser)]
#[command(
    name = "demo",
    about = "Runs a master and three hosts on this machine, and checks every result.",
    long_about = ABOUT,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// Use this RabbitMQ, with each agent in a separate process:
    /// amqp://USER:PASSWORD@HOST:PORT/VHOST. No fleet may use the virtual host, because the demo
    /// sends messages to every agent. The demo does not start if the exchange pf9-bbone exists
    /// there.
    #[arg(long, value_name = "URL")]
    pub broker: Option<Broker>,
    /// Keep master and agents running at the end, until Ctrl-C, so that you can use the web page
    /// and send your own commands.
    #[arg(long)]
    pub keep: bool,
    /// The agent's program, for --broker. Default: `hostagent` in the folder of this program.
    #[arg(long, value_name = "FILE")]
    pub hostagent: Option<PathBuf>,
}

impl Cli {
    pub fn hostagent(&self) -> Result<PathBuf> {
        let program = match &self.hostagent {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("hostagent"),
        };
        // Absolute, since the agents run in another folder.
        program.canonicalize().with_context(|| {
            format!(
                "cannot find the agent's program {}: build it with `cargo build -p hostagent`, or name it \
                 with --hostagent",
                program.display()
            )
        })
    }
}

/// The path of another program of the same build.
pub fn beside_this(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    path.canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))
}

/// Address and login of RabbitMQ.
#[derive(Debug, Clone)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub username: String,
    password: Secret,
    pub virtual_host: String,
}

impl Broker {
    pub fn password(&self) -> &str {
        self.password.reveal()
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub fn settings(&self) -> AmqpSettings {
        AmqpSettings {
            login: Some(Login {
                username: self.username.clone(),
                password: self.password.clone(),
            }),
            virtual_host: self.virtual_host.clone(),
            connection_name: "Backbone demo".into(),
            frame_max: AmqpSettings::FRAME_MAX_LARGE,
            ..AmqpSettings::new(self.host.clone(), self.port)
        }
    }
}

impl FromStr for Broker {
    type Err = anyhow::Error;

    /// As in the RabbitMQ URI specification: no path means the virtual host `/`.
    fn from_str(text: &str) -> Result<Self> {
        let url = Url::parse(text).context("is not a URL; expected amqp://USER:PASSWORD@HOST:PORT/VHOST")?;
        if url.scheme() != "amqp" {
            bail!(
                "begins with {}://, but the demo supports only amqp:// (without TLS)",
                url.scheme()
            );
        }
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let path = url.path().strip_prefix('/').unwrap_or("");
        Ok(Self {
            host: or(
                url.host_str().unwrap_or("").trim_matches(['[', ']']).to_owned(),
                "localhost",
            ),
            port: url.port().unwrap_or(5672),
            username: or(decode(url.username())?, "guest"),
            password: Secret::new(decode(url.password().unwrap_or("guest"))?),
            virtual_host: or(decode(path)?, "/"),
        })
    }
}

/// Percent-decoding (RFC 3986, 2.1).
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().unwrap_or(b' '), rest.next().unwrap_or(b' ')];
        let code = std::str::from_utf8(&digits)
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.context("contains a % without two hexadecimal digits after it")?);
    }
    String::from_utf8(bytes).context("is not UTF-8 after percent-decoding")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_urls() {
        let table = [
            (
                "amqp://guest:guest@localhost:5672",
                "guest guest localhost:5672 /",
            ),
            (
                "amqp://guest:guest@localhost:5672/",
                "guest guest localhost:5672 /",
            ),
            ("amqp://a%40b:p%2Fw@10.0.0.1/demo", "a@b p/w 10.0.0.1:5672 demo"),
            ("amqp://localhost/%2Fx", "guest guest localhost:5672 /x"),
        ];
        for (text, expected) in table {
            let broker: Broker = text.parse().unwrap();
            let found = format!(
                "{} {} {} {}",
                broker.username,
                broker.password(),
                broker.address(),
                broker.virtual_host
            );
            assert_eq!(found, expected, "{text}");
        }
        for bad in [
            "localhost:5672",
            "amqps://localhost",
            "http://x",
            "amqp://a:%zz@x",
            "",
        ] {
            assert!(bad.parse::<Broker>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_in_the_debug_output() {
        let broker: Broker = "amqp://u:hunter2@x".parse().unwrap();
        assert!(!format!("{broker:?}").contains("hunter2"));
    }
}
