//! Submitting builds: what is taken, what is refused and how, and that nothing is there of what was refused.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{Answer, House};

fn build() -> Value {
    json!({ "commit": "main", "command": "make test" })
}

/// A build with one thing about it changed.
fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut body = build();
    body[name] = value.into();
    body
}

async fn keyed(house: &House, key: &str, body: &Value) -> Answer {
    Answer::to(house.person(Method::POST, "/api/v1/builds").header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn a_build_is_taken_and_shown_with_all_its_fields() {
    let house = House::start().await;
    let answer = house
        .submit(&json!({
            "commit": "v1.0", "command": "make test", "repository_url": "https://example.org/other.git",
            "image": "busybox:1", "env": { "B": "secret value", "A": "" }, "labels": ["gpu", "arm64"],
            "timeout_seconds": 60, "limits": { "memory_bytes": 536_870_912, "cpus": 1.5 }, "network": "none",
        }))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let build = answer.json();
    assert_eq!(answer.header("location"), format!("/api/v1/builds/{}", build["id"].as_str().unwrap()));
    assert_eq!(build["id"].as_str().unwrap().as_bytes()[14], b'7', "its id is a UUID of version 7");
    let queued_at = build["queued_at"].as_str().unwrap().to_owned();
    assert!(time::OffsetDateTime::parse(&queued_at, &time::format_description::well_known::Rfc3339).is_ok());
    assert_eq!(
        build,
        json!({
            "id": build["id"], "number": 1, "repository_url": "https://example.org/other.git",
            "commit": "v1.0", "resolved_commit": null, "command": "make test", "image": "busybox:1",
            "env": ["A", "B"], "labels": ["arm64", "gpu"], "status": "queued", "reason": null,
            "message": null, "exit_code": null, "attempt": 0, "runner": null, "timeout_seconds": 60,
            "limits": { "memory_bytes": 536_870_912, "cpus": 1.5 }, "network": "none", "queued_at": queued_at, "started_at": null, "finished_at": null, "queue_position": 1,
            "waiting_for": { "code": "no_runner", "message": "no runner is registered" },
            "log_bytes": null, "attempts": [],
        })
    );
    assert!(!answer.text().contains("secret value"), "values of the environment are not shown");
    assert_eq!(house.get(answer.header("location")).await.json(), build);
}

#[tokio::test]
async fn what_a_build_does_not_say_is_the_coordinators_default() {
    let house = House::start().await;
    let build = house.submit(&build()).await.json();
    assert_eq!(build["repository_url"], "https://example.org/team/app.git");
    assert_eq!((&build["image"], &build["timeout_seconds"]), (&json!("debian:bookworm-slim"), &json!(3600)));
    assert_eq!((&build["limits"], &build["network"]), (&json!({}), &json!("bridge")));
}

#[tokio::test]
async fn every_wrong_value_is_refused_with_the_field_it_is_in_and_nothing_is_stored() {
    let house = House::start().await;
    let long = |length| "x".repeat(length);
    let variables: BTreeMap<_, _> = (0..300).map(|number| (format!("V{number}"), "")).collect();
    let labels: Vec<_> = (0..40).map(|number| format!("l{number}")).collect();
    let wrong = [
        ("command", json!("")),
        ("command", json!(" \n\t ")),
        ("command", json!("a\u{0}b")),
        ("command", json!(long(70_000))),
        ("commit", json!("")),
        ("commit", json!("--upload-pack=id")),
        ("commit", json!("a..b")),
        ("commit", json!(long(300))),
        ("repository_url", json!("")),
        ("repository_url", json!("not a url")),
        ("repository_url", json!("/srv/git/app.git")),
        ("repository_url", json!("ftp://example.org/app")),
        ("repository_url", json!("ext::sh -c id")),
        ("repository_url", json!("https://example.org")),
        ("repository_url", json!("file:///srv/git/app.git")),
        ("image", json!("")),
        ("image", json!("Not An Image")),
        ("image", json!("../images/json?x=")),
        ("env", json!({ "1A": "" })),
        ("env", json!({ "A=B": "" })),
        ("env", json!({ "CI": "false" })),
        ("env", json!({ "CAISSON_BUILD_ID": "x" })),
        ("env", json!({ "A": "\u{0}" })),
        ("env", json!(variables)),
        ("labels", json!(["a b"])),
        ("labels", json!([""])),
        ("labels", json!(labels)),
        ("timeout_seconds", json!(0)),
        ("timeout_seconds", json!(2_592_001)),
    ];
    for (field, value) in wrong {
        let answer = house.submit(&with(field, value.clone())).await;
        assert_eq!(answer.problem(), (422, "invalid_field".into()), "{field}: {value}");
        assert_eq!(answer.json()["field"], field, "{value}");
    }
    let wrong = [
        ("limits.memory_bytes", json!({ "memory_bytes": 512 })),
        ("limits.memory_bytes", json!({ "memory_bytes": "512MiB" })),
        ("limits.cpus", json!({ "cpus": 0 })),
        ("limits.pids", json!({ "pids": 1, "cpus": 1 })),
        ("limits.privileged", json!({ "privileged": true })),
    ];
    for (field, value) in wrong {
        let answer = house.submit(&with("limits", value.clone())).await;
        assert_eq!(answer.problem(), (422, "invalid_field".into()), "{value}");
        assert_eq!(answer.json()["field"], field, "{value}");
    }
    for field in ["commit", "command"] {
        let mut without = build();
        without.as_object_mut().unwrap().remove(field);
        let answer = house.submit(&without).await;
        assert_eq!(answer.problem(), (422, "invalid_field".into()));
        assert_eq!(answer.json()["field"], field);
    }
    assert_eq!(house.builds().await, Vec::<Value>::new());
}

#[tokio::test]
async fn every_wrong_kind_of_value_is_refused_with_the_field_it_is_in() {
    let house = House::start().await;
    let wrong = [
        ("command", json!(7), "command"),
        ("commit", Value::Null, "commit"),
        ("image", json!(["busybox"]), "image"),
        ("env", json!({ "A": 1 }), "env.A"),
        ("env", json!("A=1"), "env"),
        ("labels", json!(["gpu", 7]), "labels[1]"),
        ("labels", json!("gpu"), "labels"),
        ("timeout_seconds", json!("1h"), "timeout_seconds"),
        ("timeout_seconds", json!(-1), "timeout_seconds"),
        ("timeout_seconds", json!(1.5), "timeout_seconds"),
        ("limits", json!("512MiB"), "limits"),
        ("network", json!("host"), "network"),
        ("comand", json!("make"), "comand"),
    ];
    for (name, value, field) in wrong {
        let answer = house.submit(&with(name, value.clone())).await;
        assert_eq!(answer.problem(), (400, "malformed_request".into()), "{name}: {value}");
        assert_eq!(answer.json()["field"], field, "{}", answer.text());
    }
    assert_eq!(house.builds().await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_is_no_build_at_all_is_refused() {
    let house = House::start().await;
    let twice = format!("{0} {0}", build());
    for body in ["", "make test", "[]", "7", "null", "{", r#"{"commit": "\ud800", "command": "x"}"#, &twice] {
        let answer = Answer::to(house.person(Method::POST, "/api/v1/builds").body(body.to_owned())).await;
        assert_eq!(answer.problem(), (400, "malformed_request".into()), "{body}");
    }
    let answer = house.submit(&with("command", "x".repeat(2 << 20))).await;
    assert_eq!(answer.problem(), (413, "body_too_large".into()));
    assert_eq!(house.builds().await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let house = House::start().await;
    let piece = || Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]);
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter((0..64).map(move |_| piece())));
    let answer = Answer::to(house.person(Method::POST, "/api/v1/builds").body(body)).await;
    assert_eq!(answer.problem(), (413, "body_too_large".into()));
}

#[tokio::test]
async fn the_password_in_a_url_is_told_to_nobody() {
    let house = House::start().await;
    for url in ["https://bob:hunter2@example.org/app", "https://hunter2@example.org/app", "hunter2 hunter2"] {
        let answer = house.submit(&with("repository_url", url)).await;
        assert_eq!(answer.problem(), (422, "invalid_field".into()));
        assert_eq!(answer.json()["field"], "repository_url");
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_repository_must_be_named_where_there_is_no_default() {
    let house = House::with(|settings| settings.repository_url = None).await;
    let answer = house.submit(&build()).await;
    assert_eq!(answer.problem(), (422, "invalid_field".into()));
    assert_eq!(answer.json()["field"], "repository_url");
}

#[tokio::test]
async fn file_urls_are_taken_where_they_are_allowed() {
    let house = House::with(|settings| settings.git.allow_file_urls = true).await;
    assert_eq!(house.submit(&with("repository_url", "file:///srv/git/app.git")).await.status, 201);
}

#[tokio::test]
async fn the_longest_command_and_environment_fit_however_they_are_escaped() {
    let house = House::start().await;
    let mut body = with("command", "\u{1}".repeat(64 * 1024));
    body["env"] = json!({ "A": "\u{1}".repeat(64 * 1024 - 1) });
    let answer = house.submit(&body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[tokio::test]
async fn a_full_queue_refuses_before_anything_is_stored() {
    let house = House::with(|settings| settings.queue.capacity = 2).await;
    let first = house.submitted("a").await;
    house.submitted("b").await;
    let refused = house.submit(&build()).await;
    assert_eq!(refused.problem(), (429, "queue_full".into()));
    assert_eq!((&refused.json()["limit"], &refused.json()["depth"]), (&json!(2), &json!(2)));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(house.builds().await.len(), 2);
    let rerun = house.post(&format!("/api/v1/builds/{first}/rerun")).await;
    assert_eq!(rerun.problem(), (429, "queue_full".into()));

    house.post(&format!("/api/v1/builds/{first}/cancel")).await;
    assert_eq!(house.submit(&build()).await.json()["number"], 3, "a refused build takes no number");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_is_exact_under_a_thousand_submissions_at_once() {
    allow_open_files(4096);
    let house = House::with(|settings| settings.queue.capacity = 100).await;
    let body = build();
    let answers = join_all((0..1000).map(|_| house.submit(&body))).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(429)), (100, 900));
    let queue = house.get("/api/v1/queue").await.json();
    assert_eq!((&queue["depth"], &queue["limit"]), (&json!(100), &json!(100)));
    let mut numbers: Vec<u64> =
        answers.iter().filter_map(|answer| answer.json()["number"].as_u64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert_eq!(house.builds().await.len(), 100);
}

/// Each connection within one process takes two.
fn allow_open_files(files: u64) {
    let limit = getrlimit(Resource::Nofile);
    let current = Some(files).max(limit.current);
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).expect("this many files may be open");
}

#[tokio::test]
async fn a_repeated_submission_is_the_same_build() {
    let mut house = House::start().await;
    let first = keyed(&house, "deploy-7", &build()).await;
    assert_eq!(first.status, 201);
    let again = keyed(&house, "deploy-7", &build()).await;
    assert_eq!((again.status, again.json()["id"].clone()), (200, first.json()["id"].clone()));
    let other = keyed(&house, "deploy-7", &with("command", "make other")).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused".into()));

    house.stop().await;
    house.start_again().await;
    let after = keyed(&house, "deploy-7", &build()).await;
    assert_eq!((after.status, after.json()["id"].clone()), (200, first.json()["id"].clone()));
    assert_eq!(house.builds().await.len(), 1);
}

#[tokio::test]
async fn the_same_submission_sent_often_at_once_is_one_build() {
    let house = House::start().await;
    let body = build();
    let answers = join_all((0..40).map(|_| keyed(&house, "k", &body))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(answers.iter().all(|answer| answer.json()["number"] == 1));
    assert_eq!(house.builds().await.len(), 1);
}

#[tokio::test]
async fn a_repeated_submission_is_known_although_the_queue_is_full() {
    let house = House::with(|settings| settings.queue.capacity = 1).await;
    assert_eq!(keyed(&house, "k", &build()).await.status, 201);
    assert_eq!(keyed(&house, "k", &build()).await.status, 200);
    assert_eq!(keyed(&house, "l", &build()).await.status, 429);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let house = House::start().await;
    for key in ["", &"x".repeat(256)] {
        let answer = keyed(&house, key, &build()).await;
        assert_eq!(answer.problem(), (422, "invalid_field".into()));
        assert_eq!(answer.json()["field"], "Idempotency-Key");
    }
    assert_eq!(house.builds().await, Vec::<Value>::new());
}
