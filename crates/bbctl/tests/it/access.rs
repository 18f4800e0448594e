//! Settings, tokens, login, and failed requests to a master.

use std::os::unix::fs::PermissionsExt;

use bbmaster::Config;
use bbmaster::settings::Anonymous;
use harness::certificates::Authority;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::cli::{Cli, timeless};
use crate::fleet::{Fleet, until};

async fn token(cli: &Cli, name: &str, role: &str) -> String {
    let run = cli.run(&["token", "create", name, "--role", role]).await;
    assert_eq!(
        run.stderr,
        format!("Token {name} ({role}). The secret is shown only once:\n")
    );
    run.ok().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_stored_for_ones_own_eyes_and_used() {
    let (_fleet, _master, mut cli) = Fleet::with_master().await;
    let admin = token(&cli, "root", "admin").await;
    let url = cli.url.clone();
    cli.set("BBCTL_URL", "");
    let denied = cli.run(&["--url", &url, "hosts"]).await;
    assert_eq!(
        denied.fails(1),
        format!(
            "bbctl: the master at {url} answers 401 Unauthorized: a token is required: create one with `bbmaster token create \
             NAME`, and send Authorization: Bearer TOKEN\nNo token was sent. `bbctl login {url}` stores a token; BBCTL_TOKEN or \
             --token-file set one for a single command\n"
        )
    );
    let wrong = cli
        .run_with(&["login", &url, "--token-stdin"], "bbm_wrong\n")
        .await;
    assert!(
        wrong
            .fails(1)
            .contains("this token is unknown, revoked or expired"),
        "{wrong:?}"
    );
    assert!(!cli.settings_file().exists());
    let run = cli
        .run_with(&["login", &url, "--token-stdin"], &format!("{admin}\n"))
        .await;
    let stored = cli.settings_file();
    assert_eq!(
        run.ok(),
        format!(
            "Logged in at {url}/ as root (admin); bbmaster {}. Stored in {}\n",
            env!("CARGO_PKG_VERSION"),
            stored.display()
        )
    );
    assert_eq!(stored.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    cli.run(&["hosts"]).await.ok();
    // The operator's own text in the file stays.
    let text = std::fs::read_to_string(&stored).unwrap();
    std::fs::write(&stored, format!("# the one in Berlin\n{text}")).unwrap();
    std::fs::set_permissions(&stored, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(
        cli.run(&["hosts"])
            .await
            .stderr
            .contains("other users can read the token in ")
    );
    let run = cli.run(&["logout"]).await;
    assert!(run.ok().starts_with("the token is deleted from "), "{run:?}");
    let text = std::fs::read_to_string(&stored).unwrap();
    assert_eq!(text, format!("# the one in Berlin\nurl = \"{url}/\"\n"));
    cli.run(&["hosts"]).await.fails(1);
    assert!(
        cli.run(&["login", &url])
            .await
            .fails(2)
            .contains("cannot ask for the token without a terminal")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_listed_and_revoked() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let admin = token(&cli, "root", "admin").await;
    let cli = cli.with("BBCTL_TOKEN", &admin);
    let made = cli
        .run(&["token", "create", "ci", "--expires-in", "1h", "-o", "json"])
        .await;
    let secret = made.json()["secret"].as_str().unwrap().to_owned();
    assert_eq!(
        timeless(
            &cli.run(&["token", "list"])
                .await
                .ok()
                .replace("in 59 min", "in 1 h")
        ),
        "TOKEN  ROLE      MADE     BY         EXPIRES\n\
         ci     operator  N s ago  root       in 1 h\n\
         root   admin     N s ago  anonymous  never\n"
    );
    let ci = Cli::new(&cli.url).with("BBCTL_TOKEN", &secret);
    ci.run(&["hosts"]).await.ok();
    let run = ci.run(&["token", "list"]).await;
    assert_eq!(
        run.fails(1),
        format!(
            "bbctl: the master at {0} answers 403 Forbidden: this request requires the role admin; the token ci has the role \
             operator\nUse a token with that role: `bbctl login {0}`, or BBCTL_TOKEN\n",
            cli.url
        )
    );
    assert_eq!(
        cli.run(&["token", "revoke", "ci"]).await.ok(),
        "token ci revoked\n"
    );
    let run = until(&ci, &["hosts"], |run| run.code != 0).await;
    assert!(
        run.fails(1)
            .contains("unknown, revoked or expired\nThe token was taken from BBCTL_TOKEN."),
        "{run:?}"
    );
    cli.run(&["token", "revoke", "ci"]).await.fails(1);
    let file = cli.file("token", &format!("{admin}\n"));
    Cli::new(&cli.url)
        .run(&["hosts", "--token-file", &file])
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_has_expired_is_worth_nothing() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let admin = token(&cli, "root", "admin").await;
    let cli = cli.with("BBCTL_TOKEN", &admin);
    let made = cli
        .run(&["token", "create", "short", "--expires-in", "1s", "-o", "json"])
        .await;
    let short = Cli::new(&cli.url).with("BBCTL_TOKEN", made.json()["secret"].as_str().unwrap());
    let run = until(&short, &["hosts"], |run| run.code != 0).await;
    assert!(
        run.fails(1)
            .contains("401 Unauthorized: this token is unknown, revoked or expired"),
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_by_the_authority_that_is_named() {
    let fleet = Fleet::new();
    let authority = Authority::new("Backbone test CA").unwrap();
    let at = |name: &str| fleet.database.path().join(name);
    authority.write_certificate(&at("ca.pem")).unwrap();
    let pair = authority.server(&["localhost"]).unwrap();
    pair.write(&at("server.pem"), &at("server.key")).unwrap();
    let config = Config {
        tls: Some((at("server.pem"), at("server.key"))),
        anonymous: Anonymous::Yes,
        ..Config::local()
    };
    let (_master, cli) = fleet.master_with(config).await;
    let stranger = cli.run(&["hosts"]).await;
    assert!(
        stranger
            .fails(1)
            .contains("This system does not trust the authority"),
        "{stranger:?}"
    );
    let ca = at("ca.pem").display().to_string();
    cli.run(&["hosts", "--ca", &ca]).await.ok();
    let other = cli.url.replace("localhost", "127.0.0.1");
    let plain = cli.url.replace("https", "http");
    let run = cli.run(&["hosts", "--url", &plain]).await;
    assert_eq!(run.code, 1, "{run:?}");
    let wrong = cli.run(&["hosts", "--ca", &ca, "--url", &other]).await;
    assert!(
        wrong
            .fails(1)
            .contains("Use a host name that is in the master's certificate"),
        "{wrong:?}"
    );
    cli.run(&["login", "--no-token", "--ca", &ca]).await.ok();
    let text = std::fs::read_to_string(cli.settings_file()).unwrap();
    assert_eq!(text, format!("url = \"{}/\"\nca = \"{ca}\"\n", cli.url));
    cli.run(&["hosts"]).await.ok();
    let empty = cli.file("empty.pem", "");
    let run = cli.run(&["hosts", "--ca", &empty]).await;
    assert!(
        run.fails(1).contains("it contains no certificate in PEM format"),
        "{run:?}"
    );
}

#[tokio::test]
async fn a_master_that_is_not_there_is_said_with_where_and_what_to_do() {
    let nowhere = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let cli = Cli::new(&nowhere);
    assert_eq!(
        cli.run(&["hosts"]).await.fails(1),
        format!(
            "bbctl: cannot reach the master at {nowhere} (from BBCTL_URL): connection refused\nStart the master (`bbmaster \
             run`), or use another URL: --url, BBCTL_URL, or `bbctl login URL`\n"
        )
    );
    let run = cli.run(&["hosts", "--url", "https://master.invalid"]).await;
    assert!(
        run.fails(1)
            .contains("cannot reach the master at https://master.invalid (from --url)"),
        "{run:?}"
    );
}

#[tokio::test]
async fn what_is_no_master_is_told_from_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cli = Cli::new(&format!("http://{}", listener.local_addr().unwrap()));
    for (answer, complaint) in [
        (
            "200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
            "is not a bbmaster, or its version does not match",
        ),
        (
            "302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
            "with a redirect to https://elsewhere.example/",
        ),
        (
            "502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "it answers 502 Bad Gateway without a reason",
        ),
    ] {
        let child = cli.start(&["hosts"]);
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = format!("HTTP/1.1 {answer}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let run = crate::cli::finish(child).await;
        assert!(run.fails(1).contains(complaint), "{run:?}");
    }
}

#[tokio::test]
async fn settings_that_are_not_valid_end_with_code_2() {
    let cli = Cli::new("");
    std::fs::create_dir(cli.home.path().join(".config")).unwrap();
    for (text, complaint) in [
        ("urls = 'http://localhost'", "unknown field `urls`"),
        ("url = 8082", "invalid type: integer"),
        ("url = 'localhost:8082'", "is not the URL of a master"),
        (
            "url = 'http://master.example'",
            "is unencrypted http to another machine",
        ),
        ("token = 'a b'", "a token is one line of printable ASCII"),
    ] {
        std::fs::write(cli.settings_file(), text).unwrap();
        let run = cli.run(&["hosts"]).await;
        assert!(run.fails(2).contains(complaint), "{run:?}");
        assert!(run.stderr.contains(".config/bbctl.toml"), "{run:?}");
    }
    for arguments in [
        &["hosts", "--config", "nowhere.toml"][..],
        &["hosts", "--token-file", "nowhere"],
        &["frobnicate"],
        &["host"],
        &["host", "a b"],
        &["set", "..", "-f", "x"],
    ] {
        cli.run(arguments).await.fails(2);
    }
}
