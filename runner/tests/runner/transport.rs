//! How workspaces get into containers: found out at the start, as it was committed, and gone afterwards.

use std::{collections::BTreeMap, io, os::unix::fs::symlink, path::Path, time::Duration};

use bytes::Bytes;
use caisson_protocol::{AttemptId, BuildId, CoordinatorMessage, Network, Outcome, Stream};
use caisson_runner::{
    config::Config,
    engine::{
        Archive, ContainerRequest, Engine, EngineError, Owned, OwnedKind, Owner, WorkspaceMount,
        container_name, docker::DockerEngine,
    },
};
use caisson_settings::Period;
use futures_util::{StreamExt, stream};
use tokio::{
    net::UnixListener,
    time::{Instant, sleep, timeout},
};

use crate::world::{
    Bind, Call, Coordinator, EngineProxy, Gate, IMAGE, Kind, Nobody, Repository, Runner, Upload, WorldWith,
    docker, new_name, patience, spec_from,
};

async fn description<K: Kind>(settings: &[&str]) -> String {
    let world = WorldWith::<K>::with(settings).await;
    let description = world.coordinator.look(|seen| seen.registrations[0].engine.clone());
    world.ends_clean().await;
    description
}

#[tokio::test]
async fn the_way_that_suits_the_engine_and_the_runner_is_found_out_and_said() {
    let found = description::<Bind>(&["workspace.transport=auto"]).await;
    assert!(found.ends_with(", workspaces bound"), "{found}");
    let found = description::<Nobody>(&[]).await;
    assert!(found.ends_with(", workspaces uploaded"), "{found}");
}

fn owner() -> Owner {
    Owner { runner: new_name().parse().unwrap(), ..Config::default().owner() }
}

#[tokio::test]
async fn an_engine_that_does_not_see_the_runners_files_is_told_from_one_that_does() {
    let engine = DockerEngine::at(&Config::default().engine).unwrap();
    let owner = owner();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("file"), "").unwrap();
    let sees = async |folder: &Path, file| engine.sees(&owner, folder, file).await;
    assert_eq!(sees(home.path(), "file").await, Ok(true));
    // Elsewhere, a folder of that name has other files, or there is none.
    assert_eq!(sees(home.path(), "other").await, Ok(false));
    assert_eq!(sees(&home.path().join("elsewhere"), "file").await, Ok(false));
    assert!(!home.path().join("elsewhere").exists(), "the engine made the folder it was asked for");
    assert_eq!(engine.list_owned(&owner).await.unwrap(), []);
    assert_eq!(docker(&["images", "-q", &format!("caisson-probe:{}", owner.runner)]), "");
}

#[tokio::test]
async fn s11_nobody_else_of_its_user_looks_into_a_runner() {
    let world = WorldWith::<Nobody>::new().await;
    assert_eq!(world.runner.is_looked_into_by(), 0);
    world.ends_clean().await;
}

/// What root writes is root's: the runner can't even look into it.
#[tokio::test]
async fn a_runner_that_is_not_root_removes_what_root_wrote() {
    let world = WorldWith::<Nobody>::new().await;
    let attempt = world.submit(
        "id -u; stat -c %u . file.txt; mkdir -p a/b/c; echo x > a/b/c/file; touch 'strange \n name' -- -rf; \
         ln -s / link; i=0; cd a; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done; cd /workspace; \
         chmod 444 file.txt; chmod 000 a/b a",
    );
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "0\n0\n0\n");
    world.coordinator.cleaned(attempt).await;
    world.runner.becomes_empty().await;
    assert!(!world.runner.log().contains("left to the sweep"), "{}", world.runner.log());
    world.ends_clean().await;
}

#[tokio::test]
async fn a_runner_that_is_killed_while_it_is_not_root_is_cleaned_up_after() {
    let mut world = WorldWith::<Nobody>::new().await;
    let attempt = world.submit("touch roots; chmod 000 roots; echo ready; sleep 1000");
    world.coordinator.prints(attempt, "ready").await;
    world.runner.kill();
    let left: Vec<_> = crate::world::owned(&world.runner.name).await.iter().map(|owned| owned.kind).collect();
    assert_eq!(left, [OwnedKind::Container, OwnedKind::Volume]);
    world.runner.restart();
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_runner_that_would_leave_roots_files_behind_does_not_start() {
    let home = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start().await;
    let mut runner = Runner::start_as_nobody(home.path(), &coordinator, &["workspace.transport=bind"]);
    assert_eq!(runner.exit_code().await, Some(1));
    let log = runner.log();
    assert!(log.lines().last().unwrap().contains("needs a runner that is root"), "{log}");
}

#[tokio::test]
async fn a_checkout_is_the_same_whichever_way_it_comes() {
    const LOOK: &str = "find . -path ./.git -prune -o -print | sort; cat d*/d*/file | sha256sum; \
                        for link in out absolute dangling; do readlink $link; done; stat -c '%a %u:%g %n' run file.txt; ls -A .git | sort";
    let far = format!("{0}/{0}", "d".repeat(120));
    let (bound, uploaded) = (WorldWith::<Bind>::new().await, WorldWith::<Upload>::new().await);
    let mut printed = Vec::new();
    for (coordinator, repository) in
        [(&bound.coordinator, &bound.repository), (&uploaded.coordinator, &uploaded.repository)]
    {
        strange_files(repository, &far);
        let attempt = coordinator.assign(crate::world::spec(&repository.url(), "main", LOOK));
        assert_eq!(coordinator.finished(attempt).await.outcome, Outcome::Succeeded);
        printed.push(coordinator.log_text(attempt, Stream::Stdout));
    }
    assert_eq!(printed[0], printed[1]);
    for line in ["../../../etc/passwd", "/etc//passwd", "./nowhere/../nothing", "755 0:0 run", "HEAD"] {
        assert!(printed[0].lines().any(|printed| printed == line), "{line} is not in\n{}", printed[0]);
    }
    bound.ends_clean().await;
    uploaded.ends_clean().await;
}

fn strange_files(repository: &Repository, far: &str) {
    symlink("../../../etc/passwd", repository.path.join("out")).unwrap();
    symlink("/etc//passwd", repository.path.join("absolute")).unwrap();
    symlink("./nowhere/../nothing", repository.path.join("dangling")).unwrap();
    repository.commit_as_it_is(&["out", "absolute", "dangling"]);
    let large = "0123456789abcdef".repeat(100_000);
    repository.commit(&[(&format!("{far}/file"), &large), ("run", "#!/bin/sh\n"), ("empty", "")]);
    repository.make_executable("run");
}

/// A container on the machine's engine that waits to be filled.
struct Waiting {
    engine: DockerEngine,
    id: caisson_runner::engine::ContainerId,
    attempt: AttemptId,
}

impl Waiting {
    async fn with_deadline(deadline_seconds: u64) -> Self {
        let config = Config { name: new_name().parse().unwrap(), ..Config::default() };
        let mut engine = config.engine.clone();
        engine.deadline = Period::seconds(deadline_seconds);
        let engine = DockerEngine::at(&engine).unwrap();
        let attempt = AttemptId { build: BuildId(uuid::Uuid::now_v7()), number: 1 };
        let request = ContainerRequest {
            attempt,
            owner: config.owner(),
            image: IMAGE.into(),
            command: "true".into(),
            environment: BTreeMap::new(),
            workspace: WorkspaceMount::Volume,
            limits: config.limits,
            network: Network::None,
        };
        let id = engine.create(&request).await.unwrap();
        Self { engine, id, attempt }
    }

    async fn remove(self) {
        for kind in [OwnedKind::Container, OwnedKind::Volume] {
            let owned = Owned { kind, id: container_name(self.attempt), attempt: Some(self.attempt) };
            self.engine.remove(&owned).await.unwrap();
        }
    }
}

/// An archive of nothing that takes its time.
fn slowly(pieces: usize, pause: Duration) -> Archive {
    let pieces = stream::iter(0..pieces).then(move |_| async move {
        sleep(pause).await;
        Ok(Bytes::from_static(&[0; 512]))
    });
    pieces.boxed()
}

#[tokio::test]
async fn an_upload_may_take_long_and_may_not_stand_still() {
    let container = Waiting::with_deadline(1).await;
    let slow = slowly(8, Duration::from_millis(200));
    assert_eq!(container.engine.upload(&container.id, slow).await, Ok(()));
    let stuck = slowly(8, Duration::from_secs(3600));
    let stuck = timeout(patience(), container.engine.upload(&container.id, stuck)).await;
    let error = stuck.expect("it is waited for").unwrap_err();
    assert!(matches!(error, EngineError::Silent { seconds: 1, .. }), "{error}");
    container.remove().await;
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_any_more_holds_nothing_up() {
    let container = Waiting::with_deadline(10).await;
    let upload = container.engine.upload(&container.id, slowly(8, Duration::from_secs(3600)));
    assert!(timeout(Duration::from_millis(300), upload).await.is_err());
    let begun = Instant::now();
    container.remove().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "the removal waited for the upload");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_no_upload() {
    let container = Waiting::with_deadline(10).await;
    // What has come by then is an archive, of nothing.
    let broken =
        stream::iter([Ok(Bytes::from_static(&[0; 1024])), Err(io::Error::other("the disk is gone"))]);
    let uploaded = container.engine.upload(&container.id, broken.boxed()).await;
    assert!(uploaded.is_err(), "{uploaded:?}");
    container.remove().await;
}

#[tokio::test]
async fn a_build_is_stopped_while_its_checkout_is_uploaded() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = WorldWith::<Upload>::with(&[&proxy.setting(), "engine.deadline=1h"]).await;
    proxy.set(Gate::LosesQuestion(Call::Upload));
    let canceled = world.submit("true");
    proxy.is_open_again().await;
    world.coordinator.say(CoordinatorMessage::Cancel { attempt: canceled });
    assert_eq!(world.outcome(canceled).await, Outcome::Canceled);

    proxy.set(Gate::LosesQuestion(Call::Upload));
    let mut value = serde_json::to_value(world.spec("true")).unwrap();
    value["timeout_seconds"] = 2.into();
    let late = world.coordinator.assign(spec_from(value));
    let report = world.coordinator.finished(late).await;
    assert_eq!(report.outcome, Outcome::TimedOut);
    assert!(report.phases.create_ms.is_some() && report.phases.run_ms.is_none(), "{:?}", report.phases);
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn an_engine_that_takes_nothing_ends_an_upload() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut config = Config::default().engine;
    config.host = format!("unix://{}", socket.display()).try_into().unwrap();
    config.deadline = Period::seconds(1);
    let engine = DockerEngine::at(&config).unwrap();
    let container = Waiting::with_deadline(10).await;
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65536]))).boxed();
    let upload = timeout(patience(), engine.upload(&container.id, endless)).await;
    let upload = upload.expect("it is waited for");
    assert!(matches!(upload, Err(EngineError::Silent { .. })), "{upload:?}");
    drop(listener);
    container.remove().await;
}
