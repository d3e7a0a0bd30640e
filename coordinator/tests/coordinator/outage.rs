//! The disk of a running coordinator is full: nothing is taken in, nothing is lost, nobody is removed, and it recovers
//! by itself.

use std::time::Duration;

use caisson_protocol::{HeldPhase, Outcome};
use caisson_settings::Period;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, House, Runner, Tmpfs, eventually, registration};

/// Room for what a coordinator writes when nothing is wrong.
const DISK_KIB: u32 = 8 * 1024;

async fn house_on(disk: &Tmpfs) -> House {
    House::in_folder(disk.path(), |settings| {
        settings.keep_alive.interval = Period(Duration::from_millis(500));
        settings.keep_alive.timeout = Period(Duration::from_millis(1500));
    })
    .await
}

/// Submits until that is refused, and gives the refusal. What fits into what the files have already is still stored.
async fn refused(house: &House) -> Answer {
    let body = json!({ "commit": "main", "command": "x".repeat(30_000) });
    eventually("a submission is refused", async || {
        let answer = house.submit(&body).await;
        (answer.status != 201).then_some(answer)
    })
    .await
}

async fn readiness(house: &House) -> Answer {
    Answer::to(house.stranger(Method::GET, "/readyz")).await
}

#[tokio::test]
async fn a_full_disk_refuses_submissions_and_nothing_else_and_heals_by_itself() {
    let disk = Tmpfs::mount(DISK_KIB);
    let house = house_on(&disk).await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    house.until(&id, "running").await;

    disk.fill();
    let answer = refused(&house).await;
    assert_eq!(answer.problem(), (503, "store_unavailable".into()));
    assert!(answer.json()["detail"].as_str().unwrap().contains("full"), "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    let stored = house.get("/api/v1/builds?limit=100").await.json()["builds"].as_array().unwrap().len();
    assert_eq!(readiness(&house).await.problem(), (503, "not_ready".into()));
    assert_eq!(house.post(&format!("/api/v1/builds/{id}/cancel")).await.problem().0, 503);

    // Longer than a runner may be silent: it is not, and if it was not heard that is the coordinator's fault.
    for _ in 0..12 {
        runner.keeps_alive(&[(attempt, HeldPhase::Running)]).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(house.build(&id).await["status"], "running", "what is stored is shown");
        assert_eq!(house.get("/api/v1/queue").await.status, 200);
    }
    let runners = house.get("/api/v1/runners").await.json();
    assert_eq!(
        (&runners["runners"][0]["name"], &runners["runners"][0]["status"]),
        (&json!("r1"), &json!("ready"))
    );
    assert_eq!(Answer::to(house.stranger(Method::GET, "/healthz")).await.status, 200);

    disk.empty();
    eventually("it is ready again", async || (readiness(&house).await.status == 200).then_some(())).await;
    assert_eq!(house.builds().await.len(), stored, "nothing that was refused was stored");
    house.submitted("b").await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    let shown = house.build(&id).await;
    assert_eq!((&shown["status"], &shown["attempt"]), (&json!("succeeded"), &json!(1)));
    runner.assigned().await;
}

#[tokio::test]
async fn runners_that_register_during_an_outage_are_served_after_it() {
    let disk = Tmpfs::mount(DISK_KIB);
    let house = house_on(&disk).await;
    let first = house.submitted("a").await;
    let second = house.submitted("b").await;
    for name in ["r1", "r2"] {
        house.credential(name).await;
    }
    disk.fill();
    refused(&house).await;
    // Their registrations would hand out builds, which can't be stored: they are not answered.
    let mut early = Vec::new();
    for name in ["r1", "r2"] {
        let mut runner = Runner::connect(&house, name).await;
        runner.say(caisson_protocol::RunnerMessage::Register(registration(name))).await;
        early.push(runner);
    }
    disk.empty();
    for runner in &mut early {
        assert_eq!(runner.hear_or_end().await, None, "they are told to come again");
    }
    let (mut r1, mut r2) = (Runner::named(&house, "r1").await, Runner::named(&house, "r2").await);
    let given = [r1.assigned().await, r2.assigned().await];
    assert_eq!(given.map(|attempt| attempt.build.to_string()), [first, second]);
    assert_eq!(given.map(|attempt| attempt.number), [1, 1]);
}

#[tokio::test]
async fn s60_what_was_done_while_the_audit_log_could_not_be_written_is_told_after() {
    let disk = Tmpfs::mount(DISK_KIB);
    let house = house_on(&disk).await;
    let build = house.submitted("a").await;
    disk.fill();
    // What matters for who gets in is not done unless it is told.
    let body = serde_json::json!({ "token": "wrong" });
    let failed = house.stranger(reqwest::Method::POST, "/api/v1/session").json(&body);
    assert_eq!(crate::support::Answer::to(failed).await.problem(), (503, "store_unavailable".into()));
    disk.empty();
    let told = crate::support::eventually("the submission is told", async || {
        let entries = house.get("/api/v1/audit?action=submit").await.json()["entries"].take();
        entries.as_array()?.first().cloned()
    });
    assert_eq!(told.await["on"], serde_json::json!(build));
}
