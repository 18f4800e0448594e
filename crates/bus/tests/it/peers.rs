//! FAULTS.md rows 4 and 5: something other than a well-behaved broker answers.

use std::fs;
use std::time::Duration;

use bus::LinkState;
use bus::amqp::{self, AmqpSettings, Roots, TlsSettings};
use harness::certificates::Authority;
use harness::proxy::{EvilBroker, Mode, Proxy, Tune};
use tokio::time::{Instant, sleep};

use crate::support::{agent, wait_for};

/// This port is never used, because the proxy never forwards.
const NOWHERE: u16 = 1;

fn threads_and_descriptors() -> (usize, usize) {
    (
        fs::read_dir("/proc/self/task").unwrap().count(),
        fs::read_dir("/proc/self/fd").unwrap().count(),
    )
}

async fn assert_nothing_leaks(proxy: &Proxy, settings: AmqpSettings) {
    proxy.set(Mode::Mute);
    let settings = AmqpSettings {
        handshake_timeout: Duration::from_millis(2),
        retry_period: Duration::from_millis(1),
        retry_max: Duration::from_millis(1),
        ..settings
    };
    let link = amqp::connect(settings, agent("host-a"));
    let tried = async |times| {
        let until = Instant::now() + Duration::from_secs(120);
        while proxy.accepted() < times {
            assert!(Instant::now() < until, "{} tries", proxy.accepted());
            sleep(Duration::from_millis(5)).await;
        }
    };
    // Some attempts first, so that everything that is created only once exists.
    tried(20).await;
    let (threads, descriptors) = threads_and_descriptors();
    tried(1020).await;
    // One or two attempts are always in progress, on both sides of the proxy.
    let (threads_after, descriptors_after) = threads_and_descriptors();
    assert!(
        threads_after <= threads + 3,
        "{threads} threads became {threads_after}"
    );
    assert!(
        descriptors_after <= descriptors + 9,
        "{descriptors} descriptors became {descriptors_after}"
    );
    drop(link);
}

#[tokio::test]
async fn a_thousand_tries_at_a_mute_peer_leak_no_thread_and_no_descriptor() {
    let proxy = Proxy::start(NOWHERE).unwrap();
    assert_nothing_leaks(&proxy, AmqpSettings::new("127.0.0.1", proxy.port)).await;
}

#[tokio::test]
async fn a_thousand_tries_at_a_mute_peer_leak_nothing_over_tls_either() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("CA").unwrap();
    let roots = folder.path().join("ca.pem");
    authority.write_certificate(&roots).unwrap();
    let proxy = Proxy::start_tls(NOWHERE, &authority.server(&["localhost"]).unwrap()).unwrap();
    let tls = TlsSettings {
        roots: Roots::File(roots),
        client: None,
        server_name: None,
    };
    let settings = AmqpSettings {
        tls: Some(tls),
        ..AmqpSettings::new("localhost", proxy.port)
    };
    assert_nothing_leaks(&proxy, settings).await;
}

#[tokio::test]
async fn a_broker_that_proposes_no_frame_limit_or_a_silly_one_gets_ours() {
    for frame_max in [0, u32::MAX, 1] {
        let broker = EvilBroker::start(Tune {
            channel_max: 0,
            frame_max,
            heartbeat: 0,
        })
        .unwrap();
        let settings = AmqpSettings {
            handshake_timeout: Duration::from_millis(500),
            ..AmqpSettings::new("127.0.0.1", broker.port)
        };
        let mut link = amqp::connect(settings, agent("host-a"));
        wait_for(
            &mut link,
            |state| matches!(state, LinkState::Down { reason } if !reason.is_empty()),
        )
        .await;
        let answer = broker.answers()[0];
        assert!(
            (4096..=131_072).contains(&answer.frame_max),
            "{frame_max} was answered with {answer:?}"
        );
        assert!(answer.heartbeat > 0, "{answer:?}");
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak_kib < 100_000, "{peak_kib} KiB for a proposal of {frame_max}");
    }
}
