//! Manifests of applications.

use std::path::{Component, Path};
use std::time::Duration;

use host::app_config::manifest::{Manifest, Probe};

const FILE: &str = "/usr/share/hostagent/apps/app.toml";

/// Errors and warnings name file and line, on one line; what is valid keeps within its limits.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines = text.split('\n').count();
    match Manifest::parse(Path::new(FILE), text) {
        Ok(manifest) => {
            for warning in &manifest.warnings {
                check_place(warning, lines);
            }
            check_valid(&manifest);
        }
        Err(error) => {
            assert!(
                (1..=lines).contains(&error.line),
                "line {} of {lines}",
                error.line
            );
            check_place(&error.to_string(), lines);
        }
    }
}

fn check_place(message: &str, lines: usize) {
    super::assert_one_line(message);
    let line = message
        .strip_prefix(FILE)
        .and_then(|rest| rest.strip_prefix(':'))
        .and_then(|rest| rest.split(':').next())
        .and_then(|line| line.parse().ok());
    assert!(
        line.is_some_and(|line: usize| (1..=lines).contains(&line)),
        "no file, or no line of its {lines}: {message}"
    );
}

fn check_valid(manifest: &Manifest) {
    for service in manifest.services.iter().flatten() {
        assert_eq!(protocol::name::check_service_name(service), Ok(()), "{service}");
    }
    for (name, section) in &manifest.sections {
        assert_plain(&section.file);
        let mode = section.creation.mode;
        assert!(
            mode <= 0o777 && mode & 0o002 == 0 && mode & 0o400 != 0,
            "{name}: {mode:o}"
        );
    }
    for check in &manifest.health {
        assert!((1..=100).contains(&check.retries), "{check:?}");
        let interval = Duration::from_secs(1)..=Duration::from_secs(3600);
        let timeout = Duration::from_millis(100)..=Duration::from_secs(300);
        assert!(
            interval.contains(&check.interval) && timeout.contains(&check.timeout),
            "{check:?}"
        );
        match &check.probe {
            Probe::Exec { command } => assert_plain(Path::new(&command[0])),
            Probe::Http { url, status } => {
                assert!(url.trim_start().to_ascii_lowercase().starts_with("http"), "{url}");
                assert!(status.is_none_or(|status| (100..=599).contains(&status)));
            }
            Probe::Tcp { address } => {
                let port = address
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse::<u16>().ok());
                assert!(port.is_some_and(|port| port > 0), "{address}");
            }
        }
    }
}

/// From the root straight down.
fn assert_plain(path: &Path) {
    assert!(
        path.is_absolute() && path.file_name().is_some(),
        "{}",
        path.display()
    );
    assert!(
        path.components().all(|part| part != Component::ParentDir),
        "{}",
        path.display()
    );
}
