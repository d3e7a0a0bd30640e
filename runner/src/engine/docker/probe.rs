//! Whether the engine sees the runner's files: asked of a container that is made and never started, so that any
//! image will do, and so an empty one is brought along.

use std::{collections::HashMap, path::Path};

use bollard::{
    body_full,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{ContainerArchiveInfoOptions, CreateContainerOptions, CreateImageOptions},
};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{DockerEngine, images, label, request};
use crate::{
    config::RunnerName,
    engine::{Engine, EngineError, Owned, OwnedKind, Owner},
};

/// The image's name; its tag is the runner's name.
const IMAGE: &str = "caisson-probe";
/// Where the container has the folder.
const FOLDER: &str = "/probe";
/// A tar archive without entries.
const EMPTY_ARCHIVE: &[u8] = &[0; 10240];

/// The name of the container.
pub(super) fn name(owner: &Owner) -> String {
    format!("caisson-probe-{}", owner.runner)
}

pub(super) async fn sees(
    engine: &DockerEngine,
    owner: &Owner,
    folder: &Path,
    file: &str,
) -> Result<bool, EngineError> {
    let (name, runner) = (name(owner), &owner.runner);
    let container = Owned { kind: OwnedKind::Container, id: name.clone(), attempt: None };
    // A probe that was interrupted may have left both.
    engine.remove(&container).await?;
    images::remove(engine, &format!("{IMAGE}:{runner}")).await?;
    let image = import(engine, &owner.runner).await?;
    let seen = match create(engine, owner, name, &image, folder).await {
        Ok(()) => look(engine, &container.id, file).await,
        // It has no such folder.
        Err(EngineError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    };
    engine.remove(&container).await?;
    images::remove(engine, &image).await?;
    seen
}

/// Brings the image along, and gives its id.
async fn import(engine: &DockerEngine, runner: &RunnerName) -> Result<String, EngineError> {
    let options = CreateImageOptions {
        from_src: Some("-".into()),
        repo: Some(IMAGE.into()),
        tag: Some(runner.to_string()),
        ..CreateImageOptions::default()
    };
    let archive = body_full(Bytes::from_static(EMPTY_ARCHIVE));
    let import = engine.docker.create_image(Some(options), Some(archive), None);
    let news = engine.call("import image", import.try_collect::<Vec<_>>()).await?;
    let id = news.into_iter().filter_map(|piece| piece.status).next_back();
    id.ok_or_else(|| EngineError::Failed("it does not say what it has imported".into()))
}

async fn create(
    engine: &DockerEngine,
    owner: &Owner,
    name: String,
    image: &str,
    folder: &Path,
) -> Result<(), EngineError> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        // It is not there, and is never started.
        cmd: Some(vec!["probe".into()]),
        labels: Some(HashMap::from(label::owner(owner))),
        host_config: Some(HostConfig {
            mounts: Some(vec![request::bind(folder, FOLDER)]),
            network_mode: Some("none".into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
    engine.call("create container", engine.docker.create_container(Some(options), body)).await.map(|_| ())
}

async fn look(engine: &DockerEngine, container: &str, file: &str) -> Result<bool, EngineError> {
    let options = ContainerArchiveInfoOptions { path: format!("{FOLDER}/{file}") };
    let look = engine.docker.get_container_archive_info(container, Some(options));
    match engine.call("look into container", look).await {
        Ok(_) => Ok(true),
        Err(EngineError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
