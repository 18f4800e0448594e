//! Logging to standard error: text on a terminal or in the journal, else JSON.

use std::io::{self, IsTerminal};

use ::settings::LogLevel;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Crates that log at the configured level. All others log warnings and errors only.
const OWN_CRATES: [&str; 3] = ["bbmaster", "bus", "protocol"];

/// Starts logging, from `level` on. Later calls have no effect.
pub fn init(level: LogLevel) {
    let filter = filter(level);
    let is_terminal = io::stderr().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry();
    // An error means that logging was started before.
    let _ = if is_terminal {
        let lines = lines
            .compact()
            .with_target(false)
            .with_ansi(!no_colour)
            .with_filter(filter);
        registry.with(lines).try_init()
    } else if std::env::var_os("JOURNAL_STREAM").is_some() {
        // The journal adds the time.
        let lines = lines
            .compact()
            .with_target(false)
            .with_ansi(false)
            .without_time()
            .with_filter(filter);
        registry.with(lines).try_init()
    } else {
        let lines = lines.json().flatten_event(true).with_filter(filter);
        registry.with(lines).try_init()
    };
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn lapin_logs_little_and_never_a_message() {
        for (level, target, at, expected) in [
            (LogLevel::Debug, "bbmaster::dispatch", Level::DEBUG, true),
            (LogLevel::Info, "bus::amqp", Level::INFO, true),
            (LogLevel::Debug, "lapin::channels", Level::ERROR, true),
            (LogLevel::Info, "lapin::channels", Level::ERROR, false),
            (LogLevel::Debug, "lapin::returned_messages", Level::ERROR, false),
            (LogLevel::Info, "lapin::returned_messages", Level::WARN, false),
            (LogLevel::Info, "sqlx::query", Level::WARN, true),
        ] {
            let enabled = filter(level).would_enable(target, &at);
            assert_eq!(enabled, expected, "{level:?} {target} {at}");
        }
    }
}
