//! Settings from real files: what wins, what is warned about, and the exact words of every refusal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostagent::settings::{Loaded, LogLevel, Origin, Settings, SettingsError, Sources, show, table};

/// A folder with `main.conf`, and its drop-ins.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(main: &str) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write("main.conf", main);
        files
    }

    /// With mode 0600.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn sources(&self) -> Sources {
        Sources {
            file: Some(self.dir.path().join("main.conf")),
            file_required: true,
            ..Sources::default()
        }
    }

    fn load(&self) -> Result<Loaded, SettingsError> {
        Settings::load(&self.sources())
    }

    fn problems(&self) -> Vec<String> {
        self.without_folder(self.load().unwrap_err().problems)
    }

    fn warnings(&self) -> Vec<String> {
        self.without_folder(self.load().unwrap().warnings)
    }

    /// Lines as an operator sees them, but for the folder's random name.
    fn without_folder(&self, lines: Vec<String>) -> Vec<String> {
        let folder = format!("{}/", self.dir.path().display());
        lines.into_iter().map(|line| line.replace(&folder, "")).collect()
    }
}

fn set(text: &str) -> Result<Loaded, SettingsError> {
    Settings::load(&Sources {
        overrides: vec![text.to_owned()],
        ..Sources::default()
    })
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let settings = Settings::load(&Sources::default()).unwrap().settings;
    assert_eq!(settings.hostagent.host_id, None);
    assert_eq!(settings.hostagent.heartbeat_period, Duration::from_secs(60));
    assert_eq!(settings.hostagent.connection_retry_period, Duration::from_secs(5));
    assert_eq!(settings.hostagent.app_cache_dir, Path::new("/var/cache/pf9apps"));
    assert_eq!(settings.hostagent.state_dir, Path::new("/var/lib/hostagent"));
    assert_eq!(settings.hostagent.log_level_name, LogLevel::Info);
    assert_eq!(settings.hostagent.max_converge_attempts, 5);
    assert_eq!(settings.hostagent.bake_period, Duration::from_secs(30));
    assert_eq!(settings.hostagent.max_message_size, 1 << 20);
    assert!(!settings.hostagent.allow_file_urls);
    assert_eq!(settings.download.stall_timeout, Duration::from_secs(60));
    assert_eq!(settings.download.min_rate, 1024);
    assert_eq!(settings.download.max_redirects, 5);
    assert!(settings.root().is_host());
    assert!(!settings.ssl.disable, "never plain text unless asked for");
    assert_eq!(settings.amqp_port(), 5671);
    assert_eq!(set("ssl.disable=true").unwrap().settings.amqp_port(), 5672);
}

#[test]
fn file_then_drop_ins_by_name_then_environment_then_command_line() {
    let files = Files::new("[amqp]\nhost = main\nusername = main\nvirtual_host = main\nqueue_name = main\n");
    files.write(
        "main.conf.d/10-a.conf",
        "[amqp]\nhost=a\nusername=a\nvirtual_host=a\nqueue_name=\n",
    );
    files.write("main.conf.d/20-b.conf", "[amqp]\nhost=b\nusername=b\n");
    files.write("main.conf.d/30-c.conf.bak", "[amqp]\nhost=never\n");
    files.write("main.conf.d/.40-hidden.conf", "[amqp]\nhost=never\n");
    let mut sources = files.sources();
    sources.environment = vec![
        ("HOSTAGENT_AMQP_HOST".to_owned(), "environment".to_owned()),
        ("HOSTAGENT_AMQP_USERNAME".to_owned(), "environment".to_owned()),
        ("HOSTAGENT_HOST_ID".to_owned(), "02:FC:00:00:00:01".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ];
    sources.overrides = vec!["amqp.host=command=line".to_owned()];
    let loaded = Settings::load(&sources).unwrap();
    let amqp = &loaded.settings.amqp;
    assert_eq!(
        (
            amqp.host.as_str(),
            amqp.username.as_str(),
            amqp.virtual_host.as_str()
        ),
        ("command=line", "environment", "a")
    );
    assert_eq!(
        amqp.queue_name, None,
        "an empty value takes back what the main file set"
    );
    assert_eq!(
        loaded.settings.hostagent.host_id.as_ref().unwrap().as_str(),
        "02:FC:00:00:00:01"
    );
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(loaded.origin("amqp", "host"), Origin::CommandLine);
    let path = files.dir.path().join("main.conf.d/10-a.conf");
    assert_eq!(
        loaded.origin("amqp", "virtual_host"),
        Origin::File { path, line: 4 }
    );
}

#[test]
fn every_bad_value_is_reported_at_once_with_its_place() {
    let files = Files::new(
        "[hostagent]\n\
         heartbeat_period = soon\n\
         bake_period = 10 # seconds\n\
         log_level_name = LOUD\n\
         state_dir = var/lib\n\
         host_id = a b\n\
         max_message_size = 1 PB\n\
         [amqp]\n\
         port = 70000\n\
         lost\n\
         [ssl]\n\
         disable = maybe\n\
         certfile = /etc/cert.pem\n\
         [download]\n\
         http_proxy = ftp://me:hunter2@proxy\n\
         max_parallel = 0\n",
    );
    assert_eq!(
        files.problems(),
        [
            "main.conf:10: found \"lost\"..., allowed: [section], key = value, or # comment",
            "main.conf:6: [hostagent] host_id: found \"a b\", allowed: 1 to 127 printable ASCII characters \
             without / * #, not `slaves` or `master`",
            "main.conf:2: [hostagent] heartbeat_period: found \"soon\", allowed: seconds, 1 to 86400 (30, 1.5, 5m)",
            "main.conf:5: [hostagent] state_dir: found \"var/lib\", allowed: an absolute path",
            "main.conf:4: [hostagent] log_level_name: found \"LOUD\", allowed: one of DEBUG, INFO, WARNING, ERROR, \
             CRITICAL",
            "main.conf:3: [hostagent] bake_period: found \"10 # seconds\", allowed: seconds, 0 to 3600 (30, 1.5, 5m). \
             A comment must be on a separate line",
            "main.conf:7: [hostagent] max_message_size: found \"1 PB\", allowed: bytes, 1KiB to 64MiB (4096, 64KiB, \
             2GiB)",
            "main.conf:9: [amqp] port: found \"70000\", allowed: a port, 1 to 65535",
            "main.conf:12: [ssl] disable: found \"maybe\", allowed: true or false",
            "main.conf:15: [download] http_proxy: found a value that is not shown, allowed: \
             http://[user:password@]host[:port]",
            "main.conf:16: [download] max_parallel: found \"0\", allowed: a whole number, 1 to 64",
        ]
    );
}

#[test]
fn what_is_unknown_is_a_warning_with_its_place_and_a_guess() {
    let files = Files::new(
        "stray = 1\n\
         [hostagent]\n\
         heartbeat_perod = 30\n\
         host = broker\n\
         app_db_dir = /var/opt\n  continued\n\
         log_level_name = INFO\n\
         LOG_LEVEL_NAME = DEBUG\n\
         [ampq]\n\
         host = broker\n\
         [comms]\n\
         hidden = yes\n",
    );
    assert_eq!(
        files.warnings(),
        [
            "main.conf:1: stray is before the first [section] and is ignored",
            "main.conf:3: unknown key [hostagent] heartbeat_perod is ignored; did you mean heartbeat_period?",
            "main.conf:4: unknown key [hostagent] host is ignored; did you mean [amqp] host?",
            "main.conf:5: unknown key [hostagent] app_db_dir is ignored",
            "main.conf:8: [hostagent] log_level_name is set again, so line 7 has no effect",
            "main.conf:9: unknown section [ampq]; its keys are ignored; did you mean [amqp]?",
            "main.conf:11: unknown section [comms]; its keys are ignored",
        ]
    );
    let mut sources = files.sources();
    sources.environment = vec![("HOSTAGENT_AMQP_PROT".to_owned(), "1".to_owned())];
    assert_eq!(
        Settings::load(&sources).unwrap().warnings.last().unwrap(),
        "environment: unknown variable HOSTAGENT_AMQP_PROT is ignored; did you mean HOSTAGENT_AMQP_PORT?"
    );
}

/// R33.
#[test]
fn an_entry_of_no_proxy_that_never_matches_is_a_warning() {
    let files = Files::new("[download]\nno_proxy = 10.0.0.0/8, http://repo.example, example.org:8080\n");
    let warnings = files.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("no_proxy: \"http://repo.example\" matches no host"),
        "{warnings:?}"
    );
}

#[test]
fn an_override_is_typed_by_hand_so_a_wrong_one_is_an_error() {
    for (text, problem) in [
        (
            "hostagent.heartbeat=1",
            "--set: unknown key hostagent.heartbeat; did you mean heartbeat_period?",
        ),
        (
            "hostagent.host=x",
            "--set: unknown key hostagent.host; did you mean [amqp] host?",
        ),
        (
            "password=hunter2",
            "--set: found \"password\", allowed: section.key=value",
        ),
        (
            "hostagent.heartbeat_period=0",
            "--set: [hostagent] heartbeat_period: found \"0\", allowed: seconds, 1 to 86400 (30, 1.5, 5m)",
        ),
        (
            "ssl.keyfile=/k",
            "--set: [ssl] keyfile: certfile is missing; set both certfile and keyfile",
        ),
    ] {
        assert_eq!(set(text).unwrap_err().problems, [problem], "{text}");
    }
}

#[test]
fn a_file_that_is_asked_for_must_be_there_the_usual_one_need_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut sources = Sources {
        file: Some(dir.path().join("none.conf")),
        ..Sources::default()
    };
    assert!(Settings::load(&sources).is_ok());
    sources.file_required = true;
    let error = Settings::load(&sources).unwrap_err().to_string();
    let path = dir.path().display();
    assert_eq!(
        error,
        format!(
            "the settings are not valid:\n  {path}/none.conf: cannot be read: No such file or directory (os error 2)"
        )
    );
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_line() {
    let files = Files::new("");
    files.write("main.conf", b"[amqp]\nhost = \xff\n");
    assert_eq!(files.problems(), ["main.conf:2: is not UTF-8 text"]);
}

#[test]
fn the_password_comes_from_its_file_and_is_shown_nowhere() {
    let files = Files::new("");
    let secret = files.write("secret", "hunter2\n");
    files.write(
        "main.conf",
        format!("[amqp]\npassword = other\npassword_file = {}\n", secret.display()),
    );
    let loaded = files.load().unwrap();
    assert_eq!(
        loaded.settings.amqp.password.as_ref().unwrap().expose(),
        "hunter2"
    );
    assert_eq!(
        files.warnings(),
        ["main.conf:2: [amqp] password has no effect, because password_file is also set"]
    );
    let printed = format!("{loaded:?}{}", show::effective(&loaded));
    assert!(
        !printed.contains("hunter2") && !printed.contains("other"),
        "{printed}"
    );
}

#[test]
fn secrets_that_everybody_can_read_are_warned_about() {
    let files = Files::new("");
    let secret = files.write("secret", "hunter2");
    let main = files.write(
        "main.conf",
        format!("[amqp]\npassword_file = {}\n", secret.display()),
    );
    assert_eq!(files.warnings(), [""; 0]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        files.warnings(),
        ["secret: any user can read this file; run: chmod o-r secret"]
    );

    files.write("main.conf", "[amqp]\npassword = hunter2\n");
    assert_eq!(files.warnings(), [""; 0]);
    fs::set_permissions(&main, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        files.warnings(),
        [
            "main.conf:2: [amqp] password is a secret, and any user can read this file; run chmod o-r on the \
             file, or use password_file"
        ]
    );
}

#[test]
fn a_password_file_that_holds_none_is_refused() {
    for (content, reason) in [
        ("", "secret is empty"),
        ("\n", "secret is empty"),
        (
            "a\nb\n",
            "secret contains more than one line, or control characters",
        ),
    ] {
        let files = Files::new("");
        let secret = files.write("secret", content);
        files.write(
            "main.conf",
            format!("[amqp]\npassword_file={}\n", secret.display()),
        );
        assert_eq!(
            files.problems(),
            [format!("main.conf:2: [amqp] password_file: {reason}")]
        );
    }
}

#[test]
fn check_config_shows_each_value_with_its_origin() {
    let files = Files::new("[hostagent]\nheartbeat_period = 5m\n[amqp]\npassword = hunter2\n");
    let mut sources = files.sources();
    sources.environment = vec![(
        "HOSTAGENT_DOWNLOAD_HTTP_PROXY".to_owned(),
        "http://me:hunter2@proxy:3128".to_owned(),
    )];
    let shown = show::effective(&Settings::load(&sources).unwrap());
    let shown = shown.replace(&format!("{}/", files.dir.path().display()), "");
    let line = |start: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        line("heartbeat_period"),
        "heartbeat_period = 5m                            # main.conf:2"
    );
    assert_eq!(
        line("password ="),
        "password = ******                                # main.conf:4"
    );
    assert_eq!(
        line("http_proxy"),
        "http_proxy = http://proxy:3128                   # environment HOSTAGENT_DOWNLOAD_HTTP_PROXY"
    );
    assert_eq!(
        line("host_id"),
        "host_id = (not set)                              # default"
    );
}

/// `UPDATE_GOLDEN=1` writes the file anew.
#[test]
fn the_default_file_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/hostagent.conf");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, show::default_file()).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        show::default_file()
    );
}

#[test]
fn the_default_file_loads_without_a_word_and_so_do_its_defaults() {
    let uncommented: String = show::default_file()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(pair) if !pair.starts_with(' ') => format!("{pair}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    for text in [show::default_file(), uncommented] {
        assert_eq!(Files::new(&text).warnings(), [""; 0]);
    }
}

#[test]
fn no_two_keys_share_an_environment_variable() {
    let mut names = std::collections::BTreeSet::new();
    for section in table::SECTIONS {
        for key in section.keys {
            assert!(names.insert(hostagent::settings::variable_name(section.name, key.name)));
        }
    }
}
