//! Commands that take all they can get: each is stopped by its own limits, and its neighbours notice nothing.

use std::net::SocketAddr;

use caisson_protocol::{AttemptId, FailureNote, Outcome, Stream};

use serde_json::json;

use super::World;
use crate::world::{docker, image_with, spec_from};

impl World {
    fn printed(&self, attempt: AttemptId) -> String {
        self.coordinator.log_text(attempt, Stream::Stdout)
    }
}

#[tokio::test]
async fn a_fork_bomb_harms_only_itself() {
    let world = World::with(&["capacity=2", "limits.pids=64"]).await;
    let bomb = world.submit("bomb() { bomb | bomb & }; bomb; sleep 2; echo survived; exit 9");
    world.coordinator.started(bomb).await;
    let neighbour = world.submit("for i in 1 2 3 4 5; do (exit 0); done; echo fine");
    assert_eq!(world.outcome(neighbour).await, Outcome::Succeeded);
    assert_eq!(world.printed(neighbour), "fine\n");
    // Whether the bomb leaves its own shell the room to go on is up to chance; that it ends is not.
    let outcome = world.outcome(bomb).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn memory_that_is_not_there_ends_what_asks_for_it() {
    let world = World::with(&["capacity=2", "limits.memory=32MiB"]).await;
    // The first asks as the command itself, the second in a child whose end the command copes with.
    let hog = world.submit("exec tail -c 100m /dev/zero");
    let copes = world.submit("tail -c 100m /dev/zero || true; echo coped");
    // That it was for memory, a busy Docker may learn too late to say so.
    let killed = world.outcome(hog).await;
    assert!(matches!(killed, Outcome::Failed { exit_code: 137, .. }), "{killed:?}");
    assert_eq!(world.outcome(copes).await, Outcome::Succeeded);
    assert_eq!(world.printed(copes), "coped\n");
    world.ends_clean().await;
}

/// Wherever it writes: beside its workspace, in it, or where its image has a volume.
#[tokio::test]
async fn a_command_that_writes_too_much_is_killed_for_it() {
    let world = World::with(&["capacity=4", "limits.disk=16MiB"]).await;
    let image = image_with("VOLUME /data");
    let hog = |place: &str| {
        let fill = format!("dd if=/dev/zero of={place}/large bs=1M count=40 2>/dev/null; echo wrote; sleep 1000");
        world.submit_in(&image, &fill)
    };
    let hogs = ["/root", ".", "/data"].map(|place| (place, hog(place)));
    let modest = world.submit_in(
        &image,
        "for place in / . /data; do dd if=/dev/zero of=$place/small bs=1M count=4 2>/dev/null; done; sleep 5; echo fine",
    );
    let killed = Outcome::Failed { exit_code: 137, note: Some(FailureNote::DiskLimit) };
    for (place, hog) in hogs {
        assert_eq!(world.outcome(hog).await, killed, "{place}");
        assert_eq!(world.printed(hog), "wrote\n");
        let said = world.coordinator.log_text(hog, Stream::Caisson);
        assert!(said.contains("limits.disk (16"), "{said}");
    }
    assert_eq!(world.outcome(modest).await, Outcome::Succeeded);
    world.runner.becomes_empty().await;
    docker(&["rmi", "--force", &image]);
    world.ends_clean().await;
}

/// Where no path leads, nobody measures by path.
#[tokio::test]
async fn a_command_hides_nothing_from_its_limit_where_folders_lie_deep() {
    let world = World::with(&["capacity=2", "limits.disk=16MiB"]).await;
    let hogs = ["/workspace", "/root"].map(|place| {
        let chain = "long-name/".repeat(300);
        let command = format!(
            "cd {place}; mkdir -p a/{chain} b/{chain}; mv b a/{chain}; cd -P a/{chain}; cd -P b/{chain}; \
             dd if=/dev/zero of=large bs=1M count=40 2>/dev/null; echo wrote; sleep 1000"
        );
        (place, world.submit(&command))
    });
    let killed = Outcome::Failed { exit_code: 137, note: Some(FailureNote::DiskLimit) };
    for (place, hog) in hogs {
        assert_eq!(world.outcome(hog).await, killed, "{place}");
        assert_eq!(world.printed(hog), "wrote\n");
    }
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_command_gets_its_share_of_the_processors_and_no_more() {
    let world = World::with(&["limits.cpus=0.2"]).await;
    let hog = world.submit(
        "for i in 1 2 3 4; do (while :; do :; done) & done; sleep 2; cat /sys/fs/cgroup/cpu.stat \
         /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null | grep nr_throttled; kill -9 -1",
    );
    world.outcome(hog).await;
    let printed = world.printed(hog);
    let throttled: u32 = printed.trim().trim_start_matches("nr_throttled ").parse().unwrap();
    assert!(throttled >= 5, "{printed}");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_build_is_held_to_less_where_it_asks_for_less_and_never_gets_more() {
    let allowed = ["limits.memory=256MiB", "limits.cpus=1", "limits.pids=200", "limits.nofile=512", "network=bridge"];
    let world = World::with(&[&["capacity=3"], allowed.as_slice()].concat()).await;
    let ready = "echo ready; while [ ! -e go ]; do sleep 0.05; done";
    let build = |limits: serde_json::Value, network: &str| {
        let mut value = serde_json::to_value(world.spec(ready)).unwrap();
        value["limits"] = limits;
        value["network"] = network.into();
        world.coordinator.assign(spec_from(value))
    };
    let less = build(
        json!({ "memory_bytes": 32 << 20, "cpus": 0.5, "pids": 50, "nofile": 100, "shm_bytes": 1 << 20 }),
        "none",
    );
    let more = json!({ "memory_bytes": 1u64 << 40, "cpus": 64, "pids": 4_000_000, "nofile": 65_536, "shm_bytes": 1u64 << 40 });
    let (more, nothing) = (build(more, "bridge"), build(json!({}), "bridge"));
    let made = |attempt: AttemptId| {
        let format = "{{.Memory}} {{.MemorySwap}} {{.NanoCpus}} {{.PidsLimit}} {{.ShmSize}} {{.NetworkMode}}";
        let format = format!("{{{{with .HostConfig}}}}{format} {{{{range .Ulimits}}}}{{{{.Name}}}}={{{{.Hard}}}} {{{{end}}}}{{{{end}}}}");
        docker(&["inspect", "--format", &format, &format!("caisson-{attempt}")])
    };
    for attempt in [less, more, nothing] {
        world.coordinator.prints(attempt, "ready").await;
    }
    assert_eq!(made(less), "33554432 33554432 500000000 50 1048576 none core=0 nofile=100");
    let allowed = format!("268435456 268435456 1000000000 200 67108864 caisson-{}-", world.runner.name);
    for attempt in [more, nothing] {
        let made = made(attempt);
        assert!(made.starts_with(&allowed) && made.ends_with(" core=0 nofile=512"), "{made}");
    }
    let said = |attempt| world.coordinator.log_text(attempt, Stream::Caisson);
    assert!(said(less).contains("memory 32MiB, cpus 0.5, pids 50, nofile 100, shm 1MiB, no network"), "{}", said(less));
    assert!(!said(nothing).contains("Limits of its own"), "{}", said(nothing));
    for attempt in [less, more, nothing] {
        world.go(attempt);
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    }
    world.ends_clean().await;
}

/// What is less can't be asked for: it would not be the build that fails.
#[tokio::test]
async fn the_least_that_can_be_asked_for_is_enough_to_begin() {
    let world = World::new().await;
    let mut value = serde_json::to_value(world.spec("echo begun; seq 1 40000; echo done")).unwrap();
    value["limits"] = json!({
        "memory_bytes": 16 << 20, "cpus": 0.01, "pids": 16, "nofile": 64, "shm_bytes": 64 << 10, "disk_bytes": 1 << 20,
        "log_bytes": 64 << 10,
    });
    let attempt = world.coordinator.assign(spec_from(value));
    let report = world.coordinator.finished(attempt).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(report.log_bytes <= 64 << 10, "{}", report.log_bytes);
    let printed = world.printed(attempt);
    assert!(printed.starts_with("begun\n") && printed.ends_with("done\n"), "{printed}");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_build_that_asks_for_less_disk_is_killed_for_less() {
    let world = World::new().await;
    let mut value = serde_json::to_value(world.spec("head -c 8m /dev/zero > large; sleep 1000")).unwrap();
    value["limits"] = json!({ "disk_bytes": 4 << 20 });
    let attempt = world.coordinator.assign(spec_from(value));
    let killed = Outcome::Failed { exit_code: 137, note: Some(FailureNote::DiskLimit) };
    assert_eq!(world.outcome(attempt).await, killed);
    world.ends_clean().await;
}

#[tokio::test]
async fn shared_memory_has_a_size_and_no_core_is_written() {
    let world = World::with(&["limits.shm=1MiB"]).await;
    // The hard limit, since the soft one of an engine is often none already.
    let attempt =
        world.submit("dd if=/dev/zero of=/dev/shm/x bs=64k 2>/dev/null || wc -c < /dev/shm/x; ulimit -H -c");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.printed(attempt), "1048576\n0\n");
    world.ends_clean().await;
}

/// On a bridge a build reaches what listens on the addresses of its host: not on those that are the host's own.
#[tokio::test]
async fn neither_the_engine_nor_the_runner_can_be_reached_from_a_build() {
    let world = World::with(&["network=bridge"]).await;
    let everywhere = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let [open, own] = [&everywhere.local_addr().unwrap(), &world.coordinator.address].map(SocketAddr::port);
    tokio::spawn(async move { while everywhere.accept().await.is_ok() {} });
    let looks = format!(
        "set +e; ls /var/run/docker.sock /run/docker.sock 2>/dev/null; ls /sys/class/net; \
         for host in 127.0.0.1 $(ip route | awk '/^default/ {{ print $3 }}'); do for port in {own} {open}; do \
         nc -w 2 $host $port </dev/null 2>/dev/null && echo $host $port; done; done | sed 's/.* {open}/by its address/'; \
         mount -t tmpfs none /mnt 2>/dev/null && echo mounted; mknod /tmp/disk b 8 0 2>/dev/null && echo node; \
         echo 1 2>/dev/null > /proc/sys/kernel/panic && echo kernel; ps | grep -c '[c]aisson-runner'"
    );
    // What a firewall of the host's takes away is not seen here, either.
    for (network, seen) in [("none", "lo\n0\n"), ("bridge", "eth0\nlo\nby its address\n0\n")] {
        let mut value = serde_json::to_value(world.spec(&looks)).unwrap();
        value["network"] = network.into();
        let attempt = world.coordinator.assign(spec_from(value));
        world.outcome(attempt).await;
        assert_eq!(world.printed(attempt), seen, "{network}");
    }
    assert_eq!(world.runner.listens_on(), [""; 0]);
    world.ends_clean().await;
}

#[tokio::test]
async fn a_runner_tells_at_its_start_what_nothing_limits() {
    let told = "set limits.memory and limits.cpus";
    let world = World::new().await;
    assert!(world.runner.log().contains(told), "{}", world.runner.log());
    world.ends_clean().await;
    let world = World::with(&["limits.memory=1GiB", "limits.cpus=1"]).await;
    assert!(!world.runner.log().contains("limits."), "{}", world.runner.log());
    world.ends_clean().await;
}

#[tokio::test]
async fn a_volume_that_an_image_declares_goes_with_its_container() {
    let world = World::new().await;
    let image = image_with("VOLUME /data");
    let attempt =
        world.submit_in(&image, "echo secret > /data/file; echo ready; while [ ! -e go ]; do sleep 0.05; done");
    world.coordinator.prints(attempt, "ready").await;
    let format = r#"{{range .Mounts}}{{if eq .Destination "/data"}}{{.Name}}{{end}}{{end}}"#;
    let volume = docker(&["inspect", "--format", format, &format!("caisson-{attempt}")]);
    let found = || docker(&["volume", "ls", "--quiet", "--filter", &format!("name={volume}")]);
    assert_eq!(found(), volume);
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.coordinator.cleaned(attempt).await;
    docker(&["rmi", "--force", &image]);
    let left = found();
    if !left.is_empty() {
        docker(&["volume", "rm", &left]);
    }
    assert_eq!(left, "");
    world.ends_clean().await;
}

#[tokio::test]
async fn nothing_of_a_build_is_there_for_the_next() {
    let world = World::new().await;
    let writes = world.submit("echo secret | tee /workspace/x /tmp/x /root/x /dev/shm/x > /dev/null");
    assert_eq!(world.outcome(writes).await, Outcome::Succeeded);
    let looks = world.submit("ls /workspace /tmp /root /dev/shm");
    assert_eq!(world.outcome(looks).await, Outcome::Succeeded);
    assert!(world.printed(looks).lines().all(|line| line != "x"), "{}", world.printed(looks));
    world.ends_clean().await;
}

#[tokio::test]
async fn exit_codes_come_as_they_are() {
    let world = World::with(&["capacity=4"]).await;
    let codes = [1, 2, 42, 124, 125, 126, 127, 128, 129, 137, 139, 143, 254, 255];
    let attempts = codes.map(|code| (code, world.submit(&format!("exit {code}"))));
    for (code, attempt) in attempts {
        let outcome = world.outcome(attempt).await;
        assert_eq!(outcome.exit_code(), Some(code), "{outcome:?}");
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn what_has_strange_names_lies_deep_or_cant_be_written_is_removed() {
    let world = World::new().await;
    let attempt = world.submit(
        // Four thousand folders deep, made by moving one chain into the next.
        "chain=$(printf 'd/%.0s' $(seq 500)); for i in $(seq 8); do mkdir -p next/$chain; \
         [ ! -e d ] || mv d next/$chain; mv next d; done; touch -- '-rf' '*' \"$(printf 'new\\nline')\" \"$(printf '\\377\\376')\" '...' ; mkfifo pipe; chmod 000 d file.txt; \
         ln -s /etc etc; mkdir -p ro/in; touch ro/in/f; chmod 500 ro/in ro; ls | wc -l",
    );
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded, "{}", world.printed(attempt));
    assert!(!world.printed(attempt).is_empty());
    world.coordinator.cleaned(attempt).await;
    assert!(!world.runner.log().contains("left to the sweep"), "{}", world.runner.log());
    world.runner.becomes_empty().await;
    assert!(std::path::Path::new("/etc/passwd").exists());
    world.ends_clean().await;
}
