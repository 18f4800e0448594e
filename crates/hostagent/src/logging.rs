//! Where log lines go: a terminal, journald, or JSON on standard error.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::settings::LogLevel;

/// Our own crates. All others log only warnings and errors, whatever the level.
const OWN_CRATES: [&str; 4] = ["hostagent", "host", "bus", "protocol"];

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// For people: one short line each.
    Terminal { coloured: bool },
    /// The journal itself, with fields and priorities.
    Journal,
    /// For programs: one JSON object per line on standard error.
    Json,
}

/// Starts the log of this process at `level`. Later calls have no effect.
pub fn init(level: LogLevel) -> Destination {
    let destination = choose(
        io::stderr().is_terminal(),
        std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        std::env::var("JOURNAL_STREAM").ok().as_deref(),
        stderr_device_and_inode(),
    );
    // An error: there is a subscriber already.
    let _ = match destination {
        Destination::Terminal { coloured } => install(terminal(coloured), level),
        Destination::Json => install(json(), level),
        Destination::Journal => match tracing_journald::layer() {
            Ok(journal) => install(journal.with_priority_mappings(priorities()), level),
            // The journal's socket does not exist. Standard error is the journal, too.
            Err(_) => install(terminal(false), level),
        },
    };
    destination
}

/// `JOURNAL_STREAM` holds the device and inode of the stream that systemd has connected. If
/// standard error is this stream, it was not redirected (systemd.exec(5)).
fn choose(
    is_terminal: bool,
    no_colour: bool,
    journal_stream: Option<&str>,
    stderr: Option<(u64, u64)>,
) -> Destination {
    let stream = journal_stream
        .and_then(|text| text.split_once(':'))
        .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    if is_terminal {
        Destination::Terminal { coloured: !no_colour }
    } else if stream.is_some() && stream == stderr {
        Destination::Journal
    } else {
        Destination::Json
    }
}

fn stderr_device_and_inode() -> Option<(u64, u64)> {
    let stat = rustix::fs::fstat(io::stderr()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn install<L>(layer: L, level: LogLevel) -> Result<(), tracing::subscriber::SetGlobalDefaultError>
where
    L: Layer<tracing_subscriber::Registry> + Send + Sync,
{
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(level)));
    tracing::subscriber::set_global_default(subscriber)
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(bus::levels_of_lapin(level))
        .with_targets(OWN_CRATES.map(|name| (name, level)))
}

fn terminal<S>(coloured: bool) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .compact()
        .with_target(false)
        .with_ansi(coloured)
        .with_writer(io::stderr)
}

fn json<S>() -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(io::stderr)
}

/// INFO is for normal events. tracing-journald's default for it, `notice`, is for unusual ones.
fn priorities() -> PriorityMappings {
    PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_destination_follows_standard_error() {
        const STREAM: Option<&str> = Some("9:1234");
        for (is_terminal, no_colour, stream, stderr, expected) in [
            (true, false, None, None, Destination::Terminal { coloured: true }),
            (true, true, None, None, Destination::Terminal { coloured: false }),
            // A terminal in a unit's environment, as `systemd-run --pty` gives.
            (
                true,
                false,
                STREAM,
                Some((9, 1234)),
                Destination::Terminal { coloured: true },
            ),
            (false, false, STREAM, Some((9, 1234)), Destination::Journal),
            // Inherited from a unit, but redirected to a file since.
            (false, false, STREAM, Some((9, 1)), Destination::Json),
            (false, false, STREAM, None, Destination::Json),
            (false, false, Some("nonsense"), None, Destination::Json),
            (false, false, None, Some((9, 1234)), Destination::Json),
        ] {
            assert_eq!(choose(is_terminal, no_colour, stream, stderr), expected);
        }
    }

    #[test]
    fn dependencies_are_quiet() {
        for (level, target, at, expected) in [
            (LogLevel::Debug, "hostagent::inbox", Level::DEBUG, true),
            (LogLevel::Debug, "lapin", Level::INFO, false),
            (LogLevel::Debug, "lapin::channel", Level::WARN, true),
            (LogLevel::Info, "lapin::channel", Level::ERROR, false),
            (LogLevel::Debug, "lapin::returned_messages", Level::WARN, false),
            (LogLevel::Debug, "zbus::connection", Level::WARN, true),
            (LogLevel::Info, "bus::amqp", Level::INFO, true),
            (LogLevel::Info, "bus::amqp", Level::DEBUG, false),
            (LogLevel::Info, "host::download", Level::INFO, true),
            (LogLevel::Info, "host::download", Level::DEBUG, false),
            (LogLevel::Error, "lapin", Level::WARN, false),
            (LogLevel::Critical, "hostagent", Level::WARN, false),
            (LogLevel::Critical, "hostagent", Level::ERROR, true),
        ] {
            let enabled = filter(level).would_enable(target, &at);
            assert_eq!(enabled, expected, "{level:?} {target} {at}");
        }
    }
}
