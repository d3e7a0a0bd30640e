//! What the dashboard asks for beyond what programs do: parts of logs, trends, a rerun with changes.

use caisson_protocol::{Outcome, Stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Answer, House, Runner};

/// A build whose log has `lines` lines: `line 1` and so on.
async fn with_lines(house: &House, lines: usize) -> String {
    let mut runner = Runner::named(house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let text: String = (1..=lines).map(|line| format!("line {line}\n")).collect();
    let mut offset = 0;
    for piece in text.as_bytes().chunks(50_000) {
        runner.writes(attempt, offset, piece).await;
        offset += piece.len() as u64;
    }
    runner.finishes(attempt, Outcome::Succeeded, offset).await;
    id
}

fn texts(answer: &Value) -> Vec<String> {
    let items = answer["items"].as_array().unwrap();
    items.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_window_of_a_log_is_given_wherever_it_is() {
    let house = House::start().await;
    let id = with_lines(&house, 3000).await;
    for (query, first, last, count) in [
        ("from=1&count=3", "line 1", "line 3", 3),
        ("from=257&count=256", "line 257", "line 512", 256),
        ("from=2999&count=100", "line 2999", "line 3000", 2),
        ("count=2", "line 2999", "line 3000", 2),
    ] {
        let answer = house.get(&format!("/api/v1/builds/{id}/log/lines?{query}")).await.json();
        assert_eq!((&answer["lines"], &answer["ended"]), (&json!(3000), &json!(true)));
        let texts = texts(&answer);
        assert_eq!(texts.len(), count, "{query}");
        assert_eq!((texts.first().unwrap().as_str(), texts.last().unwrap().as_str()), (first, last));
    }
    let beyond = house.get(&format!("/api/v1/builds/{id}/log/lines?from=9999")).await.json();
    assert!(texts(&beyond).is_empty());
    for wrong in ["from=0", "count=0", "count=99999", "attempt=7", "x=1"] {
        let refused = house.get(&format!("/api/v1/builds/{id}/log/lines?{wrong}")).await;
        assert!((400..500).contains(&refused.status), "{wrong}: {}", refused.status);
    }
}

#[tokio::test]
async fn lines_of_a_build_that_never_ran_are_none() {
    let house = House::start().await;
    let id = house.submitted("a").await;
    let answer = house.get(&format!("/api/v1/builds/{id}/log/lines")).await.json();
    assert_eq!(answer, json!({"attempt": 0, "lines": 0, "bytes": 0, "ended": false, "items": []}));
}

#[tokio::test]
async fn a_line_longer_than_a_window_is_cut_and_the_next_is_found() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let long = vec![b'x'; 60_000];
    for at in 0..20 {
        runner.writes(attempt, at * 60_000, &long).await;
    }
    runner.writes(attempt, 1_200_000, b"\nnext\n").await;
    runner.is_acknowledged(attempt, 1_200_006).await;
    let first = house.get(&format!("/api/v1/builds/{id}/log/lines?from=1&count=10")).await.json();
    assert_eq!(first["lines"], 2);
    assert_eq!(first["items"][0]["truncated"], true);
    let second = house.get(&format!("/api/v1/builds/{id}/log/lines?from=2&count=10")).await.json();
    assert_eq!(texts(&second), ["next"]);
}

#[tokio::test]
async fn a_log_is_searched_where_it_is() {
    let house = House::start().await;
    let id = with_lines(&house, 3000).await;
    let search =
        async |query: &str| house.get(&format!("/api/v1/builds/{id}/log/search?{query}")).await.json();
    assert_eq!(search("q=LINE%2029").await["hits"].as_array().unwrap().len(), 111);
    assert_eq!(search("q=line%203000").await, json!({"hits": [3000], "next": null, "lines": 3000}));
    assert_eq!(search("q=line&limit=2&from=100").await["hits"], json!([100, 101]));
    assert_eq!(search("q=line&limit=2&from=100").await["next"], 102);
    assert_eq!(
        search("q=e%207.0%24&regex=true").await["hits"],
        json!([700, 710, 720, 730, 740, 750, 760, 770, 780, 790])
    );
    let refused = house.get(&format!("/api/v1/builds/{id}/log/search?q=(&regex=true")).await;
    assert_eq!(refused.problem(), (422, "invalid_field".into()));
}

#[tokio::test]
async fn the_end_of_a_log_is_told_as_it_grows() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"one\ntw").await;
    runner.is_acknowledged(attempt, 6).await;
    let path = format!("/api/v1/builds/{id}/log/tail");
    let mut tail = Runner::dial(&house, &path, &house.admin_token).await.unwrap();
    let next = async |tail: &mut _| loop {
        if let Some(Ok(Message::Text(text))) = futures_util::StreamExt::next(tail).await {
            return serde_json::from_str::<Value>(&text).unwrap();
        }
    };
    assert_eq!(texts(&next(&mut tail).await), ["one", "tw"]);
    runner.writes_to(Stream::Stderr, attempt, 6, b"o\nthree\n").await;
    let grown = next(&mut tail).await;
    assert_eq!(texts(&grown), ["tw", "three"]);
    assert_eq!(grown["items"][0]["rest"], json!([{"stream": "stderr", "text": "o"}]));
    runner.finishes(attempt, Outcome::Succeeded, 14).await;
    let mut last = next(&mut tail).await;
    while last["ended"] == json!(false) {
        last = next(&mut tail).await;
    }
    assert_eq!(last["lines"], 3);
}

#[tokio::test]
async fn a_build_is_submitted_again_with_changes_and_keeps_what_nobody_is_shown() {
    let house = House::start().await;
    let body = json!({
        "commit": "main", "command": "a", "env": {"KEEP": "secret", "DROP": "x"}, "timeout_seconds": 60,
        "limits": {"pids": 100, "cpus": 0.3}, "network": "none",
    });
    let first = Answer::to(house.person(Method::POST, "/api/v1/builds").body(body.to_string())).await.json();
    let rerun = |edits: Value| {
        let path = format!("/api/v1/builds/{}/rerun", first["id"].as_str().unwrap());
        house.person(Method::POST, &path).body(edits.to_string())
    };
    let second = Answer::to(rerun(json!({"command": "b", "env": {"DROP": null, "NEW": "y"}}))).await.json();
    assert_eq!((&second["command"], &second["commit"]), (&json!("b"), &json!("main")));
    assert_eq!((&second["env"], &second["timeout_seconds"]), (&json!(["KEEP", "NEW"]), &json!(60)));
    assert_eq!((&second["limits"], &second["network"]), (&json!({"pids": 100, "cpus": 0.3}), &json!("none")));
    let third = Answer::to(rerun(json!({"limits": {"pids": 50}, "network": "bridge"}))).await.json();
    assert_eq!((&third["limits"], &third["network"]), (&json!({"pids": 50}), &json!("bridge")));
    let refused = Answer::to(rerun(json!({"image": "not an image"}))).await;
    assert_eq!((refused.status, refused.json()["field"].clone()), (422, json!("image")));
    assert_eq!(Answer::to(rerun(json!({"commmand": "b"}))).await.status, 400);
}

#[tokio::test]
async fn trends_are_made_of_what_ended() {
    let house = House::start().await;
    with_lines(&house, 1).await;
    for range in ["day", "week", "month"] {
        let trends = house.get(&format!("/api/v1/trends?range={range}")).await.json();
        assert_eq!((&trends["builds"], &trends["complete"]), (&json!(1), &json!(true)));
        let buckets = trends["buckets"].as_array().unwrap();
        assert_eq!(buckets.iter().map(|bucket| bucket["succeeded"].as_u64().unwrap()).sum::<u64>(), 1);
        assert_eq!(trends["slowest"][0]["command"], "a");
    }
    assert_eq!(house.get("/api/v1/trends?range=year").await.status, 422);
}

#[tokio::test]
async fn the_queue_says_what_waits() {
    let house = House::start().await;
    house.submitted("a").await;
    let queue = house.get("/api/v1/queue").await.json();
    assert_eq!((&queue["depth"], &queue["builds"][0]["command"]), (&json!(1), &json!("a")));
    assert_eq!(queue["builds"][0]["number"], 1);
}
