//! The hook contract: an executable in the application's package.
//!
//! Its input and output are config and may be secret. Errors never quote them, except for lines on
//! stderr that the hook marks for the operator (`error: ...`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::name::check_service_name;
use protocol::{Category, Config, Limits, decode_config};
use serde_json::Value;

use crate::command::{Command, CommandError, Leftovers, Output, Overflow, Runner};
use crate::{HostError, Root};

/// Linux allows no argument over 128 KiB (MAX_ARG_STRLEN); a longer config goes to stdin.
const MAX_ARGUMENT: usize = 100 * 1000;
/// For each of stdout and stderr.
const OUTPUT_CAP: usize = 1024 * 1024;
/// Marks a line on stderr for the operator.
const FOR_OPERATOR: &str = "error: ";
const MAX_QUOTED: usize = 300;

/// An application's hook.
#[derive(Debug, Clone)]
pub struct Hook {
    /// The real path.
    pub program: PathBuf,
    /// The root of a sandbox, for the hook.
    pub sandbox: Option<PathBuf>,
    pub deadline: Duration,
    /// Runs it; `None`: the agent does.
    pub runner: Option<Arc<Runner>>,
}

impl Hook {
    pub fn new(root: &Root, program: PathBuf, deadline: Duration) -> Self {
        Self {
            program,
            sandbox: (!root.is_host()).then(|| root.path().to_owned()),
            deadline,
            runner: None,
        }
    }

    pub fn runner(self, runner: Option<Arc<Runner>>) -> Self {
        Self { runner, ..self }
    }

    /// The application's current config.
    pub async fn get_config(&self) -> Result<Config, HostError> {
        let command = self.command("--get-config").leftovers(Leftovers::Kill);
        let output = self.check("--get-config", command.run_any_exit().await)?;
        let limits = Limits {
            max_size: OUTPUT_CAP,
            ..Limits::default()
        };
        decode_config(&output.stdout, limits).map_err(|error| {
            let problem = format!(
                "printed no valid config (a JSON object of objects): {error}. Run it by hand to see its output"
            );
            self.error(Category::Script, "--get-config", &problem)
        })
    }

    /// Applies `desired`, which the hook merges into its config, and checks the result.
    pub async fn set_config(&self, desired: &Config) -> Result<(), HostError> {
        let json = serde_json::to_string(desired)
            .map_err(|_| HostError::new(Category::Invalid, "the desired config cannot be written as JSON"))?;
        // Services that it restarts must stay.
        let command = self.command("--set-config").leftovers(Leftovers::Leave);
        let command = match json.len() <= MAX_ARGUMENT {
            true => command.secret_arg(&json),
            false => command.arg("-").stdin(json),
        };
        // Not killed if the future is dropped: a half-made change is worse than a late one.
        let output = command.run_to_end().await;
        self.check("--set-config", output)
            .map_err(|error| HostError::new(error.category, mask(error.message, desired)))?;
        let current = self.get_config().await?;
        match first_unsatisfied(desired, &current) {
            None => Ok(()),
            Some(key) => {
                let problem = format!(
                    "succeeded, but --get-config does not print the desired value of {key} afterwards; the \
                     hook must merge the desired config into its config and print all of it"
                );
                Err(self.error(Category::Script, "--set-config", &problem))
            }
        }
    }

    /// The application's services; `None`: the hook does not know `--get-services`.
    pub async fn get_services(&self) -> Result<Option<BTreeSet<String>>, HostError> {
        let command = self.command("--get-services").leftovers(Leftovers::Kill);
        let output = command
            .run_any_exit()
            .await
            .map_err(|error| self.failure("--get-services", error))?;
        Ok(output.success().then(|| services(&output.stdout)).flatten())
    }

    fn command(&self, question: &str) -> Command {
        let command = Command::new(&self.program)
            .arg(question)
            .deadline(self.deadline)
            .output_cap(OUTPUT_CAP, Overflow::Kill)
            .by_runner(self.runner.as_ref())
            .secret_output();
        match &self.sandbox {
            Some(root) => command.env("BACKBONE_ROOT", root),
            None => command,
        }
    }

    /// Accepts only exit code 0.
    fn check(&self, question: &str, run: Result<Output, CommandError>) -> Result<Output, HostError> {
        let output = run.map_err(|error| self.failure(question, error))?;
        if output.success() {
            return Ok(output);
        }
        let mut problem = format!("failed with {}", output.exit);
        match lines_for_operator(&output.stderr) {
            Some(said) => problem.push_str(&format!(": {said}")),
            None => problem.push_str(
                ". Its output may hold secrets and is not shown: run it by hand, or make it print lines that \
                 begin with `error: ` on stderr, which are shown here",
            ),
        }
        Err(self.error(Category::Script, question, &problem))
    }

    fn failure(&self, question: &str, error: CommandError) -> HostError {
        let problem = match &error {
            CommandError::TimedOut { .. } => format!("did not end within {:?} and was killed", self.deadline),
            CommandError::TooMuchOutput { .. } => {
                format!("printed more than {OUTPUT_CAP} bytes and was killed")
            }
            CommandError::Io { source, .. } => {
                format!("was interrupted, and its result is unknown: {source}")
            }
            CommandError::Start { .. } | CommandError::Failed { .. } => {
                "cannot be run; does its interpreter (in its first line) exist?".to_owned()
            }
        };
        self.error(HostError::from(error).category, question, &problem)
    }

    fn error(&self, category: Category, question: &str, problem: &str) -> HostError {
        let program = shown(&self.program, self.sandbox.as_deref());
        HostError::new(category, format!("the hook `{program} {question}` {problem}"))
    }
}

/// The path as the host's own programs name it.
fn shown(program: &Path, sandbox: Option<&Path>) -> String {
    match sandbox.and_then(|root| program.strip_prefix(root).ok()) {
        Some(inside) => format!("/{}", inside.display()),
        None => program.display().to_string(),
    }
}

/// Names in a JSON list, or separated by blanks; `None` for anything else.
fn services(stdout: &[u8]) -> Option<BTreeSet<String>> {
    let text = std::str::from_utf8(stdout).ok()?;
    let (names, listed): (Vec<String>, bool) = match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(_)) => (serde_json::from_str(text).ok()?, true),
        _ => (text.split_whitespace().map(str::to_owned).collect(), false),
    };
    // A hook that ignores unknown questions prints nothing; one without services prints `[]`.
    if names.is_empty() && !listed {
        return None;
    }
    names
        .into_iter()
        .map(|name| {
            let name = name.strip_suffix(".service").unwrap_or(&name);
            check_service_name(name).is_ok().then(|| name.to_owned())
        })
        .collect()
}

/// The first `section.key` of `desired` whose value `current` does not have.
fn first_unsatisfied(desired: &Config, current: &Config) -> Option<String> {
    desired.iter().find_map(|(section, keys)| {
        keys.iter().find_map(|(key, want)| {
            let have = current.get(section).and_then(|have| have.get(key));
            let satisfied = have.is_some_and(|have| protocol::satisfied::same_value(want, have));
            (!satisfied).then(|| format!("{section}.{key}"))
        })
    })
}

/// The lines on stderr that a program marks for the operator.
pub fn lines_for_operator(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(FOR_OPERATOR))
        .collect();
    let said = lines.join(" | ");
    let cut = said
        .char_indices()
        .nth(MAX_QUOTED)
        .map_or(said.len(), |(at, _)| at);
    (!said.is_empty()).then(|| said[..cut].to_owned())
}

/// Masks the strings of `desired` in `text`. (Very short ones would mask parts of any sentence.)
fn mask(mut text: String, desired: &Config) -> String {
    const SHORTEST: usize = 4;
    fn strings<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::String(text) if text.len() >= SHORTEST => found.push(text),
            Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
            Value::Object(map) => map.values().for_each(|item| strings(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut secrets = Vec::new();
    let values = desired.values().flat_map(|keys| keys.values());
    values.for_each(|value| strings(value, &mut secrets));
    for secret in secrets {
        text = text.replace(secret, "<secret>");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_names_or_nothing() {
        let table: &[(&str, Option<&[&str]>)] = &[
            ("web\nweb-worker.service\n", Some(&["web", "web-worker"])),
            (" web  db@1 ", Some(&["db@1", "web"])),
            ("[\"web\", \"db\"]", Some(&["db", "web"])),
            ("[]", Some(&[])),
            ("", None),
            ("usage: config [--get-config | --set-config JSON]", None),
            ("{\"web\": true}", None),
            ("[1]", None),
            ("web ../x", None),
        ];
        for (text, want) in table {
            let want = want.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(services(text.as_bytes()), want, "{text}");
        }
        assert_eq!(services(b"\xff"), None);
    }

    #[test]
    fn only_marked_lines_reach_the_operator() {
        assert_eq!(lines_for_operator(b"password=hunter2\n"), None);
        let said = lines_for_operator(b"+ set hunter2\nerror: no such pool\nx error: y\n");
        assert_eq!(said.as_deref(), Some("no such pool"));
        let long = format!("error: {}", "\u{e9}".repeat(1000));
        assert_eq!(
            lines_for_operator(long.as_bytes()).map(|said| said.chars().count()),
            Some(MAX_QUOTED)
        );
    }
}
