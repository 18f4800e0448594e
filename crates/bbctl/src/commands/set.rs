//! `bbctl set`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use protocol::rest::{DesiredApps, PlanAnswer, PutQuery};
use protocol::{Apps, HostId};

use super::confirm::confirm_emptying;
use super::hosts::HostFilter;
use super::put::{at_its_place, put};
use super::set_many::SetMany;
use super::{Context, Exit, UsageError, host_id, note_problems, time, wait};
use crate::desired::{self, Source};
use crate::output::{Format, Paint, Style, clean, clean_lines, for_programs, print};

#[derive(Debug, Args)]
pub struct SetCommand {
    /// One host. To set many hosts, use filters or --all instead.
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: Option<HostId>,
    /// JSON or YAML file with applications or a whole set_config; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Change nothing. With HOST: ask the host what it would do. With filters: show how many hosts
    /// would change.
    #[arg(long, conflicts_with_all = ["wait", "if_generation", "only_if_plan"])]
    dry_run: bool,
    /// Format of a dry run's output.
    #[arg(short, long, value_enum, default_value = "table", requires = "dry_run")]
    output: Format,
    #[command(flatten)]
    wait: WaitArgs,
    /// Set only if the generation is still N (`get` shows it), so that no external change is
    /// overwritten.
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
    /// The host accepts it only if its plan still has this hash (--dry-run prints it). Otherwise it
    /// changes nothing and reports an error.
    #[arg(long, value_name = "HASH", value_parser = plan_hash)]
    only_if_plan: Option<String>,
    /// Do not ask for confirmation, even if all applications are removed or many hosts change.
    #[arg(short, long)]
    yes: bool,
    /// All known hosts.
    #[arg(
        long,
        help_heading = "Filters, instead of HOST (a host must match all of them)"
    )]
    all: bool,
    #[command(
        flatten,
        next_help_heading = "Filters, instead of HOST (a host must match all of them)"
    )]
    filter: HostFilter,
}

fn plan_hash(text: &str) -> Result<String, String> {
    match protocol::is_plan_hash(text) {
        true => Ok(text.to_owned()),
        false => Err("6 to 64 characters 0-9 and a-f are needed, as printed by --dry-run".to_owned()),
    }
}

/// Whether and how long to wait.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until the host is as desired; exit code 3 if it fails or the time is over.
    #[arg(short, long)]
    wait: bool,
    /// Longest wait (10m, 90s, 90).
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time, requires = "wait")]
    timeout: Duration,
}

impl WaitArgs {
    /// Waits for the host, if --wait was given.
    pub fn after(&self, context: &Context, id: &HostId, set: &DesiredApps) -> anyhow::Result<Exit> {
        match self.wait {
            true => wait::until_converged(context, id, set, self.timeout),
            false => Ok(Exit::Ok),
        }
    }
}

impl SetCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let Some(id) = &self.id else {
            return self.many()?.execute(context, &desired::read(&self.file)?);
        };
        if self.all || !self.filter.is_empty() {
            return Err(UsageError(format!(
                "use either {id} or filters (--all, --label, ...), not both"
            ))
            .into());
        }
        self.one(context, id)
    }

    /// The command for many hosts.
    fn many(&self) -> Result<SetMany<'_>, UsageError> {
        if self.all != self.filter.is_empty() {
            return Err(UsageError(
                match self.all {
                    false => {
                        "no hosts are given: name one HOST, use filters (--label, --application, \
                              --text, ...), or use --all"
                    }
                    true => "--all cannot be combined with filters: use one or the other",
                }
                .to_owned(),
            ));
        }
        if self.if_generation.is_some() || self.only_if_plan.is_some() {
            return Err(UsageError(
                "--if-generation and --only-if-plan need one HOST, because each host has its own \
                 generation and plan"
                    .to_owned(),
            ));
        }
        if self.wait.wait && !self.filter.is_stable() {
            return Err(UsageError(
                "--wait works only with --label, --text or --all: with other filters, the change itself \
                 may change which hosts match"
                    .to_owned(),
            ));
        }
        Ok(SetMany {
            filter: &self.filter,
            all: self.all,
            dry_run: self.dry_run.then_some(self.output),
            wait: self.wait.wait.then_some(self.wait.timeout),
            // Standard input is the file, so no answer can be read from it.
            can_ask: self.file.as_os_str() != "-",
            yes: self.yes,
        })
    }

    fn one(&self, context: &Context, id: &HostId) -> anyhow::Result<Exit> {
        let desired = desired::read(&self.file)?;
        if self.dry_run {
            return self.dry_run(context, id, &desired.apps, &desired.source);
        }
        let before = context.client.desired(id)?;
        let apps_before = before.as_ref().map(|before| &before.apps);
        if self.yes || self.file.as_os_str() != "-" {
            confirm_emptying(id, apps_before, &desired.apps, self.yes, context.terminal)?;
        } else if desired.apps.is_empty() {
            // Standard input is the file, so no answer can be read from it.
            return Err(UsageError(format!(
                "{{}} removes every managed application from {id}. To confirm, add --yes"
            ))
            .into());
        }
        let query = PutQuery {
            dry_run: false,
            only_if_plan: self.only_if_plan.clone(),
        };
        let set = put(
            &context.client,
            id,
            &desired.apps,
            &query,
            self.if_generation,
            &desired.source,
        )?;
        print(&outcome(id, before.as_ref(), &set))?;
        note_problems(&context.client);
        self.wait.after(context, id, &set)
    }

    fn dry_run(&self, context: &Context, id: &HostId, apps: &Apps, source: &Source) -> anyhow::Result<Exit> {
        let plan = context
            .client
            .plan(id, apps)
            .map_err(|error| at_its_place(error, source))?;
        let text = for_programs(self.output, &plan)?;
        if let Some(error) = plan.error.as_deref().filter(|_| text.is_none()) {
            bail!("{} cannot make a plan: {}", id, clean_lines(error, "    "));
        }
        let command = format!("bbctl set {id} -f {}", self.file.display());
        print(&text.unwrap_or_else(|| plan_in_words(&plan, &command, context.terminal.paint)))?;
        Ok(match (plan.faults.is_empty(), plan.error) {
            (true, None) => Exit::Ok,
            (false, None) => Exit::NotConverged,
            (_, Some(_)) => Exit::Failed,
        })
    }
}

/// What was changed, in one line for each application.
pub fn outcome(id: &HostId, before: Option<&DesiredApps>, set: &DesiredApps) -> String {
    let generation = set.generation;
    if before.is_some_and(|before| before.generation == generation) {
        return format!("{id}: no change; the desired state is still generation {generation}\n");
    }
    let none = Apps::new();
    let before = before.map_or(&none, |before| &before.apps);
    let mut text = format!("{id}: desired state set, generation {generation}\n");
    for (name, spec) in &set.apps {
        match before.get(name) {
            None => text.push_str(&format!("  + {name} {}\n", spec.version)),
            Some(was) if was.version != spec.version => {
                text.push_str(&format!("  ~ {name} {} -> {}\n", was.version, spec.version));
            }
            Some(was) if was != spec => text.push_str(&format!("  ~ {name}\n")),
            Some(_) => {}
        }
    }
    for name in before.keys().filter(|name| !set.apps.contains_key(*name)) {
        text.push_str(&format!("  - {name}\n"));
    }
    text
}

/// The plan as `hostagent plan` shows it.
fn plan_in_words(plan: &PlanAnswer, command: &str, paint: Paint) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        let (sign, style) = match step.action.as_str() {
            "install" => ('+', Style::Good),
            "remove" => ('-', Style::Bad),
            _ => ('~', Style::Busy),
        };
        let line = format!("{sign} {}: {}", step.app, clean_lines(&step.text, "    "));
        text.push_str(&paint.paint(style, &line));
        let undo = match step.undo.possible {
            true => "undo",
            false => "CANNOT BE UNDONE",
        };
        text.push_str(&format!("\n    {undo}: {}\n", clean(&step.undo.how)));
    }
    for fault in &plan.faults {
        let line = format!("! {}: {}", fault.app, clean_lines(&fault.message, "    "));
        text.push_str(&paint.paint(Style::Bad, &line));
        text.push('\n');
    }
    let steps = match plan.steps.len() {
        1 => "1 step".to_owned(),
        count => format!("{count} steps"),
    };
    match (plan.steps.is_empty(), plan.faults.len()) {
        (true, 0) => text.push_str("Nothing to do: the host is as desired.\n"),
        (_, 0) => text.push_str(&format!(
            "{steps}; plan {}. To do exactly this: {command} --only-if-plan {0}\n",
            plan.hash
        )),
        (_, faults) => text.push_str(&format!(
            "{steps}; {faults} {} that no step can solve; plan {}.\n",
            if faults == 1 { "problem" } else { "problems" },
            plan.hash
        )),
    }
    text
}
