//! `bbctl set` for many hosts.

use std::time::Duration;

use anyhow::bail;
use protocol::Apps;
use protocol::rest::{FleetQuery, FleetSet};

use super::confirm::confirm;
use super::hosts::HostFilter;
use super::put::at_its_place;
use super::{Context, Exit, UsageError, note_problems, wait_many};
use crate::desired::Desired;
use crate::output::{Format, clean, for_programs, print};

/// Which hosts, and with which options.
pub(super) struct SetMany<'a> {
    pub filter: &'a HostFilter,
    pub all: bool,
    /// Only count the hosts, and print the result in this format.
    pub dry_run: Option<Format>,
    /// Wait for the hosts, for up to this time.
    pub wait: Option<Duration>,
    pub can_ask: bool,
    pub yes: bool,
}

impl SetMany<'_> {
    fn query(&self, dry_run: bool) -> FleetQuery {
        let filter = self.filter.query();
        FleetQuery {
            status: filter.status,
            responding: filter.responding,
            satisfied: filter.satisfied,
            application: filter.application,
            version: filter.version,
            label: filter.label,
            text: filter.text,
            all: self.all,
            dry_run,
        }
    }

    pub fn execute(&self, context: &Context, desired: &Desired) -> anyhow::Result<Exit> {
        let put = |dry_run| {
            let query = self.query(dry_run);
            let set = context.client.set_many(&query, &desired.apps);
            set.map_err(|error| at_its_place(error, &desired.source))
        };
        // Shows what will change before it changes.
        if self.dry_run.is_some() || !self.yes {
            let would = put(true)?;
            if let Some(format) = self.dry_run {
                let text = for_programs(format, &would)?;
                print(&text.unwrap_or_else(|| would_be(would, &desired.apps)))?;
                return Ok(Exit::Ok);
            }
            if would.hosts == 0 {
                bail!("{} Nothing was changed.", self.filter.no_host_message());
            }
            if would.changed > 0 {
                self.ask(context, would, &desired.apps)?;
            }
        }
        let set = put(false)?;
        if set.hosts == 0 {
            bail!("{} Nothing was changed.", self.filter.no_host_message());
        }
        print(&outcome(set))?;
        note_problems(&context.client);
        match self.wait {
            Some(timeout) => wait_many::until_converged(context, &self.filter.query(), timeout),
            None => Ok(Exit::Ok),
        }
    }

    fn ask(&self, context: &Context, would: FleetSet, apps: &Apps) -> anyhow::Result<()> {
        let what = would_be(would, apps);
        if self.can_ask {
            return confirm(what.trim_end(), false, context.terminal);
        }
        Err(UsageError(format!("{} To confirm, add --yes", what.trim_end())).into())
    }
}

fn hosts(count: u64) -> String {
    match count {
        1 => "1 host".to_owned(),
        count => format!("{count} hosts"),
    }
}

fn would_be(would: FleetSet, apps: &Apps) -> String {
    let FleetSet { hosts: of, changed } = would;
    if changed == 0 {
        return format!("No change: {} already have this desired state.\n", hosts(of));
    }
    let names: Vec<String> = apps
        .iter()
        .map(|(name, spec)| clean(&format!("{name} {}", spec.version)))
        .collect();
    match names.is_empty() {
        true => format!(
            "{{}} removes every managed application from {changed} of {}.\n",
            hosts(of)
        ),
        false => format!(
            "This changes the desired state of {changed} of {} to: {}, and nothing else.\n",
            hosts(of),
            names.join(", ")
        ),
    }
}

fn outcome(set: FleetSet) -> String {
    match set {
        FleetSet {
            hosts: of,
            changed: 0,
        } => {
            format!("{}: no change; all already have this desired state\n", hosts(of))
        }
        FleetSet { hosts: of, changed } => format!("{}: desired state set; {changed} changed\n", hosts(of)),
    }
}
