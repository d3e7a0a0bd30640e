//! One container: made, attached to, waited for, asked how it ended.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bollard::{
    body_try_stream,
    container::LogOutput,
    errors::Error,
    models::ContainerStateStatusEnum,
    query_parameters::{
        AttachContainerOptions, ContainerArchiveInfoOptions, CreateContainerOptions, EventsOptions,
        InspectContainerOptions, KillContainerOptions, UploadToContainerOptions, WaitContainerOptions,
    },
};
use caisson_protocol::Stream;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{Dialect, DockerEngine, connect, error, request, volumes};
use crate::engine::{
    Archive, ContainerId, ContainerRequest, EngineError, Exit, Image, Output, Signal, container_name,
};

/// Where programs are in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// From when on an engine is asked for its events, in seconds since 1970: all that it has.
const EVER: &str = "1";
/// The year in which a container ended whose end nobody has noted.
const NEVER: &str = "0001-";

pub(super) async fn create(
    engine: &DockerEngine,
    request: &ContainerRequest,
) -> Result<ContainerId, EngineError> {
    let options = CreateContainerOptions {
        name: Some(container_name(request.attempt)),
        ..CreateContainerOptions::default()
    };
    let create = engine.docker.create_container(Some(options), request::body(request, &engine.facts()));
    Ok(ContainerId(engine.call("create container", create).await?.id))
}

/// An upload lasts as long as there is something to send, so its deadline is for each piece.
pub(super) async fn upload(
    engine: &DockerEngine,
    container: &ContainerId,
    archive: Archive,
) -> Result<(), EngineError> {
    let pieces = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&pieces);
    let archive = archive.inspect(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    // Unpacked at the root, a symbolic link may lead wherever its repository wants it to. Further down the engine
    // refuses one that leads out of the place where it unpacks.
    let options = UploadToContainerOptions { path: "/".into(), ..UploadToContainerOptions::default() };
    let upload = engine.docker.upload_to_container(&container.0, Some(options), body_try_stream(archive));
    tokio::pin!(upload);
    loop {
        let before = pieces.load(Ordering::Relaxed);
        match timeout(engine.deadline, &mut upload).await {
            Ok(result) => return result.map_err(|error| error::of_call(&engine.host, error)),
            Err(_) if pieces.load(Ordering::Relaxed) == before => {
                return Err(engine.silent("upload to container", engine.deadline));
            }
            Err(_) => {}
        }
    }
}

pub(super) async fn attach(engine: &DockerEngine, container: &ContainerId) -> Result<Output, EngineError> {
    let options = AttachContainerOptions {
        stdout: true,
        stderr: true,
        stream: true,
        ..AttachContainerOptions::default()
    };
    let attach = engine.docker.attach_container(&container.0, Some(options));
    let attached = engine.call("attach to container", attach).await?;
    let host = engine.host.clone();
    let output = attached.output.filter_map(move |piece| {
        let piece = match piece {
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                Some(Ok((Stream::Stdout, message)))
            }
            Ok(LogOutput::StdErr { message }) => Some(Ok((Stream::Stderr, message))),
            Ok(LogOutput::StdIn { .. }) => None,
            Err(error) => Some(Err(error::of_call(&host, error))),
        };
        std::future::ready(piece)
    });
    Ok(output.boxed())
}

pub(super) async fn wait(engine: &DockerEngine, container: &ContainerId) -> Result<(), EngineError> {
    // "Not running" is true at once when it has ended before the question comes; "next exit" would never be.
    let options = WaitContainerOptions { condition: "not-running".into() };
    let mut answers = Box::pin(engine.docker.wait_container(&container.0, Some(options)));
    match answers.next().await {
        // bollard makes an error of every exit code but 0.
        Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => Ok(()),
        Some(Err(error)) => Err(error::of_call(&engine.host, error)),
        None => Err(EngineError::Unreachable {
            host: engine.host.clone(),
            cause: "it closed the connection while the command ran".into(),
        }),
    }
}

pub(super) async fn inspect(
    engine: &DockerEngine,
    container: &ContainerId,
) -> Result<Option<Exit>, EngineError> {
    let found = engine.call("inspect container", engine.docker.inspect_container(&container.0, None)).await?;
    let state = found.state.unwrap_or_default();
    if state.running == Some(true) {
        return Ok(None);
    }
    // Someone removes it, and so it was ended.
    if matches!(state.status, Some(ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD)) {
        return Err(EngineError::NotFound(format!("container {container} is being removed")));
    }
    let unknown = || EngineError::Failed(format!("it does not know how container {container} ended"));
    Ok(Some(Exit {
        code: state.exit_code.ok_or_else(unknown)?,
        out_of_memory: state.oom_killed == Some(true),
        engine_error: state.error.filter(|error| !error.is_empty()),
    }))
}

pub(super) async fn saw_end(engine: &DockerEngine, container: &ContainerId) -> Result<(), EngineError> {
    let saw_it = match engine.facts().dialect {
        Dialect::Docker => has_event_of_end(engine, container).await?,
        Dialect::Podman => has_time_of_end(engine, container).await?,
    };
    saw_it.then_some(()).ok_or_else(|| EngineError::Restarted { host: engine.host.clone() })
}

/// Docker has the latest 256 events of its own life, and none of a life before. So one that has restarted behind a socket
/// which systemd holds for it does not know of the end.
async fn has_event_of_end(engine: &DockerEngine, container: &ContainerId) -> Result<bool, EngineError> {
    let fresh = connect::connect(&engine.config)?;
    let ended = [("container", container.0.as_str()), ("event", "die")];
    let filters = ended.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).into();
    let options =
        EventsOptions { since: Some(EVER.into()), filters: Some(filters), ..EventsOptions::default() };
    let mut events = pin!(fresh.events(Some(options)));
    match timeout(engine.probe_deadline(), events.next()).await {
        Ok(Some(event)) => event.map(|_| true).map_err(|error| error::of_call(&engine.host, error)),
        Ok(None) | Err(_) => Ok(false),
    }
}

/// A Podman that ends does not end its containers, and a monitor of their own notes how they end. Where their host has
/// ended them, nobody did, and Podman gives an exit code all the same.
async fn has_time_of_end(engine: &DockerEngine, container: &ContainerId) -> Result<bool, EngineError> {
    let found = engine.call("inspect container", engine.docker.inspect_container(&container.0, None)).await?;
    let ended_at = found.state.and_then(|state| state.finished_at);
    Ok(ended_at.is_some_and(|at| !at.starts_with(NEVER)))
}

pub(super) async fn has_shell(
    engine: &DockerEngine,
    container: &ContainerId,
    image: &Image,
) -> Result<bool, EngineError> {
    let path = if image.path.is_empty() { PATH } else { &image.path };
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let options = ContainerArchiveInfoOptions { path: format!("{folder}/sh") };
        let ask = engine.docker.get_container_archive_info(&container.0, Some(options));
        match engine.call("look into container", ask).await {
            Err(EngineError::NotFound(_)) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Its own layer, and the volumes that it has: its workspace's, and those that its image declares. An engine measures
/// for as long as that takes, and answers with -1 or an error where it fails.
pub(super) async fn written(
    engine: &DockerEngine,
    container: &ContainerId,
) -> Result<Option<u64>, EngineError> {
    let options = InspectContainerOptions { size: true };
    let inspect = engine.docker.inspect_container(&container.0, Some(options));
    let found = match engine.measure("measure container", inspect).await {
        Err(EngineError::Failed(_)) => return Ok(None),
        found => found?,
    };
    let layer = found.size_rw.unwrap_or_default();
    let mounts = found.mounts.into_iter().flatten();
    let of_volumes = mounts.filter(|mount| mount.typ.as_deref() == Some("volume"));
    let names: BTreeSet<String> = of_volumes.filter_map(|mount| mount.name).collect();
    let volumes = volumes::bytes(engine, &names).await?;
    Ok(u64::try_from(layer).ok().zip(volumes).map(|(layer, volumes)| layer + volumes))
}

pub(super) async fn kill(
    engine: &DockerEngine,
    container: &ContainerId,
    signal: Signal,
) -> Result<(), EngineError> {
    let signal = match signal {
        Signal::Terminate => "SIGTERM",
        Signal::Kill => "SIGKILL",
    };
    let options = KillContainerOptions { signal: signal.into() };
    match engine.call("kill container", engine.docker.kill_container(&container.0, Some(options))).await {
        // It is gone, or runs no more.
        Err(EngineError::NotFound(_) | EngineError::Busy(_)) => Ok(()),
        result => result,
    }
}
