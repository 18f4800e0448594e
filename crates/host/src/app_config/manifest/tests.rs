use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(Path::new("/etc/hostagent/apps/web.toml"), text)
}

#[test]
fn a_whole_manifest() {
    let manifest = parse(
        r#"
services = ["web.service", "web-worker"]
on_change = "reload"
[config.server]
file = "/etc/web/web.ini"
format = "ini"
[config.limits]
file = "/etc/web/web.yaml"
format = "yaml"
table = 'http."max.size"'
mode = "0640"
owner = "root:web"
[config.env]
file = "/etc/default/web"
format = "env"
prefix = "WEB_"
mode = 0o644
[[health]]
type = "exec"
command = ["/usr/bin/web", "--check"]
[[health]]
type = "http"
url = "http://127.0.0.1:80/"
status = 204
interval = 2
timeout = 0.5
retries = 5
[[health]]
type = "tcp"
address = "[::1]:80"
"#,
    )
    .unwrap();
    assert_eq!(
        manifest.services,
        Some(vec!["web".to_owned(), "web-worker".to_owned()])
    );
    assert_eq!(manifest.on_change, OnChange::Reload);
    assert_eq!(manifest.sections["server"].table, ["server"]);
    assert_eq!(manifest.sections["server"].creation.mode, 0o600);
    assert_eq!(manifest.sections["limits"].table, ["http", "max.size"]);
    assert_eq!(
        manifest.sections["limits"].creation,
        Creation {
            mode: 0o640,
            owner: Some("root:web".to_owned())
        }
    );
    assert_eq!(manifest.sections["env"].prefix, "WEB_");
    assert_eq!(manifest.sections["env"].creation.mode, 0o644);
    assert_eq!(
        manifest.health[1],
        HealthCheck {
            probe: Probe::Http {
                url: "http://127.0.0.1:80/".to_owned(),
                status: Some(204)
            },
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(500),
            retries: 5,
        }
    );
    assert_eq!(
        manifest.health[2].probe,
        Probe::Tcp {
            address: "[::1]:80".to_owned()
        }
    );
    assert_eq!(manifest.warnings, [""; 0]);
}

#[test]
fn an_empty_manifest_is_valid() {
    let manifest = parse("").unwrap();
    assert_eq!(manifest.services, None);
    assert_eq!(manifest.on_change, OnChange::Restart);
}

#[test]
fn unknown_keys_are_warnings_with_their_line() {
    let manifest = parse(
        "service = []\n[config.a]\nfile = \"/a\"\nformat = \"ini\"\nowned = 1\n[[health]]\ntype = \"tcp\"\naddress = \"a:1\"\nurl = \"x\"\n",
    )
    .unwrap();
    let starts: Vec<&str> = manifest
        .warnings
        .iter()
        .map(|warning| warning.split(" is not").next().unwrap())
        .collect();
    assert_eq!(
        starts,
        [
            "/etc/hostagent/apps/web.toml:1: service",
            "/etc/hostagent/apps/web.toml:5: config.a.owned",
            "/etc/hostagent/apps/web.toml:9: health.url",
        ]
    );
}

#[test]
fn an_error_says_line_key_what_was_found_and_what_is_allowed() {
    let section = |rest: &str| format!("[config.a]\nfile = \"/etc/a\"\n{rest}");
    let table: &[(String, &str)] = &[
        ("services = [".into(), "1: (syntax): "),
        (
            "services = \"web\"".into(),
            "1: services: found a value of type string; it must be a list of strings",
        ),
        (
            "services = [\"../x\"]".into(),
            "1: services: found \"../x\", which is not a service name",
        ),
        (
            "\non_change = \"kill\"".into(),
            "2: on_change: found \"kill\"; allowed are \"reload\", \"restart\" and \"none\"",
        ),
        (
            "config = 1".into(),
            "1: config: found a value of type integer; it must be a table",
        ),
        (
            "[config.a]\nformat = \"ini\"".into(),
            "1: config.a.file: missing; it must be an absolute path",
        ),
        (
            "[config.a]\nfile = \"/etc/../x\"".into(),
            "2: config.a.file: found \"/etc/../x\"; it must be an absolute path",
        ),
        (
            "[config.a]\nfile = \"etc/x\"".into(),
            "2: config.a.file: found \"etc/x\"; it must be an absolute path",
        ),
        (
            "[config.a]\nfile = \"/etc/\"".into(),
            "2: config.a.file: found \"/etc/\"; it must be an absolute path",
        ),
        (
            section(""),
            "1: config.a.format: missing; it must be \"ini\", \"json\", \"yaml\", \"toml\" or \"env\"",
        ),
        (
            section("format = \"xml\""),
            "3: config.a.format: found \"xml\"; it must be \"ini\", ",
        ),
        (
            section("format = \"env\"\ntable = \"t\""),
            "4: config.a.table: an environment file has no tables",
        ),
        (
            section("format = \"ini\"\nprefix = \"t\""),
            "4: config.a.prefix: only an environment file",
        ),
        (
            section("format = \"json\"\ntable = \"a..b\""),
            "4: config.a.table: found \"a..b\"; allowed are names",
        ),
        (
            section("format = \"ini\"\nmode = \"0666\""),
            "4: config.a.mode: found \"0666\"; it must be an octal mode",
        ),
        (
            section("format = \"ini\"\nmode = \"rw\""),
            "4: config.a.mode: found \"rw\"; it must be an octal mode",
        ),
        (
            section("format = \"ini\"\n[config.b]\nfile = \"/etc/a\"\nformat = \"env\""),
            "config.b: config.a has another format",
        ),
        (
            section("format = \"ini\"\n[config.b]\nfile = \"/etc/a\"\nformat = \"ini\"\ntable = \"a\""),
            "config.b: config.a is the same table",
        ),
        (
            "[[health]]\ntype = \"ping\"".into(),
            "2: health.type: found \"ping\"; it must be \"exec\", \"http\" or \"tcp\"",
        ),
        ("[[health]]\n".into(), "1: health.type: missing"),
        (
            "[[health]]\ntype = \"exec\"\ncommand = [\"true\"]".into(),
            "3: health.command: found \"true\"; it must be a list",
        ),
        (
            "[[health]]\ntype = \"http\"\nurl = \"ftp://x\"".into(),
            "3: health.url: found \"ftp://x\"; it must be an http",
        ),
        (
            "[[health]]\ntype = \"tcp\"\naddress = \"x\"".into(),
            "3: health.address: found \"x\"; it must be \"HOST:PORT\"",
        ),
        (
            "[[health]]\ntype = \"tcp\"\naddress = \"x:1\"\ninterval = 0".into(),
            "4: health.interval: found 0; it must be seconds from 1 to 3600",
        ),
        (
            "[[health]]\ntype = \"tcp\"\naddress = \"x:1\"\nretries = -1".into(),
            "4: health.retries: found -1; it must be 1 to 100",
        ),
    ];
    for (text, want) in table {
        let error = parse(text).unwrap_err().to_string();
        assert!(
            error.starts_with("/etc/hostagent/apps/web.toml:") && error.contains(want),
            "{text}\n{error}\nwant {want}"
        );
    }
}
