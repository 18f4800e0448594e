//! The settings file, and the checks that depend on several keys.

use std::path::Path;

use bbmaster::settings::{PROGRAM, Settings, Sources, show};

fn load(overrides: &[&str]) -> Result<Settings, String> {
    let sources = Sources {
        overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
        ..Sources::default()
    };
    Settings::load(&sources)
        .map(|loaded| loaded.settings)
        .map_err(|error| error.to_string())
}

/// To write the file: `UPDATE=1 cargo test -p bbmaster`.
#[test]
fn the_shipped_file_has_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/bbmaster.conf");
    let wanted = show::default_file(&PROGRAM);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted);
}

/// Agents pause up to five minutes, because there are thousands of them. Without a master, no
/// status is stored.
#[test]
fn a_master_never_waits_long_for_its_broker() {
    let longest = |overrides: &[&str]| load(overrides).unwrap().broker().retry_max.as_secs();
    assert_eq!(longest(&[]), 10);
    assert_eq!(longest(&["amqp.connection_retry_period=60"]), 60);
}

#[test]
fn without_any_settings_it_stays_on_this_machine() {
    let settings = load(&[]).unwrap();
    assert!(settings.listen().unwrap().ip().is_loopback());
    let broker = settings.broker();
    assert_eq!((broker.host.as_str(), broker.port), ("localhost", 5672));
    assert!(broker.tls.is_none());
    let elsewhere = load(&["amqp.host=rabbit.example.net"]).unwrap().broker();
    assert_eq!(elsewhere.port, 5671);
    assert!(elsewhere.tls.is_some());
}

#[test]
fn listening_on_the_network_requires_tls_or_an_explicit_setting() {
    const PLAIN: &str = "bbmaster.accept_unencrypted_access_from_the_network=true";
    for (overrides, problem) in [
        (
            vec!["bbmaster.listen=0.0.0.0:8082"],
            Some("not a loopback address"),
        ),
        (vec!["bbmaster.listen=0.0.0.0:8082", PLAIN], None),
        (
            vec![
                "bbmaster.listen=[::]:8082",
                PLAIN,
                "bbmaster.allow_anonymous=true",
            ],
            Some("loopback addresses only"),
        ),
        (
            vec![
                "bbmaster.listen=0.0.0.0:8082",
                "tls.certfile=/c",
                "tls.keyfile=/k",
            ],
            None,
        ),
        (
            vec!["bbmaster.listen=0.0.0.0:8082", "tls.certfile=/c"],
            Some("set both"),
        ),
        (vec!["bbmaster.listen=localhost"], Some("allowed: address:port")),
        (vec!["store.url=mysql://x"], Some("postgres://")),
    ] {
        match (load(&overrides), problem) {
            (Ok(_), None) => {}
            (Err(error), Some(problem)) => assert!(error.contains(problem), "{error}"),
            (result, _) => panic!("{overrides:?}: {result:?}"),
        }
    }
}
