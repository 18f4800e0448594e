//! The agent's settings: an INI file, variables of its environment, and `--set`.

use std::path::Path;

use hostagent::settings::{Gathered, PROGRAM, Settings, SettingsError, Sources, show};

const FILE: &str = "/etc/pf9/hostagent.conf";

/// Lines that begin with `$ ` are variables (`NAME=value`), those that begin with `> ` what stood behind `--set`; the others are the
/// file.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut sources = Sources::default();
    let mut file = Vec::new();
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let whole = String::from_utf8_lossy(line);
        let whole = whole.trim_end_matches('\n');
        if let Some(variable) = whole.strip_prefix("$ ") {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            sources.environment.push((name.to_owned(), value.to_owned()));
        } else if let Some(set) = whole.strip_prefix("> ") {
            sources.overrides.push(set.to_owned());
        } else {
            file.extend_from_slice(line);
        }
    }
    let mut gathered = Gathered::default();
    gathered.take_file(&PROGRAM, Path::new(FILE), &file);
    sources.gather_over_files(&PROGRAM, &mut gathered);
    match Settings::from_gathered(gathered) {
        Ok(loaded) => {
            let shown = show::effective(&loaded);
            let messages = loaded.warnings.iter().map(String::as_str);
            for message in messages.clone() {
                check_message(message, &file);
            }
            // A password that stands in one place only is shown in none.
            let password = loaded
                .settings
                .amqp
                .password
                .as_ref()
                .map_or("", |password| password.expose());
            if password.len() > 7
                && text.matches(password).count() == 1
                && !DEFAULT.with(|d| d.contains(password))
            {
                assert!(!shown.contains(password), "the password is shown: {shown}");
                assert!(
                    messages.into_iter().all(|message| !message.contains(password)),
                    "the password is in a warning"
                );
            }
            assert!(loaded.settings.amqp_port() > 0);
        }
        Err(SettingsError { problems, warnings }) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for message in problems.iter().chain(&warnings) {
                check_message(message, &file);
            }
        }
    }
}

thread_local! {
    /// What is shown where nothing is set.
    static DEFAULT: String = Settings::load(&Sources::default()).map_or_else(|error| error.to_string(), |loaded| show::effective(&loaded));
}

/// Says where, on one line; a line of the file that exists.
fn check_message(message: &str, file: &[u8]) {
    super::assert_one_line(message);
    // A carriage return alone ends a line, too, as for Python's parser.
    let lines = 1 + file.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    match message.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':')) {
        Some(rest) => {
            let line = rest.split(':').next().and_then(|line| line.parse::<usize>().ok());
            assert!(
                line.is_some_and(|line| (1..=lines).contains(&line)),
                "{message}: of {lines} lines"
            );
        }
        None => {
            let known = ["environment", "--set", "default", "/"];
            assert!(
                known.iter().any(|place| message.starts_with(place)),
                "{message}: where?"
            );
        }
    }
}
