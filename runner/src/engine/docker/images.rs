//! Images: there already, or pulled from their registry.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bollard::{
    errors::Error,
    models::{CreateImageInfo, ImageInspect},
    query_parameters::{CreateImageOptions, RemoveImageOptions},
};
use caisson_protocol::ImageRef;
use futures_util::StreamExt;
use tokio::time::timeout_at;

use super::{DockerEngine, credentials, error};
use crate::{
    config::{ImageConfig, PullPolicy},
    engine::{EngineError, Image, ImageError},
};

/// How often a registry that is away, slow or broken is asked.
const TRIES: u32 = 3;
/// How long it is left alone before the second try; three times as long before each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a pull says how far it is.
const NEWS_EVERY: Duration = Duration::from_secs(2);

/// Makes sure that an image is there, by the runner's policy.
pub(super) async fn ensure(
    engine: &DockerEngine,
    image: &ImageRef,
    config: &ImageConfig,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<Image, ImageError> {
    let present = inspect(engine, image).await?;
    let before = present.as_ref().map(|found| found.id.clone());
    match (config.pull, present) {
        (PullPolicy::IfMissing | PullPolicy::Never, Some(found)) => return Ok(found),
        (PullPolicy::Never, None) => {
            return Err(ImageError::NotFound(format!(
                "the image {image} is not on the runner, which pulls none: pull it there, or set image.pull to \
                 if_missing"
            )));
        }
        (PullPolicy::IfMissing, None) | (PullPolicy::Always, _) => {}
    }
    if !config.may_ask(image) {
        return Err(ImageError::Denied(format!(
            "the image {image} was not pulled: the runner does not ask {}, unless it is in image.registries there",
            image.registry()
        )));
    }
    progress(format!("Pulling image {image}"));
    pull(engine, image, config, progress).await?;
    let gone = || EngineError::Failed(format!("the image {image} was pulled and is not there"));
    let found = inspect(engine, image).await?.ok_or_else(gone)?;
    Ok(Image { pulled: before.as_ref() != Some(&found.id), ..found })
}

/// What an image takes, where it is there.
pub(super) async fn bytes(engine: &DockerEngine, id: &str) -> Result<Option<u64>, EngineError> {
    let found = look_up(engine, id).await?;
    Ok(found.map(|found| found.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default()))
}

/// Takes these names from an image, and removes it unless it has others.
pub(super) async fn remove_named(
    engine: &DockerEngine,
    id: &str,
    names: &[ImageRef],
) -> Result<(), EngineError> {
    for name in names {
        // Somebody may have given it to another image.
        if inspect(engine, name).await?.is_some_and(|found| found.id == id) {
            remove(engine, name.as_str()).await?;
        }
    }
    // Who has named it wants it, and a removal by id would take that name, too.
    let others = look_up(engine, id).await?.and_then(|left| left.repo_tags).unwrap_or_default();
    if others.is_empty() { remove(engine, id).await } else { Ok(()) }
}

/// Removes an image by its id or one of its names, unless a container uses it.
pub(super) async fn remove(engine: &DockerEngine, image: &str) -> Result<(), EngineError> {
    let removal = engine.docker.remove_image(image, None::<RemoveImageOptions>, None);
    match engine.call("remove image", removal).await {
        Err(EngineError::NotFound(_)) => Ok(()),
        result => result.map(|_| ()),
    }
}

async fn look_up(engine: &DockerEngine, image: &str) -> Result<Option<ImageInspect>, EngineError> {
    match engine.call("inspect image", engine.docker.inspect_image(image)).await {
        Ok(found) => Ok(Some(found)),
        Err(EngineError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn inspect(engine: &DockerEngine, image: &ImageRef) -> Result<Option<Image>, EngineError> {
    // The grammar of image references leaves nothing in them that could lead to another URL.
    let Some(found) = look_up(engine, image.as_str()).await? else { return Ok(None) };
    let environment = found.config.and_then(|config| config.env).unwrap_or_default();
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
    Ok(Some(Image {
        id: found.id.unwrap_or_else(|| image.to_string()),
        digest: digest(image, &found.repo_digests.unwrap_or_default()),
        architecture: found.architecture.unwrap_or_default(),
        path: path.unwrap_or_default().to_owned(),
        pulled: false,
    }))
}

/// The digest by which an image's own repository knows it: the same image may have come from others, too.
fn digest(image: &ImageRef, digests: &[String]) -> Option<String> {
    let name = image.as_str().split('@').next().unwrap_or_default();
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    let known = || digests.iter().filter_map(|digest| digest.split_once('@'));
    let own = known().find(|(known, _)| *known == repository || known.ends_with(&format!("/{repository}")));
    own.or_else(|| known().next()).map(|(_, digest)| digest.to_owned())
}

/// Tries again where the registry may be better in a moment.
async fn pull(
    engine: &DockerEngine,
    image: &ImageRef,
    config: &ImageConfig,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<(), ImageError> {
    let end = tokio::time::Instant::now() + config.timeout.0;
    let mut pause = PAUSE;
    for tried in 1.. {
        match pull_once(engine, image, config, end, progress).await {
            Err(ImageError::Registry(cause))
                if tried < TRIES && tokio::time::Instant::now() + pause < end =>
            {
                progress(format!("{cause}; trying again in {} s", pause.as_secs()));
                tokio::time::sleep(pause).await;
                pause *= 3;
            }
            result => return result,
        }
    }
    Ok(())
}

async fn pull_once(
    engine: &DockerEngine,
    image: &ImageRef,
    config: &ImageConfig,
    end: tokio::time::Instant,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<(), ImageError> {
    let credentials = credentials::of(image, config.credentials_file.as_deref())
        .await
        .map_err(|error| ImageError::Registry(format!("the image {image} was not pulled: {error}")))?;
    let options = CreateImageOptions {
        from_image: Some(image.to_string()),
        // Without a tag Docker would pull every one there is.
        tag: (!names_one(image)).then(|| "latest".to_owned()),
        ..CreateImageOptions::default()
    };
    let mut news = Box::pin(engine.docker.create_image(Some(options), None, credentials));
    let mut layers = Layers::default();
    loop {
        let stalled = (tokio::time::Instant::now() + config.stall.0).min(end);
        let Ok(next) = timeout_at(stalled, news.next()).await else {
            let cause = if stalled == end {
                format!("it takes longer than {} (image.timeout)", config.timeout)
            } else {
                format!("there was no news of it for {} (image.stall)", config.stall)
            };
            return Err(ImageError::Registry(format!("the image {image} was not pulled: {cause}")));
        };
        match next {
            None => return Ok(()),
            Some(Ok(piece)) => layers.take(piece).into_iter().for_each(progress),
            Some(Err(error)) => return Err(classify(engine, image, error)),
        }
    }
}

/// Whether a reference names one image by tag or digest.
fn names_one(image: &ImageRef) -> bool {
    let last = image.as_str().rsplit('/').next().unwrap_or_default();
    last.contains([':', '@'])
}

/// How far the parts of an image are.
#[derive(Default)]
struct Layers {
    done: HashMap<String, bool>,
    told: Option<Instant>,
}

impl Layers {
    /// Takes a piece of news in, and says something of it now and then.
    fn take(&mut self, piece: CreateImageInfo) -> Option<String> {
        let (id, status) = (piece.id?, piece.status?);
        match status.as_str() {
            "Pulling fs layer" | "Waiting" | "Downloading" | "Extracting" => {
                self.done.entry(id).or_insert(false);
            }
            "Pull complete" | "Already exists" => {
                self.done.insert(id, true);
            }
            _ => return None,
        }
        if self.told.is_some_and(|told| told.elapsed() < NEWS_EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        let done = self.done.values().filter(|done| **done).count();
        Some(format!("Pulled {done} of {} layers", self.done.len()))
    }
}

/// Whose fault a failed pull is.
fn classify(engine: &DockerEngine, image: &ImageRef, error: Error) -> ImageError {
    let (status, message) = match error {
        Error::DockerResponseServerError { status_code, message } => (Some(status_code), message),
        Error::DockerStreamError { error } => (None, error),
        error => return ImageError::Engine(error::of_call(&engine.host, error)),
    };
    match refusal(image, status, &message) {
        Refusal::NotFound => {
            ImageError::NotFound(format!("there is no image {image}, or it is private: {message}"))
        }
        Refusal::Denied => {
            ImageError::Denied(format!("the registry refuses to give the image {image}: {message}"))
        }
        Refusal::Other => ImageError::Registry(format!("the image {image} was not pulled: {message}")),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Denied,
    Other,
}

/// The engine has one status for "no such image" and "access denied", and none at all once it has begun to answer, so
/// between those its words decide. Docker Hub says "denied" of what does not exist as well, and there "not found" is
/// nearly always the truth.
fn refusal(image: &ImageRef, status: Option<u16>, message: &str) -> Refusal {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let named_registry = image.registry() != ImageRef::DEFAULT_REGISTRY;
    let denied = says(&["access denied", "denied:", "unauthorized", "no basic auth credentials"]);
    let unknown = says(&["manifest unknown", "name unknown"]);
    match status {
        Some(error::STATUS_NOT_FOUND) if denied && named_registry => Refusal::Denied,
        Some(error::STATUS_NOT_FOUND) => Refusal::NotFound,
        _ if denied => Refusal::Denied,
        None if unknown => Refusal::NotFound,
        _ => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    #[test]
    fn a_digest_is_that_of_the_images_own_repository() {
        let digests =
            ["r.example.org:5000/other@sha256:1", "r.example.org:5000/app@sha256:2", "busybox@sha256:3"]
                .map(str::to_owned);
        for (name, expected) in [("r.example.org:5000/app:1", "2"), ("busybox", "3"), ("elsewhere/app", "1")]
        {
            assert_eq!(digest(&image(name), &digests), Some(format!("sha256:{expected}")), "{name}");
        }
        assert_eq!(digest(&image("busybox"), &[]), None);
    }

    #[test]
    fn a_tag_is_told_from_a_port() {
        assert!(names_one(&image("busybox:1")));
        assert!(names_one(&image(&format!("busybox@sha256:{}", "0".repeat(64)))));
        assert!(!names_one(&image("localhost:5000/busybox")));
        assert!(!names_one(&image("busybox")));
    }

    #[test]
    fn what_registries_refuse_is_told_apart() {
        let hub = image("nosuch/app");
        let own = image("registry.example.org/app:1");
        let denied = "pull access denied for app, repository does not exist or may require 'docker login'";
        assert_eq!(refusal(&hub, Some(404), denied), Refusal::NotFound);
        assert_eq!(refusal(&own, Some(404), denied), Refusal::Denied);
        assert_eq!(
            refusal(&own, Some(404), "manifest for app:1 not found: manifest unknown"),
            Refusal::NotFound
        );
        assert_eq!(
            refusal(&own, Some(500), "Get https://registry.example.org: unauthorized"),
            Refusal::Denied
        );
        assert_eq!(refusal(&own, Some(500), "dial tcp: connection refused"), Refusal::Other);
        assert_eq!(refusal(&own, None, "toomanyrequests: rate limit"), Refusal::Other);
    }
}
