//! The results of a run: printed as a table, stored as JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::{Row, Sample, Target, Verdict};
use crate::process::AgentLink;

/// Where the run took place.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_gib: f64,
    pub processor: String,
    pub kernel: String,
    pub versions: Vec<(String, String)>,
    /// Load average when the run began: other processes may have used the machine.
    pub load: String,
}

/// A benchmark without figures.
#[derive(Debug, Serialize)]
pub struct Unmeasured {
    pub bench: &'static str,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Report {
    /// RFC 3339, UTC.
    pub date: String,
    pub commit: String,
    pub machine: Machine,
    pub agent_link: AgentLink,
    pub rows: Vec<Row>,
    /// Cannot be run on this machine.
    pub skipped: Vec<Unmeasured>,
    pub failed: Vec<Unmeasured>,
}

impl Report {
    pub fn begin(agent_link: AgentLink) -> Self {
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty"])),
            machine: Machine::inspect(),
            agent_link,
            rows: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// In GitHub's Markdown, aligned so that it can be read as it is.
    pub fn table(&self) -> String {
        let header = [
            "what is measured",
            "figure",
            "compared with",
            "ratio",
            "target",
            "result",
        ];
        let mut table = vec![header.map(str::to_owned)];
        table.extend(self.rows.iter().map(|row| self.cells(row)));
        let mut widths = [0; 6];
        for line in &table {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = format!("{}\n\n", self.agent());
        for (number, line) in table.iter().enumerate() {
            let cells = line.iter().zip(widths);
            let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
            text += &format!("| {} |\n", cells.join(" | "));
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                text += &format!("|-{}-|\n", rules.join("-|-"));
            }
        }
        let annotated: Vec<&Row> = self.rows.iter().filter(|row| !row.note.is_empty()).collect();
        for rows in annotated.chunk_by(|one, next| one.note == next.note) {
            let whats: Vec<String> = rows.iter().map(|row| self.what(row)).collect();
            text += &format!("\n{}: {}", whats.join("; "), rows[0].note);
        }
        text += "\n";
        for Unmeasured { bench, reason } in &self.skipped {
            text += &format!("\nSKIPPED {bench}: {reason}");
        }
        for Unmeasured { bench, reason } in &self.failed {
            text += &format!("\nFAILED {bench}: {reason}");
        }
        text + "\n" + &self.counts()
    }

    fn cells(&self, row: &Row) -> [String; 6] {
        let peer = row.peer.as_ref();
        [
            self.what(row),
            show(&row.figure, row.unit),
            peer.map(|peer| format!("{}: {}", peer.what, show(&peer.figure, row.unit)))
                .unwrap_or_default(),
            peer.map(|peer| show(&peer.ratio, "")).unwrap_or_default(),
            row.target
                .map(|target| show_target(target, row.unit))
                .unwrap_or_default(),
            match row.verdict() {
                Verdict::Met => "met",
                Verdict::Missed => "MISSED",
                Verdict::NoTarget => "",
            }
            .to_owned(),
        ]
    }

    /// Rows of an agent that is not the one that ships say so.
    fn what(&self, row: &Row) -> String {
        match (self.agent_link, row.what.strip_prefix("agent:")) {
            (AgentLink::Dynamic, Some(rest)) => format!("agent (dynamically linked):{rest}"),
            (AgentLink::Dynamic | AgentLink::Static, _) => row.what.clone(),
        }
    }

    fn agent(&self) -> &'static str {
        match self.agent_link {
            AgentLink::Static => "The agent is linked statically against musl, as it ships.",
            AgentLink::Dynamic => {
                "The agent is LINKED DYNAMICALLY, because this machine cannot link against musl. The agent that ships \
                 takes less memory."
            }
        }
    }

    fn counts(&self) -> String {
        let count = |verdict| self.rows.iter().filter(|row| row.verdict() == verdict).count();
        format!(
            "{} targets met, {} MISSED; {} benchmarks skipped, {} failed",
            count(Verdict::Met),
            count(Verdict::Missed),
            self.skipped.len(),
            self.failed.len()
        )
    }

    /// Writes `FOLDER/DATE.json`, and returns its path.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!(
            "{}.json",
            self.date.replace(':', "").trim_end_matches('Z')
        ));
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// `1.5 ms (1.2 to 1.9)`
fn show(sample: &Sample, unit: &str) -> String {
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    match sample.count {
        1 => format!("{}{unit}", number(sample.median)),
        _ => format!(
            "{}{unit} ({} to {})",
            number(sample.median),
            number(sample.min),
            number(sample.max)
        ),
    }
}

fn show_target(target: Target, unit: &str) -> String {
    match target {
        Target::FigureAtMost(limit) => format!("<= {} {unit}", number(limit)),
        Target::FigureAtLeast(limit) => format!(">= {} {unit}", number(limit)),
        Target::RatioAtMost(limit) => format!("ratio <= {}", number(limit)),
        Target::RatioAtLeast(limit) => format!("ratio >= {}", number(limit)),
    }
}

/// To three significant digits; all digits before the decimal point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => return "0".to_owned(),
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

impl Machine {
    fn inspect() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory
            .split(' ')
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0.0);
        let version = |name: &str, command: &mut Command| (name.to_owned(), first_line(command));
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib / 1024.0 / 1024.0).round(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions: vec![
                version("rustc", Command::new("rustc").arg("--version")),
                version(
                    "RabbitMQ",
                    Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rabbitmq-server"]),
                ),
                version(
                    "dpkg",
                    Command::new("dpkg-query").args(["-W", "-f", "${Version}", "dpkg"]),
                ),
                version("rpm", Command::new("rpm").arg("--version")),
            ],
            load: read("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
        }
    }
}

/// Empty if the command cannot be run.
fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_to_three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.0123, "0.012"),
            (1.234, "1.23"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (20_000.4, "20000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    fn report(agent_link: AgentLink) -> Report {
        let mut report = Report::begin(agent_link);
        let row = |what| Row::new("x", what, "s", Sample::one(2.0));
        report.rows = vec![
            row("agent: time").target(Target::FigureAtMost(3.0)),
            row("master: time").target(Target::FigureAtMost(1.0)),
        ];
        report.skipped.push(Unmeasured {
            bench: "puppet",
            reason: "cannot install it".to_owned(),
        });
        report
    }

    #[test]
    fn a_table_ends_with_each_skip_and_its_reason_and_with_the_counts() {
        let table = report(AgentLink::Static).table();
        let end =
            "\nSKIPPED puppet: cannot install it\n1 targets met, 1 MISSED; 1 benchmarks skipped, 0 failed";
        assert!(table.ends_with(end), "{table}");
        assert!(table.contains("| agent: time "), "{table}");
    }

    #[test]
    fn each_row_of_a_dynamically_linked_agent_says_so() {
        let table = report(AgentLink::Dynamic).table();
        assert!(table.contains("| agent (dynamically linked): time "), "{table}");
        assert!(table.contains("| master: time "), "{table}");
    }
}
