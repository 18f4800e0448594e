//! TLS of the listener, with real handshakes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bbmaster::{Config, Master};
use bus::Queue;
use harness::certificates::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fleet::{Database, Fleet};

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A master with a certificate for `localhost`, signed by `authority`. Its files are in `folder`.
async fn serve(fleet: &Fleet, authority: &Authority, folder: &Path) -> Master {
    renew(authority, folder);
    let config = Config {
        tls: Some((folder.join("cert.pem"), folder.join("key.pem"))),
        ..Config::local()
    };
    let (master, _) = fleet.master_with(config).await;
    master
}

fn renew(authority: &Authority, folder: &Path) {
    let certificate = authority.server(&["localhost"]).unwrap();
    certificate
        .write(&folder.join("cert.pem"), &folder.join("key.pem"))
        .unwrap();
}

/// The answer and the certificate that a client gets who trusts `authority`.
async fn get(
    address: SocketAddr,
    authority: &Authority,
    name: &str,
) -> std::io::Result<(String, CertificateDer<'static>)> {
    let mut roots = RootCertStore::empty();
    let pem = authority.certificate();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned();
    stream.write_all(REQUEST).await?;
    let mut answer = String::new();
    // A server need not send close_notify.
    let _ = stream.read_to_string(&mut answer).await;
    Ok((answer, shown))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tls_clients_that_trust_the_authority_get_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, foreign] = ["ours", "foreign"].map(|name| Authority::new(name).unwrap());
    let fleet = Fleet::sqlite();
    let master = serve(&fleet, &ours, folder.path()).await;
    let (answer, _) = get(master.address(), &ours, "localhost").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for (authority, name, expected) in [
        (&foreign, "localhost", "UnknownIssuer"),
        (&ours, "master.example.net", "NotValidForName"),
    ] {
        let error = get(master.address(), authority, name).await.unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
    }
    let mut plain = TcpStream::connect(master.address()).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_from_the_next_connection_and_an_invalid_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours").unwrap();
    let fleet = Fleet::sqlite();
    let master = serve(&fleet, &authority, folder.path()).await;
    let shown = async || get(master.address(), &authority, "localhost").await.unwrap().1;
    let first = shown().await;
    assert_eq!(shown().await, first);
    renew(&authority, folder.path());
    let second = shown().await;
    assert_ne!(second, first);
    std::fs::write(folder.path().join("cert.pem"), "half of a certif").unwrap();
    assert_eq!(shown().await, second);
    renew(&authority, folder.path());
    assert!(![first, second].contains(&shown().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_certificate_files_prevent_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cert.pem");
    std::fs::write(&file, "nonsense").unwrap();
    let fleet = Fleet::new(Database::sqlite());
    let config = Config {
        tls: Some((file.clone(), file.clone())),
        ..Config::local()
    };
    let link = fleet.broker.connect(Queue::of_master("q", 10));
    let started = Master::start(config, fleet.database.open().await, link).await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("cert.pem"), "{error}");
}
