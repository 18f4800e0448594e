//! Colours. They only repeat what the text says.

use protocol::rest::HostState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
    Strong,
}

/// Adds colours, if they are on.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    pub colored: bool,
}

impl Paint {
    pub fn paint(self, style: Style, text: &str) -> String {
        // ECMA-48, "select graphic rendition".
        let code = match style {
            Style::Plain => return text.to_owned(),
            Style::Good => "32",
            Style::Busy => "33",
            Style::Bad => "31",
            Style::Faint => "2",
            Style::Strong => "1",
        };
        match self.colored {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl From<HostState> for Style {
    fn from(state: HostState) -> Self {
        match state {
            HostState::Ok => Self::Good,
            HostState::Converging => Self::Busy,
            HostState::Errors => Self::Bad,
            HostState::Missing => Self::Faint,
        }
    }
}
