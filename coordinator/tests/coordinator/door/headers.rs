//! What every answer tells a browser, whatever it was asked.

use caisson_coordinator::http;
use reqwest::Method;

use crate::support::{Answer, House};

/// Every answer there is in kind: each route, its refusals, and what leads nowhere.
async fn answers(house: &House) -> Vec<(String, Answer)> {
    let document = serde_json::to_value(http::openapi()).unwrap();
    let listed = document["paths"].as_object().unwrap().iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(|method| (method.to_uppercase(), path.replace("{id}", "1"))).collect::<Vec<_>>()
    });
    let unlisted = [
        "/",
        "/new",
        "/builds/1",
        "/queue",
        "/runners",
        "/trends",
        "/assets/nothing.js",
        "/healthz",
        "/readyz",
        "/sign-in",
        "/sign-in?code=0",
        "/metrics",
        "/api/v1/openapi.json",
        "/api/v1/runner/channel",
        "/nothing",
        "/api/v1/nothing",
    ]
    .map(|path| ("GET".to_owned(), path.to_owned()));
    let mut answers = Vec::new();
    for (method, path) in listed.chain(unlisted).chain([("PATCH".into(), "/healthz".into())]) {
        let method: Method = method.parse().unwrap();
        for request in [house.stranger(method.clone(), &path), house.person(method.clone(), &path)] {
            answers.push((format!("{method} {path}"), Answer::to(request).await));
        }
    }
    answers
}

#[tokio::test]
async fn s38_every_answer_tells_a_browser_what_it_may_do_with_it() {
    let house = House::start().await;
    house.submitted("a").await;
    let answers = answers(&house).await;
    assert!(answers.len() > 60, "{}", answers.len());
    for (asked, answer) in answers {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{asked}: {}", answer.status);
        }
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{asked}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{asked}: {policy}");
        assert_ne!(answer.header("cache-control"), "", "{asked}");
        assert_eq!(answer.header("strict-transport-security"), "", "{asked}: not without TLS");
        assert_eq!(answer.header("access-control-allow-origin"), "", "s40, {asked}: no other site reads it");
    }
}

#[tokio::test]
async fn s38_an_answer_to_what_is_refused_at_the_door_has_them_too() {
    let house = House::start().await;
    let foreign = Answer::to(house.person(Method::GET, "/").header("host", "evil.example")).await;
    let large = Answer::to(house.person(Method::POST, "/api/v1/builds").body("x".repeat(2 << 20))).await;
    for (answer, status) in [(foreign, 421), (large, 413)] {
        assert_eq!((answer.status, answer.header("x-content-type-options")), (status, "nosniff"));
    }
}

#[tokio::test]
async fn s38_a_raw_log_is_saved_and_never_shown_as_a_page() {
    let house = House::start().await;
    house.submitted("a").await;
    for path in ["/api/v1/builds/1/log", "/api/v1/builds/1/log?attempt=1"] {
        let answer = house.get(path).await;
        if answer.status == 404 {
            continue;
        }
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.header("content-disposition"), "attachment; filename=\"build-1.1.log\"");
    }
}
