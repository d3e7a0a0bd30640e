//! Addresses that a build may not lead a runner to.

use caisson_protocol::{ErrorReason, Outcome, Stream};

use super::World;
use crate::world::{Repository, servers, spec};

async fn refusal(world: &World, url: &str) -> (ErrorReason, String) {
    let attempt = world.coordinator.assign(spec(url, "main", "true"));
    match world.outcome(attempt).await {
        Outcome::Errored { reason, message } => (reason, message),
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn s47_private_addresses_are_refused_where_the_runner_says_so() {
    let world = World::with(&["git.private_addresses=refuse", "capacity=8"]).await;
    let root = world.repository.path.parent().unwrap();
    let http = servers::git_over_http(root).await;
    let (_daemon, git) = servers::git_daemon(root).await;
    let port = http.port();
    for url in [
        format!("http://127.0.0.1:{port}/repository"),
        format!("http://localhost:{port}/repository"),
        format!("http://[::ffff:127.0.0.1]:{port}/repository"),
        format!("http://2130706433:{port}/repository"),
        format!("git://localhost:{git}/repository"),
        format!("git://0x7f.1:{git}/repository"),
        "ssh://git@10.0.0.7/repository".into(),
    ] {
        let (reason, message) = refusal(&world, &url).await;
        assert_eq!(reason, ErrorReason::RepositoryDenied, "{message}");
        assert!(
            message.contains("git.private_addresses") && message.contains("git.allowed_hosts"),
            "{message}"
        );
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn s47_a_host_that_is_named_is_cloned_from_wherever_it_is() {
    let world = World::with(&["git.private_addresses=refuse", "git.allowed_hosts=[localhost]"]).await;
    let http = servers::git_over_http(world.repository.path.parent().unwrap()).await;
    let url = format!("http://localhost:{}/repository", http.port());
    let attempt = world.coordinator.assign(spec(&url, "main", "cat file.txt"));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "hello\n");
    world.ends_clean().await;
}

#[tokio::test]
async fn s47_no_runner_asks_a_cloud_for_its_machines_secrets() {
    let world = World::with(&["git.private_addresses=allow"]).await;
    for url in
        ["http://169.254.169.254/latest/meta-data", "http://[fd00:ec2::254]/latest", "git://169.254.1/x"]
    {
        let (reason, message) = refusal(&world, url).await;
        assert_eq!(reason, ErrorReason::RepositoryDenied, "{message}");
        assert!(message.contains("metadata"), "{message}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn s47_a_server_leads_to_another_place_on_itself_but_to_no_other_host() {
    let world = World::new().await;
    let http = servers::git_over_http(world.repository.path.parent().unwrap()).await;
    let port = http.port();
    let moved = servers::moved(format!("http://127.0.0.1:{port}")).await.port();

    let attempt = world.coordinator.assign(spec(
        &format!("http://127.0.0.1:{moved}/repository"),
        "main",
        "cat file.txt",
    ));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    // The same machine by another name is another host.
    let (reason, message) = refusal(&world, &format!("http://localhost:{moved}/repository")).await;
    assert_eq!(reason, ErrorReason::CloneFailed, "{message}");
    assert!(message.contains("redirect"), "{message}");
    world.ends_clean().await;
}

#[tokio::test]
async fn s17_a_submodule_is_an_empty_folder_wherever_it_points() {
    let world = World::new().await;
    let victim =
        Repository::make(&world.repository.path.with_file_name("victim"), &[("secret.txt", "secret\n")]);
    world.repository.submodule("stolen", &victim);
    let attempt = world.submit(
        "cat .gitmodules; ls -A stolen; ls -A .git/modules 2>/dev/null || true; ! grep -r secret stolen",
    );
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let said = world.coordinator.log_text(attempt, Stream::Stdout);
    assert!(said.contains("stolen") && !said.contains("secret.txt"), "{said}");
    world.ends_clean().await;
}
