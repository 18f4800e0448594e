//! `bbctl ping`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use protocol::HostId;
use protocol::rest::{PingAnswer, problem};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use super::hosts::HostFilter;
use super::{Context, Exit, host_id, time};
use crate::client::ClientError;
use crate::output::{Paint, Style, note, print};

#[derive(Debug, Args)]
pub struct PingCommand {
    /// Pings one host, until interrupted. Without HOST: pings each host once.
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: Option<HostId>,
    /// Number of pings.
    #[arg(short, long, value_name = "N", requires = "id", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds between two pings.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", requires = "id", value_parser = seconds)]
    interval: f64,
    /// Longest wait for an answer, in seconds.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: f64,
    /// The master pings all hosts at a limited rate; do not wait for their answers.
    #[arg(long, conflicts_with_all = ["id", "timeout"])]
    no_wait: bool,
    #[command(flatten)]
    filter: HostFilter,
}

/// 0.01 to 60 seconds.
fn seconds(text: &str) -> Result<f64, String> {
    match time(text).map(|time| time.as_secs_f64()) {
        Ok(seconds) if (0.01..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.01 to 60 seconds are allowed".to_owned()),
    }
}

/// Number of concurrent requests when all hosts are pinged.
const CONCURRENT_PINGS: usize = 32;

/// The round trips so far.
#[derive(Debug, Default, PartialEq)]
struct PingSummary {
    sent: u64,
    /// Milliseconds.
    times: Vec<f64>,
}

impl PingSummary {
    fn add(&mut self, outcome: &Result<PingAnswer, ClientError>) {
        self.sent += 1;
        self.times
            .extend(outcome.as_ref().ok().and_then(|answer| answer.round_trip_ms));
    }

    /// The summary, as ping(8) prints it.
    fn text(&self, what: &str) -> String {
        let answered = self.times.len() as u64;
        let lost = match self.sent {
            0 => 0.0,
            sent => (sent - answered) as f64 * 100.0 / sent as f64,
        };
        let mut text = format!(
            "\n--- {what} ---\n{} asked, {answered} answered, {lost:.0}% lost\n",
            self.sent
        );
        if !self.times.is_empty() {
            let min = self.times.iter().copied().fold(f64::INFINITY, f64::min);
            let max = self.times.iter().copied().fold(0.0, f64::max);
            let mean = self.times.iter().sum::<f64>() / self.times.len() as f64;
            text.push_str(&format!(
                "round trip min/avg/max = {min:.1}/{mean:.1}/{max:.1} ms\n"
            ));
        }
        text
    }

    /// As ping(8): 1 if no host answered.
    fn exit(&self) -> Exit {
        match self.times.is_empty() {
            true => Exit::Failed,
            false => Exit::Ok,
        }
    }
}

/// One line for an answer, or for the reason why there is none.
fn describe(outcome: &Result<PingAnswer, ClientError>, paint: Paint) -> String {
    match outcome {
        Ok(answer) => {
            let time = answer
                .round_trip_ms
                .map_or(String::new(), |ms| format!("time={ms:.1} ms"));
            let status = answer
                .status
                .map(|status| paint.paint(status.into(), status.as_str()));
            format!("{time} status={}", status.unwrap_or_default())
        }
        Err(error) => {
            let text = match error.kind() {
                Some(problem::AWAY) => "not connected: it has no queue".to_owned(),
                Some(problem::NO_ANSWER) => "no answer in time".to_owned(),
                _ => error.to_string(),
            };
            paint.paint(Style::Bad, &text)
        }
    }
}

/// Whether further pings would fail in the same way.
fn is_final(error: &ClientError) -> bool {
    !error.may_pass() && !matches!(error.kind(), Some(problem::AWAY | problem::NO_ANSWER))
}

impl PingCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        match &self.id {
            Some(id) => self.one(context, id),
            None if self.no_wait => {
                context.client.ping_all()?;
                print(
                    "The master pings all hosts; `bbctl hosts --silent` lists hosts that have not reported \
                     recently\n",
                )?;
                Ok(Exit::Ok)
            }
            None => self.all(context),
        }
    }

    /// Pings one host repeatedly. Ctrl-C ends it with the summary.
    fn one(&self, context: &Context, id: &HostId) -> anyhow::Result<Exit> {
        let (sender, events) = mpsc::channel();
        let interrupted = sender.clone();
        let mut signals = Signals::new([SIGINT]).context("cannot handle SIGINT")?;
        // Both threads end with the process. One waits for a signal, the other for answers.
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = interrupted.send(None);
            }
        });
        let (client, id_there, wait) = (context.client.clone(), id.clone(), self.timeout);
        let (ask, asked) = mpsc::channel::<()>();
        thread::spawn(move || {
            while asked.recv().is_ok() {
                if sender.send(Some(client.ping(&id_there, wait))).is_err() {
                    return;
                }
            }
        });
        let interval = Duration::from_secs_f64(self.interval);
        let mut summary = PingSummary::default();
        'pings: while self.count.is_none_or(|count| summary.sent < count) {
            let begun = Instant::now();
            let _ = ask.send(());
            let outcome = match events.recv() {
                Ok(Some(outcome)) => outcome,
                Ok(None) | Err(_) => break,
            };
            summary.add(&outcome);
            print(&format!(
                "{id}: seq={} {}\n",
                summary.sent,
                describe(&outcome, context.terminal.paint)
            ))?;
            if let Err(error) = outcome
                && is_final(&error)
            {
                return Ok(Exit::Failed);
            }
            if self.count.is_none_or(|count| summary.sent < count) {
                match events.recv_timeout(interval.saturating_sub(begun.elapsed())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(_) | Err(RecvTimeoutError::Disconnected) => break 'pings,
                }
            }
        }
        print(&summary.text(&format!("{id} ping statistics")))?;
        Ok(summary.exit())
    }

    /// Pings each host once, several at the same time. Prints lines in the order of the answers.
    fn all(&self, context: &Context) -> anyhow::Result<Exit> {
        let ids = context.client.all_host_ids(self.filter.query())?;
        if ids.is_empty() {
            note(self.filter.no_host_message());
            return Ok(Exit::Ok);
        }
        let width = ids.iter().map(|id| id.as_str().len()).max().unwrap_or(0);
        let next = AtomicUsize::new(0);
        let mut summary = PingSummary::default();
        thread::scope(|scope| {
            let (sender, outcomes) = mpsc::channel();
            for _ in 0..CONCURRENT_PINGS.min(ids.len()) {
                let (sender, client) = (sender.clone(), &context.client);
                let (ids, next) = (&ids, &next);
                scope.spawn(move || {
                    while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = client.ping(id, self.timeout);
                        let ends = outcome.as_ref().is_err_and(is_final);
                        if sender.send((id, outcome)).is_err() || ends {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (id, outcome) in outcomes {
                summary.add(&outcome);
                let line = describe(&outcome, context.terminal.paint);
                print(&format!("{:<width$}  {line}\n", id.as_str()))?;
                if let Err(error) = outcome
                    && is_final(&error)
                {
                    next.store(ids.len(), Ordering::Relaxed);
                    return Err(error.into());
                }
            }
            anyhow::Ok(())
        })?;
        print(&summary.text("ping statistics"))?;
        Ok(match summary.times.len() as u64 == summary.sent {
            true => Exit::Ok,
            false => Exit::Failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_as_ping_prints_it() {
        let summary = PingSummary {
            sent: 4,
            times: vec![1.0, 2.0, 6.0],
        };
        assert_eq!(
            summary.text("h ping statistics"),
            "\n--- h ping statistics ---\n4 asked, 3 answered, 25% lost\nround trip min/avg/max = \
             1.0/3.0/6.0 ms\n"
        );
        assert_eq!(summary.exit(), Exit::Ok);
        let nobody = PingSummary {
            sent: 2,
            times: Vec::new(),
        };
        assert_eq!(nobody.text("x"), "\n--- x ---\n2 asked, 0 answered, 100% lost\n");
        assert_eq!(nobody.exit(), Exit::Failed);
        assert_eq!(
            PingSummary::default().text("x"),
            "\n--- x ---\n0 asked, 0 answered, 0% lost\n"
        );
    }
}
