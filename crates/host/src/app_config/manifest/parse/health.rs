//! The health checks of a manifest.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml_edit::{Item, Table};

use super::super::{HealthCheck, ManifestError, Probe};
use super::{ManifestReader, is_plain_absolute};

/// Makes the error for a missing key, from its name and what is allowed.
type MissingKey<'a> = dyn Fn(&str, &str) -> ManifestError + 'a;

impl ManifestReader<'_> {
    pub fn health(&mut self, item: &Item) -> Result<Vec<HealthCheck>, ManifestError> {
        let tables = item
            .as_array_of_tables()
            .ok_or_else(|| self.wrong_type(item, "health", "[[health]]"))?;
        tables
            .iter()
            .map(|table| self.health_check(item, table))
            .collect()
    }

    fn health_check(&mut self, parent: &Item, table: &Table) -> Result<HealthCheck, ManifestError> {
        let place = table.span().or(parent.span()).map_or(0, |span| span.start);
        let missing =
            |key: &str, allowed: &str| self.error(place, key, format!("missing; it must be {allowed}"));
        let types = "\"exec\", \"http\" or \"tcp\"";
        let kind_item = table.get("type").ok_or_else(|| missing("health.type", types))?;
        let (probe, own) = match self.string(kind_item, "health.type")? {
            "exec" => (self.exec(table, &missing)?, &["command"][..]),
            "http" => (self.http(table, &missing)?, &["url", "status"][..]),
            "tcp" => (self.tcp(table, &missing)?, &["address"][..]),
            other => {
                let problem = format!("found {other:?}; it must be {types}");
                return Err(self.wrong(kind_item, "health.type", problem));
            }
        };
        let check = HealthCheck {
            probe,
            interval: self.seconds(table, "interval", 10.0, 1.0..=3600.0)?,
            timeout: self.seconds(table, "timeout", 5.0, 0.1..=300.0)?,
            retries: self.retries(table)?,
        };
        let known = [&["type", "interval", "timeout", "retries"], own].concat();
        self.warn_of_unknown(table, "health.", &known);
        Ok(check)
    }

    fn exec(&self, table: &Table, missing: &MissingKey) -> Result<Probe, ManifestError> {
        let allowed = "a list that begins with the absolute path of a program";
        let item = table
            .get("command")
            .ok_or_else(|| missing("health.command", allowed))?;
        let command = self.strings(item, "health.command")?;
        match command.first() {
            Some(program) if is_plain_absolute(Path::new(program)) => Ok(Probe::Exec { command }),
            found => {
                let found = found.map_or("nothing", String::as_str);
                Err(self.wrong(
                    item,
                    "health.command",
                    format!("found {found:?}; it must be {allowed}"),
                ))
            }
        }
    }

    fn http(&self, table: &Table, missing: &MissingKey) -> Result<Probe, ManifestError> {
        let allowed = "an http or https URL";
        let item = table.get("url").ok_or_else(|| missing("health.url", allowed))?;
        let text = self.string(item, "health.url")?;
        let scheme = url::Url::parse(text).ok().map(|url| url.scheme().to_owned());
        if !matches!(scheme.as_deref(), Some("http" | "https")) {
            return Err(self.wrong(
                item,
                "health.url",
                format!("found {text:?}; it must be {allowed}"),
            ));
        }
        let status = match table.get("status") {
            None => None,
            Some(item) => match item.as_integer().and_then(|code| u16::try_from(code).ok()) {
                Some(code @ 100..=599) => Some(code),
                _ => return Err(self.wrong_type(item, "health.status", "a status from 100 to 599")),
            },
        };
        Ok(Probe::Http {
            url: text.to_owned(),
            status,
        })
    }

    fn tcp(&self, table: &Table, missing: &MissingKey) -> Result<Probe, ManifestError> {
        let allowed = "\"HOST:PORT\"";
        let item = table
            .get("address")
            .ok_or_else(|| missing("health.address", allowed))?;
        let address = self.string(item, "health.address")?;
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(Probe::Tcp {
                    address: address.to_owned(),
                })
            }
            _ => Err(self.wrong(
                item,
                "health.address",
                format!("found {address:?}; it must be {allowed}"),
            )),
        }
    }

    fn seconds(
        &self,
        table: &Table,
        key: &str,
        default: f64,
        allowed: RangeInclusive<f64>,
    ) -> Result<Duration, ManifestError> {
        let Some(item) = table.get(key) else {
            return Ok(Duration::from_secs_f64(default));
        };
        let found = item.as_float().or(item.as_integer().map(|whole| whole as f64));
        match found {
            Some(seconds) if allowed.contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
            _ => {
                let needed = format!("it must be seconds from {} to {}", allowed.start(), allowed.end());
                let problem = format!("found {}; {needed}", item.to_string().trim());
                Err(self.wrong(item, &format!("health.{key}"), problem))
            }
        }
    }

    fn retries(&self, table: &Table) -> Result<u32, ManifestError> {
        let Some(item) = table.get("retries") else {
            return Ok(3);
        };
        match item.as_integer().and_then(|number| u32::try_from(number).ok()) {
            Some(retries @ 1..=100) => Ok(retries),
            _ => {
                let problem = format!("found {}; it must be 1 to 100", item.to_string().trim());
                Err(self.wrong(item, "health.retries", problem))
            }
        }
    }
}
