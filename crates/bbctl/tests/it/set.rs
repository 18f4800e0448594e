//! Setting what hosts run.

use crate::agent::{Agent, ERROR, Script};
use crate::cli::{Output, finish, timeless};
use crate::fleet::{Fleet, at, until_seen};

const ONE: &str = r#"{"web": {"version": "1.0"}}"#;
const TWO: &str = "web: {version: '1.1'}\ndb: {version: '2'}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_said_application_by_application() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let one = cli.file("one.json", ONE);
    let two = cli.file("two.yaml", TWO);
    let stopped = cli.file("stopped.yaml", "db: {version: '2', running: false}\n");
    for (file, said) in [
        (&one, "web-01: desired state set, generation 1\n  + web 1.0\n"),
        (
            &one,
            "web-01: no change; the desired state is still generation 1\n",
        ),
        (
            &two,
            "web-01: desired state set, generation 2\n  + db 2\n  ~ web 1.0 -> 1.1\n",
        ),
        (
            &stopped,
            "web-01: desired state set, generation 3\n  ~ db\n  - web\n",
        ),
    ] {
        assert_eq!(cli.run(&["set", "web-01", "-f", file]).await.ok(), said);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_tells_how_each_application_gets_there() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Converges);
    until_seen(&cli, "web-01").await;
    let one = cli.file("one.json", ONE);
    let run = cli.run(&["set", "web-01", "-f", &one, "--wait"]).await;
    assert!(
        run.ok()
            .ends_with("web: 1.0-1, running: as desired\nweb-01: as desired, generation 1\n"),
        "{run:?}"
    );
    agent.follow(Script::Waits);
    let two = cli.file("two.yaml", TWO);
    let mut child = cli.start(&["set", "web-01", "-f", &two, "-w"]);
    let mut output = Output::of(&mut child);
    output.line("db: 2 will be installed").await;
    output.line("web: 1.0-1 is installed, 1.1 desired").await;
    output.line("web-01: installs web").await;
    agent.finish().await;
    output.line("web: 1.1-1, running: as desired").await;
    output.line("web-01: as desired, generation 2").await;
    assert_eq!(finish(child).await.code, 0);
    assert_eq!(agent.apps().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_host_that_fails_ends_with_its_own_words_and_code_3() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Fails);
    until_seen(&cli, "web-01").await;
    let one = cli.file("one.json", ONE);
    let run = cli.run(&["set", "web-01", "-f", &one, "--wait"]).await;
    assert_eq!(
        run.fails(3),
        format!(
            "web failed (install, script, attempt 2)\n    {ERROR}\n    rolled back; held until something that \
             made it fail changes, or `bbctl retry`\nbbctl: web-01 failed to reach generation 1\n"
        )
    );
    // bbctl waits for a host that will retry.
    agent.follow(Script::Retries);
    let two = cli.file("two.yaml", TWO);
    let mut child = cli.start(&["set", "web-01", "-f", &two, "--wait"]);
    let mut output = Output::of(&mut child);
    output
        .line("web-01: failed, will retry: the script postinst")
        .await;
    agent.finish().await;
    output.line("web-01: as desired, generation 2").await;
    assert_eq!(finish(child).await.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_in_words_whatever_keeps_the_host() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Waits);
    until_seen(&cli, "web-01").await;
    let one = cli.file("one.json", ONE);
    let run = cli
        .run(&["set", "web-01", "-f", &one, "--wait", "--timeout", "1s"])
        .await;
    assert_eq!(
        run.fails(3),
        "bbctl: web-01 is not as desired after 1 s: it is converging\nThe host continues; see `bbctl host web-01`\n"
    );
    let run = cli
        .run(&["set", "nobody", "-f", &one, "--wait", "--timeout", "500ms"])
        .await;
    assert!(
        run.stdout
            .ends_with("nobody: has never reported; the master sends the desired state when it reports\n"),
        "{run:?}"
    );
    assert!(run.fails(3).contains("it has never reported"), "{run:?}");
    // Meanwhile the desired state is changed externally.
    let two = cli.file("two.yaml", TWO);
    let mut child = cli.start(&["set", "web-01", "-f", &two, "--wait"]);
    Output::of(&mut child).line("web-01: installs web").await;
    cli.run(&["set", "web-01", "-f", &one]).await.ok();
    let run = finish(child).await;
    assert!(
        run.fails(3)
            .contains("a newer desired state of web-01 was set: generation 3"),
        "{run:?}"
    );
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_outlives_the_master() {
    let (fleet, master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Waits);
    until_seen(&cli, "web-01").await;
    let one = cli.file("one.json", ONE);
    let mut child = cli.start(&["set", "web-01", "-f", &one, "--wait"]);
    let mut output = Output::of(&mut child);
    output.line("web-01: installs web").await;
    let address = master.address();
    master.end().await;
    output
        .line("web-01: the master cannot be reached; waiting for it")
        .await;
    let (_master, _) = fleet.master_with(at(address)).await;
    agent.finish().await;
    output.line("web-01: as desired, generation 1").await;
    assert_eq!(finish(child).await.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_the_hosts_own_plan_and_changes_nothing() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let agent = Agent::start(&fleet.broker, "web-01", Script::Converges);
    until_seen(&cli, "web-01").await;
    let two = cli.file("two.yaml", TWO);
    let set = ["set", "web-01", "-f", &two];
    let run = cli.run(&[&set[..], &["--dry-run"]].concat()).await;
    assert_eq!(
        run.ok(),
        format!(
            "+ db: install version 2\n    undo: the package is removed again\n\
             + web: install version 1.1\n    undo: the package is removed again\n\
             2 steps; plan 43118d9e157a. To do exactly this: bbctl set web-01 -f {two} --only-if-plan 43118d9e157a\n"
        )
    );
    assert!(agent.apps().is_empty());
    assert_eq!(cli.run(&["get", "web-01", "-o", "json"]).await.ok(), "{}\n");
    let run = cli.run(&[&set[..], &["--dry-run", "-o", "json"]].concat()).await;
    assert_eq!(run.json()["hash"], "43118d9e157a");
    let broken = cli.file("broken.json", r#"{"broken": {"version": "1"}}"#);
    let run = cli.run(&["set", "web-01", "-f", &broken, "--dry-run"]).await;
    assert_eq!(run.code, 3, "{run:?}");
    assert!(
        run.stdout.contains("! broken: is to run, but ships no service\n"),
        "{run:?}"
    );
    let empty = cli.file("empty.json", "{}");
    let run = cli.run(&["set", "web-01", "-f", &empty, "--dry-run"]).await;
    assert_eq!(run.ok(), "Nothing to do: the host is as desired.\n");
    let run = cli
        .run(&[&set[..], &["--only-if-plan", "43118d9e157a", "--wait"]].concat())
        .await;
    run.ok();
    assert_eq!(agent.apps().len(), 2);
    assert!(
        cli.run(&[&set[..], &["--only-if-plan", "no hash"]].concat())
            .await
            .fails(2)
            .contains("0-9 and a-f")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_generation_that_was_looked_at_is_replaced() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let (one, two) = (cli.file("one.json", ONE), cli.file("two.yaml", TWO));
    cli.run(&["set", "web-01", "-f", &one]).await.ok();
    cli.run(&["set", "web-01", "-f", &two, "--if-generation", "1"])
        .await
        .ok();
    let run = cli
        .run(&["set", "web-01", "-f", &one, "--if-generation", "1"])
        .await;
    assert!(run.fails(1).contains("412 Precondition Failed"), "{run:?}");
    assert!(
        run.stderr.contains("now at generation 2: read it again"),
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_everything_has_to_be_said_twice() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let (one, none) = (cli.file("one.json", ONE), cli.file("none.yaml", "{}\n"));
    cli.run(&["set", "web-01", "-f", &one]).await.ok();
    let run = cli.run(&["set", "web-01", "-f", &none]).await;
    assert_eq!(
        run.fails(2),
        "bbctl: {} removes every managed application from web-01: web. To confirm, add --yes\n"
    );
    cli.run_with(&["set", "web-01", "-f", "-"], "{}").await.fails(2);
    let run = cli.run(&["set", "web-01", "-f", &none, "--yes"]).await;
    assert_eq!(run.ok(), "web-01: desired state set, generation 2\n  - web\n");
    let run = cli.run(&["forget", "web-01"]).await;
    assert!(run.fails(2).ends_with("To confirm, add --yes\n"), "{run:?}");
    assert_eq!(
        cli.run(&["forget", "web-01", "-y"]).await.ok(),
        "web-01: forgotten\n"
    );
    cli.run(&["get", "web-01"]).await.fails(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_a_file_is_said_with_its_place() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    for (name, text, complaint) in [
        (
            "a.yaml",
            "web:\n  version: 1.10\n",
            "a.yaml:2:12: $.web.version: is a number; a string is needed; in YAML, write it in quotes: \"1.10\"",
        ),
        (
            "b.json",
            "{\"web\": {\"version\": 2}}",
            "b.json:1:21: $.web.version: is a number; a string is needed",
        ),
        (
            "c.json",
            "{\"web\": }",
            "c.json:1:7: $.web: is not JSON: expected value at line 1 column 9",
        ),
        ("d.yaml", "web: [1", "d.yaml:"),
        (
            "e.yaml",
            "",
            "e.yaml: $: is null; an object is needed; to remove all applications, write {}",
        ),
        (
            "f.yaml",
            "web:\n  url: x\n",
            "f.yaml:1:1: $.web.version: is missing",
        ),
        ("g.yaml", "a: {version: '1'}\na: {version: '2'}\n", "g.yaml:2:"),
        (
            "i.yaml",
            "greeting:\n  version: '1'\n  sha265: x\n",
            "i.yaml:3:3: $.greeting.sha265: no such field; did you mean sha256?",
        ),
        (
            "j.yaml",
            "web:\n  verison: '1'\n",
            "j.yaml:2:3: $.web.verison: no such field; did you mean version?",
        ),
        (
            "k.json",
            "{\"opcode\": \"set_config\", \"data\": {\"web\": {\"version\": \"1\", \"runing\": false}}}",
            "k.json:1:59: $.data.web.runing: no such field; did you mean running?",
        ),
        (
            "l.yaml",
            "web: {version: '1', colour: red}\n",
            "l.yaml:1:21: $.web.colour: no such field; the fields of an application are version, url, package, sha256, running, config",
        ),
        // Only the master can detect this.
        (
            "h.yaml",
            "# x\nweb-01: {version: '1'}\n",
            "h.yaml:2:1: $[\"web-01\"]: is the id of this host: messages",
        ),
    ] {
        cli.file(name, text);
        let run = cli.run(&["set", "web-01", "-f", name]).await;
        assert!(
            run.fails(1).starts_with(&format!("bbctl: {complaint}")),
            "{run:?}"
        );
    }
    let run = cli.run(&["set", "web-01", "-f", "nowhere.yaml"]).await;
    assert_eq!(
        run.fails(1),
        "bbctl: cannot read nowhere.yaml: No such file or directory (os error 2)\n"
    );
    cli.run(&["get", "web-01"]).await.fails(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_ends_as_diff_does() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let (one, two) = (cli.file("one.json", ONE), cli.file("two.yaml", TWO));
    let same = cli.file("same.yaml", "web: {running: true, version: '1.0', config: {}}");
    cli.run(&["set", "web-01", "-f", &one]).await.ok();
    assert_eq!(cli.run(&["diff", "web-01", "-f", &same]).await.ok(), "");
    let run = cli.run(&["diff", "web-01", "-f", &two]).await;
    assert_eq!(run.code, 1);
    assert_eq!(
        timeless(&run.stdout),
        format!(
            "--- web-01, generation 1, set by anonymous at <time>\n+++ {two}\n@@ -1,4 +1,8 @@\n+db:\n+  config: {{}}\n+  running: \
             true\n+  version: \"2\"\n web:\n   config: {{}}\n   running: true\n-  version: \"1.0\"\n+  version: \"1.1\"\n"
        )
    );
    assert_eq!(cli.run(&["diff", "web-01", "-f", "nowhere"]).await.code, 2);
    for text in ["web: 1", "web: {version: '1', runing: false}"] {
        let bad = cli.file("bad.yaml", text);
        assert_eq!(cli.run(&["diff", "web-01", "-f", &bad]).await.code, 2, "{text}");
    }
    assert_eq!(cli.run(&["diff", "nobody-yet", "-f", &one]).await.code, 1);
}
