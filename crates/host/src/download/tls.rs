//! The one TLS set-up for HTTP requests: downloads, health checks and enrolment.

use std::path::Path;
use std::sync::Arc;

use protocol::Category;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

use crate::HostError;

/// PEM files of a client's certificate chain and its private key.
#[derive(Debug, Clone, Copy)]
pub struct ClientFiles<'a> {
    pub certfile: &'a Path,
    pub keyfile: &'a Path,
}

/// `ca_certs`: a PEM file of the trusted authorities; `None`: those that the host trusts.
pub fn tls_config(ca_certs: Option<&Path>, client: Option<ClientFiles<'_>>) -> Result<TlsConfig, HostError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match ca_certs {
        Some(path) => certificates_of(path)?,
        None => host_certificates()?,
    };
    let client = match client {
        Some(files) => Some(client_certificate(files, &provider)?),
        None => None,
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn host_certificates() -> Result<Vec<Certificate<'static>>, HostError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(HostError::new(
            Category::Host,
            "this host has no CA certificates: install the package ca-certificates, or set a file of CA \
             certificates (for downloads: ca_certs in [download])",
        ));
    }
    let to_owned = |der: CertificateDer<'_>| Certificate::from_der(&der).to_owned();
    Ok(found.certs.into_iter().map(to_owned).collect())
}

fn certificates_of(path: &Path) -> Result<Vec<Certificate<'static>>, HostError> {
    let certificates: Vec<_> = pem_items(path)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(pem_error(path, "holds no PEM certificate")),
        false => Ok(certificates),
    }
}

fn client_certificate(
    files: ClientFiles<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientCert, HostError> {
    let ClientFiles { certfile, keyfile } = files;
    let chain = certificates_of(certfile)?;
    let key: PrivateKey<'static> = pem_items(keyfile)?
        .into_iter()
        .find_map(|item| match item {
            PemItem::PrivateKey(key) => Some(key),
            _ => None,
        })
        .ok_or_else(|| pem_error(keyfile, "holds no PEM private key"))?;
    // ureq panics if the key does not belong to the certificate, so that is checked here.
    let der_chain = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()));
    PrivateKeyDer::try_from(key.der().to_vec())
        .map_err(str::to_owned)
        .and_then(|key| {
            rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_client_auth_cert(der_chain.collect(), key)
                .map_err(|error| error.to_string())
        })
        .map_err(|reason| {
            let problem = format!("does not belong to {}: {reason}", certfile.display());
            pem_error(keyfile, &problem)
        })?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn pem_items(path: &Path) -> Result<Vec<PemItem<'static>>, HostError> {
    let bytes = std::fs::read(path).map_err(|error| pem_error(path, &format!("cannot be read: {error}")))?;
    ureq::tls::parse_pem(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(path, &format!("is not valid PEM: {error}")))
}

fn pem_error(path: &Path, problem: &str) -> HostError {
    HostError::new(
        Category::Host,
        format!("the TLS file {} {problem}", path.display()),
    )
}
