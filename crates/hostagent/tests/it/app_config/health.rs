//! Health checks against real programs and servers.

use harness::http::{HttpServer, Page};
use host::app_config::health::Checker;
use host::app_config::manifest::{HealthCheck, Probe};
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::download::certificate;

const SHORT: Duration = Duration::from_millis(200);

fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(10),
        retries: 3,
    }
}

fn http(url: String, status: Option<u16>) -> HealthCheck {
    check(Probe::Http { url, status })
}

fn tcp(address: impl ToString) -> HealthCheck {
    check(Probe::Tcp {
        address: address.to_string(),
    })
}

impl Sandbox {
    fn checker(&self) -> Checker<'_> {
        Checker {
            root: &self.root,
            runner: None,
        }
    }

    /// A check that runs `script` as `/opt/web/check`.
    fn exec(&self, script: &str, arguments: &[&str]) -> HealthCheck {
        self.file("/opt/web/check", format!("#!/bin/sh\n{script}\n"), 0o755);
        let command = [&["/opt/web/check"], arguments].concat();
        check(Probe::Exec {
            command: command.iter().map(|&part| part.to_owned()).collect(),
        })
    }

    async fn stays_healthy(&self, check: HealthCheck) -> Result<(), HostError> {
        self.checker().stays_healthy(&app("web"), &[check], SHORT).await
    }

    /// Makes the check once. It has to fail; gives what it says.
    async fn complaint(&self, check: HealthCheck) -> String {
        let error = self
            .checker()
            .is_healthy(&app("web"), &[check])
            .await
            .unwrap_err();
        assert_eq!(error.category, Category::Unhealthy, "{error}");
        error.message
    }
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[tokio::test]
async fn a_program_is_run_without_a_shell_and_told_of_the_sandbox() {
    let sandbox = Sandbox::new();
    let check = sandbox.exec(
        r#"[ "$1" = 'a b; $(id)' ] || exit 3
           [ "$BACKBONE_ROOT/opt/web/check" = "$0" ] || exit 4"#,
        &["a b; $(id)"],
    );
    sandbox.stays_healthy(check).await.unwrap();
}

#[tokio::test]
async fn a_program_that_fails_is_quoted_where_it_says_so() {
    let sandbox = Sandbox::new();
    let message = sandbox
        .complaint(sandbox.exec(
            &format!("echo {SECRET} | tee /dev/stderr; echo error: pool web is gone >&2; exit 7"),
            &[],
        ))
        .await;
    assert!(!message.contains(SECRET), "{message}");
    assert_says(
        &message,
        &[
            "the exec health check of web failed: expected exit code 0",
            "/opt/web/check` failed with exit code 7: pool web is gone",
            "Run it by hand",
            "log of web's services",
        ],
    );
    let missing = check(Probe::Exec {
        command: vec!["/opt/web/none".to_owned()],
    });
    assert_says(
        &sandbox.complaint(missing).await,
        &["but there is no /opt/web/none."],
    );
    // Not one of the host's, outside of the sandbox.
    let outside = check(Probe::Exec {
        command: vec!["/bin/true".to_owned()],
    });
    assert_says(&sandbox.complaint(outside).await, &["but there is no /bin/true."]);
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children_and_so_is_one_that_nobody_waits_for() {
    let sandbox = Sandbox::new();
    let pids = sandbox.root.join("/pids");
    let script = r#"sleep 1000 & echo $! >> "$BACKBONE_ROOT/pids"; echo $$ >> "$BACKBONE_ROOT/pids"; wait"#;
    let all_gone = || {
        let pids = fs::read_to_string(&pids).unwrap();
        pids.lines().count() == 2 && !pids.lines().any(runs)
    };
    let mut check = sandbox.exec(script, &[]);
    check.timeout = Duration::from_millis(500);
    let message = sandbox.complaint(check.clone()).await;
    assert_says(&message, &["did not end within 500ms and was killed"]);
    eventually("the first one's end", all_gone).await;

    fs::remove_file(&pids).unwrap();
    check.timeout = Duration::from_secs(300);
    let started = async {
        let written = || fs::read_to_string(&pids).is_ok_and(|pids| pids.lines().count() == 2);
        eventually("the check's start", written).await;
    };
    tokio::select! {
        ended = sandbox.stays_healthy(check) => panic!("{ended:?}"),
        () = started => {}
    }
    eventually("the second one's end", all_gone).await;
}

/// Whether the process runs: it may be a zombie for a moment.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn http_takes_any_2xx_or_exactly_the_status_that_is_named() {
    let sandbox = Sandbox::new();
    let server = HttpServer::start().await.unwrap();
    let statuses = [
        (200, None, true),
        (204, None, true),
        (302, None, false),
        (404, None, false),
        (503, None, false),
        (503, Some(503), true),
        (302, Some(302), true),
        (200, Some(204), false),
    ];
    for (answered, expected, well) in statuses {
        let path = format!("/{answered}");
        server.put(
            &path,
            match answered {
                302 => Page::Redirect("/200".to_owned()),
                other => Page::Status(other),
            },
        );
        let check = http(server.url(&path), expected);
        if well {
            sandbox.stays_healthy(check).await.unwrap();
            continue;
        }
        let message = sandbox.complaint(check).await;
        let expected = expected.map_or("a 2xx status".to_owned(), |status| format!("status {status}"));
        assert_says(
            &message,
            &[
                &format!("the http health check of web failed: expected {expected}"),
                &format!("{} answered with {answered}", server.url(&path)),
                "Try `curl -v http://",
            ],
        );
    }
    // An endless body is not waited for.
    server.put("/endless", Page::Endless);
    sandbox
        .stays_healthy(http(server.url("/endless"), None))
        .await
        .unwrap();
    assert!(server.requests("/endless")[0].headers["user-agent"].starts_with("hostagent/"));
}

#[tokio::test]
async fn http_that_gives_no_answer_fails_in_time_and_shows_no_credentials() {
    let sandbox = Sandbox::new();
    let server = HttpServer::start().await.unwrap();
    server.put("/mute", Page::Mute);
    let mut mute = http(
        server
            .url("/mute")
            .replace("http://", &format!("http://web:{SECRET}@")),
        None,
    );
    mute.timeout = SHORT;
    let began = Instant::now();
    let message = sandbox.complaint(mute).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_says(&message, &["/mute gave no status: no answer within 200ms"]);
    assert!(!message.contains(SECRET), "{message}");

    // Nor is it waited for once nobody wants to know: the test would not end before its thread.
    let mut mute = http(server.url("/mute"), None);
    mute.timeout = Duration::from_secs(300);
    let asked = || server.count("/mute") == 2;
    tokio::select! {
        ended = sandbox.stays_healthy(mute) => panic!("{ended:?}"),
        () = eventually("the request", asked) => {}
    }

    let (_deaf, address) = deaf();
    let message = sandbox.complaint(http(format!("http://{address}/"), None)).await;
    assert_says(&message, &["refused"]);
    let message = sandbox
        .complaint(http(format!("https://{}/", server.address()), None))
        .await;
    assert_says(&message, &["gave no status: "]);
}

/// A socket that has an address, so that nobody else listens there, and does not listen either.
fn deaf() -> (TcpSocket, std::net::SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn https_is_verified() {
    let sandbox = Sandbox::new();
    let (config, _trusted_elsewhere) = certificate(sandbox.root.path());
    let server = HttpServer::start_tls(config).await.unwrap();
    let check = http(server.put_file("/healthz", "well"), None);
    let message = sandbox.complaint(check).await;
    assert_says(&message, &["/healthz gave no status: ", "certificate"]);
    assert_eq!(server.count("/healthz"), 0);
}

#[tokio::test]
async fn tcp_wants_a_connection_and_nothing_more() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    sandbox.stays_healthy(tcp(address)).await.unwrap();
    sandbox
        .stays_healthy(tcp(format!("localhost:{}", address.port())))
        .await
        .unwrap();
    let (_deaf, address) = deaf();
    let message = sandbox.complaint(tcp(address)).await;
    assert_says(
        &message,
        &[
            "the tcp health check of web failed: expected an accepted connection",
            &format!("{address} accepted none: Connection refused"),
            "ss -ltnp",
        ],
    );
}

#[tokio::test]
async fn a_check_may_flap_but_not_keep_failing() {
    let sandbox = Sandbox::new();
    // Fails twice, passes once, and so on: never three times in a row.
    let count = r#"n=$(cat "$BACKBONE_ROOT/n" 2>/dev/null || echo 0); echo $((n + 1)) > "$BACKBONE_ROOT/n""#;
    let flapping = sandbox.exec(&format!("{count}; [ $((n % 3)) = 2 ]"), &[]);
    sandbox.stays_healthy(flapping).await.unwrap();
    assert!(sandbox.read("/n").trim().parse::<u32>().unwrap() >= 3);

    // Passes twice, then never again.
    sandbox.file("/n", "0", 0o644);
    let mut dying = sandbox.exec(&format!("{count}; [ $n -lt 2 ]"), &[]);
    dying.interval = Duration::from_millis(1);
    let error = sandbox
        .checker()
        .stays_healthy(&app("web"), &[dying], Duration::from_secs(3600))
        .await
        .unwrap_err();
    assert_says(&error.message, &["failed 3 times in a row"]);
    assert_eq!(sandbox.read("/n"), "5\n");
}

#[tokio::test]
async fn checks_run_side_by_side_and_the_first_that_keeps_failing_counts() {
    let sandbox = Sandbox::new();
    let hanging = sandbox.exec("sleep 1000", &[]);
    let (_deaf, address) = deaf();
    let checks = [hanging, tcp(address)];
    let began = Instant::now();
    let error = sandbox
        .checker()
        .stays_healthy(&app("web"), &checks, SHORT)
        .await
        .unwrap_err();
    assert_says(
        &error.message,
        &["the tcp health check of web failed 3 times in a row"],
    );
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_manifest_says_what_is_checked_and_a_hook_has_no_checks() {
    let sandbox = Sandbox::new();
    let hour = Duration::from_secs(3600);
    let contracts = &sandbox.contracts;
    // Nothing to check: nothing to wait for.
    contracts.stays_healthy(&app("web"), "web", hour).await.unwrap();
    contracts.is_healthy(&app("web"), "web").await.unwrap();

    let (socket, address) = deaf();
    let manifest = format!("[[health]]\ntype = \"tcp\"\naddress = \"{address}\"\nretries = 1\n");
    sandbox.file("/usr/share/hostagent/apps/web.toml", manifest, 0o644);
    for error in [
        contracts
            .stays_healthy(&app("web"), "web", hour)
            .await
            .unwrap_err(),
        contracts.is_healthy(&app("web"), "web").await.unwrap_err(),
    ] {
        assert_eq!(error.category, Category::Unhealthy);
        assert_says(&error.message, &["the tcp health check of web failed: "]);
    }
    let listener = socket.listen(16).unwrap();
    contracts.is_healthy(&app("web"), "web").await.unwrap();
    contracts.stays_healthy(&app("web"), "web", SHORT).await.unwrap();
    drop(listener);

    sandbox.file("/opt/pf9/web/config", "#!/bin/sh\n", 0o755);
    contracts.stays_healthy(&app("web"), "web", hour).await.unwrap();
    contracts.is_healthy(&app("web"), "web").await.unwrap();
}
