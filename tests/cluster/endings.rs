//! How a build ends, and that each ending is told apart from the others.

use serde_json::{Value, json};

use crate::harness::{Cluster, Repository, Wishes};

#[tokio::test]
async fn six_endings_are_told_apart() {
    let cluster = Cluster::start("endings", Wishes { runners: &[3], ..Wishes::default() }).await;
    let repository = Repository::new(&cluster, &[("file", "content\n")]);
    let with = |command: &str, more: Value| {
        let mut build = repository.build(command);
        build.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        build
    };

    let succeeded = cluster.submit(repository.build("cat file")).await;
    let failed = cluster.submit(repository.build("exit 7")).await;
    let killed = cluster.submit(repository.build("kill -9 $$")).await;
    let timed_out = cluster.submit(with("sleep 1000", json!({ "timeout_seconds": 2 }))).await;
    let no_commit =
        cluster.submit(with("true", json!({ "commit": "0123456789012345678901234567890123456789" }))).await;
    let no_image = cluster.submit(with("true", json!({ "image": "caisson-no-such-image:test" }))).await;

    let build = cluster.ended(&succeeded).await;
    assert_eq!(
        (&build["status"], &build["exit_code"], &build["reason"]),
        (&json!("succeeded"), &json!(0), &Value::Null)
    );
    assert_eq!(cluster.log(&succeeded, "stream=stdout").await, b"content\n");

    let build = cluster.ended(&failed).await;
    assert_eq!(
        (&build["status"], &build["exit_code"], &build["reason"]),
        (&json!("failed"), &json!(7), &Value::Null)
    );

    let build = cluster.ended(&killed).await;
    assert_eq!((&build["status"], &build["exit_code"]), (&json!("failed"), &json!(137)));
    assert_eq!(build["reason"], "killed_by_signal");

    let build = cluster.ended(&timed_out).await;
    assert_eq!((&build["status"], &build["exit_code"]), (&json!("timed_out"), &Value::Null));

    let build = cluster.ended(&no_commit).await;
    assert_eq!((&build["status"], &build["reason"]), (&json!("errored"), &json!("commit_not_found")));
    assert!(build["message"].as_str().unwrap().contains("0123456789"), "{build}");
    assert_eq!(build["attempt"], 1, "another attempt would end the same way");

    let build = cluster.ended(&no_image).await;
    assert_eq!(build["status"], "errored");
    // Where no registry can be reached, nobody knows whether the image exists.
    assert!(
        ["image_not_found", "image_denied", "image_failed"].contains(&build["reason"].as_str().unwrap()),
        "{build}"
    );
    assert!(build["message"].as_str().unwrap().contains("caisson-no-such-image:test"), "{build}");

    cluster.is_clean().await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_build_shows_what_ran_where_and_how_long() {
    let cluster = Cluster::small("facts").await;
    let repository = Repository::new(&cluster, &[("file", "content\n")]);
    let sha = repository.git(&["rev-parse", "HEAD"]);
    let id = cluster.submit(repository.build("echo out; echo err >&2; echo $CAISSON_COMMIT $CI")).await;
    let build = cluster.is(&id, "succeeded").await;

    assert_eq!(build["resolved_commit"], sha.as_str());
    assert_eq!(build["runner"]["name"], cluster.runners[0].name.as_str());
    assert_eq!(build["attempts"].as_array().unwrap().len(), 1);
    for phase in ["clone", "image", "create", "run"] {
        assert!(build["attempts"][0]["phases"][phase].is_u64(), "{phase} is missing: {build:#}");
    }
    assert_eq!(cluster.log(&id, "stream=stdout").await, format!("out\n{sha} true\n").as_bytes());
    assert_eq!(cluster.log(&id, "stream=stderr").await, b"err\n");
    let whole = cluster.log(&id, "").await;
    assert_eq!(build["log_bytes"], whole.len());
    crate::harness::eventually("the removal is told", async || {
        cluster.build(&id).await["attempts"][0]["phases"]["cleanup"].as_u64()
    })
    .await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_cancel_kills_also_what_does_not_want_to_end() {
    let cluster = Cluster::small("cancel").await;
    let repository = Repository::new(&cluster, &[]);
    let running =
        cluster.submit(repository.build("trap '' TERM; echo begun; while true; do sleep 1; done")).await;
    let waiting = cluster.submit(repository.build("true")).await;
    cluster.log_says(&running, "begun").await;

    let queue = cluster.get("/queue").await;
    assert_eq!(queue["builds"][0]["id"], waiting.as_str());
    assert_eq!(queue["builds"][0]["queue_position"], 1);
    assert_eq!(queue["builds"][0]["waiting_for"]["code"], "busy");

    cluster.cancel(&waiting).await;
    cluster.is(&waiting, "canceled").await;
    cluster.cancel(&running).await;
    cluster.is(&running, "canceled").await;
    cluster.cancel(&running).await;
    cluster.is_clean().await;
    cluster.stops_without_a_trace().await;
}
