//! Where the code comes from: this very checkout, a git server, a web server.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::json;

use crate::harness::{Cluster, Repository, eventually};

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
