//! How builds end: each way is told from every other, and nothing is left behind.

use caisson_protocol::{CoordinatorMessage, ErrorReason, FailureNote, Outcome, RunnerMessage, Stream};
use serde_json::json;

use super::World;
use crate::world::{IMAGE, docker, new_image, servers, spec, spec_from};

fn reason(outcome: &Outcome) -> &'static str {
    outcome.reason().unwrap_or("none")
}

#[tokio::test]
async fn six_endings_are_told_apart() {
    let world = World::with(&["capacity=6"]).await;
    let registry = servers::registry().await;
    let url = world.repository.url();
    let build = |commit: &str, command: &str, image: &str, timeout: u32| {
        world.coordinator.assign(spec_from(json!({
            "repository_url": url, "commit": commit, "command": command, "image": image, "timeout_seconds": timeout,
        })))
    };
    let succeeds = build("main", "cat file.txt", IMAGE, 60);
    let fails = build("main", "exit 7", IMAGE, 60);
    let killed = build("main", "kill -9 $$", IMAGE, 60);
    let too_long = build("main", "echo begun; sleep 1000", IMAGE, 3);
    let no_commit = build("no-such-branch", "true", IMAGE, 60);
    let no_image = build("main", "true", &format!("{registry}/nosuch:1"), 60);

    assert_eq!(world.outcome(succeeds).await, Outcome::Succeeded);
    assert_eq!(world.outcome(fails).await, Outcome::Failed { exit_code: 7, note: None });
    let signal = Outcome::Failed { exit_code: 137, note: Some(FailureNote::KilledBySignal) };
    assert_eq!(world.outcome(killed).await, signal);
    assert_eq!(world.outcome(too_long).await, Outcome::TimedOut);
    assert_eq!(reason(&world.outcome(no_commit).await), "commit_not_found");
    assert_eq!(reason(&world.outcome(no_image).await), "image_not_found");

    assert_eq!(world.coordinator.log_text(succeeds, Stream::Stdout), "hello\n");
    let said = world.coordinator.log_text(no_commit, Stream::Caisson);
    assert!(said.contains("has no commit, branch or tag no-such-branch"), "{said}");
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_report_tells_what_was_built_and_how_long_each_part_took() {
    let world = World::new().await;
    let attempt = world.submit("true");
    let report = world.coordinator.finished(attempt).await;
    world.coordinator.cleaned(attempt).await;

    assert_eq!(report.resolved_commit.unwrap().as_str(), world.repository.head());
    let phases = report.phases;
    assert!(phases.clone_ms.is_some() && phases.image_ms.is_some() && phases.create_ms.is_some());
    assert!(phases.run_ms.is_some_and(|ms| ms < 60_000));
    let said = world.coordinator.log_text(attempt, Stream::Caisson);
    let expected = [
        format!("Cloning {} at main", world.repository.url()),
        format!("Checked out {}", world.repository.head()),
        "The command succeeded".into(),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    world.coordinator.look(|seen| {
        assert_eq!(seen.registrations[0].capacity, 1);
        let engine = &seen.registrations[0].engine;
        assert!(engine.starts_with("Docker ") && engine.contains("workspaces "), "{engine}");
        let of_runner =
            |m: &&RunnerMessage| matches!(m, RunnerMessage::Register(_) | RunnerMessage::Condition(_));
        let of_attempt: Vec<_> = seen.messages.iter().filter(|message| !of_runner(message)).collect();
        assert!(matches!(of_attempt[0], RunnerMessage::Accepted { .. }));
        assert!(matches!(of_attempt[1], RunnerMessage::Started { .. }));
        assert!(matches!(of_attempt[2], RunnerMessage::Finished { .. }));
        assert!(matches!(of_attempt[3], RunnerMessage::Cleaned { .. }));
    });
    world.ends_clean().await;
}

#[tokio::test]
async fn the_commands_environment_is_as_promised() {
    let world = World::new().await;
    let mut value = serde_json::to_value(world.spec("env; pwd; id -u; echo $0")).unwrap();
    value["env"] = json!({"GREETING": "hello world"});
    let attempt = world.coordinator.assign(spec_from(value));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let printed = world.coordinator.log_text(attempt, Stream::Stdout);
    for line in [
        "CI=true".to_owned(),
        format!("CAISSON_BUILD_ID={}", attempt.build),
        "CAISSON_ATTEMPT=1".into(),
        format!("CAISSON_COMMIT={}", world.repository.head()),
        format!("CAISSON_REPOSITORY_URL={}", world.repository.url()),
        "GREETING=hello world".into(),
        "/workspace".into(),
        "0".into(),
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn images_that_cant_be_had_are_told_apart() {
    let world = World::with(&["capacity=4"]).await;
    let registry = servers::registry().await;
    let with_image = |image: String| {
        let mut value = serde_json::to_value(world.spec("true")).unwrap();
        value["image"] = json!(image);
        world.coordinator.assign(spec_from(value))
    };
    let unknown = with_image(format!("{registry}/nosuch:1"));
    let denied = with_image(format!("{registry}/private/app:1"));
    let broken = with_image(format!("{registry}/broken/app:1"));
    let away = with_image("127.0.0.1:1/app:1".into());
    assert_eq!(reason(&world.outcome(unknown).await), "image_not_found");
    assert_eq!(reason(&world.outcome(denied).await), "image_denied");
    assert_eq!(reason(&world.outcome(broken).await), "image_failed");
    let away = world.outcome(away).await;
    assert_eq!(reason(&away), "image_failed");
    assert!(away.message().unwrap().contains("127.0.0.1:1/app:1"), "{away:?}");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_runner_that_pulls_nothing_says_so() {
    let world = World::with(&["image.pull=never"]).await;
    let mut value = serde_json::to_value(world.spec("true")).unwrap();
    value["image"] = json!("caisson-no-such-image:test");
    let attempt = world.coordinator.assign(spec_from(value));
    let outcome = world.outcome(attempt).await;
    assert_eq!(reason(&outcome), "image_not_found");
    assert!(outcome.message().unwrap().contains("image.pull"), "{outcome:?}");
    world.ends_clean().await;
}

#[tokio::test]
async fn an_image_without_a_shell_is_the_images_fault_and_a_missing_command_is_not() {
    let world = World::with(&["capacity=2"]).await;
    let image = new_image();
    let empty = tempfile::tempdir().unwrap();
    let tar = empty.path().join("empty.tar");
    std::fs::write(&tar, [0; 10240]).unwrap();
    docker(&["import", tar.to_str().unwrap(), &image]);

    let mut value = serde_json::to_value(world.spec("true")).unwrap();
    value["image"] = json!(image);
    let no_shell = world.coordinator.assign(spec_from(value));
    let no_command = world.submit("no-such-command");
    let no_shell = world.outcome(no_shell).await;
    docker(&["rmi", "--force", &image]);
    assert_eq!(reason(&no_shell), "image_unusable", "{no_shell:?}");
    assert_eq!(world.outcome(no_command).await, Outcome::Failed { exit_code: 127, note: None });
    world.ends_clean().await;
}

#[tokio::test]
async fn cancel_ends_also_what_ignores_it() {
    let world = World::with(&["capacity=4", "limits.pids=100"]).await;
    let stubborn = world
        .submit("trap '' TERM INT HUP; (while :; do sleep 1; done) & echo ready; while :; do sleep 1; done");
    let polite = world.submit("trap 'echo tidied up; exit 0' TERM; echo ready; while :; do sleep 0.1; done");
    // Has left its parents and its session, and holds neither output.
    let daemon = world.submit(
        "(setsid sh -c \"trap '' TERM; (while :; do sleep 1; done) & while :; do sleep 1; done\" >/dev/null 2>&1 &); \
         echo ready; sleep 1000",
    );
    // There are always new ones, none of which lives for long.
    let forks = world.submit(
        "for i in 1 2 3; do (trap '' TERM; while :; do (setsid true &); done) & done; echo ready; exec sleep 1000",
    );
    for attempt in [stubborn, polite, daemon, forks] {
        world.coordinator.prints(attempt, "ready").await;
        world.coordinator.say(CoordinatorMessage::Cancel { attempt });
        // Asking twice is asking once.
        world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    }
    for attempt in [stubborn, polite, daemon, forks] {
        assert_eq!(world.outcome(attempt).await, Outcome::Canceled);
    }
    assert!(world.coordinator.log_text(polite, Stream::Stdout).contains("tidied up"));
    // It was killed, and not only cut off and removed.
    let said = world.coordinator.log_text(stubborn, Stream::Caisson);
    assert!(!said.contains("still open"), "{said}");
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_build_is_canceled_while_it_clones() {
    let world = World::new().await;
    let silent = servers::silent().await;
    let attempt = world.coordinator.assign(spec(&format!("http://{silent}/app.git"), "main", "true"));
    world
        .coordinator
        .wait("it clones", |seen| {
            seen.logs.get(&attempt).is_some_and(|log| log.text(Stream::Caisson).contains("Cloning"))
        })
        .await;
    world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    assert_eq!(world.outcome(attempt).await, Outcome::Canceled);
    world.ends_clean().await;
}

#[tokio::test]
async fn two_builds_run_at_once_and_dont_meet() {
    let world = World::with(&["capacity=2", "network=bridge"]).await;
    let serves = world.submit("echo ready; nc -l -p 8080 -w 1000 < /dev/null");
    world.coordinator.prints(serves, "ready").await;
    let container = format!("caisson-{serves}");
    let address = docker(&[
        "inspect",
        "--format",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        &container,
    ]);
    assert!(!address.is_empty());
    // Names in the workspace are each build's own, and the other build's open port is out of reach.
    let asks =
        world.submit(&format!("test ! -e other && touch other && ! nc -w 2 {address} 8080 < /dev/null"));
    assert_eq!(world.outcome(asks).await, Outcome::Succeeded);
    world.coordinator.say(CoordinatorMessage::Cancel { attempt: serves });
    assert_eq!(world.outcome(serves).await, Outcome::Canceled);
    world.ends_clean().await;
}

#[tokio::test]
async fn running_out_of_memory_is_noted() {
    let world = World::with(&["limits.memory=32MiB", "capacity=2"]).await;
    // The engine learns of it beside the command's end, so that is put off.
    let hog = world.submit("head -c 200m /dev/zero | tail -c 100m | wc -c; sleep 1; exit 5");
    let outcome = world.outcome(hog).await;
    assert!(
        matches!(outcome, Outcome::Failed { note: Some(FailureNote::OutOfMemory), .. }),
        "{outcome:?}: {}",
        world.coordinator.log_text(hog, Stream::Stderr)
    );
    world.ends_clean().await;
}

#[tokio::test]
async fn what_a_command_wrote_as_root_is_removed() {
    let world = World::new().await;
    let attempt = world.submit(
        "mkdir -p a/b/c; touch a/b/c/file 'strange \n name'; ln -s / link; chmod 000 a/b a; chmod 444 file.txt",
    );
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.coordinator.cleaned(attempt).await;
    world.runner.becomes_empty().await;
    assert!(!world.runner.log().contains("left to the sweep"), "{}", world.runner.log());
    world.ends_clean().await;
}

#[tokio::test]
async fn an_errored_build_keeps_its_reason_apart_from_its_message() {
    let world = World::with(&["git.allow_file_urls=false"]).await;
    let attempt = world.submit("true");
    let outcome = world.outcome(attempt).await;
    let Outcome::Errored { reason, message } = outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, ErrorReason::RepositoryDenied);
    assert!(message.contains("git.allow_file_urls"), "{message}");
    world.ends_clean().await;
}
