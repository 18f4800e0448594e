//! The demo in one process.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::run::Run;

#[test]
fn the_day_ends_with_every_host_as_wanted() {
    let (code, text) = Run::start(&[]).end();
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "Master: bbmaster, with its database in a temporary folder; web page and API at http://127.0.0.1:",
        "you    -> master  ping        tokyo answered after",
        "you    -> master  PUT         /v1/hosts/lima/apps: cache 1.0, shop 1.0",
        "master -> lima    set_config  [desired-1] cache 1.0, shop 1.0",
        "paris  -> master  ok          [desired-2] cache 1.0-1 running, shop 1.0-1 running (bonjour)",
        "master -> tokyo   plan        cache 1.1, shop 1.0",
        "] cache: upgrade from 1.0-1 to 1.1",
        "you    -> master  PUT         /v1/hosts/tokyo/apps: cache 1.1, shop 1.0, only if the plan",
        "master -> tokyo   set_config  [desired-2] cache 1.1, shop 1.0",
        "tokyo  -> master  ok          [desired-3] cache 1.1-1 stopped, shop 1.0-1 running",
        "lima   -> master  errors      [desired-3] shop (verify)",
        "lima              unchanged   cache 1.1-1 running, shop 1.0-1 running",
        "lima              as desired  cache 1.1-1 running, shop 2.0-1 running",
        "paris             external",
        "tokyo             external",
        "lima              external",
        "lima   -> master  ok          [desired-5] no applications",
        "All hosts are as desired: 12 changes requested",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains("DIFFERENT"), "{text}");
    assert!(
        !text.contains('\x1b'),
        "colours where there is no terminal:\n{text}"
    );
}

#[test]
fn a_host_that_is_not_as_wanted_is_told_and_fails_the_run() {
    let mut run = Run::start(&[]);
    let hook = run.wait_for_file("paris", "opt/pf9/shop/config");
    let broken = hook.with_extension("broken");
    std::fs::write(&broken, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&broken, &hook).unwrap();
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "paris  -> master  errors",
        "the demo stops here",
        "Not all hosts are as desired",
        "DIFFERENT",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    // Interrupted while packages are built, and while services run.
    for (process, signal) in [("", Signal::INT), ("/bin/shop", Signal::TERM)] {
        let mut run = Run::start(&[]);
        run.wait_for_process(process);
        kill_process(Pid::from_raw(run.id()).unwrap(), signal).unwrap();
        let (code, text) = run.end();
        assert_eq!(code, Some(130), "{text}");
        assert!(text.contains("Interrupted"), "{text}");
    }
}

#[test]
fn kept_up_it_answers_until_it_is_told_to_end() {
    let mut run = Run::start(&["--keep"]);
    let text = run.wait_for_text("Ctrl-C stops");
    let (_, url) = text.split_once("Web page: ").unwrap();
    let address = url.split('/').nth(2).unwrap();
    let answer = ask(address, "GET /v1/hosts/ids/", "");
    assert!(answer.contains(r#"["lima","paris","tokyo"]"#), "{answer}");
    assert!(
        text.contains(&format!("curl http://{address}/v1/hosts/")),
        "{text}"
    );

    // The packages are still served, so that one can try other changes.
    let (_, packages) = text.split_once("Packages are served at ").unwrap();
    let packages = packages.split_whitespace().next().unwrap();
    let desired = format!(r#"{{"shop": {{"version": "2.0", "url": "{packages}shop_2.0-1.rpm"}}}}"#);
    let answer = ask(address, "PUT /v1/hosts/lima/apps", &desired);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, generation) = answer.split_once(r#""generation":"#).unwrap();
    let generation = generation.split_once([',', '}']).unwrap().0;
    run.wait_for_text(&format!("[desired-{generation}] shop 2.0-1 running"));
    kill_process(Pid::from_raw(run.id()).unwrap(), Signal::INT).unwrap();
    let (code, text) = run.end();
    assert_eq!(code, Some(0), "{text}");
}

/// The whole answer of the API to `request` (a method and a path).
fn ask(address: &str, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn help_says_what_it_does() {
    let (code, text) = Run::start(&["--help"]).end();
    assert_eq!(code, Some(0), "{text}");
    for part in ["three hosts", "leaves nothing behind", "--broker", "Exit codes"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn wrong_use_has_a_code_of_its_own() {
    let (code, text) = Run::start(&["--broker", "http://localhost"]).end();
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("amqp://"), "{text}");
}
