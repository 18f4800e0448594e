//! Classifies the error output of package managers. All run in the C locale.

use protocol::Category;

use crate::HostError;
use crate::command::{EXCERPT_LINES, last_lines};

/// Beginnings of lines by which dpkg, apt, rpm and dnf report that another process holds the lock.
/// Only beginnings, because a maintainer script may print messages about locks too.
const LOCKED: &[&str] = &[
    "dpkg: error: dpkg frontend lock was locked",
    "dpkg: error: dpkg database lock was locked",
    "dpkg: error: dpkg frontend is locked",
    "dpkg: error: dpkg status database is locked",
    "E: Could not get lock",
    "E: Unable to acquire the dpkg frontend lock",
    "E: Unable to lock",
    "error: can't create transaction lock",
    "RPM: error: can't create transaction lock",
    "Error: Failed to obtain the transaction lock",
    // dnf with exit_on_lock, of who holds it.
    "The application with PID",
    "Another app is currently holding the yum lock",
];

/// Parts of lines, in order of precedence: a full disk also makes scripts fail, and a failed script
/// leaves the dependencies of others unmet.
const SIGNS: &[(Category, &[&str])] = &[
    (
        Category::DiskSpace,
        &[
            "No space left on device",
            "enough free space",
            "more space on the ",
            "MB on the ",
            "KB on the ",
        ],
    ),
    (
        Category::Script,
        &[
            "script subprocess returned error",
            "script subprocess was killed",
            "scriptlet failed",
            "scriptlet in rpm package",
        ],
    ),
    (
        Category::Network,
        &[
            "Failed to fetch",
            "Unable to fetch",
            "Temporary failure resolving",
            "Could not resolve",
            "Failed to download",
            "Cannot download",
            "Curl error",
            "Cannot retrieve",
        ],
    ),
    (
        Category::NotFound,
        &[
            "Unable to locate package",
            "was not found",
            "No match for argument",
            "Unable to find a match",
            "No packages found",
            "cannot access archive",
        ],
    ),
    (
        Category::Verification,
        &[
            "is not a Debian format archive",
            "dpkg-deb: error",
            "does not match system",
            "different architecture",
            "not an rpm package",
            "does not verify",
            "GPG check FAILED",
        ],
    ),
    (
        Category::Dependency,
        &[
            "dependency problem",
            "conflicting packages",
            "trying to overwrite",
            "unmet dependencies",
            "Unmet dependencies",
            "held broken packages",
            "Held packages",
            "but remove is disabled",
            "Failed dependencies",
            "conflicts with",
            "nothing provides",
            "Depsolve",
        ],
    ),
];

/// Lines without information: repetitions and advice.
const NOISE: &[&str] = &[
    "Errors were encountered while processing",
    "Note: removing the lock file is always wrong",
    "and the entire system. See <",
    "Unable to detect release version",
    "rpm: RPM should not be used directly",
    "rpm: However assuming you know",
    "W: ",
    "N: ",
];

/// Whether `text` says that another process holds the lock, so that nothing was done.
pub(super) fn is_locked(text: &str) -> bool {
    text.lines().any(|line| {
        LOCKED
            .iter()
            .any(|beginning| line.trim_start().starts_with(beginning))
    })
}

/// Beginnings of lines by which rpm says that it could not even start a script.
const NOT_STARTED: &[&str] = &[
    "error: Couldn't create temporary file for ",
    "error: Couldn't duplicate file descriptor",
    "error: Couldn't fork ",
];

/// A script of rpm's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script<'a> {
    /// `pre`, `post`, `preun`, `postun`, ...
    pub kind: String,
    /// As rpm or dnf names the package.
    pub package: &'a str,
}

/// The scripts of which rpm or dnf says in `text` that they have failed, or were not run at all:
/// their exit codes do not say so. `None`: the line does not name the script.
pub(super) fn failed_scripts(text: &str) -> impl Iterator<Item = Option<Script<'_>>> {
    text.lines().filter_map(|line| {
        if let Some(rest) = line.strip_prefix("Error in ")
            && let Some((kind, package)) = rest.split_once(" scriptlet in rpm package ")
        {
            // dnf's words for these are those of rpm's tags: POSTIN for %post.
            let kind = kind.to_ascii_lowercase();
            let kind = match &*kind {
                "prein" => "pre".to_owned(),
                "postin" => "post".to_owned(),
                _ => kind,
            };
            return Some(Some(Script {
                kind,
                package: package.trim(),
            }));
        }
        let failed = line.starts_with("warning: %") && line.contains(" scriptlet failed")
            || NOT_STARTED.iter().any(|beginning| line.starts_with(beginning));
        failed.then(|| script_in(line))
    })
}

/// `... %KIND(PACKAGE) ...`
fn script_in(line: &str) -> Option<Script<'_>> {
    let (_, rest) = line.split_once('%')?;
    let (kind, rest) = rest.split_once('(')?;
    let (package, _) = rest.split_once(')')?;
    Some(Script {
        kind: kind.to_ascii_lowercase(),
        package,
    })
}

/// Beginnings of lines by which dpkg, also under apt, reports its work on packages.
const DPKG_PROGRESS: &[&str] = &[
    "Preparing to unpack ",
    "Unpacking ",
    "Setting up ",
    "Removing ",
    "Purging configuration files",
    "Processing triggers for ",
];

/// Whether a package manager that has failed in this way had not begun to change anything. If its
/// output does not say so, it counts as begun.
pub(super) fn touched_nothing(category: Category, stdout: &str, stderr: &str) -> bool {
    // dnf prints this when it begins to change the host.
    if stdout.lines().any(|line| line == "Running transaction") {
        return false;
    }
    if stdout
        .lines()
        .any(|line| DPKG_PROGRESS.iter().any(|beginning| line.starts_with(beginning)))
    {
        return false;
    }
    // rpm prints nothing on stdout.
    match category {
        Category::Dependency | Category::NotFound | Category::Verification | Category::Network => true,
        Category::DiskSpace => ["filesystem", "enough free space"]
            .iter()
            .any(|sign| stderr.contains(sign)),
        Category::Host => stderr
            .lines()
            .any(|line| line.starts_with("E: ") || line.starts_with("Error: ")),
        _ => false,
    }
}

/// Whether rpm says that it cannot make a temporary file. It names them by the second in which it
/// was started, so they clash with those of a run that was killed in the same second.
pub(super) fn reports_name_clash(stderr: &str) -> bool {
    stderr.contains("unpacking of archive failed on file ") && stderr.contains(": cpio: open failed")
}

/// The failure that a package manager reports with `stderr` (and, where scripts write there,
/// `stdout`).
pub(super) fn diagnose(doing: &str, stdout: &str, stderr: &str) -> HostError {
    if is_locked(stderr) {
        let said = excerpt(stderr, Category::Locked);
        return HostError::new(Category::Locked, format!("waiting for the package lock ({said})"));
    }
    let found = |text: &str| {
        SIGNS
            .iter()
            .find(|(_, signs)| signs.iter().any(|sign| text.contains(sign)))
            .map(|sign| sign.0)
    };
    let obstacle = known_obstacle(stdout, stderr);
    let category = match obstacle {
        Some(_) => Category::Dependency,
        None => found(stderr).or_else(|| found(stdout)).unwrap_or(Category::Host),
    };
    let mut said = excerpt(stderr, category);
    // A script may have printed the reason on stdout only; the lines of the package manager name
    // only the script and the package.
    let is_managers = |line: &str| {
        [" ", "dpkg:", "error: ", "warning: %", "Error in "]
            .iter()
            .any(|own| line.starts_with(own))
    };
    let script_was_silent = stderr.lines().all(|line| is_managers(line) || is_noise(line));
    if said.is_empty() || (category == Category::Script && script_was_silent) {
        said = format!("{said} (output: {})", excerpt(stdout, category));
    }
    match obstacle {
        Some(obstacle) => HostError::new(category, format!("{doing} failed: {obstacle} ({said})")),
        None => HostError::new(category, format!("{doing} failed: {said}")),
    }
}

/// The cause of a refusal by apt, with the command that fixes it.
fn known_obstacle(stdout: &str, stderr: &str) -> Option<String> {
    let under = |heading| words_under(stdout, heading);
    if stderr.contains("Held packages were changed") {
        let held = under("The following held packages will be changed:");
        let (names, verb) = (held.join(", "), if held.len() == 1 { "is" } else { "are" });
        return Some(format!(
            "{names} {verb} on hold: apt-mark unhold {}",
            held.join(" ")
        ));
    }
    if stderr.contains("but remove is disabled") {
        let removed = under("The following packages will be REMOVED:").join(", ");
        return Some(format!("{removed} would have to be removed"));
    }
    if let Some((_, rest)) = stderr.split_once("E: The package ")
        && let Some((name, _)) = rest.split_once(" needs to be reinstalled")
    {
        return Some(format!(
            "package {name} is half-installed, and apt refuses every other change: apt-get install --reinstall {name}, or dpkg \
             --remove --force-remove-reinstreq {name}"
        ));
    }
    if stderr.contains("dpkg was interrupted") {
        return Some("an earlier run of dpkg was interrupted: dpkg --configure -a".to_owned());
    }
    let (_, unmet) = stdout.split_once("The following packages have unmet dependencies:")?;
    let unmet: Vec<&str> = unmet
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .take(UNMET_LINES)
        .map(str::trim)
        .collect();
    let advice = match stderr.contains("--fix-broken install") {
        true => ": apt-get --fix-broken install",
        false => "",
    };
    Some(format!("unmet dependencies of {}{advice}", unmet.join("; ")))
}

/// Of apt's list of unmet dependencies.
const UNMET_LINES: usize = 5;

/// Words in the indented lines below `heading`.
fn words_under<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let block = lines.take_while(|line| line.starts_with(' '));
    block.flat_map(str::split_whitespace).collect()
}

/// The line by which apt-get update says that it could not fetch something, if there is one.
pub(super) fn not_fetched(stderr: &str) -> Option<&str> {
    stderr
        .lines()
        .find(|line| line.contains("Failed to fetch") || line.contains("does not have a Release file"))
}

fn is_noise(line: &str) -> bool {
    line.trim().is_empty() || NOISE.iter().any(|noise| line.starts_with(noise))
}

/// The last lines of `text`, and always the first line with the cause, with the line before it.
fn excerpt(text: &str, category: Category) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !is_noise(line)).collect();
    let signs = SIGNS
        .iter()
        .find(|(of, _)| *of == category)
        .map_or(&[][..], |(_, signs)| *signs);
    let cause = lines
        .iter()
        .position(|line| signs.iter().any(|sign| line.contains(sign)));
    let last = last_lines(&lines.join("\n"));
    let Some(cause) = cause else {
        return last;
    };
    // The line before names the package, or is the message of a script.
    let before = cause.saturating_sub(1);
    let tail = lines.len().saturating_sub(EXCERPT_LINES);
    if before >= tail {
        return last;
    }
    let gap = if cause >= tail { "" } else { "... | " };
    let told = last_lines(&lines[before..=cause.min(tail - 1)].join("\n"));
    format!("{told} | {gap}{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen from dpkg 1.21, apt 2.6, rpm 4.18 and dnf 4.14.
    #[test]
    fn failures_are_sorted_by_who_can_help() {
        let table = [
            (
                Category::Locked,
                "dpkg: error: dpkg frontend lock was locked by another process with pid 309\n",
            ),
            (
                Category::Locked,
                "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)\n",
            ),
            (
                Category::Locked,
                "error: can't create transaction lock on /r/.rpm.lock (Resource temporarily unavailable)\n",
            ),
            (
                Category::Script,
                "cannot get lock: E: Could not get lock\ndpkg: error processing package app (--install):\n installed \
                 app package post-installation script subprocess returned error exit status 3\n",
            ),
            (
                Category::Script,
                "dpkg: error processing package a (--configure):\n installed a package post-installation script \
                 subprocess returned error exit status 1\ndpkg: dependency problems prevent configuration of b:\n",
            ),
            (
                Category::Locked,
                "RPM: error: can't create transaction lock on /r/.rpm.lock (Resource temporarily unavailable)\n\
                 Error: Could not run transaction.\n",
            ),
            (
                Category::Locked,
                "  The application with PID 4137 is: dnf\n    Memory : 1.8 M RSS\n",
            ),
            (Category::Script, "Error in POSTIN scriptlet in rpm package app\n"),
            (
                Category::Dependency,
                "Error: \n Problem: conflicting requests\n  - nothing provides x needed by y-1-1.noarch\n",
            ),
            (Category::NotFound, "Error: Unable to find a match: nosuch-1-1\n"),
            (
                Category::Script,
                "warning: %post(app-1-1.noarch) scriptlet failed, exit status 3\n",
            ),
            (
                Category::DiskSpace,
                "dpkg: error processing archive x.deb (--install):\n cannot copy extracted data for './opt/x' to \
                 '/opt/x.dpkg-new': failed to write (No space left on device)\n",
            ),
            (
                Category::DiskSpace,
                "\tinstalling package app-1-1.noarch needs 12MB more space on the / filesystem\n",
            ),
            (
                Category::Dependency,
                "error: Failed dependencies:\n\tnosuch is needed by dep-1-1.noarch\n",
            ),
            (
                Category::Dependency,
                "\tfile /opt/app/ver from install of fc-1-1.noarch conflicts with file from package app-1.0-1.noarch\n",
            ),
            (
                Category::Dependency,
                "dpkg: error processing archive fc.deb (--install):\n trying to overwrite '/opt/app/ver', which is \
                 also in package app 1.0\n",
            ),
            (
                Category::Network,
                "E: Failed to fetch http://deb.example/x.deb  Could not connect\n",
            ),
            (Category::NotFound, "E: Unable to locate package nosuch\n"),
            (Category::NotFound, "E: Version '9' for 'app' was not found\n"),
            (
                Category::Verification,
                "dpkg-deb: error: 'junk.deb' is not a Debian format archive\n",
            ),
            (Category::Host, "Segmentation fault\n"),
        ];
        for (category, stderr) in table {
            assert_eq!(diagnose("installing", "", stderr).category, category, "{stderr}");
        }
    }

    #[test]
    fn failed_scripts_show_in_spite_of_an_exit_code_of_0() {
        let failed = |text| failed_scripts(text).count() == 1;
        assert!(failed(
            "x\nwarning: %post(app-1-1.noarch) scriptlet failed, exit status 3\n"
        ));
        assert!(failed("Error in POSTIN scriptlet in rpm package app\n"));
        // As rpm 4.18 says on a full disk; it then ends with 0, the package installed and its
        // script not run.
        let full =
            "error: Couldn't create temporary file for %post(app-1-1.noarch): No space left on device\n";
        assert!(failed(full));
        assert_eq!(
            diagnose("installing app 1", "", full).category,
            Category::DiskSpace
        );
        assert!(!failed(
            "warning: /etc/app.conf created as /etc/app.conf.rpmnew\n"
        ));
    }

    #[test]
    fn the_words_of_a_script_are_passed_on() {
        let stderr = "dpkg: error processing package app (--install):\n installed app package post-installation \
                      script subprocess returned error exit status 3\nErrors were encountered while processing:\n app\n";
        let failure = diagnose(
            "installing app 1",
            "Setting up app (1) ...\nno database\n",
            stderr,
        );
        assert!(
            failure
                .message
                .starts_with("installing app 1 failed: dpkg: error processing package app")
        );
        assert!(
            failure
                .message
                .ends_with("(output: Setting up app (1) ... | no database)"),
            "{}",
            failure.message
        );
        let failure = diagnose(
            "installing app 1",
            "Setting up app (1) ...\n",
            &format!("no database\n{stderr}"),
        );
        assert!(!failure.message.contains("Setting up"), "{}", failure.message);
        assert!(failure.message.contains("no database"));
    }

    /// Of apt 2.6.
    #[test]
    fn what_stands_in_the_way_is_named_with_the_command_that_clears_it() {
        let table = [
            (
                "Reading package lists...\nThe following held packages will be changed:\n  svc\nThe following packages will be \
                 upgraded:\n  svc web\n",
                "E: Held packages were changed and -y was used without --allow-change-held-packages.\n",
                "failed: svc is on hold: apt-mark unhold svc (",
            ),
            (
                "The following packages will be REMOVED:\n  systemd-timesyncd\nThe following NEW packages will be \
                 installed:\n  chrony\n",
                "E: Packages need to be removed but remove is disabled.\n",
                "failed: systemd-timesyncd would have to be removed (",
            ),
            (
                "",
                "E: The package odd needs to be reinstalled, but I can't find an archive for it.\n",
                "dpkg --remove --force-remove-reinstreq odd",
            ),
            (
                "",
                "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.\n",
                "interrupted: dpkg --configure -a",
            ),
            (
                "The following packages have unmet dependencies:\n needy : Depends: nosuch-lib but it is not installable\n",
                "E: Unmet dependencies. Try 'apt --fix-broken install' with no packages (or specify a solution).\n",
                "needy : Depends: nosuch-lib but it is not installable: apt-get --fix-broken install",
            ),
        ];
        for (stdout, stderr, expected) in table {
            let error = diagnose("installing x", stdout, stderr);
            assert_eq!(error.category, Category::Dependency, "{error}");
            assert!(error.message.contains(expected), "{error}");
            assert!(touched_nothing(error.category, stdout, stderr));
        }
    }

    #[test]
    fn the_cause_is_never_the_line_that_is_cut_off() {
        let cause = "dpkg: error processing archive x.deb (--unpack):\n trying to overwrite '/opt/a', which is also in package app 1\n";
        let noise = "dpkg-deb: a long line of no interest to anybody\n".repeat(40);
        let error = diagnose("installing x", "", &format!("{cause}{noise}"));
        assert_eq!(error.category, Category::Dependency);
        assert!(
            error
                .message
                .contains("archive x.deb (--unpack): | trying to overwrite '/opt/a'"),
            "{error}"
        );
    }

    #[test]
    fn apt_get_update_fails_although_it_says_it_does_not() {
        let said = "W: Failed to fetch http://deb.example/InRelease  Could not connect\nW: Some index files failed to download.\n";
        assert!(not_fetched(said).is_some_and(|line| line.contains("Could not connect")));
        assert_eq!(
            not_fetched("W: Target Packages is configured multiple times\n"),
            None
        );
    }
}
