//! Parses TOML to a valid [`Manifest`], or to an error with its line.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use protocol::name::check_service_name;
use toml_edit::{Document, Item, TableLike};

use super::{ConfigSection, Creation, Format, Manifest, ManifestError, OnChange};

mod health;

const DEFAULT_MODE: u32 = 0o600;

impl Manifest {
    /// Parses the manifest that was read from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        let mut reader = ManifestReader {
            file,
            text,
            warnings: Vec::new(),
        };
        let document = Document::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            reader.error(at, "(syntax)", error.message().replace('\n', ", "))
        })?;
        let root = document.as_table();
        reader.warn_of_unknown(root, "", &["services", "config", "on_change", "health"]);
        let services = match root.get("services") {
            Some(item) => Some(reader.services(item)?),
            None => None,
        };
        let on_change = match root.get("on_change") {
            None => OnChange::Restart,
            Some(item) => match reader.string(item, "on_change")? {
                "reload" => OnChange::Reload,
                "restart" => OnChange::Restart,
                "none" => OnChange::Nothing,
                other => {
                    let allowed = "allowed are \"reload\", \"restart\" and \"none\"";
                    return Err(reader.wrong(item, "on_change", format!("found {other:?}; {allowed}")));
                }
            },
        };
        let sections = match root.get("config") {
            Some(item) => reader.sections(item)?,
            None => BTreeMap::new(),
        };
        let health = match root.get("health") {
            Some(item) => reader.health(item)?,
            None => Vec::new(),
        };
        Ok(Self {
            services,
            sections,
            on_change,
            health,
            warnings: reader.warnings,
        })
    }
}

struct ManifestReader<'m> {
    file: &'m Path,
    text: &'m str,
    warnings: Vec<String>,
}

impl ManifestReader<'_> {
    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    fn error(&self, offset: usize, key: &str, problem: String) -> ManifestError {
        ManifestError {
            file: self.file.to_owned(),
            line: self.line(offset),
            key: on_one_line(key),
            problem: on_one_line(&problem),
        }
    }

    fn wrong(&self, item: &Item, key: &str, problem: String) -> ManifestError {
        self.error(item.span().map_or(0, |span| span.start), key, problem)
    }

    fn wrong_type(&self, item: &Item, key: &str, allowed: &str) -> ManifestError {
        let found = item.type_name();
        self.wrong(
            item,
            key,
            format!("found a value of type {found}; it must be {allowed}"),
        )
    }

    fn warn_of_unknown(&mut self, table: &dyn TableLike, path: &str, known: &[&str]) {
        for (key, item) in table.iter().filter(|(key, _)| !known.contains(key)) {
            let at = table.get_key_value(key).and_then(|(key, _)| key.span());
            let line = self.line(at.or(item.span()).map_or(0, |span| span.start));
            let warning = format!(
                "{}:{line}: {path}{key} is not a key of a manifest and is ignored; allowed are {}",
                self.file.display(),
                known.join(", ")
            );
            self.warnings.push(on_one_line(&warning));
        }
    }

    fn string<'i>(&self, item: &'i Item, key: &str) -> Result<&'i str, ManifestError> {
        item.as_str()
            .ok_or_else(|| self.wrong_type(item, key, "a string"))
    }

    fn table<'i>(&self, item: &'i Item, key: &str) -> Result<&'i dyn TableLike, ManifestError> {
        item.as_table_like()
            .ok_or_else(|| self.wrong_type(item, key, "a table"))
    }

    fn strings(&self, item: &Item, key: &str) -> Result<Vec<String>, ManifestError> {
        let needed = || self.wrong_type(item, key, "a list of strings");
        let items = item.as_array().ok_or_else(needed)?;
        items
            .iter()
            .map(|value| value.as_str().map(str::to_owned).ok_or_else(needed))
            .collect()
    }

    fn services(&self, item: &Item) -> Result<Vec<String>, ManifestError> {
        let mut services = Vec::new();
        for name in self.strings(item, "services")? {
            let name = name.strip_suffix(".service").unwrap_or(&name);
            if let Err(error) = check_service_name(name) {
                let problem = format!("found {name:?}, which is not a service name: it {error}");
                return Err(self.wrong(item, "services", problem));
            }
            if !services.iter().any(|known| known == name) {
                services.push(name.to_owned());
            }
        }
        Ok(services)
    }

    fn sections(&mut self, item: &Item) -> Result<BTreeMap<String, ConfigSection>, ManifestError> {
        let mut sections: BTreeMap<String, ConfigSection> = BTreeMap::new();
        for (name, item) in self.table(item, "config")?.iter() {
            let section = self.section(name, item)?;
            for (other_name, other) in sections.iter().filter(|(_, other)| other.file == section.file) {
                let clash = if (other.format, &other.creation) != (section.format, &section.creation) {
                    "has another format, mode or owner for the same file"
                } else if (&other.table, &other.prefix) == (&section.table, &section.prefix) {
                    "is the same table of the same file"
                } else {
                    continue;
                };
                let problem = format!("config.{other_name} {clash}");
                return Err(self.wrong(item, &format!("config.{name}"), problem));
            }
            sections.insert(name.to_owned(), section);
        }
        Ok(sections)
    }

    fn section(&mut self, name: &str, item: &Item) -> Result<ConfigSection, ManifestError> {
        let at = |key: &str| format!("config.{name}.{key}");
        let table = self.table(item, &format!("config.{name}"))?;
        let file = self.file(table.get("file"), item, &at("file"))?;
        let format = self.format(table.get("format"), item, &at("format"))?;
        let place = self.place(name, table, format)?;
        let prefix = match table.get("prefix") {
            Some(item) => self.string(item, &at("prefix"))?.to_owned(),
            None => String::new(),
        };
        let mode = match table.get("mode") {
            Some(item) => self.mode(item, &at("mode"))?,
            None => DEFAULT_MODE,
        };
        let owner = match table.get("owner") {
            Some(item) => Some(self.string(item, &at("owner"))?.to_owned()),
            None => None,
        };
        let known = ["file", "format", "table", "prefix", "mode", "owner"];
        self.warn_of_unknown(table, &format!("config.{name}."), &known);
        Ok(ConfigSection {
            file,
            format,
            table: place,
            prefix,
            creation: Creation { mode, owner },
        })
    }

    fn file(&self, item: Option<&Item>, section: &Item, key: &str) -> Result<PathBuf, ManifestError> {
        let item = item.ok_or_else(|| self.missing(section, key, "an absolute path"))?;
        let file = self.string(item, key)?;
        if !is_plain_absolute(Path::new(file)) {
            let problem = format!("found {file:?}; it must be an absolute path of a file, without ..");
            return Err(self.wrong(item, key, problem));
        }
        Ok(PathBuf::from(file))
    }

    fn format(&self, item: Option<&Item>, section: &Item, key: &str) -> Result<Format, ManifestError> {
        let item = item.ok_or_else(|| self.missing(section, key, Format::NAMES))?;
        let found = self.string(item, key)?;
        Format::from_name(found).ok_or_else(|| {
            let problem = format!("found {found:?}; it must be {}", Format::NAMES);
            self.wrong(item, key, problem)
        })
    }

    /// The path of the section's table in its file.
    fn place(
        &self,
        section: &str,
        table: &dyn TableLike,
        format: Format,
    ) -> Result<Vec<String>, ManifestError> {
        let at = |key: &str| format!("config.{section}.{key}");
        match (format, table.get("table"), table.get("prefix")) {
            (Format::Env, Some(item), _) => {
                let problem = "an environment file has no tables; use prefix".to_owned();
                Err(self.wrong(item, &at("table"), problem))
            }
            (Format::Env, None, _) => Ok(Vec::new()),
            (_, _, Some(item)) => {
                let problem = "only an environment file has a prefix; use table".to_owned();
                Err(self.wrong(item, &at("prefix"), problem))
            }
            (_, None, None) => Ok(vec![section.to_owned()]),
            (_, Some(item), None) => match self.string(item, &at("table"))? {
                "" => Ok(Vec::new()),
                name if format == Format::Ini => Ok(vec![name.to_owned()]),
                dotted => toml_edit::Key::parse(dotted)
                    .map(|keys| keys.iter().map(|key| key.get().to_owned()).collect())
                    .map_err(|_| {
                        let allowed = "names separated by dots, each quoted if necessary";
                        let problem = format!("found {dotted:?}; allowed are {allowed}");
                        self.wrong(item, &at("table"), problem)
                    }),
            },
        }
    }

    fn missing(&self, section: &Item, key: &str, allowed: &str) -> ManifestError {
        self.wrong(section, key, format!("missing; it must be {allowed}"))
    }

    fn mode(&self, item: &Item, key: &str) -> Result<u32, ManifestError> {
        let mode = match (item.as_str(), item.as_integer()) {
            (Some(text), _) => u32::from_str_radix(text, 8).ok(),
            (None, Some(number)) => u32::try_from(number).ok(),
            (None, None) => None,
        };
        match mode {
            Some(mode) if mode <= 0o777 && mode & 0o002 == 0 && mode & 0o400 != 0 => Ok(mode),
            _ => {
                let allowed =
                    "it must be an octal mode such as \"0640\", readable by the owner, not writable by all";
                Err(self.wrong(item, key, format!("found {}; {allowed}", item.to_string().trim())))
            }
        }
    }
}

/// Escapes control characters: keys and values may hold line breaks, and log lines must not.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// An absolute path of a file, without `..`.
fn is_plain_absolute(path: &Path) -> bool {
    path.has_root()
        && path.file_name().is_some()
        && !path.as_os_str().as_encoded_bytes().ends_with(b"/")
        && !path.components().any(|part| part == Component::ParentDir)
}
