//! What is wrong in a message, and where. The JSON path is built only when something is wrong, from
//! the innermost step outwards, so a valid message costs nothing extra.

use std::fmt::Write as _;

/// Longer keys and opcodes are shortened in errors and logs: they come from outside and may be a
/// megabyte long.
const SHOWN_CHARS: usize = 64;

enum PathStep {
    Key(String),
    Index(usize),
}

/// A reason and the path to the value that it is about.
pub(crate) struct Fault {
    /// Innermost first.
    steps: Vec<PathStep>,
    reason: String,
}

impl Fault {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            steps: Vec::new(),
            reason: reason.into(),
        }
    }

    /// A required field is missing; `field` is the last step of the path.
    pub(crate) fn missing(field: &str, needed: &str) -> Self {
        Self::new(format!("is missing; {needed}")).under(field)
    }

    pub(crate) fn under(mut self, key: &str) -> Self {
        self.steps.push(PathStep::Key(clip(key)));
        self
    }

    pub(crate) fn under_index(mut self, index: usize) -> Self {
        self.steps.push(PathStep::Index(index));
        self
    }

    pub(crate) fn with_reason(self, reason: String) -> Self {
        Self { reason, ..self }
    }

    pub(crate) fn with_position(mut self, position: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.reason, " ({position})");
        self
    }

    /// The path as a query of RFC 9535 (`$.data["a-b"].config[0]`), and the reason.
    pub(crate) fn into_parts(self) -> (String, String) {
        let mut path = String::from("$");
        for step in self.steps.iter().rev() {
            // Writing to a String cannot fail.
            let _ = match step {
                PathStep::Key(key) if is_shorthand(key) => write!(path, ".{key}"),
                PathStep::Key(key) => write!(path, "[{key:?}]"),
                PathStep::Index(index) => write!(path, "[{index}]"),
            };
        }
        (path, self.reason)
    }
}

/// Whether a key may follow a dot without quotes.
fn is_shorthand(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `text`; if it is too long, its beginning and an ellipsis.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
