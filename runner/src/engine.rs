//! The port to what runs containers. The adapter for the Docker Engine API is in [`docker`].
//!
//! Every call ends within a deadline of its own, but for [`Engine::upload`], which ends when it gets on no more, and
//! [`Engine::wait`] and the output, which last as long as the container does. Whatever a call names is an id that the engine gave us or a name that we made.

pub mod docker;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use caisson_protocol::{AttemptId, ImageRef, Network, Stream};
use futures_util::stream::BoxStream;

use crate::config::{CoordinatorUrl, ImageConfig, Limits, RunnerName};

/// What runs containers.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Asks the engine who it is.
    async fn probe(&self) -> Result<EngineInfo, EngineError>;

    /// Whether the engine takes new connections, and has what it runs containers with.
    async fn check(&self) -> Result<(), EngineError>;

    /// Whether a container would see `file`, which the runner has written into `folder`. Runs nothing.
    async fn sees(&self, owner: &Owner, folder: &Path, file: &str) -> Result<bool, EngineError>;

    /// Makes sure that the image is there, and tells how a pull gets on, a line at a time.
    async fn ensure_image(
        &self,
        image: &ImageRef,
        config: &ImageConfig,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Image, ImageError>;

    /// What an image takes, where it is there.
    async fn image_bytes(&self, id: &str) -> Result<Option<u64>, EngineError>;

    /// Takes these names from an image, and removes it unless it has others. One that is gone is no error.
    async fn remove_image(&self, id: &str, names: &[ImageRef]) -> Result<(), EngineError>;

    /// Makes a container, and the network it joins where that is not there.
    async fn create(&self, request: &ContainerRequest) -> Result<ContainerId, EngineError>;

    /// Unpacks an archive at the root of a container before it is started. May take as long as the archive gets on.
    async fn upload(&self, container: &ContainerId, archive: Archive) -> Result<(), EngineError>;

    /// The container's output from its first byte on. Only before [`start`](Self::start) is none of it lost.
    async fn attach(&self, container: &ContainerId) -> Result<Output, EngineError>;

    /// Starts the container's command.
    async fn start(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// Returns when the container runs no more. An error means that nobody knows how it ended.
    async fn wait(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// How a container has ended; nothing while it runs.
    async fn inspect(&self, container: &ContainerId) -> Result<Option<Exit>, EngineError>;

    /// Whether the engine was there when a container ended, and stays. One that is about to go away ends its containers
    /// and takes no new connections; one that came after that knows how they ended, and not why.
    async fn saw_end(&self, container: &ContainerId) -> Result<(), EngineError>;

    /// Whether there is a shell on the image's path, asked of a container that was made from it.
    async fn has_shell(&self, container: &ContainerId, image: &Image) -> Result<bool, EngineError>;

    /// What a container has written, in its volumes too but in no folder of the host, in bytes. Nothing where the
    /// engine can't tell, as of paths that are too long for it.
    async fn written(&self, container: &ContainerId) -> Result<Option<u64>, EngineError>;

    /// Sends a signal. A container that runs no more is no error.
    async fn kill(&self, container: &ContainerId, signal: Signal) -> Result<(), EngineError>;

    /// Removes a thing, with all that belongs to it, and tells whether it was there. One that is in use, or that somebody
    /// is removing already, is [`EngineError::Busy`].
    async fn remove(&self, owned: &Owned) -> Result<bool, EngineError>;

    /// Everything that this owner made. What only bears its labels, as an image does that somebody made of a build's
    /// container, is not among it.
    async fn list_owned(&self, owner: &Owner) -> Result<Vec<Owned>, EngineError>;
}

/// Who an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its name and version, for people.
    pub description: String,
    /// The processor it runs on, by the name that images have for it.
    pub architecture: String,
    /// Whether root in a container is somebody else on its host.
    pub remaps_users: bool,
    /// Where its images and containers are, on its host.
    pub root: Option<PathBuf>,
    /// What it can't do that builds are promised.
    pub warnings: Vec<String>,
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The engine's id of it.
    pub id: String,
    /// Its registry's digest, if it came from one.
    pub digest: Option<String>,
    /// The processor it is made for.
    pub architecture: String,
    /// The folders where its programs are.
    pub path: String,
    /// Whether there was none of that name before, or another.
    pub pulled: bool,
}

/// The name of an attempt's container, and of its volume where it has one. An attempt that is run twice meets itself.
#[must_use]
pub fn container_name(attempt: AttemptId) -> String {
    format!("caisson-{attempt}")
}

/// A container that the engine made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(pub(crate) String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container is made from: all that differs between one build and another. What holds for every build is in
/// the adapter.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// The attempt it is for.
    pub attempt: AttemptId,
    /// The runner that makes it.
    pub owner: Owner,
    /// The image's id.
    pub image: String,
    /// What `sh -ec` is given.
    pub command: String,
    /// The command's environment.
    pub environment: BTreeMap<String, String>,
    /// What the container sees as [`WORKSPACE`].
    pub workspace: WorkspaceMount,
    /// What it may use.
    pub limits: Limits,
    /// What it can reach.
    pub network: Network,
}

/// Where a build finds its checkout.
pub const WORKSPACE: &str = "/workspace";

/// What a container sees as its workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkspaceMount {
    /// A folder of the engine's host.
    Folder(PathBuf),
    /// An empty volume of its own, which bears its name.
    Volume,
}

/// A tar archive, as it is made.
pub type Archive = BoxStream<'static, io::Result<Bytes>>;

/// A container's output: standard output and standard error, each in order.
pub type Output = BoxStream<'static, Result<(Stream, Bytes), EngineError>>;

/// How a container has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The command's exit code.
    pub code: i64,
    /// Whether a process in it was killed for memory; not necessarily the command.
    pub out_of_memory: bool,
    /// What the engine says went wrong on its own side.
    pub engine_error: Option<String>,
}

/// A signal that ends a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: the command may tidy up.
    Terminate,
    /// SIGKILL: it may not.
    Kill,
}

/// Whose the things on an engine are. Names are unique among the runners of one coordinator; those of another may have
/// the same, on the same engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The runner.
    pub runner: RunnerName,
    /// Its coordinator.
    pub coordinator: CoordinatorUrl,
}

/// A thing on the engine that a runner made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// What it is.
    pub kind: OwnedKind,
    /// Its id or name.
    pub id: String,
    /// The attempt it was made for.
    pub attempt: Option<AttemptId>,
}

/// What a thing on the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnedKind {
    /// A container, with its anonymous volumes and the network that is its alone.
    Container,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl fmt::Display for OwnedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Network => "network",
            Self::Volume => "volume",
        })
    }
}

/// Why the engine did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The settings that lead to it can't be right.
    #[error("{0}")]
    Misconfigured(String),
    /// It can't be reached.
    #[error(
        "the Docker engine at {host} can't be reached ({cause}): start it (systemctl start docker), or set engine.host \
         to the one to use"
    )]
    Unreachable {
        /// Where it should be.
        host: String,
        /// What the system said.
        cause: String,
    },
    /// It has taken the call and not answered.
    #[error("the Docker engine at {host} did not answer within {seconds} s ({call}): it hangs, restart it")]
    Silent {
        /// Where it is.
        host: String,
        /// What it was asked to do.
        call: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// It knows of a container's end by hearsay.
    #[error(
        "the Docker engine at {host} does not know why the command ended: it was restarted while the command ran, or it hangs"
    )]
    Restarted {
        /// Where it is.
        host: String,
    },
    /// It has no such thing.
    #[error("the Docker engine has no such thing: {0}")]
    NotFound(String),
    /// It can't do what was asked, as it was asked.
    #[error("the Docker engine refuses: {0}")]
    Refused(String),
    /// It can't do it now: the thing is in use, or is being removed.
    #[error("the Docker engine can't do it now: {0}")]
    Busy(String),
    /// It failed.
    #[error("the Docker engine failed: {0}")]
    Failed(String),
}

/// Why an image is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No such image.
    #[error("{0}")]
    NotFound(String),
    /// The registry refuses to give it.
    #[error("{0}")]
    Denied(String),
    /// The registry is away, slow or broken.
    #[error("{0}")]
    Registry(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
