//! `hostagent enroll`: gets this host's broker login from a master, writes it to a settings file,
//! and starts the agent.

use std::fs::DirBuilder;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use protocol::HostId;
use protocol::rest::{Enroll, Enrolled, Problem};
use ureq::Agent;
use url::{Host, Url};

use super::{Exit, id, print};
use crate::settings::{Loaded, PROGRAM, Settings, Sources};
use host::atomic_file;
use host::download::{describe, tls_config};
use host::services;

/// The command line.
#[derive(Debug, clap::Args)]
pub struct EnrollArgs {
    /// The master: https://master.example.net:8082.
    #[arg(long, value_name = "URL")]
    pub master: Url,
    /// The enrolment token. Better: the variable BACKBONE_ENROLL_TOKEN, because every user of this
    /// host can read the command line while it runs.
    #[arg(long)]
    pub token: Option<String>,
    /// PEM file of the authorities trusted for the master. Not given: those of the host.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Allow a master without TLS on another machine: anybody on the network can read token and
    /// password.
    #[arg(long)]
    pub allow_plain_http: bool,
}

/// The variable with the token. Not `HOSTAGENT_SECTION_KEY`: it is no setting.
pub const TOKEN_VARIABLE: &str = "BACKBONE_ENROLL_TOKEN";
const UNIT: &str = "hostagent";
/// Late in the order of names, so that it has precedence over files of a package or an image.
const DROP_IN: &str = "90-enrolled.conf";
const CA: &str = "90-enrolled-ca.pem";
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// `sources`: of this host's settings; the new file is put into their drop-in folder.
pub async fn enroll(sources: &Sources, settings: &Settings, request: EnrollArgs) -> anyhow::Result<Exit> {
    let token = match &request.token {
        Some(token) => token.clone(),
        None => std::env::var(TOKEN_VARIABLE)
            .with_context(|| format!("no token: set {TOKEN_VARIABLE}, or use --token"))?,
    };
    check_url(&request)?;
    let identity = id::identify(settings)?;
    let host_id = identity.host_id;
    let folder = drop_ins(sources);
    // First: the token must not be used up if the result cannot be written.
    make_writable(&folder)?;
    let asked = host_id.clone();
    let enrolled = tokio::task::spawn_blocking(move || request_login(&request, &token, &asked)).await??;
    ensure!(
        enrolled.host_id == host_id,
        "the master enrolled {} instead of this host, {host_id}",
        enrolled.host_id
    );
    write_settings(&folder, &enrolled)?;
    let file = folder.join(DROP_IN);
    print(&format!(
        "{host_id} is enrolled: user {} at {}:{}; written to {}\n",
        enrolled.username,
        enrolled.host,
        enrolled.port,
        file.display()
    ))?;
    check_effect(sources, &enrolled, &file)?;
    start(settings).await
}

fn check_url(request: &EnrollArgs) -> anyhow::Result<()> {
    let url = &request.master;
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_here || request.allow_plain_http => Ok(()),
        "http" => bail!(
            "{url} is not encrypted: anybody on the network could read the token and this host's password. Use \
             https, or --allow-plain-http"
        ),
        other => bail!("--master {url}: the scheme {other} is neither https nor http"),
    }
}

fn drop_ins(sources: &Sources) -> PathBuf {
    let main = sources.file.as_deref().unwrap_or(Path::new(PROGRAM.main_file));
    let mut folder = main.as_os_str().to_owned();
    folder.push(".d");
    folder.into()
}

fn make_writable(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.and_then(|()| Ok(rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)?))
        .with_context(|| format!("cannot write to {}: run this as root", folder.display()))
}

fn request_login(request: &EnrollArgs, token: &str, host_id: &HostId) -> anyhow::Result<Enrolled> {
    let url = request
        .master
        .join("/v1/enroll")
        .with_context(|| format!("--master {}", request.master))?;
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("hostagent/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(ANSWER_DEADLINE));
    if url.scheme() == "https" {
        config = config.tls_config(tls_config(request.ca.as_deref(), None)?);
    }
    let body = serde_json::to_vec(&Enroll {
        host_id: host_id.clone(),
    })?;
    let failed = |error| anyhow::anyhow!("{url}: {}", describe(error));
    let mut answer = config
        .build()
        .new_agent()
        .post(url.as_str())
        .header("Authorization", format!("Bearer {}", token.trim()))
        .header("Content-Type", "application/json")
        .send(body)
        .map_err(failed)?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().map_err(failed)?;
    if status != 201 {
        let problem: Option<Problem> = serde_json::from_str(&text).ok();
        let why = problem.and_then(|problem| problem.detail);
        bail!(
            "the master refused to enrol {host_id}: {}",
            why.unwrap_or_else(|| format!("{url} answered {status}; is it a master?"))
        );
    }
    serde_json::from_str(&text).with_context(|| format!("{url} sent an invalid answer; is it a master?"))
}

fn write_settings(folder: &Path, enrolled: &Enrolled) -> anyhow::Result<()> {
    let ca = folder.join(CA);
    if let Some(pem) = &enrolled.ca {
        atomic_file::replace(&ca, pem.as_bytes(), 0o644)
            .with_context(|| format!("cannot write {}", ca.display()))?;
    }
    let text = drop_in(enrolled, &ca)?;
    let file = folder.join(DROP_IN);
    atomic_file::replace(&file, text.as_bytes(), 0o600)
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The new settings, with the password.
fn drop_in(enrolled: &Enrolled, ca: &Path) -> anyhow::Result<String> {
    let trusted = enrolled.trusted_users.join(", ");
    let ca = match enrolled.ca {
        Some(_) => ca.display().to_string(),
        None => String::new(),
    };
    let pairs = [
        ("host", enrolled.host.as_str()),
        ("port", &enrolled.port.to_string()),
        ("virtual_host", &enrolled.virtual_host),
        ("username", &enrolled.username),
        ("password", &enrolled.password),
        ("trusted_users", &trusted),
    ];
    let mut text = format!(
        "# Written by `hostagent enroll`; the next run overwrites it.\n[hostagent]\nhost_id = {}\n\n[amqp]\n",
        enrolled.host_id
    );
    for (key, value) in pairs {
        // A line break could start another setting.
        let is_plain = !value.chars().any(char::is_control) && value.trim() == value;
        ensure!(
            is_plain,
            "the {key} in the master's answer is not valid in a settings file"
        );
        text.push_str(&format!("{key} = {value}\n"));
    }
    text.push_str("\n[ssl]\n");
    text.push_str(&format!("disable = {}\n", !enrolled.tls));
    if !ca.is_empty() {
        text.push_str(&format!("ca_certs = {ca}\n"));
    }
    Ok(text)
}

/// Checks that the new settings apply: another file or a variable may have precedence.
fn check_effect(sources: &Sources, enrolled: &Enrolled, file: &Path) -> anyhow::Result<()> {
    let Loaded { settings, .. } = Settings::load(sources)
        .with_context(|| format!("the settings are not valid with {}", file.display()))?;
    let amqp = &settings.amqp;
    let password = amqp.password.as_ref().map(|password| password.expose());
    let is_ours = (
        amqp.host.as_str(),
        settings.amqp_port(),
        amqp.username.as_str(),
        password,
    ) == (
        enrolled.host.as_str(),
        enrolled.port,
        enrolled.username.as_str(),
        Some(enrolled.password.as_str()),
    );
    ensure!(
        is_ours,
        "another setting has precedence over {}: find it with `hostagent check-config`, remove it, and restart \
         the agent",
        file.display()
    );
    Ok(())
}

/// Enables and (re)starts the unit, where systemd runs this host.
async fn start(settings: &Settings) -> anyhow::Result<Exit> {
    let root = settings.root();
    if !services::is_systemd(&root) {
        print("This host does not run systemd: make its init system start `hostagent run` at boot.\n")?;
        return Ok(Exit::Ok);
    }
    let systemd = services::detect(&root, None);
    systemd.reread_units().await?;
    if systemd.state(UNIT, true).await?.is_none() {
        print(&format!(
            "There is no unit {UNIT}.service: install it (docs/operations.md), then `systemctl enable --now {UNIT}`.\n"
        ))?;
        return Ok(Exit::Ok);
    }
    systemd.enable(UNIT).await?;
    // Also starts a stopped agent. A running one has its old settings.
    systemd.restart(UNIT).await?;
    print(&format!("{UNIT}.service is enabled and started.\n"))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolled() -> Enrolled {
        Enrolled {
            host_id: HostId::new("02:FC:00:00:00:01").unwrap(),
            host: "rabbit.example.net".into(),
            port: 5671,
            virtual_host: "/".into(),
            username: "host-02:FC:00:00:00:01".into(),
            password: "bbm_0123".into(),
            tls: true,
            ca: Some("pem".into()),
            trusted_users: vec!["bbmaster".into()],
        }
    }

    #[test]
    fn what_is_written_is_what_the_agent_then_reads() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("hostagent.conf");
        let sources = Sources {
            file: Some(main.clone()),
            ..Sources::default()
        };
        let drop_ins = drop_ins(&sources);
        make_writable(&drop_ins).unwrap();
        write_settings(&drop_ins, &enrolled()).unwrap();
        check_effect(&sources, &enrolled(), &drop_ins.join(DROP_IN)).unwrap();
        let settings = Settings::load(&sources).unwrap().settings;
        assert_eq!(settings.hostagent.host_id, Some(enrolled().host_id));
        assert_eq!(settings.amqp.trusted_users, ["bbmaster"]);
        assert_eq!(settings.ssl.ca_certs, Some(drop_ins.join(CA)));
        assert!(!settings.ssl.disable);
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(drop_ins.join(DROP_IN))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        std::fs::write(drop_ins.join("99-other.conf"), "[amqp]\nusername = other\n").unwrap();
        let error = check_effect(&sources, &enrolled(), &main)
            .unwrap_err()
            .to_string();
        assert!(error.contains("another setting has precedence"), "{error}");
    }

    #[test]
    fn an_answer_cannot_bring_settings_of_its_own() {
        for host in ["a\nhost_id = x", " a", "a\r"] {
            let answer = Enrolled {
                host: host.into(),
                ..enrolled()
            };
            assert!(drop_in(&answer, Path::new("/ca")).is_err(), "{host:?}");
        }
    }

    #[test]
    fn a_token_goes_over_no_network_in_plain_text() {
        for (master, allow_plain_http, expected) in [
            ("https://master.example.net", false, true),
            ("http://127.0.0.1:8082", false, true),
            ("http://[::1]:8082", false, true),
            ("http://localhost:8082", false, true),
            ("http://master.example.net", false, false),
            ("http://localhost.example.net", false, false),
            ("http://master.example.net", true, true),
            ("ftp://master.example.net", true, false),
        ] {
            let request = EnrollArgs {
                master: Url::parse(master).unwrap(),
                token: None,
                ca: None,
                allow_plain_http,
            };
            assert_eq!(check_url(&request).is_ok(), expected, "{master}");
        }
    }
}
