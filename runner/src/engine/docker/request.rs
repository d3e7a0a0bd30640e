//! What a build's container is made from, whole: everything that is not said here has the engine's default, and each
//! loosening of it is a change of the golden test below.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use caisson_protocol::Network;

use super::{Dialect, Facts, label, networks};
use crate::{
    config::Limits,
    engine::{ContainerRequest, WORKSPACE, WorkspaceMount, container_name},
};

/// What package managers and servers need as root in their own container: to own files, to become another user, to
/// end their own processes, to listen on port 80. Docker's further defaults are left out: raw sockets and device
/// nodes reach beyond the container, and the rest is about capabilities themselves.
const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// The request that makes a build's container.
pub(super) fn body(request: &ContainerRequest, facts: &Facts) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(request.image.clone()),
        entrypoint: Some(vec!["sh".into(), "-ec".into()]),
        cmd: Some(vec![request.command.clone()]),
        env: Some(request.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels(request)),
        user: Some("0:0".into()),
        working_dir: Some(WORKSPACE.into()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        // With a terminal both streams would be one, and bollard would misread output that begins like a header.
        tty: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(host_config(request, facts)),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn labels(request: &ContainerRequest) -> HashMap<String, String> {
    let of_attempt = [
        (label::BUILD.to_owned(), request.attempt.build.to_string()),
        (label::ATTEMPT.to_owned(), request.attempt.to_string()),
    ];
    of_attempt.into_iter().chain(label::owner(&request.owner)).collect()
}

/// By its labels the sweep finds a volume that was left behind.
fn workspace(request: &ContainerRequest) -> Mount {
    match &request.workspace {
        WorkspaceMount::Folder(path) => bind(path, WORKSPACE),
        WorkspaceMount::Volume => Mount {
            source: Some(container_name(request.attempt)),
            target: Some(WORKSPACE.to_owned()),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                // What the image has in that place is no part of the workspace.
                no_copy: Some(true),
                labels: Some(labels(request)),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        },
    }
}

/// A folder of the engine's host. Where it has none of that name the engine says so, and makes none.
pub(super) fn bind(folder: &Path, target: &str) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(folder.display().to_string()),
        typ: Some(MountType::BIND),
        ..Mount::default()
    }
}

fn host_config(request: &ContainerRequest, facts: &Facts) -> HostConfig {
    // What is written is bounded by the runner.
    let Limits { memory, cpus, pids, nofile, shm, disk: _ } = &request.limits;
    let memory = memory.map(|size| i64::try_from(size.0).unwrap_or(i64::MAX));
    HostConfig {
        mounts: Some(vec![workspace(request)]),
        network_mode: Some(match request.network {
            Network::Bridge => networks::name(request, facts.dialect),
            Network::None => "none".into(),
        }),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        // The default seccomp profile is in force where none is named.
        security_opt: Some(vec!["no-new-privileges".into()]),
        ipc_mode: Some("private".into()),
        // With swap on top, a limit would only be where a build begins to crawl.
        memory,
        memory_swap: memory,
        nano_cpus: nano_cpus(*cpus, facts.processors),
        pids_limit: Some(i64::from(pids.get())),
        ulimits: Some(ulimits(*nofile, pids.get(), facts.dialect)),
        shm_size: i64::try_from(shm.0).ok(),
        // The first process of a container ignores SIGTERM unless it handles it; the engine's init passes it on.
        init: Some(true),
        // The output is read by attaching; a driver would write it to disk a second time.
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: Some(HashMap::new()) }),
        // Its exit code is read after it has ended.
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

/// Whole billionths of a processor. As many as there are is no limit, and more than there are Docker refuses to give.
#[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest whole number in range")]
fn nano_cpus(cpus: f64, processors: Option<u32>) -> Option<i64> {
    let nano_cpus = (cpus * 1e9).round() as i64;
    let all = processors.map_or(i64::MAX, |processors| i64::from(processors) * 1_000_000_000);
    (1..all).contains(&nano_cpus).then_some(nano_cpus)
}

/// No core dumps, which would land wherever the host's kernel was told to put them; and open files where a limit is set.
/// Podman would give more processes to each user than many a host lets it, and start nothing.
fn ulimits(files: u32, processes: u32, dialect: Dialect) -> Vec<ResourcesUlimits> {
    let limit = |name: &str, limit: u32| ResourcesUlimits {
        name: Some(name.into()),
        soft: Some(limit.into()),
        hard: Some(limit.into()),
    };
    let files = (files > 0).then(|| limit("nofile", files));
    let processes = (dialect == Dialect::Podman).then(|| limit("nproc", processes));
    [Some(limit("core", 0)), files, processes].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use caisson_settings::ByteSize;

    use super::*;
    use crate::{
        config::{Config, CoordinatorUrl},
        engine::Owner,
    };

    fn request() -> ContainerRequest {
        let limits =
            Limits { memory: Some(ByteSize::mib(512)), cpus: 1.5, nofile: 1024, ..Config::default().limits };
        ContainerRequest {
            attempt: "019aac1e-7c00-7000-8000-000000000001.2".parse().unwrap(),
            owner: Owner { runner: "r1".parse().unwrap(), coordinator: CoordinatorUrl::default() },
            image: "sha256:0123".into(),
            command: "make test".into(),
            environment: BTreeMap::from([("CI".into(), "true".into())]),
            workspace: WorkspaceMount::Folder("/srv/caisson/tmp/019aac1e-7c00-7000-8000-000000000001".into()),
            limits,
            network: Network::Bridge,
        }
    }

    fn facts(dialect: Dialect) -> Facts {
        Facts { dialect, processors: Some(2), ..Facts::default() }
    }

    #[test]
    fn a_container_is_made_from_exactly_this() {
        let body = serde_json::to_value(body(&request(), &facts(Dialect::Docker))).unwrap();
        insta::assert_json_snapshot!("container", body);
    }

    #[test]
    fn a_volume_differs_from_a_folder_in_nothing_else() {
        let bound = host_config(&request(), &facts(Dialect::Docker));
        let request = ContainerRequest { workspace: WorkspaceMount::Volume, ..request() };
        let mut uploaded = host_config(&request, &facts(Dialect::Docker));
        let volume = serde_json::to_value(uploaded.mounts.take()).unwrap();
        insta::assert_json_snapshot!("volume", volume);
        assert_eq!(HostConfig { mounts: bound.mounts.clone(), ..uploaded }, bound);
    }

    #[test]
    fn no_more_processors_are_asked_for_than_there_are() {
        assert_eq!(nano_cpus(0.5, Some(2)), Some(500_000_000));
        assert_eq!(nano_cpus(1.999, Some(2)), Some(1_999_000_000));
        for all in [0.0, 2.0, 64.0] {
            assert_eq!(nano_cpus(all, Some(2)), None, "{all}");
        }
        assert_eq!(nano_cpus(64.0, None), Some(64_000_000_000));
    }

    #[test]
    fn podman_is_told_how_many_processes_a_user_may_have() {
        let names = |dialect| {
            let limits = host_config(&request(), &facts(dialect)).ulimits.unwrap_or_default();
            limits.into_iter().filter_map(|limit| limit.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Dialect::Docker), ["core", "nofile"]);
        assert_eq!(names(Dialect::Podman), ["core", "nofile", "nproc"]);
    }
}
