//! Finding builds, and what can be done with those that are there.

use caisson_protocol::{Outcome, RunnerId};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{House, Runner, registration};

/// The numbers of the builds on a page, and where the next one begins.
async fn page(house: &House, query: &str) -> (Vec<u64>, Option<String>) {
    let answer = house.get(&format!("/api/v1/builds?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let page = answer.json();
    let numbers = page["builds"].as_array().unwrap().iter().map(|build| build["number"].as_u64().unwrap());
    (numbers.collect(), page["next_cursor"].as_str().map(str::to_owned))
}

async fn of_repository(house: &House, url: &str, command: &str) {
    let body = json!({ "commit": "main", "command": command, "repository_url": url });
    assert_eq!(house.submit(&body).await.status, 201);
}

#[tokio::test]
async fn a_build_is_found_by_its_id_and_by_its_number() {
    let house = House::start().await;
    house.submitted("a").await;
    let id = house.submitted("b").await;
    assert_eq!(house.build(&id).await["number"], 2);
    assert_eq!(house.build("2").await["id"], id.as_str());
}

#[tokio::test]
async fn what_is_not_there_is_told_so() {
    let house = House::start().await;
    let id = house.submitted("a").await;
    let unknown = "019aac1e-7c00-7000-8000-000000000001";
    for path in [
        "/api/v1/builds/2".to_owned(),
        "/api/v1/builds/x".into(),
        format!("/api/v1/builds/{unknown}"),
        format!("/api/v1/builds/{}", id.to_uppercase()),
        format!("/api/v1/builds/{unknown}/log"),
        format!("/api/v1/builds/{id}/log?attempt=1"),
        "/api/v1/builds/99999999999999999999999".into(),
        "/api/v1/nothing".into(),
        "/nothing".into(),
    ] {
        assert_eq!(house.get(&path).await.problem(), (404, "not_found".into()), "{path}");
    }
    for path in ["/api/v1/builds/2/cancel", "/api/v1/builds/2/rerun", "/api/v1/runners/r1/drain"] {
        assert_eq!(house.post(path).await.problem(), (404, "not_found".into()), "{path}");
    }
}

#[tokio::test]
async fn a_request_that_can_not_be_read_is_a_problem_like_any_other() {
    let house = House::start().await;
    assert_eq!(house.post("/api/v1/queue").await.problem(), (405, "method_not_allowed".into()));
    assert_eq!(house.post("/api/v1/queue").await.header("allow"), "GET,HEAD");
    assert_eq!(house.get("/api/v1/events").await.problem().1, "malformed_request");
    assert_eq!(house.get("/api/v1/builds/%FF").await.problem(), (400, "malformed_request".into()));
    assert_eq!(house.get("/api/v1/builds?colour=red").await.problem(), (400, "malformed_request".into()));
    assert_eq!(house.get("/api/v1/builds?limit=many").await.problem(), (400, "malformed_request".into()));
    for (field, value) in [
        ("limit", "0"),
        ("limit", "101"),
        ("cursor", "there"),
        ("status", "done"),
        ("q", "a%00b"),
        ("q", &"x".repeat(60_000)),
    ] {
        let answer = house.get(&format!("/api/v1/builds?{field}={value}")).await;
        assert_eq!(answer.problem(), (422, "invalid_field".into()), "{field}={value:.20}");
        assert_eq!(answer.json()["field"], field);
    }
}

#[tokio::test]
async fn the_list_goes_on_page_by_page_newest_first() {
    let house = House::start().await;
    for number in 1..=5 {
        house.submitted(&format!("build {number}")).await;
    }
    let (first, cursor) = page(&house, "limit=2").await;
    assert_eq!(first, [5, 4]);
    // What is submitted meanwhile moves nothing on the pages that follow.
    house.submitted("build 6").await;
    let (second, cursor) = page(&house, &format!("limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!(second, [3, 2]);
    let (last, cursor) = page(&house, &format!("limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!((last, cursor), (vec![1], None));
    assert_eq!(page(&house, "limit=6").await, (vec![6, 5, 4, 3, 2, 1], None));
}

#[tokio::test]
async fn the_list_is_filtered() {
    let house = House::start().await;
    of_repository(&house, "https://example.org/one.git", "make 100%").await;
    of_repository(&house, "https://Example.ORG/two.git", "MAKE all").await;
    of_repository(&house, "https://example.org/two.git", "a_b").await;
    house.post("/api/v1/builds/3/cancel").await;
    for (query, found) in [
        ("status=canceled", vec![3]),
        ("status=queued", vec![2, 1]),
        ("status=queued,canceled", vec![3, 2, 1]),
        ("status=running", vec![]),
        ("repository=https://example.org/two.git", vec![3, 2]),
        ("repository=https://EXAMPLE.org/two.git", vec![3, 2]),
        ("repository=two", vec![]),
        ("q=make", vec![2, 1]),
        ("q=100%25", vec![1]),
        ("q=_", vec![3]),
        ("q=", vec![3, 2, 1]),
        ("q=two&status=queued", vec![2]),
    ] {
        assert_eq!(page(&house, query).await.0, found, "{query}");
    }
}

#[tokio::test]
async fn the_queue_says_who_waits_where_and_why() {
    let house = House::with(|settings| settings.queue.capacity = 7).await;
    let a = house.submitted("a").await;
    let body = json!({ "commit": "main", "command": "b", "labels": ["gpu", "arm64"] });
    let b = house.submit(&body).await.json()["id"].as_str().unwrap().to_owned();
    let queue = house.get("/api/v1/queue").await.json();
    assert_eq!((&queue["limit"], &queue["depth"]), (&json!(7), &json!(2)));
    let place = |at: usize, queue: &Value| {
        let build = &queue["builds"][at];
        (build["id"].clone(), build["queue_position"].clone(), build["waiting_for"]["code"].clone())
    };
    assert_eq!(place(0, &queue), (json!(a), json!(1), json!("no_runner")));

    let (mut runner, _) = Runner::register(&house, registration("r1")).await;
    runner.assigned().await;
    let queue = house.get("/api/v1/queue").await.json();
    assert_eq!(place(0, &queue), (json!(b), json!(1), json!("no_matching_runner")));
    let message = queue["builds"][0]["waiting_for"]["message"].as_str().unwrap();
    assert!(message.contains("arm64, gpu"), "{message}");
    let c = house.submitted("c").await;
    let shown = house.build(&c).await;
    assert_eq!((&shown["queue_position"], &shown["waiting_for"]["code"]), (&json!(2), &json!("busy")));
    let assigned = house.build(&a).await;
    assert_eq!((&assigned["queue_position"], &assigned["waiting_for"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn runners_are_shown_with_what_they_do() {
    let house = House::start().await;
    let mut said = registration("r1");
    (said.capacity, said.labels) = (3, serde_json::from_str(r#"["gpu"]"#).unwrap());
    let (mut runner, _) = Runner::register(&house, said).await;
    let build = house.submitted("a").await;
    runner.assigned().await;
    let mut shown = house.get("/api/v1/runners").await.json();
    let seen = shown["runners"][0]["last_seen_at"].take();
    let seen = OffsetDateTime::parse(seen.as_str().unwrap(), &Rfc3339).unwrap();
    assert!((OffsetDateTime::now_utc() - seen).abs() < time::Duration::MINUTE, "{seen}");
    assert_eq!(
        shown,
        json!({ "runners": [{
            "id": RunnerId::of_name("r1"), "name": "r1", "status": "ready", "unhealthy": null, "last_seen_at": null,
            "capacity": 3, "labels": ["gpu"], "version": "1.2.3", "engine": "test", "builds": [build],
            "swept": 0, "left_behind": 0,
        }] })
    );
}

#[tokio::test]
async fn a_waiting_build_is_canceled_at_once_and_again_without_harm() {
    let house = House::start().await;
    let id = house.submitted("a").await;
    for _ in 0..2 {
        let answer = house.post(&format!("/api/v1/builds/{id}/cancel")).await;
        assert_eq!((answer.status, answer.json()["status"].clone()), (200, json!("canceled")));
        assert!(answer.json()["finished_at"].is_string());
    }
    assert_eq!(house.get("/api/v1/queue").await.json()["depth"], 0);
}

#[tokio::test]
async fn an_ended_build_is_not_canceled_any_more() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    let answer = house.post(&format!("/api/v1/builds/{id}/cancel")).await;
    assert_eq!((answer.status, answer.json()["status"].clone()), (200, json!("succeeded")));
}

#[tokio::test]
async fn a_build_is_run_again_as_it_was() {
    let house = House::start().await;
    let body = json!({
        "commit": "v2", "command": "make", "image": "busybox", "env": { "A": "1" }, "labels": ["gpu"],
        "timeout_seconds": 5, "repository_url": "https://example.org/x.git",
    });
    let before = house.submit(&body).await.json();
    let answer = house.post("/api/v1/builds/1/rerun").await;
    assert_eq!(answer.status, 201);
    let again = answer.json();
    assert_eq!(answer.header("location"), format!("/api/v1/builds/{}", again["id"].as_str().unwrap()));
    assert_eq!((&again["number"], &again["status"]), (&json!(2), &json!("queued")));
    for same in ["commit", "command", "image", "env", "labels", "timeout_seconds", "repository_url"] {
        assert_eq!(again[same], before[same], "{same}");
    }
}
