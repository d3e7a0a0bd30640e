//! The figures for Prometheus.

use std::collections::BTreeMap;

use caisson_protocol::{HeldPhase, Outcome};

use crate::support::{House, Runner, engine_failed, registration};

/// Reads a text in the OpenMetrics format, and checks that it is one: every sample belongs to the family that was
/// announced before it, and nothing follows the end.
fn read(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut family, mut samples) = (String::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(told) = line.strip_prefix("# ") {
            let mut words = told.splitn(3, ' ');
            let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind) && !rest.is_empty(), "{line}");
            family = name.to_owned();
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect(line);
        let bare = name.split('{').next().unwrap();
        let ending = bare.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        assert!(["", "_total", "_bucket", "_sum", "_count"].contains(&ending), "{line}");
        assert_eq!(samples.insert(name.to_owned(), value.parse().expect(line)), None, "{line} is told twice");
    }
    samples
}

async fn figures(house: &House) -> BTreeMap<String, f64> {
    let answer = house.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    read(&answer.text())
}

#[tokio::test]
async fn what_happens_is_counted() {
    let house = House::start().await;
    let (mut runner, _) = Runner::register(&house, registration("r1")).await;
    for command in ["a", "b", "c"] {
        house.submitted(command).await;
    }
    house.post("/api/v1/builds/3/cancel").await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"0123456789").await;
    runner.finishes(attempt, Outcome::Failed { exit_code: 1, note: None }, 10).await;
    let attempt = runner.runs().await;
    runner.finishes(attempt, engine_failed(), 0).await;
    let attempt = runner.runs().await;
    runner.keeps_alive(&[(attempt, HeldPhase::Running)]).await;
    house.until("2", "running").await;

    let figures = figures(&house).await;
    for (name, value) in [
        ("caisson_builds_submitted_total", 3.0),
        (r#"caisson_builds_ended_total{status="failed"}"#, 1.0),
        (r#"caisson_builds_ended_total{status="canceled"}"#, 1.0),
        (r#"caisson_builds_ended_total{status="succeeded"}"#, 0.0),
        ("caisson_builds_requeued_total", 1.0),
        ("caisson_attempts_lost_total", 0.0),
        ("caisson_builds_waiting", 0.0),
        ("caisson_builds_running", 1.0),
        ("caisson_runners", 1.0),
        ("caisson_log_bytes_total", 10.0),
        ("caisson_violations_total", 0.0),
    ] {
        assert_eq!(figures.get(name), Some(&value), "{name}");
    }
    assert!(figures["caisson_commit_seconds_count"] >= 5.0);
}
