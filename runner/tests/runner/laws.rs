//! What holds of every engine, in as many builds on one: what a command prints, how it ends, what it may do and whom it
//! meets, and that nothing is left of it.

use caisson_protocol::{AttemptId, CoordinatorMessage, FailureNote, Outcome, Stream};

use caisson_runner::engine::Owned;

use crate::world::{Kind, WorldWith, spec_from, until};

/// The runner's engine obeys every law. The runner has `capacity=4`, `limits.memory=64MiB` and
/// `limits.disk=64MiB`.
pub(crate) async fn hold_in<K: Kind>(world: &WorldWith<K>) {
    prints_to_the_byte(world).await;
    ends_as_it_ends(world).await;
    sees_its_checkout_and_no_more(world).await;
    ends_when_it_is_told_to(world).await;
    keeps_to_its_limits(world).await;
    is_told_apart_from_what_others_do(world).await;
    leaves_nothing(world).await;
}

async fn succeeds<K: Kind>(world: &WorldWith<K>, command: &str) -> AttemptId {
    let attempt = world.submit(command);
    let outcome = world.outcome(attempt).await;
    let said = world.coordinator.log_text(attempt, Stream::Stderr);
    assert_eq!(outcome, Outcome::Succeeded, "{command}: {said}");
    attempt
}

async fn prints_to_the_byte<K: Kind>(world: &WorldWith<K>) {
    let octal: String = (0..=255).map(|byte| format!("\\{byte:03o}")).collect();
    let attempt = succeeds(world, &format!("printf '{octal}'; printf 'to stderr' >&2; seq 1 200000")).await;
    let mut expected: Vec<u8> = (0..=255).collect();
    expected.extend((1..=200_000).flat_map(|number| format!("{number}\n").into_bytes()));
    assert!(world.coordinator.log(attempt, Stream::Stdout) == expected, "the output differs");
    assert_eq!(world.coordinator.log(attempt, Stream::Stderr), b"to stderr");
}

async fn ends_as_it_ends<K: Kind>(world: &WorldWith<K>) {
    let codes =
        [1, 2, 125, 126, 127, 128, 143, 255].map(|code| (code, world.submit(&format!("exit {code}"))));
    for (code, attempt) in codes {
        assert_eq!(world.outcome(attempt).await.exit_code(), Some(code));
    }
    let killed = world.submit("kill -9 $$");
    let signal = Outcome::Failed { exit_code: 137, note: Some(FailureNote::KilledBySignal) };
    assert_eq!(world.outcome(killed).await, signal);
    let late = world.submit("(setsid sleep 1000 &); echo done; exit 3");
    assert_eq!(world.outcome(late).await, Outcome::Failed { exit_code: 3, note: None });
}

async fn sees_its_checkout_and_no_more<K: Kind>(world: &WorldWith<K>) {
    let mut value =
        serde_json::to_value(world.spec("pwd; cat file.txt; id -u; ls; ls /sys/class/net; echo $CI"))
            .unwrap();
    value["network"] = "none".into();
    let attempt = world.coordinator.assign(spec_from(value));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let printed = world.coordinator.log_text(attempt, Stream::Stdout);
    assert_eq!(printed, "/workspace\nhello\n0\nfile.txt\nlo\ntrue\n");
}

async fn ends_when_it_is_told_to<K: Kind>(world: &WorldWith<K>) {
    let stubborn = world.submit("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    let polite = world.submit("trap 'echo tidied up; exit 0' TERM; echo ready; while :; do sleep 0.1; done");
    for attempt in [stubborn, polite] {
        world.coordinator.prints(attempt, "ready").await;
        world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    }
    for attempt in [stubborn, polite] {
        assert_eq!(world.outcome(attempt).await, Outcome::Canceled);
    }
    assert!(world.coordinator.log_text(polite, Stream::Stdout).contains("tidied up"));
    let mut value = serde_json::to_value(world.spec("sleep 1000")).unwrap();
    value["timeout_seconds"] = 2.into();
    let too_long = world.coordinator.assign(spec_from(value));
    assert_eq!(world.outcome(too_long).await, Outcome::TimedOut);
}

async fn keeps_to_its_limits<K: Kind>(world: &WorldWith<K>) {
    let hog = world.submit("exec tail -c 200m /dev/zero");
    let outcome = world.outcome(hog).await;
    // A busy Docker, and any Podman, does not note that it was for memory.
    assert!(matches!(outcome, Outcome::Failed { exit_code: 137, .. }), "{outcome:?}");
    let writer = world.submit("head -c 80m /dev/zero > large; sleep 1000");
    let outcome = world.outcome(writer).await;
    assert_eq!(outcome.reason(), Some("disk_limit"), "{outcome:?}");
    let attempt = succeeds(
        world,
        "grep -E 'NoNewPrivs|CapEff' /proc/self/status | cut -f 2; ulimit -c; mount -t tmpfs none /mnt 2>/dev/null || echo no",
    )
    .await;
    let printed = world.coordinator.log_text(attempt, Stream::Stdout);
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE.
    assert_eq!(printed, "00000000000004fb\n1\n0\nno\n");
}

async fn is_told_apart_from_what_others_do<K: Kind>(world: &WorldWith<K>) {
    let mut value = serde_json::to_value(world.spec("true")).unwrap();
    value["image"] = "127.0.0.1:1/app:1".into();
    let no_image = world.coordinator.assign(spec_from(value));
    assert_eq!(world.outcome(no_image).await.reason(), Some("image_failed"));
    let removed = world.submit("echo ready; while :; do sleep 1; done");
    world.coordinator.prints(removed, "ready").await;
    world.runner.docker(&["rm", "-f", &format!("caisson-{removed}")]);
    let outcome = world.outcome(removed).await;
    assert_eq!(outcome.reason(), Some("engine_failed"), "{outcome:?}");
    world.coordinator.cleaned(removed).await;
    // Also what the engine leaves when someone else removes a container.
    let removed = |owned: &Owned| owned.attempt == Some(removed);
    assert!(!world.runner.owned().await.iter().any(removed), "{}", world.runner.log());
}

/// Of a runner with `network=bridge`, whose engine can give builds one.
pub(crate) async fn builds_dont_meet<K: Kind>(world: &WorldWith<K>) {
    let serves = world.submit("ip -4 -o addr show dev eth0 | awk '{ print $4 }'; exec httpd -f -p 8080");
    world.coordinator.prints(serves, "\n").await;
    let printed = world.coordinator.log_text(serves, Stream::Stdout);
    let (address, _) = printed.split_once('/').unwrap();
    let asks = format!("nc -w 2 {address} 8080 < /dev/null");
    // That it listens at that address is seen from where it runs: before and after another build has tried.
    let listens = || {
        let asks = format!("{asks} && echo yes || echo no");
        world.runner.docker(&["exec", &format!("caisson-{serves}"), "sh", "-c", &asks]) == "yes"
    };
    until("a build listens", async || listens()).await;
    succeeds(world, &format!("! {asks}")).await;
    assert!(listens());
    world.coordinator.say(CoordinatorMessage::Cancel { attempt: serves });
    assert_eq!(world.outcome(serves).await, Outcome::Canceled);
}

async fn leaves_nothing<K: Kind>(world: &WorldWith<K>) {
    let attempt = succeeds(
        world,
        "mkdir -p a/b; touch a/b/file 'strange \n name' -- -rf; ln -s / link; mkfifo pipe; chmod 000 a/b a file.txt",
    )
    .await;
    world.coordinator.cleaned(attempt).await;
    world.runner.becomes_empty().await;
    assert!(!world.runner.log().contains("left to the sweep"), "{}", world.runner.log());
}
