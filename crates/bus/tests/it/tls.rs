//! FAULTS.md row 9: TLS.

use std::path::{Path, PathBuf};

use bus::amqp::{self, AmqpSettings, ClientCertificate, Roots, TlsSettings};
use bus::{Link, LinkState};
use harness::certificates::{Authority, Certificate};
use harness::proxy::Proxy;
use harness::rabbitmq::RabbitMq;

use crate::support::{agent, assert_consuming, settings, wait_for, wait_until_up};

/// First byte of a TLS handshake record (RFC 8446, 5.1). Unencrypted AMQP begins with an `A`.
const HANDSHAKE: u8 = 22;

struct Setup {
    folder: tempfile::TempDir,
    node: RabbitMq,
    vhost: String,
    authority: Authority,
}

impl Setup {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = RabbitMq::shared().await.unwrap();
        let vhost = node.add_vhost().await.unwrap();
        let authority = Authority::new("CA").unwrap();
        authority
            .write_certificate(&folder.path().join("ca.pem"))
            .unwrap();
        Self {
            folder,
            node,
            vhost,
            authority,
        }
    }

    fn roots(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn settings(&self, port: u16, roots: &Path) -> AmqpSettings {
        let tls = TlsSettings {
            roots: Roots::File(roots.to_owned()),
            client: None,
            server_name: None,
        };
        AmqpSettings {
            host: "localhost".into(),
            port,
            tls: Some(tls),
            ..settings(&self.node, &self.vhost)
        }
    }

    /// A broker behind `certificate`, and a link to it.
    fn behind(&self, certificate: &Certificate) -> (Proxy, Link) {
        let proxy = Proxy::start_tls(self.node.port(), certificate).unwrap();
        let link = amqp::connect(self.settings(proxy.port, &self.roots()), agent("host-a"));
        (proxy, link)
    }
}

async fn assert_refused(proxy: &Proxy, mut link: Link, why: &str) {
    let state = wait_for(&mut link, |state| format!("{state:?}").contains(why)).await;
    assert!(matches!(state, LinkState::Down { .. }), "{state:?}");
    assert_eq!(proxy.first_bytes()[0], HANDSHAKE);
}

#[tokio::test]
async fn expired_misnamed_and_foreign_certificates_are_refused_and_a_good_one_is_taken() {
    let setup = Setup::new().await;
    let foreign = Authority::new("Another CA").unwrap();
    let authority = &setup.authority;
    for (certificate, why) in [
        (authority.expired_server(&["localhost"]), "xpired"),
        (authority.server(&["elsewhere.example"]), "not valid for name"),
        (foreign.server(&["localhost"]), "UnknownIssuer"),
    ] {
        let (proxy, link) = setup.behind(&certificate.unwrap());
        assert_refused(&proxy, link, why).await;
    }
    let (proxy, mut link) = setup.behind(&authority.server(&["localhost"]).unwrap());
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
    assert_eq!(proxy.first_bytes()[0], HANDSHAKE);
}

#[tokio::test]
async fn a_broker_that_speaks_no_tls_gets_not_a_byte_in_the_clear() {
    let setup = Setup::new().await;
    let proxy = Proxy::start(setup.node.port()).unwrap();
    let link = amqp::connect(setup.settings(proxy.port, &setup.roots()), agent("host-a"));
    assert_refused(&proxy, link, "TLS handshake").await;
}

#[tokio::test]
async fn certificates_are_read_again_at_each_reconnect() {
    let setup = Setup::new().await;
    let roots = setup.folder.path().join("late.pem");
    let certificate = setup.authority.server(&["localhost"]).unwrap();
    let proxy = Proxy::start_tls(setup.node.port(), &certificate).unwrap();
    let mut link = amqp::connect(setup.settings(proxy.port, &roots), agent("host-a"));
    wait_for(&mut link, |state| {
        format!("{state:?}").contains("cannot read root certificates")
    })
    .await;
    setup.authority.write_certificate(&roots).unwrap();
    wait_until_up(&mut link).await;
}

#[tokio::test]
async fn a_client_certificate_logs_in_by_its_name() {
    let setup = Setup::new().await;
    let node = &setup.node;
    // The node is shared by all test runs: from the second run on the user exists.
    let _ = node.ctl(&["add_user", "backbone-client", "unused"]).await;
    node.ctl(&[
        "set_permissions",
        "-p",
        &setup.vhost,
        "backbone-client",
        ".*",
        ".*",
        ".*",
    ])
    .await
    .unwrap();
    let (certificate, key) = node.client_files();
    let tls = TlsSettings {
        roots: Roots::File(node.authority_file()),
        client: Some(ClientCertificate { certificate, key }),
        server_name: Some("localhost".into()),
    };
    let settings = AmqpSettings {
        port: node.tls_port(),
        login: None,
        tls: Some(tls),
        ..settings(node, &setup.vhost)
    };
    let mut link = amqp::connect(settings, agent("host-a"));
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
    let users = node
        .ctl(&["list_connections", "user", "auth_mechanism", "vhost"])
        .await
        .unwrap();
    assert!(
        users.contains(&format!("backbone-client\tEXTERNAL\t{}", setup.vhost)),
        "{users}"
    );
}
