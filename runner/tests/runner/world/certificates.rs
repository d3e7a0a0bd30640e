//! An authority of a test's own, and what it signs.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SigningKey,
};

/// Makes `ca.pem`, and a certificate and key for the engine at 127.0.0.1 and for a runner.
pub(crate) fn make(folder: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    sign(folder, "engine", &["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, &authority);
    sign(folder, "runner", &[], ExtendedKeyUsagePurpose::ClientAuth, &authority);
}

fn sign<S: SigningKey>(
    folder: &Path,
    name: &str,
    hosts: &[&str],
    purpose: ExtendedKeyUsagePurpose,
    authority: &CertifiedIssuer<'_, S>,
) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts).unwrap();
    parameters.extended_key_usages.push(purpose);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap();
    fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
}
