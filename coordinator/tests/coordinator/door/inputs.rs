//! What is asked for by people who want more than they should have.

use serde_json::json;

use crate::support::House;

/// Looks for text among the builds.
async fn found(house: &House, text: &str) -> usize {
    let written: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = house.get(&format!("/api/v1/builds?q={written}")).await;
    assert_eq!(answer.status, 200, "{text:?}: {}", answer.text());
    answer.json()["builds"].as_array().unwrap().len()
}

#[tokio::test]
async fn s52_what_is_searched_for_is_never_a_statement_or_a_pattern() {
    let house = House::start().await;
    for command in ["plain", "100%", "a_b", "it's \"quoted\"", "back\\slash"] {
        house.submitted(command).await;
    }
    for hostile in [
        "'; DROP TABLE builds; --",
        "' OR '1'='1",
        "\" OR \"\" = \"",
        "x') UNION SELECT 1 --",
        "*",
        "NEAR(a b)",
    ] {
        assert_eq!(found(&house, hostile).await, 0, "{hostile:?}");
    }
    for (text, builds) in
        [("%", 1), ("100%", 1), ("a_b", 1), ("_", 1), ("it's \"q", 1), ("back\\", 1), ("plain", 1)]
    {
        assert_eq!(found(&house, text).await, builds, "{text:?}");
    }
    assert_eq!(house.builds().await.len(), 5);
}

#[tokio::test]
async fn s51_nobody_gets_everything_at_once() {
    let house = House::start().await;
    house.submitted("a").await;
    for query in [
        "/builds?limit=1000000000",
        "/builds?limit=99999999999999999999999",
        "/builds?limit=-1",
        "/builds?limit=0",
        "/builds?cursor=' OR 1=1",
        "/builds/1/log/lines?count=1000000000",
        "/builds/1/log/search?q=a&limit=1000000000",
        "/builds/1/log/search?q=",
        "/builds/99999999999999999999",
        "/trends?days=1000000000",
    ] {
        let answer = house.get(&format!("/api/v1{query}")).await;
        assert!((400..500).contains(&answer.status), "{query}: {} {}", answer.status, answer.text());
        answer.problem();
    }
}

#[tokio::test]
async fn s22_what_is_no_id_names_no_file() {
    let house = House::start().await;
    house.submitted("a").await;
    for id in [
        "..",
        "../../admin-token",
        "..%2f..%2fadmin-token",
        "%2e%2e%2fadmin-token",
        "1%00",
        "1/../2",
        "C:",
        "-1",
        "1.1",
    ] {
        for rest in ["", "/log", "/log/lines", "/log/tail"] {
            let answer = house.get(&format!("/api/v1/builds/{id}{rest}")).await;
            assert!((400..500).contains(&answer.status), "{id}{rest}: {}", answer.status);
            assert!(!answer.text().contains(&house.admin_token));
        }
    }
}

#[tokio::test]
async fn s50_numbers_names_and_texts_have_bounds() {
    let house = House::start().await;
    let with = |name: &str, value: serde_json::Value| {
        let mut build = json!({ "commit": "main", "command": "true" });
        build[name] = value;
        build
    };
    for (name, value) in [
        ("timeout_seconds", json!(0)),
        ("timeout_seconds", json!(u32::MAX)),
        ("commit", json!("x".repeat(256))),
        ("commit", json!("a\u{0}b")),
        ("commit", json!("a\u{a0}b")),
        ("command", json!("a\u{0}b")),
        ("command", json!("x".repeat(64 * 1024 + 1))),
        ("image", json!("x".repeat(513))),
        ("image", json!("bu\u{431}ox")),
        ("env", json!({ "A\u{0}": "" })),
        ("env", json!({ "Ä": "" })),
        ("env", json!({ "A": "\u{0}" })),
        ("env", (0..257).map(|number| (format!("A{number}"), json!(""))).collect()),
        ("labels", json!(["x".repeat(65)])),
        ("labels", (0..33).map(|number| json!(number.to_string())).collect()),
        ("repository_url", json!(format!("https://example.org/{}", "ä".repeat(1000)))),
    ] {
        let answer = house.submit(&with(name, value)).await;
        assert_eq!((answer.status, &answer.json()["field"]), (422, &json!(name)), "{}", answer.text());
    }
    assert!(house.builds().await.is_empty());
}

#[tokio::test]
async fn s23_a_submission_can_not_ask_for_more_than_a_build_may() {
    let house = House::start().await;
    for field in
        ["privileged", "volumes", "binds", "devices", "network", "user", "capabilities", "runtime", "mounts"]
    {
        let mut build = json!({ "commit": "main", "command": "true" });
        build[field] = json!(true);
        let answer = house.submit(&build).await;
        assert_eq!(answer.problem(), (400, "malformed_request".into()), "{field}");
    }
}
