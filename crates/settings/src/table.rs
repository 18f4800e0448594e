//! The table of a program's keys, and the macro that makes it and the typed settings.

use crate::Kind;

/// A program that has settings.
#[derive(Debug)]
pub struct Program {
    /// Also the name of its main section and, in capitals, the prefix of its environment variables.
    pub name: &'static str,
    /// One line, for the default file.
    pub about: &'static str,
    /// Read unless `--config` names another.
    pub main_file: &'static str,
    pub sections: &'static [Section],
    /// A key of the main section and a key of another one, as examples of variable names.
    pub examples: [(&'static str, &'static str); 2],
}

/// A section of the settings file.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    pub about: &'static str,
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// As written in the file; empty: not set.
    pub default: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// Makes the typed structs, the table and the parser from one list.
#[macro_export]
macro_rules! sections {
    ($(
        #[doc = $about:literal]
        $section:ident: $struct:ident {
            $( #[doc = $help:literal] $key:ident: $type:ty = $default:literal, $kind:expr; )+
        }
    )+) => {
        /// All settings, valid.
        #[derive(Debug, Clone)]
        pub struct Settings { $( #[doc = $about] pub $section: $struct, )+ }

        $(
            #[doc = $about]
            #[derive(Debug, Clone)]
            pub struct $struct { $( #[doc = $help] pub $key: $type, )+ }
        )+

        /// Every section and key, in the order of the documentation.
        pub const SECTIONS: &[$crate::Section] = &[ $( $crate::Section {
            name: stringify!($section),
            about: $about,
            keys: &[ $( $crate::Key {
                name: stringify!($key),
                default: $default,
                kind: $kind,
                help: $help,
            }, )+ ],
        }, )+ ];

        impl Settings {
            /// Parses every key, so that every bad value is reported. `None` if a value is bad.
            pub(super) fn parse(gathered: &mut $crate::Gathered) -> Option<Self> {
                $(
                    let $section = {
                        $( let $key: Option<$type> = $crate::take(
                            gathered, stringify!($section), stringify!($key), $default, &$kind,
                        ); )+
                        (|| Some($struct { $( $key: $key?, )+ }))()
                    };
                )+
                Some(Self { $( $section: $section?, )+ })
            }
        }
    };
}

impl Program {
    /// The section and key of these names.
    pub(crate) fn find(&self, section: &str, key: &str) -> Option<(&'static str, &'static Key)> {
        let section = self.sections.iter().find(|candidate| candidate.name == section)?;
        let key = section.keys.iter().find(|candidate| candidate.name == key)?;
        Some((section.name, key))
    }

    pub(crate) fn all_keys(&self) -> impl Iterator<Item = (&'static str, &'static Key)> + use<> {
        self.sections
            .iter()
            .flat_map(|section| section.keys.iter().map(|key| (section.name, key)))
    }

    /// The prefix of its environment variables.
    pub(crate) fn variable_prefix(&self) -> String {
        format!("{}_", self.name.to_ascii_uppercase())
    }

    /// The environment variable of a key.
    pub fn variable_name(&self, section: &str, key: &str) -> String {
        let name = match section == self.name {
            true => format!("{}{key}", self.variable_prefix()),
            false => format!("{}{section}_{key}", self.variable_prefix()),
        };
        name.to_ascii_uppercase()
    }
}
