//! The settings as text: the effective values, and the commented default file.

use std::fmt::Write;

use crate::{Loaded, Program};

/// All settings with their origins, in the form of an INI file. Secrets are hidden.
pub fn effective<S>(program: &Program, loaded: &Loaded<S>) -> String {
    let mut text = String::new();
    for (index, section) in program.sections.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "[{}]", section.name);
        for key in section.keys {
            let raw = loaded
                .setting(section.name, key.name)
                .map(|setting| setting.raw.as_str())
                .filter(|raw| !raw.is_empty())
                .unwrap_or(key.default);
            let value = match raw {
                "" => "(not set)".to_owned(),
                raw => key.kind.show(raw),
            };
            let pair = format!("{} = {value}", key.name);
            let origin = loaded.origin(section.name, key.name);
            let _ = writeln!(text, "{pair:<48} # {origin}");
        }
    }
    text
}

/// The default file: every key with its help, its default and the allowed values, commented out.
pub fn default_file(program: &Program) -> String {
    let Program { name, main_file, .. } = program;
    let [(section_a, key_a), (section_b, key_b)] = program.examples;
    let mut text = format!(
        "# {main_file}: {}.\n\
         #\n\
         # This file shows the default of every key. Do not change it. Put your settings in\n\
         # {main_file}.d/NAME.conf: upgrades do not touch files there. These files are read after\n\
         # this one, in the order of their names. Environment variables override them ({} for [{section_a}]\n\
         # {key_a}, {} for [{section_b}] {key_b}), and `--set section.key=value` overrides\n\
         # those. An empty value means the default. A comment must be on a separate line.\n\
         # `{name} check-config` prints the effective settings and where each comes from.\n",
        program.about,
        program.variable_name(section_a, key_a),
        program.variable_name(section_b, key_b),
    );
    for section in program.sections {
        let _ = write!(text, "\n#{}\n[{}]\n", section.about, section.name);
        for key in section.keys {
            let _ = write!(text, "\n#{}\n# Allowed: {}.\n", key.help, key.kind.allowed());
            let _ = writeln!(text, "{}", format!("#{} = {}", key.name, key.default).trim_end());
        }
    }
    text
}
