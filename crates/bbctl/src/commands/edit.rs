//! `bbctl edit`.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;
use protocol::rest::{DesiredApps, PutQuery, problem};
use protocol::{Apps, HostId};
use tempfile::NamedTempFile;

use super::confirm::confirm_emptying;
use super::get::provenance;
use super::set::{WaitArgs, outcome};
use super::{Context, Exit, host_id, no_such_host};
use crate::client::ClientError;
use crate::desired::{self, Source, to_yaml};
use crate::output::{note, print};

#[derive(Debug, Args)]
pub struct EditCommand {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    #[command(flatten)]
    wait: WaitArgs,
    /// Do not ask for confirmation, even if all applications are removed.
    #[arg(short, long)]
    yes: bool,
}

/// The temporary file for the editor. It is kept if its contents could not be set.
struct Draft {
    file: NamedTempFile,
}

impl Draft {
    fn new(id: &HostId, text: &str) -> anyhow::Result<Self> {
        // A host id may contain characters that are not suitable for a file name.
        let name: String = id
            .as_str()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        // Only the owner can read it, because configs may contain secrets.
        let mut file = tempfile::Builder::new()
            .prefix(&format!("bbctl-{name}-"))
            .suffix(".yaml")
            .tempfile()
            .context("cannot create a temporary file for the editor")?;
        file.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", file.path().display()))?;
        Ok(Self { file })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    /// Opens the file by its name, because editors write a new file and rename it.
    fn text(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(self.path()).with_context(|| format!("cannot read {}", self.path().display()))
    }

    fn replace(&self, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.path(), text).with_context(|| format!("cannot write {}", self.path().display()))
    }

    /// Keeps the file and returns a text that says where it is.
    fn keep(self) -> String {
        match self.file.keep() {
            Ok((_, path)) => format!("your edit is in {}", path.display()),
            Err(error) => format!("cannot keep your edit: {error}"),
        }
    }
}

impl EditCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let before = context.client.desired(&self.id)?;
        let before = before.ok_or_else(|| no_such_host(&self.id))?;
        let body = to_yaml(&serde_json::to_value(&before.apps)?);
        let mut shown = format!("{}{body}", header(&self.id, &before));
        let draft = Draft::new(&self.id, &shown)?;
        let (apps, source) = loop {
            if let Err(error) = open_editor(draft.path()) {
                bail!("{error:#}; nothing was changed");
            }
            let text = draft.text()?;
            if is_empty(&text) || without_comments(&text) == without_comments(&body) {
                print("Nothing was changed.\n")?;
                return Ok(Exit::Ok);
            }
            let source = Source {
                name: draft.path().display().to_string(),
                text: text.clone(),
            };
            match desired::parse(source) {
                Ok(desired) => break (desired.apps, desired.source),
                // The editor was closed without a change: the user has given up.
                Err(error) if text == shown => {
                    bail!("{error}\nNothing was changed; {}", draft.keep());
                }
                Err(_) => {
                    shown = with_error_on_top(&text, |text| {
                        let name = draft.path().display().to_string();
                        let source = Source {
                            name,
                            text: text.to_owned(),
                        };
                        desired::parse(source).err().map(|error| error.to_string())
                    });
                    draft.replace(&shown)?;
                }
            }
        };
        if apps == before.apps {
            print("Nothing was changed.\n")?;
            return Ok(Exit::Ok);
        }
        match self.put(context, &before, &apps, &source) {
            Ok(set) => {
                drop(draft);
                print(&outcome(&self.id, Some(&before), &set))?;
                self.wait.after(context, &self.id, &set)
            }
            Err(error) => {
                let kept = draft.keep();
                bail!("{error:#}\nNothing was changed; {kept}");
            }
        }
    }

    fn put(
        &self,
        context: &Context,
        before: &DesiredApps,
        apps: &Apps,
        source: &Source,
    ) -> anyhow::Result<DesiredApps> {
        confirm_emptying(&self.id, Some(&before.apps), apps, self.yes, context.terminal)?;
        let generation = Some(before.generation);
        match context
            .client
            .set(&self.id, apps, &PutQuery::default(), generation)
        {
            Err(error) if error.kind() == Some(problem::GENERATION) => bail!(
                "the desired state of {0} was changed externally while you edited it. `bbctl diff {0} -f \
                 FILE` shows how it differs from your edit. Then use `bbctl set {0} -f FILE`, or edit \
                 again",
                self.id
            ),
            Err(ClientError::Refused { problem, .. }) if problem.path.is_some() => {
                let path = problem.path.as_deref().unwrap_or("$");
                let detail = problem.detail.as_deref().unwrap_or(&problem.title);
                bail!("{}: {path}: {detail}", source.place(path))
            }
            set => Ok(set?),
        }
    }
}

fn header(id: &HostId, before: &DesiredApps) -> String {
    format!(
        "# The desired applications of host {}.\n\
         # An application that you delete here is removed from the host. Comment lines like this one are not kept.\n\
         # If you change nothing or delete everything, nothing is set; {{}} removes every application.\n\
         # docs/protocol.md describes all fields.\n",
        provenance(id, before)
    )
}

/// Marks lines with an error, so that they are removed when the error is fixed.
const ERROR_MARK: &str = "#! ";

/// `text` with its error in lines above it. These lines change the line numbers that the error
/// names, so `check` is called again for the new text.
fn with_error_on_top(text: &str, check: impl Fn(&str) -> Option<String>) -> String {
    let bare: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with(ERROR_MARK))
        .collect();
    let build = |error: &str| {
        let lines: String = error
            .lines()
            .map(|line| format!("{ERROR_MARK}{line}\n"))
            .collect();
        format!("{lines}{bare}")
    };
    let first = build(&check(&bare).unwrap_or_default());
    build(&check(&first).unwrap_or_default())
}

fn without_comments(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_empty(text: &str) -> bool {
    without_comments(text).trim().is_empty()
}

/// Runs $VISUAL, else $EDITOR, else vi. The variables may contain arguments, so a shell splits
/// them, as for git and kubectl.
fn open_editor(file: &Path) -> anyhow::Result<()> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let (editor, origin) = match (set("VISUAL"), set("EDITOR")) {
        (Some(editor), _) => (editor, "VISUAL"),
        (None, Some(editor)) => (editor, "EDITOR"),
        (None, None) => ("vi".to_owned(), "neither VISUAL nor EDITOR is set"),
    };
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file)
        .status()
        .context("cannot start /bin/sh for the editor")?;
    match status.success() {
        true => Ok(()),
        false => {
            note("");
            bail!("the editor {editor:?} ({origin}) failed: {status}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_place_in_the_shown_text_and_is_removed_when_it_is_fixed() {
        let check = |text: &str| {
            let line = text.lines().position(|line| line == "bad")?;
            Some(format!("line {}", line + 1))
        };
        let once = with_error_on_top("# head\nbad\n", check);
        assert_eq!(once, "#! line 3\n# head\nbad\n");
        assert_eq!(with_error_on_top(&once, check), once);
        assert_eq!(
            with_error_on_top("#! line 3\n# head\ngood\n", check),
            "# head\ngood\n"
        );
    }

    #[test]
    fn comments_are_no_content() {
        assert!(is_empty("# a\n\n  # b\n"));
        assert!(!is_empty("# a\n{}\n"));
    }
}
