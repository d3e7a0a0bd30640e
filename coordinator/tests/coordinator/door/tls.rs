//! A coordinator that speaks TLS itself.

use std::{fs, path::Path, sync::Arc};

use caisson_coordinator::settings::Settings;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Raw, takes_about};
use crate::support::{House, in_time};

/// Puts a new certificate of `localhost` and its key where the coordinator looks, and gives who trusts it alone.
fn new_certificate(folder: &Path) -> TlsConnector {
    let (certificate, key) = pair();
    fs::write(folder.join("cert.pem"), &certificate).unwrap();
    fs::write(folder.join("key.pem"), key).unwrap();
    who_trusts(&certificate)
}

fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn who_trusts(certificate: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Who resumes a session is shown no certificate.
    config.resumption = Resumption::disabled();
    Arc::new(config).into()
}

async fn connect(house: &House, with: &TlsConnector) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(house.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Raw(in_time("the handshake", with.connect(name, stream)).await?))
}

/// Long enough for the files to be looked at, and too short for an open connection to be closed.
async fn a_moment_passes() {
    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    tokio::time::resume();
}

async fn house(folder: &Path) -> House {
    House::with(|settings| {
        settings.tls.cert = Some(folder.join("cert.pem"));
        settings.tls.key = Some(folder.join("key.pem"));
    })
    .await
}

#[tokio::test]
async fn s53_with_a_certificate_it_speaks_tls_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let client = new_certificate(folder.path());
    let house = house(folder.path()).await;
    let answer = connect(&house, &client).await.unwrap().gets("/healthz").await;
    assert!(answer.contains("strict-transport-security: max-age=31536000"), "{answer}");

    let mut in_the_clear = Raw::connect(house.address).await;
    in_the_clear.says("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!in_the_clear.hears().await.contains("HTTP/1.1 200"));
    let stranger = who_trusts(&pair().0);
    assert!(connect(&house, &stranger).await.is_err(), "who does not trust the certificate says nothing");
    assert!(connect(&house, &client).await.is_ok());
}

#[tokio::test]
async fn s53_a_new_certificate_is_taken_up_and_open_connections_stay() {
    let folder = TempDir::new().unwrap();
    let before = new_certificate(folder.path());
    let house = house(folder.path()).await;
    let mut open = connect(&house, &before).await.unwrap();
    open.gets("/healthz").await;

    let after = new_certificate(folder.path());
    a_moment_passes().await;
    assert!(connect(&house, &after).await.is_ok());
    assert!(connect(&house, &before).await.is_err());
    open.gets("/healthz").await;
}

#[tokio::test]
async fn s53_half_a_new_certificate_is_not_used() {
    let folder = TempDir::new().unwrap();
    let before = new_certificate(folder.path());
    let house = house(folder.path()).await;
    let (certificate, key) = pair();
    let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    for (name, broken) in [("cert.pem", certificate.as_str()), ("key.pem", "nothing"), ("cert.pem", "")] {
        file(name, broken);
        a_moment_passes().await;
        assert!(connect(&house, &before).await.is_ok(), "the one before stays: {name}");
    }
    file("cert.pem", &certificate);
    file("key.pem", &key);
    a_moment_passes().await;
    assert!(connect(&house, &who_trusts(&certificate)).await.is_ok());
}

#[tokio::test]
async fn s49_a_handshake_that_does_not_come_is_not_waited_for() {
    let folder = TempDir::new().unwrap();
    new_certificate(folder.path());
    let house = house(folder.path()).await;
    tokio::time::pause();
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let waits = async || {
            let mut client = Raw::connect(house.address).await;
            client.says(begun).await;
            client.hears().await;
        };
        assert!(takes_about(10, waits).await, "{begun:?}");
    }
}

#[tokio::test]
async fn s53_a_certificate_that_can_not_be_used_is_told_with_its_file() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let refused = async || {
        let settings = Settings {
            listen: "127.0.0.1:0".into(),
            data_dir: folder.path().join("data"),
            tls: caisson_coordinator::settings::Tls {
                cert: Some(folder.path().join("cert.pem")),
                key: Some(folder.path().join("key.pem")),
            },
            ..Settings::default()
        };
        let started = caisson_coordinator::coordinator::Coordinator::start(settings.check().unwrap()).await;
        format!("{:#}", started.err().expect("it was started"))
    };
    let (certificate, key) = pair();
    let missing = refused().await;
    assert!(
        missing.contains("tls.cert") && missing.contains("cert.pem") && missing.contains("No such file"),
        "{missing}"
    );
    file("cert.pem", &key);
    assert!(refused().await.contains("no certificate in it"), "{}", refused().await);
    file("cert.pem", &certificate);
    assert!(refused().await.contains("tls.key"));
    file("key.pem", &certificate);
    assert!(refused().await.contains("tls.key"), "{}", refused().await);
    file("key.pem", &pair().1);
    let mismatch = refused().await;
    assert!(mismatch.contains("is not the key of") && mismatch.contains("cert.pem"), "{mismatch}");
}

#[test]
fn s01_other_machines_are_let_in_only_with_tls_or_a_proxy_that_has_it() {
    let check = |furnish: &dyn Fn(&mut Settings)| {
        let mut settings = Settings { listen: "0.0.0.0:0".into(), ..Settings::default() };
        furnish(&mut settings);
        settings.check().map(|checked| checked.tls.is_some())
    };
    assert!(check(&|_| {}).unwrap_err().contains("`tls.cert`"));
    assert!(
        check(&|settings| settings.tls.cert = Some("c".into())).unwrap_err().contains("`tls.key`: missing")
    );
    assert!(
        check(&|settings| settings.tls.key = Some("k".into())).unwrap_err().contains("`tls.cert`: missing")
    );
    assert_eq!(check(&|settings| settings.behind_proxy = true), Ok(false));
    let tls = |settings: &mut Settings| {
        (settings.tls.cert, settings.tls.key) = (Some("c".into()), Some("k".into()));
    };
    assert_eq!(check(&tls), Ok(true));
    for url in ["ci.example.org", "ftp://x", "https://user@x", "https://x/path", "https://x?q", "https://"] {
        let refused = check(&|settings| {
            tls(settings);
            settings.public_url = Some(url.into());
        });
        assert!(refused.unwrap_err().contains("`public_url`"), "{url}");
    }
}
