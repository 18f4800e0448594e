//! The settings as text: what holds now, and the commented default file.

use std::fmt::Write;

use crate::{Loaded, Program};

/// All settings with where each came from, as an INI file would have them. Secrets are hidden.
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

/// The file to ship: every key with its help, its default and what is allowed, all commented out.
pub fn default_file(program: &Program) -> String {
    let Program { name, main_file, .. } = program;
    let [(section_a, key_a), (section_b, key_b)] = program.examples;
    let mut text = format!(
        "# {main_file}: {}.\n\
         #\n\
         # Every key has the default that stands here. Change settings in {main_file}.d/NAME.conf, which\n\
         # upgrades leave alone: files there are read after this one, in the order of their names. The\n\
         # environment comes next ({} for [{section_a}] {key_a}, {} for [{section_b}]\n\
         # {key_b}), then `--set section.key=value`. An empty value means the default. A comment needs a line\n\
         # of its own. `{name} check-config` shows what holds, and from where.\n",
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
