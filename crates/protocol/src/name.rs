//! Identifiers that come from outside. A value of these types is always valid.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Routing key that reaches every agent.
pub const SLAVES: &str = "slaves";
/// Routing key that reaches the master.
pub const MASTER: &str = "master";

/// An application's name: `[A-Za-z0-9][A-Za-z0-9+._-]{0,127}`, never a reserved topic.
///
/// It is also a routing key, so `slaves` and `master` are refused. A name that equals a host's id
/// can be detected only on that host ([`HostId::collides_with`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

/// Why a string is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is {0} bytes long; at most {1} are allowed")]
    TooLong(usize, usize),
    #[error("begins with {0:?}; a letter or digit is needed")]
    Start(char),
    #[error("contains {0:?}; allowed are letters, digits and {1}")]
    Character(char, &'static str),
    #[error("is reserved for a topic of the protocol")]
    Reserved,
}

impl AppName {
    pub const MAX_LEN: usize = 128;

    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        Self::check(&name)?;
        Ok(Self(name))
    }

    pub(crate) fn check(name: &str) -> Result<(), NameError> {
        check_plain_name(name, Self::MAX_LEN)?;
        if name == SLAVES || name == MASTER {
            return Err(NameError::Reserved);
        }
        Ok(())
    }

    /// For a name that [`AppName::check`] has accepted. The decoder needs the string for its path
    /// first.
    pub(crate) fn from_checked(name: String) -> Self {
        debug_assert_eq!(Self::check(&name), Ok(()));
        Self(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The grammar of application and package names. Such a name is safe as a path component and, after
/// `--`, as a command-line argument.
pub fn check_plain_name(name: &str, max_len: usize) -> Result<(), NameError> {
    check_name(name, max_len, "+._-")
}

/// The grammar of service names: a plain name, or an instance of a template (`getty@tty1`).
pub fn check_service_name(name: &str) -> Result<(), NameError> {
    check_name(name, AppName::MAX_LEN, "+._-@")
}

fn check_name(name: &str, max_len: usize, allowed: &'static str) -> Result<(), NameError> {
    let Some(first) = name.chars().next() else {
        return Err(NameError::Empty);
    };
    if name.len() > max_len {
        return Err(NameError::TooLong(name.len(), max_len));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Start(first));
    }
    match name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !allowed.contains(*c))
    {
        Some(c) => Err(NameError::Character(c, allowed)),
        None => Ok(()),
    }
}

/// A host's identifier on the wire: usually a MAC address (`02:FC:00:00:00:01`), or what its
/// operator chose. 1 to 127 printable ASCII characters without space, because it is part of a queue
/// name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

impl HostId {
    pub const MAX_LEN: usize = 127;

    pub fn new(id: impl Into<String>) -> Result<Self, NameError> {
        let id = id.into();
        if id.is_empty() {
            return Err(NameError::Empty);
        }
        if id.len() > Self::MAX_LEN {
            return Err(NameError::TooLong(id.len(), Self::MAX_LEN));
        }
        if let Some(c) = id.chars().find(|c| !c.is_ascii_graphic() || "/*#".contains(*c)) {
            return Err(NameError::Character(c, "punctuation other than / * #"));
        }
        if id == SLAVES || id == MASTER {
            return Err(NameError::Reserved);
        }
        Ok(Self(id))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `app` and this host would have the same routing key.
    pub fn collides_with(&self, app: &AppName) -> bool {
        self.0 == app.0
    }
}

macro_rules! string_newtype {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(value)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
string_newtype!(AppName);
string_newtype!(HostId);
