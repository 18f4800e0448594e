//! The errors of a status, from what is known of each application.

use protocol::ErrorReport;
use tokio::time::Instant;

use super::failure::Failures;
use super::progress::{Progress, Trouble};
use super::stored::ProgressMap;

/// One error for each application that is in trouble. `faults`: what no step can reach now. `time`: for people.
pub fn error_reports(
    apps: &ProgressMap,
    faults: &Failures,
    time: impl Fn(Instant) -> String,
) -> Vec<ErrorReport> {
    let mut reports: Vec<ErrorReport> = faults
        .iter()
        .map(|(app, fault)| fault.report(Some(app.clone()), 1))
        .collect();
    for (app, progress) in apps.iter().filter(|(app, _)| !faults.contains_key(*app)) {
        let Some(trouble) = progress.trouble() else {
            continue;
        };
        let mut report = trouble.failure.report(Some(app.clone()), trouble.attempts);
        report.next_retry = trouble.retry_at().map(&time);
        match progress {
            Progress::Held {
                rolled_back, repair, ..
            } => {
                // What does not stay as it was put back is not called rolled back.
                report.rolled_back = *rolled_back && repair.is_none();
                if let Some(repair) = repair {
                    report.message = with_repair(&report.message, repair);
                    report.next_retry = report.next_retry.or(repair.retry_at().map(&time));
                }
            }
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::RollingBack { .. }
            | Progress::Stuck { .. } => {}
        }
        reports.push(report);
    }
    reports.sort_by(|one, other| one.app.cmp(&other.app));
    reports
}

fn with_repair(message: &str, repair: &Trouble) -> String {
    format!(
        "{message}. Its repair fails, too: {} (repair tried {} times)",
        repair.failure.message, repair.attempts
    )
}
