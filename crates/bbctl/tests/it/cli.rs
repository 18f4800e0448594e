//! Runs the program as an operator does.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::fleet::PATIENCE;

/// An operator with a separate home folder.
pub struct Cli {
    pub url: String,
    pub home: TempDir,
    environment: Vec<(String, String)>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard output of a successful run.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// Standard error of a run that ended with `code`.
    #[track_caller]
    pub fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        &self.stderr
    }
}

impl Cli {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            home: tempfile::tempdir().unwrap(),
            environment: vec![("BBCTL_URL".to_owned(), url.to_owned())],
        }
    }

    /// The same operator with another variable. An empty value counts as not set.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Writes a file in the home folder and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn settings_file(&self) -> PathBuf {
        self.home.path().join(".config/bbctl.toml")
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(env!("CARGO_BIN_EXE_bbctl"))
            .args(arguments)
            .spawn()
            .unwrap()
    }

    pub async fn run(&self, arguments: &[&str]) -> Run {
        finish(self.start(arguments)).await
    }

    /// Runs with this text on standard input.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(env!("CARGO_BIN_EXE_bbctl"));
        let mut child = command.args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .await
            .unwrap();
        finish(child).await
    }
}

/// Waits until the program ends.
pub async fn finish(child: Child) -> Run {
    let output = timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("it ends in time")
        .unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Standard output, line by line.
pub struct Output {
    lines: Lines<BufReader<ChildStdout>>,
}

impl Output {
    pub fn of(child: &mut Child) -> Self {
        Self {
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
        }
    }

    /// The next line that contains `wanted`.
    #[track_caller]
    pub fn line<'a>(&'a mut self, wanted: &'a str) -> impl Future<Output = String> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut seen = Vec::new();
            let find = async {
                while let Some(line) = self.lines.next_line().await.unwrap() {
                    if line.contains(wanted) {
                        return line;
                    }
                    seen.push(line);
                }
                panic!("{caller}: it ended without {wanted:?}, after {seen:?}");
            };
            match timeout(PATIENCE, find).await {
                Ok(line) => line,
                Err(_) => panic!("{caller}: no line with {wanted:?}"),
            }
        }
    }
}

/// The text with fixed placeholders for every `12 s ago` and every time.
pub fn timeless(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 4
            && rest.as_bytes().get(4) == Some(&b'-')
            && rest.as_bytes().get(10).is_some_and(|b| b" T".contains(b))
        {
            let end = rest.find('Z').map_or(rest.len(), |at| at + 1);
            out.push_str("<time>");
            rest = &rest[end..];
        } else if digits > 0 && rest[digits..].starts_with(" s ago") {
            out.push('N');
            rest = &rest[digits..];
        } else {
            let step = digits.max(c.len_utf8());
            out.push_str(&rest[..step]);
            rest = &rest[step..];
        }
    }
    out
}
