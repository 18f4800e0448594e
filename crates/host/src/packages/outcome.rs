//! The outcome of a run of a package manager, judged by the transaction's packages in the package
//! database.

use protocol::Category;

use super::messages;
use super::runs::FailedRun;
use crate::{Applied, ApplyError, Family, HostError, InstalledPackages, Source, Transaction};

/// `before` and `after`: the database around the run.
pub(super) fn judge(
    family: Family,
    transaction: &Transaction,
    run: Result<(), FailedRun>,
    before: &InstalledPackages,
    after: &InstalledPackages,
) -> Result<Applied, ApplyError> {
    let missing = what_is_missing(transaction, after);
    let failed = match (run, missing) {
        (Ok(()), None) => return Ok(Applied::default()),
        (Ok(()), Some(missing)) => return Err(ApplyError::Failed(HostError::new(Category::Host, missing))),
        (Err(failed), _) if failed.error.category == Category::Locked => {
            return Err(ApplyError::Locked(failed.error));
        }
        (Err(failed), _) if before == after && failed.touched_nothing => {
            return Err(ApplyError::Refused(failed.error));
        }
        (Err(failed), Some(_)) => return Err(ApplyError::Failed(failed.error)),
        (Err(failed), None) => failed,
    };
    // rpm enters a package in its database before it runs the package's last scripts: the entry
    // does not show whether they succeeded.
    let is_certain = family.database_tells_whole() || transaction.install.is_empty();
    if is_certain || (failed.ended_by_itself && !installs_failed_script(transaction, &failed.said)) {
        return Ok(Applied {
            warnings: vec![failed.error.message],
        });
    }
    Err(ApplyError::Failed(failed.error))
}

/// The first package that is not as the transaction requires.
fn what_is_missing(transaction: &Transaction, installed: &InstalledPackages) -> Option<String> {
    let install = transaction
        .install
        .iter()
        .find_map(|source| missing_install(source, installed));
    install.or_else(|| {
        let name = transaction.remove.iter().find(|name| installed.contains(name))?;
        Some(format!("package {name} is still installed after the transaction"))
    })
}

fn missing_install(source: &Source, installed: &InstalledPackages) -> Option<String> {
    let (name, version) = (source.name(), source.version());
    match installed.get(name) {
        Some(package) if package.broken => Some(format!(
            "package {name} is only half-installed after the transaction"
        )),
        Some(package) if package.version == version => None,
        Some(package) => {
            let found = package.version;
            Some(format!(
                "package {name} is at {found} after the transaction, not at {version}"
            ))
        }
        None => Some(format!("package {name} is not installed after the transaction")),
    }
}

/// Whether rpm or dnf reports a failed script of a package that is installed. A line that names no
/// script counts as one.
fn installs_failed_script(transaction: &Transaction, said: &str) -> bool {
    let mut scripts = messages::failed_scripts(said).peekable();
    if scripts.peek().is_none() {
        // The run failed for another reason, after the transaction was complete.
        return false;
    }
    scripts.any(|script| match script {
        Some(script) => {
            let leaves = ["preun", "postun", "triggerun", "triggerpostun"].contains(&&*script.kind);
            let comes = |source: &Source| names_package(script.package, source);
            !leaves && transaction.install.iter().any(comes)
        }
        None => true,
    })
}

/// Whether rpm means the package of `source` by `NAME`, `NAME-VERSION-RELEASE` or
/// `NAME-VERSION-RELEASE.ARCH`.
fn names_package(said: &str, source: &Source) -> bool {
    let version = source.version();
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let Some(rest) = said.strip_prefix(source.name()) else {
        return false;
    };
    let Some(rest) = rest.strip_prefix('-') else {
        return rest.is_empty();
    };
    let rest = rest.split_once(':').map_or(rest, |(_, rest)| rest);
    rest.strip_prefix(version)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstalledPackage, PackagesByName};

    fn installed(packages: &[(&str, &str)]) -> InstalledPackages {
        let package = |version: &str| InstalledPackage {
            version: version.trim_end_matches('!').into(),
            arch: "noarch".into(),
            broken: version.ends_with('!'),
            waits: false,
            is_application: true,
        };
        let by_name = packages
            .iter()
            .map(|(name, version)| ((*name).to_owned(), package(version)));
        InstalledPackages::from(&PackagesByName::from_iter(by_name))
    }

    fn upgrade() -> Transaction {
        Transaction {
            install: vec![Source::Repository {
                name: "app".into(),
                version: "1:2-1".into(),
            }],
            remove: vec!["web".into()],
        }
    }

    fn failed(said: &str) -> FailedRun {
        FailedRun {
            error: HostError::new(Category::Script, "failed"),
            said: said.into(),
            printed: String::new(),
            touched_nothing: false,
            ended_by_itself: true,
        }
    }

    /// `ok`, `warned`, `locked`, `refused` or `failed`.
    fn word(result: Result<Applied, ApplyError>) -> &'static str {
        match result {
            Ok(applied) if applied.warnings.is_empty() => "ok",
            Ok(_) => "warned",
            Err(ApplyError::Locked(_)) => "locked",
            Err(ApplyError::Refused(_)) => "refused",
            Err(ApplyError::Failed(_)) => "failed",
        }
    }

    #[test]
    fn the_database_counts_and_not_the_exit_code() {
        let before = installed(&[("app", "1-1"), ("web", "1-1")]);
        let done = installed(&[("app", "1:2-1")]);
        let broken = installed(&[("app", "1:2-1!")]);
        let half = installed(&[("app", "1:2-1"), ("web", "1-1")]);
        for family in [Family::Deb, Family::Rpm] {
            let judge = |run, after| word(judge(family, &upgrade(), run, &before, after));
            assert_eq!(judge(Ok(()), &done), "ok");
            for missing in [&before, &broken, &half] {
                assert_eq!(judge(Ok(()), missing), "failed");
                assert_eq!(judge(Err(failed("E: hook")), missing), "failed");
            }
            assert_eq!(judge(Err(failed("E: hook")), &done), "warned");
            let mut locked = failed("");
            locked.error.category = Category::Locked;
            assert_eq!(judge(Err(locked), &done), "locked");
            let refused = || FailedRun {
                touched_nothing: true,
                ..failed("")
            };
            assert_eq!(judge(Err(refused()), &before), "refused");
            assert_eq!(judge(Err(refused()), &half), "failed");
            let killed = FailedRun {
                ended_by_itself: false,
                ..failed("")
            };
            let expected = if family == Family::Deb { "warned" } else { "failed" };
            assert_eq!(judge(Err(killed), &done), expected);
        }
    }

    #[test]
    fn a_failed_script_counts_if_its_package_came() {
        let before = installed(&[("app", "1-1"), ("web", "1-1")]);
        let done = installed(&[("app", "1:2-1")]);
        for (said, expected) in [
            (
                "warning: %post(app-2-1.noarch) scriptlet failed, exit status 1",
                "failed",
            ),
            (
                "warning: %posttrans(app-2-1.noarch) scriptlet failed, exit status 1",
                "failed",
            ),
            (
                "warning: %postun(app-1-1.noarch) scriptlet failed, exit status 1",
                "warned",
            ),
            // The same version again.
            (
                "warning: %postun(app-2-1.noarch) scriptlet failed, exit status 1",
                "warned",
            ),
            (
                "warning: %postun(web-1-1.noarch) scriptlet failed, exit status 1",
                "warned",
            ),
            (
                "warning: %triggerin(man-db-2-1.noarch) scriptlet failed, exit status 1",
                "warned",
            ),
            (
                "warning: %post(app-extra-2-1.noarch) scriptlet failed, exit status 1",
                "warned",
            ),
            ("Error in POSTIN scriptlet in rpm package app", "failed"),
            ("Error in POSTUN scriptlet in rpm package app", "warned"),
            (
                "Error in POSTIN scriptlet in rpm package app-1:2-1.noarch",
                "failed",
            ),
            ("Error in POSTIN scriptlet in rpm package other", "warned"),
            (
                "error: Couldn't create temporary file for %post(app-2-1.noarch): full",
                "failed",
            ),
            ("error: Couldn't fork : full", "failed"),
        ] {
            let result = judge(Family::Rpm, &upgrade(), Err(failed(said)), &before, &done);
            assert_eq!(word(result), expected, "{said}");
        }
    }
}
