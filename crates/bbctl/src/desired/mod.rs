//! Reads desired applications from an operator's JSON or YAML, with the same checks as on the host.
//! Errors name the place in the file.

mod place;
mod yaml;

use std::io::Read;
use std::path::Path;

use protocol::spec::FIELDS;
use protocol::{Apps, DecodeError, Limits, UnknownField, decode_apps, unknown_field};

pub use yaml::to_yaml;

/// Desired applications and the text that they were read from.
#[derive(Debug, PartialEq)]
pub struct Desired {
    pub apps: Apps,
    pub source: Source,
}

/// A text and its name for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    #[error("cannot read {name}")]
    Read { name: String, source: std::io::Error },
    /// `place`: `FILE`, or `FILE:LINE:COLUMN`.
    #[error("{place}: {reason}")]
    Syntax { place: String, reason: String },
    #[error("{place}: {path}: {reason}{hint}")]
    Invalid {
        place: String,
        path: String,
        reason: String,
        hint: &'static str,
    },
    #[error("{place}: {path}: no such field; {hint}")]
    UnknownField {
        place: String,
        path: String,
        hint: String,
    },
}

impl Source {
    /// `-` is standard input.
    pub fn read(file: &Path) -> Result<Self, DesiredError> {
        let (name, read) = if file == Path::new("-") {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text).map(|_| text);
            ("standard input".to_owned(), read)
        } else {
            (file.display().to_string(), std::fs::read_to_string(file))
        };
        match read {
            Ok(text) => Ok(Self { name, text }),
            Err(source) => Err(DesiredError::Read { name, source }),
        }
    }

    /// `FILE:LINE:COLUMN` of a JSON path, or of the nearest value around it.
    pub fn place(&self, path: &str) -> String {
        match place::find(&self.text, path) {
            Some((line, column)) => format!("{}:{line}:{column}", self.name),
            None => self.name.clone(),
        }
    }

    /// The place of the last name of the path, not of its value.
    fn place_of_name(&self, path: &str) -> String {
        match place::find_name(&self.text, path) {
            Some((line, column)) => format!("{}:{line}:{column}", self.name),
            None => self.name.clone(),
        }
    }

    fn is_json(&self) -> bool {
        match Path::new(&self.name)
            .extension()
            .and_then(|extension| extension.to_str())
        {
            Some("json") => true,
            Some("yaml" | "yml") => false,
            Some(_) | None => self.text.trim_start().starts_with('{'),
        }
    }
}

/// Reads desired applications, or a whole `set_config`, from a file.
pub fn read(file: &Path) -> Result<Desired, DesiredError> {
    parse(Source::read(file)?)
}

pub fn parse(source: Source) -> Result<Desired, DesiredError> {
    let json = match source.is_json() {
        true => source.text.clone().into_bytes(),
        false => yaml::to_json(&source)?,
    };
    // First, because a misspelled field may be the one that decoding would report as missing.
    if let Some(UnknownField { path, name }) = unknown_field(&json, Limits::default()) {
        return Err(DesiredError::UnknownField {
            place: source.place_of_name(&path),
            path,
            hint: suggestion(&name),
        });
    }
    match decode_apps(&json, Limits::default()) {
        Ok(apps) => Ok(Desired { apps, source }),
        Err(DecodeError { path, reason, .. }) => Err(DesiredError::Invalid {
            place: source.place(&path),
            hint: hint(&reason, source.is_json(), &source.text),
            path,
            reason,
        }),
    }
}

/// The field with a similar name, else all fields.
fn suggestion(name: &str) -> String {
    let close = FIELDS
        .map(|field| (strsim::jaro_winkler(name, field), field))
        .into_iter()
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match close {
        Some((_, field)) => format!("did you mean {field}?"),
        None => format!("the fields of an application are {}", FIELDS.join(", ")),
    }
}

/// The usual cause and its fix.
fn hint(reason: &str, is_json: bool, text: &str) -> &'static str {
    match reason {
        "is a number; a string is needed" if !is_json => "; in YAML, write it in quotes: \"1.10\"",
        "is null; an object is needed" if text.trim().is_empty() => "; to remove all applications, write {}",
        _ => "",
    }
}
