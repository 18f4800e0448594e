//! `bbctl label`.

use anyhow::bail;
use clap::Args;
use protocol::HostId;
use protocol::rest::Labels;

use super::hosts::labels;
use super::{Context, Exit, UsageError, host_id, no_such_host};
use crate::output::{Format, for_programs, print};

#[derive(Debug, Args)]
pub struct LabelCommand {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    /// NAME=VALUE sets a label, NAME- removes it. Without changes: shows the labels.
    #[arg(value_name = "CHANGE")]
    changes: Vec<String>,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl LabelCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let changes = self
            .changes
            .iter()
            .map(|change| parse(change))
            .collect::<Result<Vec<_>, _>>()?;
        let present = context.client.labels(&self.id)?;
        let shown = if changes.is_empty() {
            present.ok_or_else(|| no_such_host(&self.id))?
        } else {
            let wanted = changed(present.clone().unwrap_or_default(), &changes)?;
            match present == Some(wanted.clone()) {
                true => wanted,
                false => context.client.set_labels(&self.id, &wanted)?,
            }
        };
        let text = for_programs(self.output, &shown)?;
        print(&text.unwrap_or_else(|| format!("{}  {}\n", self.id, labels(&shown))))?;
        Ok(Exit::Ok)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Set(&'a str, &'a str),
    Remove(&'a str),
}

fn parse(text: &str) -> Result<Change<'_>, UsageError> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) if !name.is_empty() => Ok(Change::Set(name, value)),
        (None, Some(name)) if !name.is_empty() => Ok(Change::Remove(name)),
        _ => Err(UsageError(format!(
            "{text:?} is not a change of a label: site=berlin sets a label, site= sets it to an empty \
             value, site- removes it"
        ))),
    }
}

fn changed(mut labels: Labels, changes: &[Change]) -> anyhow::Result<Labels> {
    for change in changes {
        match change {
            Change::Set(name, value) => drop(labels.insert((*name).to_owned(), (*value).to_owned())),
            Change::Remove(name) => {
                if labels.remove(*name).is_none() {
                    bail!("cannot remove label {name:?}: the host does not have it");
                }
            }
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_apart() {
        assert_eq!(parse("a=b=c-").unwrap(), Change::Set("a", "b=c-"));
        assert_eq!(parse("a=").unwrap(), Change::Set("a", ""));
        assert_eq!(parse("a-b-").unwrap(), Change::Remove("a-b"));
        for text in ["a", "=b", "-", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
