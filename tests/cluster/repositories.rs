//! Where the code comes from: this very checkout, a git server, a web server, with TLS and without, and ssh.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use russh::keys::ssh_key::LineEnding;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    harness::{Cluster, Repository, Wishes, eventually},
    ssh_server::{SshServer, new_key},
};

/// A server that is stopped when the test ends.
struct Server(Child);

impl Server {
    async fn start(port: u16, command: &mut Command) -> Self {
        let mut server = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        eventually("the server listens", async || {
            assert!(server.0.try_wait().unwrap().is_none(), "the server has ended");
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `git daemon` is a child of the `git` that was started.
        let _ = Command::new("pkill").args(["--parent", &self.0.id().to_string()]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn this_projects_own_checkout_is_built() {
    let cluster = Cluster::small("own").await;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let build = json!({
        "repository_url": format!("file://{}", checkout.display()),
        "commit": "HEAD",
        "command": "test -f Cargo.toml && grep -c caisson Cargo.toml",
    });
    let id = cluster.submit(build).await;
    cluster.is(&id, "succeeded").await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_repository_served_by_git_daemon_is_built() {
    let cluster = Cluster::small("daemon").await;
    let repository = Repository::new(&cluster, &[("file", "by git\n")]);
    let port = free_port();
    let _server = Server::start(
        port,
        Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", cluster.folder().display())),
    )
    .await;
    let url = format!("git://127.0.0.1:{port}/repository");
    builds_by_sha_branch_and_tag(&cluster, &repository, &url, b"by git\n").await;

    let nowhere = json!({ "repository_url": format!("git://127.0.0.1:{port}/nope"), "commit": "main", "command": "true" });
    let id = cluster.submit(nowhere).await;
    let build = cluster.ended(&id).await;
    assert_eq!(
        (&build["status"], &build["reason"]),
        (&json!("errored"), &json!("repository_not_found")),
        "{build:#}"
    );
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_repository_served_over_http_is_built() {
    let cluster = Cluster::small("http").await;
    let repository = Repository::new(&cluster, &[("file", "by http\n")]);
    let port = free_port();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/git_http_server.py");
    let _server =
        Server::start(port, Command::new("python3").arg(script).arg(port.to_string()).arg(cluster.folder()))
            .await;
    let url = format!("http://127.0.0.1:{port}/repository/.git");
    builds_by_sha_branch_and_tag(&cluster, &repository, &url, b"by http\n").await;

    let nowhere = json!({ "repository_url": format!("http://127.0.0.1:{port}/nope"), "commit": "main", "command": "true" });
    let id = cluster.submit(nowhere).await;
    let build = cluster.ended(&id).await;
    assert_eq!(
        (&build["status"], &build["reason"]),
        (&json!("errored"), &json!("repository_not_found")),
        "{build:#}"
    );
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_repository_served_over_https_is_built_where_its_certificate_is_trusted() {
    let keys = TempDir::new().unwrap();
    let certificate = keys.path().join("certificate.pem");
    let name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"])
        .args(name)
        .arg("-keyout")
        .arg(&certificate)
        .arg("-out")
        .arg(keys.path().join("public.pem")));
    let public = fs::read(keys.path().join("public.pem")).unwrap();
    fs::write(&certificate, [fs::read(&certificate).unwrap(), public].concat()).unwrap();

    let trust = [("SSL_CERT_FILE", keys.path().join("public.pem").display().to_string())];
    let trusting = Wishes { runners: &[1], runner_environment: &trust, ..Wishes::default() };
    let cluster = Cluster::start("https", trusting).await;
    let repository = Repository::new(&cluster, &[("file", "by https\n")]);
    let port = free_port();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/git_http_server.py");
    let mut server = Command::new("python3");
    server.arg(script).arg(port.to_string()).arg(cluster.folder()).arg(&certificate);
    let _server = Server::start(port, &mut server).await;
    let url = format!("https://127.0.0.1:{port}/repository/.git");
    builds_by_sha_branch_and_tag(&cluster, &repository, &url, b"by https\n").await;
    cluster.stops_without_a_trace().await;

    let doubting = Cluster::small("https-doubt").await;
    let id = doubting.submit(json!({ "repository_url": url, "commit": "main", "command": "true" })).await;
    let build = doubting.ended(&id).await;
    assert_eq!(
        (&build["status"], &build["reason"]),
        (&json!("errored"), &json!("clone_failed")),
        "{build:#}"
    );
    assert!(build["message"].as_str().unwrap().contains("certificate"), "{build:#}");
    doubting.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_repository_served_over_ssh_is_built_where_its_host_key_is_known() {
    let keys = TempDir::new().unwrap();
    let key = |name: &str| keys.path().join(name);
    let (host, user) = (new_key(), new_key());
    let known = host.public_key().to_openssh().unwrap();
    fs::write(key("user"), user.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
    let server = SshServer::start(host, user.public_key().clone()).await;
    fs::write(key("known_hosts"), format!("[127.0.0.1]:{} {known}\n", server.address.port())).unwrap();

    let settings = [
        format!("git.ssh_key_file={}", key("user").display()),
        format!("git.ssh_known_hosts={}", key("known_hosts").display()),
    ];
    let knowing = Wishes { runners: &[1], runner_settings: &settings, ..Wishes::default() };
    let cluster = Cluster::start("ssh", knowing).await;
    let repository = Repository::new(&cluster, &[("file", "by ssh\n")]);
    let url = format!("ssh://git@{}{}", server.address, repository.path.display());
    builds_by_sha_branch_and_tag(&cluster, &repository, &url, b"by ssh\n").await;
    cluster.stops_without_a_trace().await;

    let stranger = Wishes { runners: &[1], runner_settings: &settings[..1], ..Wishes::default() };
    let cluster = Cluster::start("ssh-stranger", stranger).await;
    let id = cluster.submit(json!({ "repository_url": url, "commit": "main", "command": "true" })).await;
    let build = cluster.ended(&id).await;
    assert_eq!(build["status"], "errored", "{build:#}");
    assert!(build["message"].as_str().unwrap().contains("host key"), "{build:#}");
    cluster.stops_without_a_trace().await;
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn builds_by_sha_branch_and_tag(cluster: &Cluster, repository: &Repository, url: &str, content: &[u8]) {
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["tag", "-m", "a release", "v1.0"]);
    repository.git(&["checkout", "--quiet", "-b", "feature/x"]);
    let second = repository.commit(&[("second", "x")]);
    for (commit, sha) in [
        ("main", &first),
        ("v1.0", &first),
        (&first, &first),
        (&second[..12], &second),
        ("feature/x", &second),
    ] {
        let build = json!({ "repository_url": url, "commit": commit, "command": "cat file" });
        let id = cluster.submit(build).await;
        let build = cluster.ended(&id).await;
        let log = String::from_utf8_lossy(&cluster.log(&id, "").await).into_owned();
        assert_eq!(build["status"], "succeeded", "{commit}: {build:#}\n{log}");
        assert_eq!(build["resolved_commit"], sha.as_str(), "{commit}");
        assert_eq!(cluster.log(&id, "stream=stdout").await, content);
    }
}
