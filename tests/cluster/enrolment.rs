//! Runners and what opens the channel to them: real processes on both sides.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::harness::{Cluster, Repository, Wishes, eventually};

fn two(name: &str) -> impl Future<Output = Cluster> {
    Cluster::start(name, Wishes { runners: &[1, 1], ..Wishes::default() })
}

#[tokio::test]
async fn a_runner_that_has_its_credential_needs_its_token_no_more() {
    let mut cluster = Cluster::small("credential").await;
    let credential = cluster.work_dir(0).join("credential");
    assert_eq!(fs::metadata(&credential).unwrap().permissions().mode() & 0o777, 0o600);
    cluster.kill_runner(0);
    cluster.runner_is_removed(0).await;
    fs::remove_file(cluster.folder().join("coordinator/runner-token")).unwrap();
    cluster.restart_runner(0);
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    let kept = fs::read_to_string(&credential).unwrap();
    assert!(!cluster.runners[0].process.log().contains(kept.trim()));
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn s05_a_revoked_runner_is_cut_off_says_why_and_stays_out() {
    let mut cluster = two("revoked").await;
    let repository = Repository::new(&cluster, &[]);
    let build =
        cluster.submit(repository.build("echo ready; while [ ! -e /tmp/go ]; do sleep 0.1; done")).await;
    cluster.log_says(&build, "ready").await;
    let name = cluster.build(&build).await["runner"]["name"].as_str().unwrap().to_owned();
    let at = cluster.runners.iter().position(|runner| runner.name == name).unwrap();
    assert!(cluster.delete(&format!("/runner-credentials/{name}")).await.is_success());

    // It ends by itself, and takes its container along.
    let runner = &mut cluster.runners[at].process;
    assert_eq!(runner.ended().await.code(), Some(1));
    assert!(runner.log().lines().last().unwrap().contains("credential was revoked"), "{}", runner.log());
    // What it ran is lost as with any runner that is, and comes to the other.
    let again = eventually("the build is tried again", async || {
        let build = cluster.build(&build).await;
        (build["attempt"] == 2 && build["status"] == "running").then_some(build)
    })
    .await;
    assert_ne!(again["runner"]["name"].as_str(), Some(name.as_str()));
    assert_eq!(again["attempts"][0]["outcome"]["reason"], "runner_lost");

    cluster.restart_runner(at);
    let runner = &mut cluster.runners[at].process;
    assert_eq!(runner.ended().await.code(), Some(1));
    assert!(runner.log().lines().last().unwrap().contains("does not let this runner in"), "{}", runner.log());
    // Until it is let in again, with a token that is in force.
    fs::remove_file(cluster.work_dir(at).join("credential")).unwrap();
    cluster.restart_runner(at);
    cluster.runner_is(&name, "ready").await;
    cluster.cancel(&build).await;
    cluster.is(&build, "canceled").await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_coordinator_that_lost_who_may_do_what_costs_no_build() {
    let mut cluster = Cluster::small("forgotten").await;
    let repository = Repository::new(&cluster, &[]);
    let build = cluster
        .submit(repository.build("echo ready; while [ ! -e go ]; do sleep 0.1; done; echo done"))
        .await;
    cluster.log_says(&build, "ready").await;
    cluster.kill_coordinator();
    for file in ["access.db", "access.db-wal", "access.db-shm"] {
        let _ = fs::remove_file(cluster.folder().join("coordinator").join(file));
    }
    cluster.restart_coordinator().await;
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    fs::write(cluster.work_dir(0).join("tmp").join(&build).join("go"), "").unwrap();
    let ended = cluster.is(&build, "succeeded").await;
    assert_eq!(ended["attempt"], 1);
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_second_runner_of_a_name_is_not_let_in_while_the_first_is_there() {
    let mut cluster = two("twins").await;
    let repository = Repository::new(&cluster, &[]);
    cluster.kill_runner(1);
    fs::remove_file(cluster.work_dir(1).join("credential")).unwrap();
    let first = cluster.runners[0].name.clone();
    cluster.rename_runner(1, &first);
    cluster.restart_runner(1);
    eventually("it is told why", async || {
        cluster.runners[1].process.log().contains("give each runner a name of its own").then_some(())
    })
    .await;
    let build = cluster.submit(repository.build("true")).await;
    cluster.is(&build, "succeeded").await;
    cluster.kill_runner(1);
    let runner = &cluster.runners[0].process;
    assert!(!runner.log().contains("ERROR"), "{}", runner.log());
}

#[tokio::test]
async fn a_runner_that_is_renamed_registers_anew() {
    let mut cluster = Cluster::small("renamed").await;
    cluster.kill_runner(0);
    cluster.rename_runner(0, &format!("other-{}", std::process::id()));
    cluster.restart_runner(0);
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    let credentials = cluster.get("/runner-credentials").await;
    assert_eq!(credentials["credentials"].as_array().unwrap().len(), 2, "{credentials}");
    cluster.stops_without_a_trace().await;
}
