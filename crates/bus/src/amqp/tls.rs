//! TLS. The broker's certificate is always verified against the configured authorities and name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings::{Roots, TlsSettings};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from {}: {source}; the file must be PEM and readable by this user", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: pem::Error,
    },
    #[error("{} contains no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("the system has no root certificates; install ca-certificates, or name a file in [ssl] ca_certs")]
    NoSystemRoots,
    #[error("{name:?} is not a host name or address that a certificate can contain")]
    ServerName { name: String },
    #[error("cannot use the certificate or key: {0}")]
    Unusable(rustls::Error),
    #[error("TLS handshake failed: {0}")]
    Handshake(std::io::Error),
}

/// Reads the files and starts TLS on `tcp`. After a failure nothing is sent unencrypted.
pub(super) async fn start(
    tcp: TcpStream,
    tls: &TlsSettings,
    host: &str,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName {
        name: name.to_owned(),
    })?;
    let connector = TlsConnector::from(Arc::new(config(tls)?));
    connector
        .connect(server_name, tcp)
        .await
        .map_err(TlsError::Handshake)
}

fn config(tls: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&tls.roots)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| TlsError::Unusable(rustls::Error::General(error.to_string())))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_webpki_verifier(verifier);
    let mut config = match &tls.client {
        Some(client) => {
            let key = PrivateKeyDer::from_pem_file(&client.key).map_err(|source| TlsError::File {
                what: "the client's key",
                path: client.key.clone(),
                source,
            })?;
            builder
                .with_client_auth_cert(
                    certificates("the client's certificate", &client.certificate)?,
                    key,
                )
                .map_err(TlsError::Unusable)?
        }
        None => builder.with_no_client_auth(),
    };
    // Each connection has a configuration of its own, so there is no session to resume.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(roots: &Roots) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::File(path) => {
            for certificate in certificates("root certificates", path)? {
                store.add(certificate).map_err(TlsError::Unusable)?;
            }
        }
        Roots::System => {
            // One invalid certificate among the system's must not break the link.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    Ok(store)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    match certificates.is_empty() {
        true => Err(TlsError::Empty {
            path: path.to_owned(),
        }),
        false => Ok(certificates),
    }
}
