//! What an agent costs that has nothing to do: connected, with 20 applications as desired.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::packages::{Family, example_app};
use serde_json::Value;

use crate::scenarios::agent::{Agent, PROGRAM};
use crate::scenarios::world::{World, spec};

const APPS: usize = 20;

#[derive(Debug)]
struct Cost {
    rss_kib: u64,
    threads: u64,
    statuses: usize,
    /// Started by the agent.
    children: usize,
    /// As `children`, while it was asked ten times how it is.
    children_for_pings: usize,
}

#[tokio::test]
async fn an_idle_agent_costs_little() {
    let cost = measure(PROGRAM, 2, Duration::from_secs(15)).await;
    // Not optimised, and full of debugging: several times what a release build takes.
    assert!(cost.rss_kib < 48 * 1024, "{cost:?}");
    assert!(cost.threads <= 8, "{cost:?}");
    assert!((6..=9).contains(&cost.statuses), "one each 2 s: {cost:?}");
    // Each heartbeat asks each application's hook for its config, and its SysV script for its state.
    assert!(cost.children <= 2 * APPS * cost.statuses, "{cost:?}");
    assert_eq!(cost.children_for_pings, 0, "{cost:?}");
}

/// `HOSTAGENT_PROGRAM=target/release/hostagent cargo nextest run -p hostagent --run-ignored only --no-capture idle`
#[tokio::test]
#[ignore = "takes 11 minutes; prints what it measures"]
async fn ten_minutes_at_the_default_heartbeat() {
    let program = std::env::var("HOSTAGENT_PROGRAM").unwrap_or(PROGRAM.into());
    println!("{:?}", measure(&program, 60, Duration::from_secs(600)).await);
}

async fn measure(program: &str, heartbeat_s: u64, span: Duration) -> Cost {
    let mut world = World::new(Family::Deb).await;
    let desired: Value = (0..APPS)
        .map(|number| {
            let name = format!("app-{number}");
            let url = world.serve(&example_app(&name, "1.0"));
            (name, spec("1.0", &url))
        })
        .collect();
    let mut arguments = world.agent_arguments();
    arguments.extend([
        "--set".into(),
        format!("hostagent.heartbeat_period={heartbeat_s}"),
        "--set".into(),
        "hostagent.log_level_name=INFO".into(),
    ]);
    let trace = world.host.beside.path().join("trace");
    let strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "trace=?clone,clone3,?vfork,?fork",
    ];
    let _agent = Agent::start_program_under(&strace, program, &world.host, &arguments);
    world
        .heard("the agent is up", |status| status.state() == "ok")
        .await;
    let id = world.set_config(&desired).await;
    let answer = world
        .heard("twenty are installed", |status| {
            status.reply_to() == Some(&id) && status.state() != "converging"
        })
        .await;
    world.host.assert_is(&desired, &answer);

    let pid = world.host.agent_id();
    let children = || started_by(pid, &std::fs::read_to_string(&trace).unwrap());
    let before = children();
    let statuses = world.master.listen(span).await.unwrap();
    assert!(statuses.iter().all(|status| status.state() == "ok"));
    let children_in_span = children() - before;

    // SysV scripts are asked for a ping only if their answers are over 5 s old: right after a heartbeat. On a busy
    // machine the next one may come before ten pings are answered, with questions of its own; what pings ask, they ask
    // each time.
    let mut children_for_pings = usize::MAX;
    for _ in 0..5 {
        world.heard("a heartbeat", |_| true).await;
        let before = children();
        for _ in 0..10 {
            assert_eq!(world.answer_to_ping("host-1").await.state(), "ok");
        }
        children_for_pings = children_for_pings.min(children() - before);
        if children_for_pings == 0 {
            break;
        }
    }
    Cost {
        rss_kib: of_process(pid, "VmRSS"),
        threads: of_process(pid, "Threads"),
        statuses: statuses.len(),
        children: children_in_span,
        children_for_pings,
    }
}

fn of_process(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many processes the process `pid` has started, by the output of `strace -f`: the calls of its
/// threads that make no thread.
fn started_by(pid: u32, trace: &str) -> usize {
    let mut threads = BTreeSet::from([pid.to_string()]);
    // Who waits for the number of a new thread.
    let mut making = BTreeSet::new();
    let mut processes = 0;
    for line in trace.lines() {
        let (caller, rest) = line.split_once(' ').unwrap_or_default();
        let rest = rest.trim_start();
        if !threads.contains(caller) || !(rest.contains("clone") || rest.contains("fork")) {
            continue;
        }
        if rest.contains("CLONE_THREAD") {
            making.insert(caller.to_owned());
        } else if !rest.starts_with("<...") {
            processes += 1;
        }
        if making.contains(caller)
            && let Some((_, made)) = rest.rsplit_once("= ")
        {
            threads.insert(made.trim().to_owned());
            making.remove(caller);
        }
    }
    processes
}

#[test]
fn processes_are_told_from_threads() {
    let trace = "\
7 clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x1}, 88 <unfinished ...>
7 <... clone3 resumed> => {parent_tid=[9]}, 88) = 9
9 clone(child_stack=0x1, flags=CLONE_VM|CLONE_VFORK|SIGCHLD <unfinished ...>
9 <... clone resumed>)              = 10
10 clone(child_stack=NULL, flags=SIGCHLD) = 11
7 vfork()                           = 12
";
    assert_eq!(started_by(7, trace), 2);
}
