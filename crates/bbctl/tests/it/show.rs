//! Hosts, applications and events in every output format.

use serde_json::json;

use crate::agent::{Agent, ERROR, Script};
use crate::cli::timeless;
use crate::fleet::{Fleet, until, until_seen};

const APPS: &str = "web:\n  version: \"1.1.0\"\n  config:\n    server: {port: 8080}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_listed_for_people_and_for_programs() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let _good = Agent::start(&fleet.broker, "web-01", Script::Converges);
    let _bad = Agent::start(&fleet.broker, "web-02", Script::Fails);
    until_seen(&cli, "web-01").await;
    until_seen(&cli, "web-02").await;
    let file = cli.file("apps.yaml", APPS);
    for host in ["web-01", "web-02", "away"] {
        cli.run(&["set", host, "-f", &file]).await.ok();
    }
    cli.run(&["label", "web-01", "site=berlin", "canary="]).await.ok();
    until(&cli, &["hosts", "--status", "errors", "-o", "json"], |run| {
        run.json()["total"] == 1
    })
    .await;
    until(&cli, &["hosts", "--application", "web", "-o", "json"], |run| {
        run.json()["total"] == 1
    })
    .await;
    assert_eq!(
        timeless(cli.run(&["hosts"]).await.ok()),
        format!(
            "HOST    STATUS   AS DESIRED  HOSTNAME            SEEN     APPLICATIONS  ERROR\n\
             away    missing  no                              never\n\
             web-01  ok       yes         web-01.example.net  N s ago  web 1.1.0\n\
             web-02  errors   no          web-02.example.net  N s ago                web: {ERROR}\n"
        )
    );
    assert_eq!(
        timeless(
            cli.run(&["hosts", "-o", "wide", "--label", "site=berlin", "-l", "canary"])
                .await
                .ok()
        ),
        "HOST    STATUS  AS DESIRED  GENERATION  HOSTNAME            OS                  AGENT  SEEN     LABELS              APPLICATIONS  ERROR\n\
         web-01  ok      yes         1           web-01.example.net  debian 12 bookworm  0.1.0  N s ago  canary,site=berlin  web 1.1.0\n"
    );
    let list = cli.run(&["hosts", "-o", "json"]).await.json();
    assert_eq!(list["total"], 3);
    assert_eq!(list["hosts"][1]["host_id"], "web-01");
    assert!(
        list["hosts"][1]["last_seen"].as_str().unwrap().ends_with('Z'),
        "{list}"
    );
    let yaml = cli.run(&["hosts", "--status", "missing", "-o", "yaml"]).await;
    assert_eq!(
        yaml.ok(),
        "hosts:\n  - agent_version: \"\"\n    apps: {}\n    generation: 1\n    host_id: away\n    hostname: \"\"\n    labels: {}\n    \
         os_info: \"\"\n    responding: false\n    satisfied: false\n    status: missing\ntotal: 1\n"
    );
    for (filter, ids) in [
        (vec!["--silent"], vec!["away"]),
        (vec!["--not-as-desired"], vec!["away", "web-02"]),
        (vec!["--text", "WEB-0"], vec!["web-01", "web-02"]),
        (vec!["--application", "web", "--version", "1.1.0"], vec!["web-01"]),
        (vec!["--version", "9"], vec![]),
    ] {
        let run = cli
            .run(&[&["hosts", "-o", "json"], filter.as_slice()].concat())
            .await;
        let found: Vec<_> = run.json()["hosts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|host| host["host_id"].clone())
            .collect();
        assert_eq!(json!(found), json!(ids), "{filter:?}");
    }
    let nobody = cli.run(&["hosts", "--text", "nobody"]).await;
    assert_eq!((nobody.ok(), nobody.stderr.as_str()), ("", "No host matches.\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_hosts_than_fit_on_a_page_are_all_listed() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let store = bbmaster::store::Store::open_sqlite(&fleet.database.path().join("bbmaster.db"))
        .await
        .unwrap();
    for n in 0..1100 {
        let id = protocol::HostId::new(format!("h{n:04}")).unwrap();
        store
            .put_labels(&id, &[("n".to_owned(), n.to_string())].into(), "test")
            .await
            .unwrap();
    }
    let list = cli.run(&["hosts", "-o", "json"]).await.json();
    assert_eq!(list["hosts"].as_array().unwrap().len(), 1100);
    assert_eq!(
        (&list["total"], &list["hosts"][1099]["host_id"]),
        (&json!(1100), &json!("h1099"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_is_a_page_with_its_errors_in_words() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let _agent = Agent::start(&fleet.broker, "web-02", Script::Fails);
    until_seen(&cli, "web-02").await;
    let file = cli.file("apps.yaml", APPS);
    cli.run(&["set", "web-02", "-f", &file]).await.ok();
    cli.run(&["label", "web-02", "site=berlin"]).await.ok();
    until(&cli, &["host", "web-02", "-o", "json"], |run| {
        run.json()["status"] == "errors"
    })
    .await;
    assert_eq!(
        timeless(cli.run(&["host", "web-02"]).await.ok()),
        format!(
            "web-02\n\
             \n\
             Status      errors, not as desired\n\
             Hostname    web-02.example.net\n\
             System      debian 12 bookworm, x86_64\n\
             Agent       0.1.0, up 1 h 1 min, 5.1 MiB\n\
             Seen        N s ago (<time>)\n\
             Labels      site=berlin\n\
             Desired     generation 1\n\
             \n\
             APPLICATION  DESIRED  INSTALLED  RUNNING  HEALTH  AS DESIRED\n\
             web          1.1.0    -          -        -       no\n\
             \n\
             web failed (install, script, attempt 2)\n    \
             {ERROR}\n    \
             rolled back; held until something that made it fail changes, or `bbctl retry`\n"
        )
    );
    let yaml = cli.run(&["host", "web-02", "-o", "yaml"]).await;
    assert!(yaml.ok().contains("status: errors\n"), "{yaml:?}");
    let nobody = cli.run(&["host", "nobody"]).await;
    assert_eq!(
        nobody.fails(1),
        format!(
            "bbctl: the master at {} answers 404 Not Found: there is no host with this id: it has never reported and has no \
             desired state (/v1/hosts/nobody)\n",
            cli.url
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_desired_is_printed_as_it_can_be_set_again() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let file = cli.file("apps.yaml", APPS);
    cli.run(&["set", "web-01", "-f", &file]).await.ok();
    let yaml = cli.run(&["get", "web-01"]).await;
    assert_eq!(
        timeless(yaml.ok()),
        "# web-01, generation 1, set by anonymous at <time>\n\
         web:\n  config:\n    server:\n      port: 8080\n  running: true\n  version: \"1.1.0\"\n"
    );
    let json = cli.run(&["get", "web-01", "-o", "json"]).await;
    let expected =
        json!({"web": {"version": "1.1.0", "running": true, "config": {"server": {"port": 8080}}}});
    assert_eq!(json.json(), expected);
    assert_eq!(
        cli.run(&["get", "web-01", "-o", "table"]).await.ok(),
        "APPLICATION  VERSION  RUNNING  URL\nweb          1.1.0    yes\n"
    );
    for text in [yaml.ok(), json.ok()] {
        let again = cli.run_with(&["set", "web-01", "-f", "-"], text).await;
        assert_eq!(
            again.ok(),
            "web-01: no change; the desired state is still generation 1\n"
        );
    }
    let nobody = cli.run(&["get", "nobody"]).await;
    assert!(
        nobody.fails(1).starts_with("bbctl: host nobody is unknown: "),
        "{nobody:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_cut_off_from_its_hosts_is_no_secret() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let _agent = Agent::start(&fleet.broker, "web-01", Script::Converges);
    until_seen(&cli, "web-01").await;
    let said = cli.run(&["hosts"]).await.stderr;
    assert_eq!(said, "");
    fleet.broker.stop();
    let file = cli.file("one.json", r#"{"web": {"version": "1.0"}}"#);
    for arguments in [
        &["hosts"][..],
        &["host", "web-01"],
        &["set", "web-01", "-f", &file, "--yes"],
    ] {
        until(&cli, arguments, |run| {
            run.code == 0
                && run
                    .stderr
                    .starts_with("bbctl: the master has a problem: there is no connection to the broker. ")
        })
        .await;
    }
    // There are no such warnings in formats for programs.
    assert_eq!(cli.run(&["host", "web-01", "-o", "json"]).await.stderr, "");
}
