//! TLS that trusts those whom a file names, and nobody else.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, Error, RootCertStore,
    client::WantsClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The certificates of authorities in a file of PEM.
///
/// # Errors
/// When there is none in it that can be read, with the cause.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("there is no certificate in it: expected PEM".into()) } else { Ok(roots) }
}

/// A client that trusts what these authorities have signed.
///
/// # Errors
/// When the library of cryptography can't do TLS.
pub(crate) fn trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots))
}
