//! Prints one aligned line per message, with the time since the start. Uses colours on a terminal.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use protocol::{Apps, HostId, Inbound, PlanAnswer, State, Status};

use crate::state::ObservedApps;

/// Column of the summary: after time, sender, receiver and word.
const INDENT: usize = 40;
/// Longest line if standard output is not a terminal, or is a very wide one.
const WIDTH: usize = 120;
/// With a narrower width the summary would be a column of single words.
const NARROWEST: usize = 72;
/// Spaces before each column of a table.
const GAP: usize = 2;

pub struct Screen {
    started: Instant,
    colours: bool,
    width: usize,
    /// The last status of each host, so that an unchanged heartbeat is printed as "(no change)".
    last_status: Mutex<BTreeMap<String, String>>,
    /// The last part is over: unchanged heartbeats are no longer printed.
    is_over: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Plain,
    Bold,
    Dim,
    Good,
    Busy,
    Bad,
}

impl Colour {
    /// "Select Graphic Rendition" (ECMA-48, 8.3.117).
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Busy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

impl Screen {
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let width = match is_terminal {
            true => rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col)),
            false => 0,
        };
        Self {
            started: Instant::now(),
            colours: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            width: match width {
                0 => WIDTH,
                width => width.clamp(NARROWEST, WIDTH),
            },
            last_status: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// The title of a part.
    pub fn heading(&self, number: usize, title: &str) {
        self.print("");
        self.print(&self.paint(Colour::Bold, &format!("{number}. {title}")));
    }

    pub fn note(&self, text: &str) {
        for line in wrap(text, self.width - 2) {
            self.print(&format!("  {line}"));
        }
    }

    /// A ping of the operator, and how long the answer took.
    pub fn pinged(&self, host: &HostId, milliseconds: f64) {
        let text = format!("{host} answered after {milliseconds:.0} ms");
        self.event(["you", "->", "master"], ("ping", Colour::Bold), &text);
    }

    /// The operator sets the desired state of a host.
    pub fn put(&self, host: &HostId, apps: &Apps, only_if_plan: Option<&str>) {
        let condition = only_if_plan.map_or(String::new(), |hash| {
            format!(", only if the plan is still {hash}")
        });
        let text = format!("/v1/hosts/{host}/apps: {}{condition}", desired(apps));
        self.event(["you", "->", "master"], ("PUT", Colour::Bold), &text);
    }

    /// A message from the master.
    pub fn sent(&self, topic: &str, message: &Inbound) {
        let bracketed = |id: &Option<String>| id.as_ref().map(|id| format!("[{id}] ")).unwrap_or_default();
        let (word, summary) = match message {
            // The id of a ping is long and not useful to a reader.
            Inbound::Ping { .. } => ("ping", String::new()),
            Inbound::Plan { apps, .. } => ("plan", desired(apps)),
            Inbound::SetConfig(set) => (
                "set_config",
                format!("{}{}", bracketed(&set.id), desired(&set.apps)),
            ),
            Inbound::Unknown { opcode, .. } => (opcode.as_str(), String::new()),
        };
        self.event(["master", "->", topic], (word, Colour::Bold), &summary);
    }

    /// An agent's plan.
    pub fn plan(&self, plan: &PlanAnswer) {
        let steps = plan
            .steps
            .iter()
            .map(|step| format!("{}: {}", step.app, step.text));
        let steps: Vec<String> = steps.collect();
        let text = format!("[{}] {}", plan.hash, steps.join("; "));
        self.event(
            [plan.host_id.as_str(), "->", "master"],
            ("plan", Colour::Good),
            &text,
        );
    }

    /// A message from an agent.
    pub fn status(&self, status: &Status) {
        let (word, colour) = match status.status {
            State::Ok => ("ok", Colour::Good),
            State::Converging => ("converging", Colour::Busy),
            State::Errors => ("errors", Colour::Bad),
        };
        let summary = match status.status {
            State::Ok => ObservedApps::reported(status).to_string(),
            State::Converging => status.detail.clone().unwrap_or_default(),
            State::Errors => {
                let errors: Vec<String> = status.errors.iter().map(error_text).collect();
                errors.join("; ")
            }
        };
        let host = status.host_id.as_str();
        let addresses = [host, "->", "master"];
        let before = self
            .last_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(host.to_owned(), format!("{word} {summary}"));
        match &status.reply_to {
            // The answer to a ping or plan: see above.
            Some(id) if id.starts_with("ask-") => self.event(addresses, (word, colour), &summary),
            Some(id) => self.event(addresses, (word, colour), &format!("[{id}] {summary}")),
            None if before == Some(format!("{word} {summary}")) => {
                if !self.is_over.load(Ordering::Relaxed) {
                    self.event(addresses, (word, Colour::Dim), "(no change)");
                }
            }
            None => self.event(addresses, (word, colour), &summary),
        }
    }

    /// An agent's current step.
    pub fn doing(&self, host: &str, text: &str) {
        self.event([host, "", ""], ("", Colour::Plain), text);
    }

    /// A change of a host without its agent.
    pub fn external_change(&self, host: &str, text: &str) {
        self.event([host, "", ""], ("external", Colour::Bad), text);
    }

    /// What was observed on a host. `expected`: why this was expected; `None`: it was not.
    pub fn observed(&self, host: &str, expected: Option<&str>, text: &str) {
        let word = match expected {
            Some(why) => (why, Colour::Good),
            None => ("DIFFERENT", Colour::Bad),
        };
        self.event([host, "", ""], word, text);
    }

    /// Prints a table: host, desired, observed, result. The two columns in the middle share the
    /// remaining width.
    pub fn table(&self, rows: &[[String; 4]]) {
        let heads = ["host", "desired", "observed", "result"].map(str::to_owned);
        let widest = |column: usize| {
            let cells = rows.iter().chain([&heads]);
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let (host, verdict) = (widest(0), widest(3));
        let shared = self.width.saturating_sub(host + verdict + 4 * GAP) / 2;
        let widths = [host, widest(1).min(shared), widest(2).min(shared), verdict];
        self.print("");
        for line in table_row(&heads, widths) {
            self.print(&self.paint(Colour::Bold, &line));
        }
        for line in rows.iter().flat_map(|row| table_row(row, widths)) {
            self.print(&line);
        }
    }

    pub fn verdict(&self, good: bool, text: &str) {
        self.print("");
        let colour = if good { Colour::Good } else { Colour::Bad };
        for line in wrap(text, self.width) {
            self.print(&self.paint(colour, &line));
        }
    }

    /// Prints commands to try while master and agents keep running. `package` is the URL of shop
    /// 2.0.
    pub fn invite(&self, url: &str, with_bbctl: bool, package: &str) {
        self.is_over.store(true, Ordering::Relaxed);
        self.print("");
        self.print(&self.paint(
            Colour::Bold,
            &format!("Master and agents keep running. Web page: {url}/"),
        ));
        let mut commands = vec![format!("curl {url}/v1/hosts/")];
        if with_bbctl {
            commands.push(format!("export BBCTL_URL={url} PATH=target/debug:$PATH"));
            commands.extend(
                [
                    "hosts",
                    "get paris",
                    "ping tokyo",
                    "edit tokyo",
                    "events",
                    "watch",
                ]
                .map(|command| format!("bbctl {command}")),
            );
            let desired = format!(r#"{{"shop": {{"version": "2.0", "url": "{package}"}}}}"#);
            commands.push(format!("echo '{desired}' | bbctl set lima -f - --yes --wait"));
        }
        for command in commands {
            self.print(&format!("  {command}"));
        }
        self.note("Ctrl-C stops master and agents and deletes all files.");
    }

    /// Prints to standard error, without line breaks.
    pub fn failure(&self, text: &str) {
        let _ = writeln!(io::stderr(), "demo: {text}");
    }

    pub fn seconds(&self) -> f32 {
        self.started.elapsed().as_secs_f32()
    }

    fn event(&self, [from, arrow, to]: [&str; 3], (word, colour): (&str, Colour), summary: &str) {
        let time = format!("{:>6.2}", self.seconds());
        let word = self.paint(colour, &format!("{word:<10}"));
        let head = format!(
            "{}  {from:<6} {arrow:<2} {to:<6}  {word}  ",
            self.paint(Colour::Dim, &time)
        );
        // 6 + 2 + 6 + 1 + 2 + 1 + 6 + 2 + 10 + 2 = 38; continued lines are indented by two more.
        let mut lines = wrap(summary, self.width - INDENT).into_iter();
        let first = format!("{head}{}", lines.next().unwrap_or_default());
        self.print(first.trim_end());
        for line in lines {
            self.print(&format!("{:INDENT$}{line}", ""));
        }
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        match self.colours && colour != Colour::Plain {
            true => format!("{}{text}\x1b[0m", colour.code()),
            false => text.to_owned(),
        }
    }

    fn print(&self, line: &str) {
        // If standard output is closed, the demo continues for its exit code.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

fn desired(apps: &Apps) -> String {
    if apps.is_empty() {
        return "no applications".to_owned();
    }
    let app = |(name, spec): (&protocol::AppName, &protocol::AppSpec)| {
        let mut text = format!("{name} {}", spec.version);
        if !spec.running {
            text += " stopped";
        }
        let values = spec.config.values().flat_map(|keys| keys.iter());
        for (key, value) in values {
            text += &format!(" {key}={value}");
        }
        if spec.sha256.is_some() {
            text += " with sha256";
        }
        text
    };
    apps.iter().map(app).collect::<Vec<_>>().join(", ")
}

fn error_text(error: &protocol::ErrorReport) -> String {
    let app = error.app.as_ref().map_or("", |app| app.as_str());
    let phase = format!("{:?}", error.phase).to_lowercase();
    let then = match &error.next_retry {
        Some(_) => "retry pending",
        None => "held until something that made it fail changes",
    };
    format!("{app} ({phase}): {} ({then})", error.message)
}

/// The lines of one row of a table.
fn table_row(row: &[String; 4], widths: [usize; 4]) -> Vec<String> {
    let cells: Vec<Vec<String>> = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| wrap(cell, width))
        .collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let line = |number: usize| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let text = cell.get(number).map_or("", String::as_str);
            line += &format!("{:GAP$}{text:<width$}", "");
        }
        line.trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

/// Splits the text at spaces into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        let longer = line.chars().count() + 1 + word.chars().count();
        if line.is_empty() {
            line.push_str(word);
        } else if longer <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_summaries_are_split_at_spaces() {
        let table: [(&str, &[&str]); 4] = [
            ("", &[""]),
            ("one two", &["one two"]),
            ("one two three", &["one two", "three"]),
            ("averyveryverylongword x", &["averyveryverylongword", "x"]),
        ];
        for (text, expected) in table {
            assert_eq!(wrap(text, 8), expected, "{text}");
        }
    }

    #[test]
    fn a_row_too_wide_for_the_terminal_goes_on_in_the_next_line() {
        let row = ["paris", "shop 1.0, cache 1.1", "nothing", "DIFFERENT"].map(str::to_owned);
        assert_eq!(
            table_row(&row, [5, 10, 7, 9]),
            ["  paris  shop 1.0,   nothing  DIFFERENT", "         cache 1.1"]
        );
    }
}
