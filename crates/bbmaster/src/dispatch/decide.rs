//! Whether a host that has reported must be sent its desired state. Pure.

use std::time::Duration;

use protocol::rest::HostState;

use crate::store::ReportedHost;

/// What to do for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Send,
    Leave(LeaveReason),
}

/// Why a host is sent nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// It runs what is desired.
    Satisfied,
    /// It is converging towards it.
    Converging,
    /// It failed, and retries by itself or waits for another desired state.
    Retrying,
    /// It refused this message, and would refuse it again.
    Rejected,
    /// It has a higher generation than the database, which was restored from a backup. It would
    /// refuse a lower one. The next PUT gets a higher generation.
    Ahead,
}

/// The `id` of the message that carries a desired state. It is the same each time the message is
/// sent.
pub fn message_id(generation: u64) -> String {
    format!("desired-{generation}")
}

/// Decides by the last status only. Messages that were sent before do not matter.
pub fn decide(seen: &ReportedHost) -> Decision {
    let on_its_way = |why| match seen.towards_current {
        true => Decision::Leave(why),
        false => Decision::Send,
    };
    let decision = match seen.state {
        HostState::Ok if seen.satisfied => Decision::Leave(LeaveReason::Satisfied),
        HostState::Ok | HostState::Missing => Decision::Send,
        HostState::Converging => on_its_way(LeaveReason::Converging),
        HostState::Errors => on_its_way(LeaveReason::Retrying),
    };
    match decision {
        Decision::Leave(why) => Decision::Leave(why),
        Decision::Send if seen.rejected_id == Some(message_id(seen.generation)) => {
            Decision::Leave(LeaveReason::Rejected)
        }
        Decision::Send if seen.reported_generation > Some(seen.generation) => {
            Decision::Leave(LeaveReason::Ahead)
        }
        Decision::Send => Decision::Send,
    }
}

/// How long to wait before the same desired state is sent again, after it was sent `times` times. A
/// host that neither converges nor says why must not get a message for each of its statuses.
pub fn pause_after(times: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_secs(300);
    FIRST
        .saturating_mul(1 << times.saturating_sub(1).min(16))
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use protocol::HostId;

    use super::*;

    fn seen(state: HostState, satisfied: bool, towards_current: bool) -> ReportedHost {
        ReportedHost {
            host_id: HostId::new("h").unwrap(),
            state,
            satisfied,
            towards_current,
            generation: 7,
            reported_generation: Some(6),
            rejected_id: None,
        }
    }

    #[test]
    fn a_host_is_sent_what_it_neither_has_nor_works_towards() {
        use Decision::{Leave, Send};
        use HostState::{Converging, Errors, Missing, Ok};
        for (state, satisfied, towards_current, expected) in [
            (Ok, true, true, Leave(LeaveReason::Satisfied)),
            // The host got it by other means, or its agent is too old to report generations.
            (Ok, true, false, Leave(LeaveReason::Satisfied)),
            (Ok, false, false, Send),
            // It reports the generation but not the applications: drift that it does not see, or an
            // older agent.
            (Ok, false, true, Send),
            (Converging, false, true, Leave(LeaveReason::Converging)),
            (Converging, false, false, Send),
            // It runs what is desired, and is changing to something else.
            (Converging, true, false, Send),
            (Errors, false, true, Leave(LeaveReason::Retrying)),
            (Errors, false, false, Send),
            (Errors, true, false, Send),
            (Missing, false, false, Send),
        ] {
            let seen = seen(state, satisfied, towards_current);
            assert_eq!(decide(&seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_message_that_the_host_would_refuse_is_not_sent() {
        let unsatisfied = seen(HostState::Ok, false, false);
        for (rejected_id, reported, expected) in [
            (Some("desired-7"), Some(6), Decision::Leave(LeaveReason::Rejected)),
            (Some("desired-6"), Some(6), Decision::Send),
            (Some("other"), None, Decision::Send),
            (None, Some(7), Decision::Send),
            (None, Some(8), Decision::Leave(LeaveReason::Ahead)),
        ] {
            let seen = ReportedHost {
                rejected_id: rejected_id.map(str::to_owned),
                reported_generation: reported,
                ..unsatisfied.clone()
            };
            assert_eq!(decide(&seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_five_minutes() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 5, 6, 40]
            .map(|times| pause_after(times).as_secs())
            .into();
        assert_eq!(seconds, [10, 10, 20, 40, 160, 300, 300]);
    }
}
