//! What a run has found: printed as a table, kept as JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::{Row, Sample, Target, Verdict};

/// Where it was measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_gib: f64,
    pub processor: String,
    pub kernel: String,
    pub versions: Vec<(String, String)>,
    /// Load average when the run began: others may have used the machine.
    pub load: String,
}

/// A benchmark that gave no figure.
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
    pub rows: Vec<Row>,
    pub unmeasured: Vec<Unmeasured>,
}

impl Report {
    pub fn begin() -> Self {
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty"])),
            machine: Machine::look(),
            rows: Vec::new(),
            unmeasured: Vec::new(),
        }
    }

    /// As a table of GitHub's Markdown, for reading as it is, too.
    pub fn table(&self) -> String {
        let mut table = vec![["what", "figure", "beside", "ratio", "target", ""].map(str::to_owned)];
        for row in &self.rows {
            let peer = row.peer.as_ref();
            table.push([
                row.what.clone(),
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
                    Verdict::None => "",
                }
                .to_owned(),
            ]);
        }
        let mut widths = [0; 6];
        for line in &table {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for (number, line) in table.iter().enumerate() {
            let cells = line.iter().zip(widths);
            let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
            text += &format!("| {} |\n", cells.join(" | "));
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                text += &format!("|-{}-|\n", rules.join("-|-"));
            }
        }
        for row in self.rows.iter().filter(|row| !row.note.is_empty()) {
            text += &format!("\n{}: {}", row.what, row.note);
        }
        for Unmeasured { bench, reason } in &self.unmeasured {
            text += &format!("\nNot measured: {bench}: {reason}");
        }
        text
    }

    /// Writes `FOLDER/DATE.json`; where it is.
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

/// Three digits that count, more where they stand before the point.
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
    fn look() -> Self {
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

/// Empty where the command is not there.
fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_to_three_digits() {
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
}
