//! The sources of values: main file, drop-ins, environment, command line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::ini::{self, Line};
use crate::table::{Key, Program};
use crate::{Gathered, Setting};

/// The sources. Each overrides the ones before: file, drop-ins, environment, `--set`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The main file or the one named by `--config`. Its drop-ins are `FILE.d/*.conf`. `None`: read
    /// no files.
    pub file: Option<PathBuf>,
    /// Whether the file must exist, because it was named by `--config`.
    pub file_required: bool,
    /// `PROGRAM_KEY` for `[program]`, `PROGRAM_SECTION_KEY` for other sections. Others are ignored.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`.
    pub overrides: Vec<String>,
}

/// Where one value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: u32 },
    Environment { name: String },
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => write!(f, "environment {name}"),
            Self::CommandLine => f.write_str("--set"),
        }
    }
}

impl Sources {
    /// The sources of this process: its `--config` and `--set` options and its environment.
    pub fn of_process(program: &Program, config: Option<PathBuf>, overrides: Vec<String>) -> Self {
        let prefix = program.variable_prefix();
        let environment = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .filter(|(name, _)| name.starts_with(&prefix))
            .collect();
        Self {
            file_required: config.is_some(),
            file: Some(config.unwrap_or_else(|| program.main_file.into())),
            environment,
            overrides,
        }
    }

    /// Reads all sources.
    pub fn gather(&self, program: &Program) -> Gathered {
        let mut gathered = Gathered::default();
        if let Some(file) = &self.file {
            gather_file(program, file, self.file_required, &mut gathered);
            let mut folder = file.clone().into_os_string();
            folder.push(".d");
            gather_drop_ins(program, Path::new(&folder), &mut gathered);
        }
        self.gather_over_files(program, &mut gathered);
        gathered
    }

    /// Adds the environment and the command line, which override the files.
    pub fn gather_over_files(&self, program: &Program, gathered: &mut Gathered) {
        for (name, value) in &self.environment {
            gather_variable(program, name, value, gathered);
        }
        for text in &self.overrides {
            gather_override(program, text, gathered);
        }
    }
}

fn gather_drop_ins(program: &Program, folder: &Path, gathered: &mut Gathered) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            let problem = format!("{}: cannot be read: {error}", folder.display());
            return gathered.problems.push(problem);
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .filter(|path| {
            !path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        })
        .collect();
    files.sort();
    for file in files {
        gather_file(program, &file, true, gathered);
    }
}

fn gather_file(program: &Program, path: &Path, required: bool, gathered: &mut Gathered) {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return,
        Err(error) => {
            let problem = format!("{}: cannot be read: {error}", path.display());
            return gathered.problems.push(problem);
        }
    };
    gathered.take_file(program, path, &bytes);
}

impl Gathered {
    /// Adds the contents of the settings file `path`.
    pub fn take_file(&mut self, program: &Program, path: &Path, contents: &[u8]) {
        match std::str::from_utf8(contents) {
            Ok(text) => FileReader::new(program, path, self).take(text),
            Err(error) => {
                let before = &contents[..error.valid_up_to()];
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                let problem = format!("{}:{line}: is not UTF-8 text", path.display());
                self.problems.push(problem);
            }
        }
    }
}

/// Adds the lines of one file. Keeps the current section and key.
struct FileReader<'a> {
    program: &'a Program,
    path: &'a Path,
    gathered: &'a mut Gathered,
    section: SectionState,
    /// Whether the last pair had a known key. Only then is a further line of its value a problem.
    after_known_key: bool,
    secrets_exposed: bool,
}

enum SectionState {
    None,
    Known(&'static str),
    /// Was reported once. Its keys are ignored.
    Unknown,
}

impl<'a> FileReader<'a> {
    fn new(program: &'a Program, path: &'a Path, gathered: &'a mut Gathered) -> Self {
        let secrets_exposed = crate::check::is_readable_by_others(path);
        Self {
            program,
            path,
            gathered,
            section: SectionState::None,
            after_known_key: false,
            secrets_exposed,
        }
    }

    fn take(mut self, text: &str) {
        for line in ini::read(text) {
            match line {
                Line::Section { line, name } => self.enter_section(line, &name),
                Line::Pair { line, key, value } => self.take_pair(line, &key, value),
                Line::Continuation { line } if self.after_known_key => {
                    let problem = "a value must be on one line";
                    self.problem(line, problem);
                }
                Line::Continuation { .. } => {}
                Line::Invalid { line, text } => {
                    // The text may be part of a password, so only its beginning is shown.
                    let beginning: String = text.chars().take(8).collect();
                    self.problem(
                        line,
                        &format!("found {beginning:?}..., allowed: [section], key = value, or # comment"),
                    );
                }
            }
        }
    }

    fn enter_section(&mut self, line: u32, name: &str) {
        self.after_known_key = false;
        self.section = match self.program.sections.iter().find(|section| section.name == name) {
            Some(section) => SectionState::Known(section.name),
            None => {
                let hint = suggest(
                    name,
                    self.program.sections.iter().map(|section| section.name),
                    "[",
                    "]",
                );
                self.warning(
                    line,
                    &format!("unknown section [{name}]; its keys are ignored{hint}"),
                );
                SectionState::Unknown
            }
        };
    }

    fn take_pair(&mut self, line: u32, key: &str, value: String) {
        self.after_known_key = false;
        let section = match self.section {
            SectionState::Known(section) => section,
            SectionState::Unknown => return,
            SectionState::None => {
                return self.warning(
                    line,
                    &format!("{key} is before the first [section] and is ignored"),
                );
            }
        };
        let Some((section, key)) = self.program.find(section, key) else {
            let hint = suggest_key(self.program, section, key);
            return self.warning(line, &format!("unknown key [{section}] {key} is ignored{hint}"));
        };
        self.after_known_key = true;
        let origin = Origin::File {
            path: self.path.to_owned(),
            line,
        };
        if key.kind.is_secret() && !value.is_empty() && self.secrets_exposed {
            let name = key.name;
            self.warning(
                line,
                &format!(
                    "[{section}] {name} is a secret, and any user can read this file; run chmod o-r on \
                     the file, or use password_file"
                ),
            );
        }
        self.store(section, key, value, origin);
    }

    fn store(&mut self, section: &'static str, key: &'static Key, raw: String, origin: Origin) {
        let setting = Setting {
            raw,
            origin: origin.clone(),
        };
        let before = self.gathered.values.insert((section, key.name), setting);
        let Some(Origin::File { path, line: earlier }) = before.map(|setting| setting.origin) else {
            return;
        };
        if path == self.path
            && let Origin::File { line, .. } = origin
        {
            let name = key.name;
            self.warning(
                line,
                &format!("[{section}] {name} is set again, so line {earlier} has no effect"),
            );
        }
    }

    fn warning(&mut self, line: u32, text: &str) {
        let warning = format!("{}:{line}: {text}", self.path.display());
        self.gathered.warnings.push(warning);
    }

    fn problem(&mut self, line: u32, text: &str) {
        let problem = format!("{}:{line}: {text}", self.path.display());
        self.gathered.problems.push(problem);
    }
}

fn gather_variable(program: &Program, name: &str, value: &str, gathered: &mut Gathered) {
    if !name.starts_with(&program.variable_prefix()) {
        return;
    }
    match program
        .all_keys()
        .find(|(section, key)| program.variable_name(section, key.name) == name)
    {
        Some((section, key)) => {
            let setting = Setting {
                raw: value.to_owned(),
                origin: Origin::Environment {
                    name: name.to_owned(),
                },
            };
            gathered.values.insert((section, key.name), setting);
        }
        None => {
            let names: Vec<String> = program
                .all_keys()
                .map(|(section, key)| program.variable_name(section, key.name))
                .collect();
            let hint = suggest(name, names.iter().map(String::as_str), "", "");
            gathered
                .warnings
                .push(format!("environment: unknown variable {name} is ignored{hint}"));
        }
    }
}

/// Unlike in a file, an unknown key is an error here: it was given for this run of this program.
fn gather_override(program: &Program, text: &str, gathered: &mut Gathered) {
    let parts = text
        .split_once('=')
        .and_then(|(name, value)| name.split_once('.').map(|(section, key)| (section, key, value)));
    let Some((section, key, value)) = parts else {
        let beginning = text.split('=').next().unwrap_or_default();
        let problem = format!("--set: found {beginning:?}, allowed: section.key=value");
        return gathered.problems.push(problem);
    };
    let (section, key) = (section.trim(), key.trim());
    match program.find(section, key) {
        Some((section, key)) => {
            let setting = Setting {
                raw: value.trim().to_owned(),
                origin: Origin::CommandLine,
            };
            gathered.values.insert((section, key.name), setting);
        }
        None => {
            let hint = suggest_key(program, section, key);
            let problem = format!("--set: unknown key {section}.{key}{hint}");
            gathered.problems.push(problem);
        }
    }
}

/// "; did you mean ..." for a key: the same key of another section, else a similar key.
fn suggest_key(program: &Program, section: &str, key: &str) -> String {
    if let Some((other, _)) = program.all_keys().find(|(_, candidate)| candidate.name == key) {
        return format!("; did you mean [{other}] {key}?");
    }
    let own = program.all_keys().filter(|(candidate, _)| *candidate == section);
    suggest(key, own.map(|(_, key)| key.name), "", "")
}

fn suggest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>, before: &str, after: &str) -> String {
    let close = candidates
        .map(|candidate| (strsim::jaro_winkler(found, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.9)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match close {
        Some((_, candidate)) => format!("; did you mean {before}{candidate}{after}?"),
        None => String::new(),
    }
}
