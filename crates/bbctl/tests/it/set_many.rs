//! Setting what many hosts run.

use crate::agent::{Agent, ERROR, Script};
use crate::cli::Cli;
use crate::fleet::{Fleet, until_seen};

const ONE: &str = r#"{"web": {"version": "1.0"}}"#;

/// Two hosts with the label role=web, and a third one. All converge.
async fn three(fleet: &Fleet, cli: &Cli) -> Vec<Agent> {
    let mut agents = Vec::new();
    for host in ["web-01", "web-02", "db-01"] {
        agents.push(Agent::start(&fleet.broker, host, Script::Converges));
        until_seen(cli, host).await;
    }
    for host in ["web-01", "web-02"] {
        cli.run(&["label", host, "role=web"]).await.ok();
    }
    agents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_by_label_are_set_and_seen_through() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let _agents = three(&fleet, &cli).await;
    let one = cli.file("one.json", ONE);
    let web = ["set", "--label", "role=web", "-f", &one];
    let would = "This changes the desired state of 2 of 2 hosts to: web 1.0, and nothing else.\n";
    assert_eq!(cli.run(&[&web[..], &["--dry-run"]].concat()).await.ok(), would);
    // There is no terminal, so bbctl cannot ask.
    let run = cli.run(&web).await;
    assert_eq!(run.code, 2, "{run:?}");
    assert!(
        run.stderr.contains(would.trim_end()) && run.stderr.contains("--yes"),
        "{run:?}"
    );
    let run = cli.run(&[&web[..], &["--yes", "--wait"]].concat()).await;
    let text = run.ok();
    assert!(
        text.starts_with("2 hosts: desired state set; 2 changed\n") && text.ends_with("2 of 2 as desired\n"),
        "{text}"
    );
    assert_eq!(
        cli.run(&web).await.ok(),
        "2 hosts: no change; all already have this desired state\n"
    );
    let count = cli
        .run(&["set", "--all", "-f", &one, "--dry-run", "-o", "json"])
        .await;
    let count: serde_json::Value = serde_json::from_str(count.ok()).unwrap();
    assert_eq!(count, serde_json::json!({"hosts": 3, "changed": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_fail_are_named_with_their_own_words() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agents = three(&fleet, &cli).await;
    agents[1].follow(Script::Fails);
    let one = cli.file("one.json", ONE);
    let run = cli
        .run(&["set", "--label", "role=web", "-f", &one, "-y", "-w"])
        .await;
    assert_eq!(run.code, 3, "{run:?}");
    assert!(
        run.stdout.ends_with("1 of 2 as desired; 1 with errors\n"),
        "{run:?}"
    );
    assert!(
        run.stderr.contains("web-02:") && run.stderr.contains(ERROR),
        "{run:?}"
    );
    assert!(!run.stderr.contains("web-01"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_do_not_get_there_in_time_are_named() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agents = three(&fleet, &cli).await;
    agents[0].follow(Script::Waits);
    let one = cli.file("one.json", ONE);
    let run = cli
        .run(&["set", "--text", "web", "-f", &one, "-y", "-w", "--timeout", "2"])
        .await;
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stdout.contains("1 of 2 as desired; 1 converging"), "{run:?}");
    assert!(run.stderr.contains("  web-01: is converging"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_it_is_for_is_said_in_one_way() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let _agents = three(&fleet, &cli).await;
    let one = cli.file("one.json", ONE);
    for (arguments, code, said) in [
        (&["set", "-f", &one][..], 2, "--label"),
        (&["set", "web-01", "--all", "-f", &one], 2, "not both"),
        (&["set", "web-01", "-l", "role=web", "-f", &one], 2, "not both"),
        (&["set", "--all", "-t", "web", "-f", &one], 2, "one or the other"),
        (
            &["set", "--all", "-f", &one, "--if-generation", "3"],
            2,
            "--if-generation",
        ),
        (&["set", "-a", "web", "-f", &one, "-w"], 2, "--wait"),
        (
            &["set", "-l", "role=none", "-f", &one, "-y"],
            1,
            "No host matches. Nothing was changed.",
        ),
    ] {
        let run = cli.run(arguments).await;
        assert_eq!(run.code, code, "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(said), "{arguments:?}: {run:?}");
    }
    assert_eq!(
        cli.run(&["get", "web-01"]).await.ok(),
        "# web-01: no desired state was ever set\n{}\n"
    );
}
