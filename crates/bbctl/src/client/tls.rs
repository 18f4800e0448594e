//! The certificate authorities that are trusted for the master.

use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::ClientError;

/// `authorities`: PEM file of the trusted certificate authorities. `None`: the system's.
pub fn config(authorities: Option<&Path>) -> Result<TlsConfig, ClientError> {
    let roots = match authorities {
        Some(file) => of_file(file)?,
        None => rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect(),
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

fn of_file(file: &Path) -> Result<Vec<Certificate<'static>>, ClientError> {
    let failed = |reason: String| ClientError::Authorities {
        file: file.to_owned(),
        reason,
    };
    let pem = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(failed(error.to_string()))),
        })
        .collect::<Result<_, _>>()?;
    match certificates.is_empty() {
        true => Err(failed("it contains no certificate in PEM format".to_owned())),
        false => Ok(certificates),
    }
}
