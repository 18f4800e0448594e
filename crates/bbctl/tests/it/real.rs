//! The complete system: bbctl, a master, and a real agent with a real package manager in a sandbox,
//! over RabbitMQ.

use std::time::Duration;

use bbmaster::store::Store;
use bbmaster::{Config, Master};
use bus::amqp::{AmqpSettings, Login, Secret};
use bus::{Queue, amqp};
use harness::packages::{Family, Moment, Package, Sandbox, example_app};
use harness::rabbitmq::RabbitMq;
use hostagent::agent::{Agent, Parts};
use hostagent::settings::{Settings, Sources};
use protocol::{HostId, Limits};
use serde_json::json;

use crate::cli::Cli;
use crate::fleet::{until, until_seen};

const HOST: &str = "web-01";

fn settings(node: &RabbitMq, vhost: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(Login {
            username: RabbitMq::USER.into(),
            password: Secret::new(RabbitMq::PASSWORD),
        }),
        virtual_host: vhost.into(),
        retry_period: Duration::from_millis(300),
        ..AmqpSettings::new("127.0.0.1", node.port())
    }
}

/// Starts an agent on a host without applications.
fn start_agent(sandbox: &Sandbox, broker: AmqpSettings) -> Agent {
    let sources = Sources {
        overrides: vec![
            format!("hostagent.root={}", sandbox.root().display()),
            format!("hostagent.package_family={}", sandbox.family().extension()),
            "hostagent.allow_file_urls=true".to_owned(),
        ],
        ..Sources::default()
    };
    let settings = Settings::load(&sources).unwrap().settings;
    let state_dir = sandbox.join("/var/lib/hostagent");
    std::fs::create_dir_all(&state_dir).unwrap();
    let host_id = HostId::new(HOST).unwrap();
    Agent::start(Parts {
        link: amqp::connect(broker, Queue::of_agent(&host_id, None)),
        host_id,
        host: host::open(settings.host_options()).unwrap(),
        state_dir,
        limits: Limits::default(),
        trusted_users: Vec::new(),
        heartbeat_period: Duration::from_secs(60),
        bake_period: Duration::from_millis(500),
        max_crashes: 5,
        collect_facts: Box::new(host::Facts::new),
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_host_is_seen_through_an_install_an_upgrade_that_fails_and_a_plan() {
    let family = Family::ALL
        .into_iter()
        .find(|family| family.is_available())
        .expect("this machine has dpkg or rpm");
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let (sandbox, work) = (Sandbox::temporary(family).unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open_sqlite(&work.path().join("bbmaster.db"))
        .await
        .unwrap();
    let link = amqp::connect(settings(&node, &vhost), Queue::of_master("bbmaster-q", 500));
    let master = Master::start(Config::local(), store, link).await.unwrap();
    let cli = Cli::new(&format!("http://{}", master.address()));
    let agent = start_agent(&sandbox, settings(&node, &vhost));
    until_seen(&cli, HOST).await;
    let offer = |package: &Package| {
        let file = package.build(family, sandbox.root()).unwrap();
        // The path on the host.
        let file = file.strip_prefix(sandbox.root()).unwrap();
        let spec =
            json!({"web": {"version": package.full_version(), "url": format!("file:///{}", file.display())}});
        cli.file(&format!("web-{}.json", package.full_version()), &spec.to_string())
    };
    let good = offer(&example_app("web", "1.0"));
    let run = cli.run(&["set", HOST, "-f", &good, "--wait"]).await;
    assert!(
        run.ok()
            .ends_with("web: 1.0-1, running: as desired\nweb-01: as desired, generation 1\n"),
        "{run:?}"
    );
    let bad = offer(&example_app("web", "1.1").script(
        Moment::AfterInstall,
        "[ -e \"$ROOT/tmp/user\" ] || { echo 'no such user: web' >&2; exit 7; }",
    ));
    let run = cli.run(&["set", HOST, "-f", &bad, "--wait"]).await;
    // The host's own error, and that it was rolled back.
    assert!(
        run.fails(3).contains("web failed (install, script, attempt 1)"),
        "{run:?}"
    );
    assert!(run.stderr.contains("no such user: web"), "{run:?}");
    assert!(
        run.stderr
            .contains("rolled back; held until something that made it fail changes"),
        "{run:?}"
    );
    assert!(
        run.stderr
            .ends_with("bbctl: web-01 failed to reach generation 2\n"),
        "{run:?}"
    );
    let page = cli.run(&["host", HOST]).await;
    assert!(page.ok().contains("errors, not as desired"), "{page:?}");

    // The cause is fixed, and the desired state does not change: `retry` is needed.
    std::fs::create_dir_all(sandbox.join("/tmp")).unwrap();
    std::fs::write(sandbox.join("/tmp/user"), "").unwrap();
    let run = cli.run(&["retry"]).await;
    assert_eq!(run.ok(), "web-01: retries generation 2\n");
    until(&cli, &["hosts", "--status", "ok"], |run| {
        run.stdout.contains(HOST)
    })
    .await;
    assert!(sandbox.read("/run/web.loaded").unwrap().starts_with("1.1\n"));
    let run = cli.run(&["events", "--kind", "retry-asked"]).await;
    assert!(run.ok().contains("was told to retry generation 2"), "{run:?}");

    // The host does exactly what its plan says.
    let next = offer(&example_app("web", "1.2"));
    let plan = cli
        .run(&["set", HOST, "-f", &next, "--dry-run", "-o", "json"])
        .await
        .json();
    let hash = plan["hash"].as_str().unwrap();
    let run = cli
        .run(&["set", HOST, "-f", &next, "--only-if-plan", "000000", "--wait"])
        .await;
    assert!(
        run.fails(3).contains("bbctl: web-01 refuses generation 3: "),
        "{run:?}"
    );
    let run = cli
        .run(&["set", HOST, "-f", &next, "--only-if-plan", hash, "--wait"])
        .await;
    assert!(
        run.ok().ends_with("web-01: as desired, generation 4\n"),
        "{run:?}"
    );
    assert!(sandbox.read("/run/web.loaded").unwrap().starts_with("1.2\n"));
    let run = cli.run(&["ping", HOST, "-c", "1"]).await;
    assert!(run.ok().contains("status=ok"), "{run:?}");
    agent.stop().await;
    sandbox.service("web", "stop").unwrap();
}
