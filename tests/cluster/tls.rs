//! A coordinator that speaks TLS itself, and runners that know whom to trust.

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Certificate, Cluster, Repository, Wishes, eventually};

/// Makes a certificate of 127.0.0.1 that has signed itself.
fn certificate(folder: &Path, name: &str) -> Certificate {
    let made =
        Certificate { cert: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    let request = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=caisson", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([made.key.as_os_str(), "-out".as_ref(), made.cert.as_os_str()])
        .output()
        .expect("this test needs openssl");
    assert!(request.status.success(), "{}", String::from_utf8_lossy(&request.stderr));
    made
}

#[tokio::test]
async fn s53_a_build_over_tls_goes_on_while_the_certificate_changes() {
    let folder = TempDir::new().unwrap();
    let ours = certificate(folder.path(), "ours");
    let trusted = [format!("tls.ca={}", ours.cert.display())];
    let wishes =
        Wishes { runners: &[1], runner_settings: &trusted, certificate: Some(&ours), ..Wishes::default() };
    let cluster = Cluster::start("tls", wishes).await;
    let repository = Repository::new(&cluster, &[("a.txt", "a\n")]);
    let build = cluster.submit(repository.build("echo begun; sleep 3; echo done")).await;
    cluster.log_says(&build, "begun").await;

    // The same names, another key: connections that are open stay, and only new ones are shown it.
    let next = certificate(folder.path(), "next");
    fs::copy(&next.cert, &ours.cert).unwrap();
    fs::copy(&next.key, &ours.key).unwrap();
    cluster.coordinator.signal(Signal::HUP);
    eventually("the new certificate is in use", async || {
        cluster.coordinator.log().contains("new connections get the certificate").then_some(())
    })
    .await;
    let ended = cluster.ended(&build).await;
    assert_eq!(ended["status"], "succeeded", "{ended:#}");
    assert_eq!(ended["attempts"].as_array().unwrap().len(), 1);
}
