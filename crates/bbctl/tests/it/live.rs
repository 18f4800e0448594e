//! `bbctl ping`, `bbctl watch` and `bbctl events`.

use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, Script};
use crate::cli::{Output, finish, timeless};
use crate::fleet::{Fleet, at, until_seen};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_repeated_and_summed_up() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Converges);
    until_seen(&cli, "web-01").await;
    let run = cli.run(&["ping", "web-01", "-c", "3", "-i", "0.05"]).await;
    let lines: Vec<&str> = run.ok().lines().collect();
    assert_eq!(lines.len(), 7, "{run:?}");
    for (n, line) in lines[..3].iter().enumerate() {
        assert!(
            line.starts_with(&format!("web-01: seq={} time=", n + 1)),
            "{line}"
        );
        assert!(line.ends_with(" ms status=ok"), "{line}");
    }
    assert_eq!(
        lines[3..6],
        [
            "",
            "--- web-01 ping statistics ---",
            "3 asked, 3 answered, 0% lost"
        ]
    );
    let times: Vec<f64> = lines[6]
        .strip_prefix("round trip min/avg/max = ")
        .and_then(|times| times.strip_suffix(" ms"))
        .unwrap()
        .split('/')
        .map(|time| time.parse().unwrap())
        .collect();
    assert!(times[0] <= times[1] && times[1] <= times[2], "{times:?}");
    // Until interrupted.
    let mut child = cli.start(&["ping", "web-01", "-i", "0.05"]);
    let mut output = Output::of(&mut child);
    output.line("seq=2").await;
    kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), Signal::INT).unwrap();
    output.line("% lost").await;
    output.line("round trip").await;
    assert_eq!(finish(child).await.code, 0);
    // Nobody answers.
    agent.follow(Script::IsDeaf);
    let run = cli.run(&["ping", "web-01", "-c", "1", "-W", "0.2"]).await;
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.starts_with("web-01: seq=1 no answer in time\n"),
        "{run:?}"
    );
    let run = cli.run(&["ping", "nobody", "-c", "2", "-i", "0.01"]).await;
    assert_eq!(run.code, 1);
    assert!(
        run.stdout
            .contains("nobody: seq=2 not connected: it has no queue\n"),
        "{run:?}"
    );
    assert!(
        run.stdout.ends_with("2 asked, 0 answered, 100% lost\n"),
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_host_each_is_pinged_once() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    for (arguments, said) in [
        (&["ping"][..], "No host has reported yet.\n"),
        (&["hosts"], "No host has reported yet.\n"),
        (&["ping", "--silent"], "No host matches.\n"),
    ] {
        assert_eq!(cli.run(arguments).await.stderr, said, "{arguments:?}");
    }
    let mut agents = Vec::new();
    for n in 0..5 {
        let host = format!("web-{n}");
        agents.push(Agent::start(&fleet.broker, &host, Script::Converges));
        until_seen(&cli, &host).await;
    }
    let run = cli.run(&["ping"]).await;
    for n in 0..5 {
        assert!(run.ok().contains(&format!("web-{n}  time=")), "{run:?}");
    }
    assert!(run.stdout.contains("5 asked, 5 answered, 0% lost\n"), "{run:?}");
    cli.run(&["label", "web-3", "site=berlin"]).await.ok();
    let run = cli.run(&["ping", "--label", "site=berlin"]).await;
    assert!(run.ok().contains("1 asked, 1 answered"), "{run:?}");
    agents[0].follow(Script::IsDeaf);
    let run = cli.run(&["ping", "-W", "0.3"]).await;
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("web-0  no answer in time\n"), "{run:?}");
    assert!(run.stdout.contains("5 asked, 4 answered, 20% lost\n"), "{run:?}");
    cli.run(&["ping", "--no-wait"]).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_where_it_was_when_the_master_comes_back() {
    let (fleet, master, cli) = Fleet::with_master().await;
    cli.run(&["label", "web-01", "n=0"]).await.ok();
    let mut child = cli.start(&["watch", "-o", "json", "--kind", "labels-changed", "-n", "4"]);
    let mut output = Output::of(&mut child);
    // The watch may begin at any time, so labels are changed until it shows a change.
    let first = loop {
        cli.run(&["label", "web-01", &format!("n={}", fastrand::u64(..))])
            .await
            .ok();
        let seen = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            output.line("labels_changed"),
        )
        .await;
        if let Ok(line) = seen {
            break line;
        }
    };
    assert!(first.starts_with('{'), "{first}");
    let address = master.address();
    master.end().await;
    // While no master runs.
    let store = bbmaster::store::Store::open_sqlite(&fleet.database.path().join("bbmaster.db"))
        .await
        .unwrap();
    let id = protocol::HostId::new("web-01").unwrap();
    store
        .put_labels(&id, &[("missed".to_owned(), "no".to_owned())].into(), "test")
        .await
        .unwrap();
    let (_master, _) = fleet.master_with(at(address)).await;
    output.line("\"missed\"").await;
    cli.run(&["label", "web-01", "live=yes"]).await.ok();
    output.line("\"live\"").await;
    cli.run(&["label", "web-01", "last=yes"]).await.ok();
    let run = finish(child).await;
    assert!(
        run.stderr
            .contains("lost the connection to the master; reconnecting\n"),
        "{run:?}"
    );
    assert!(run.stderr.contains("bbctl: connected again\n"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_shown_the_newest_last() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Converges);
    until_seen(&cli, "web-01").await;
    for n in 0..3 {
        cli.run(&["label", "web-01", &format!("n={n}")]).await.ok();
    }
    drop(agent);
    let text = timeless(
        cli.run(&["events", "--kind", "labels-changed", "-n", "2"])
            .await
            .ok(),
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("TIME"), "{text}");
    assert!(lines[2].starts_with("<time>  web-01  anonymous  "), "{text}");
    let all = cli.run(&["events", "-o", "json"]).await.json();
    let kinds: Vec<&str> = all["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "host_appeared",
            "labels_changed",
            "labels_changed",
            "labels_changed"
        ]
    );
    let run = cli
        .run(&[
            "events",
            "--host",
            "web-01",
            "--author",
            "anonymous",
            "-o",
            "yaml",
        ])
        .await;
    assert_eq!(run.ok().matches("kind: labels_changed").count(), 3, "{run:?}");
    assert_eq!(
        cli.run(&["events", "--author", "nobody"]).await.stderr,
        "No event matches.\n"
    );
    let replayed = cli.run(&["watch", "--after", "0", "-n", "2"]).await;
    assert_eq!(timeless(replayed.ok()).lines().count(), 2);
}
