//! Whether a host that has reported is to be sent its desired state. Pure.

use std::time::Duration;

use protocol::rest::HostState;

use crate::store::ReportedHost;

/// What to do about a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Send,
    Leave(LeaveReason),
}

/// LeaveReason a host is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// It runs what is desired.
    Satisfied,
    /// It is at it.
    Converging,
    /// It failed at it, and tries again by itself, or waits for another desired state.
    Retrying,
    /// It refused this very message; it would do so again.
    Rejected,
    /// It has a newer generation than the store, and would refuse this one as stale: the store was restored
    /// from a backup. The next PUT goes above it.
    Ahead,
}

/// The `id` of the message that carries a desired state: the same however often it is sent.
pub fn message_id(generation: u64) -> String {
    format!("desired-{generation}")
}

/// Looks at the host's last word only: nothing of what was sent before counts.
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

/// How long the same desired state is not sent again, after it was sent `times` times: a host that does not
/// get there, and does not say why, must not be sent messages as fast as it answers.
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
    fn a_host_is_sent_what_it_neither_has_nor_is_after() {
        use Decision::{Leave, Send};
        use HostState::{Converging, Errors, Missing, Ok};
        for (state, satisfied, towards_current, expected) in [
            (Ok, true, true, Leave(LeaveReason::Satisfied)),
            // An agent that had it by other means, or one that knows no generations.
            (Ok, true, false, Leave(LeaveReason::Satisfied)),
            (Ok, false, false, Send),
            // It says so, but does not have it: drift that it does not see, or an older agent.
            (Ok, false, true, Send),
            (Converging, false, true, Leave(LeaveReason::Converging)),
            (Converging, false, false, Send),
            // It has what is desired and is leaving it for something else.
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
    fn what_a_host_would_refuse_is_not_sent() {
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
