//! How a checkout gets into its container.
//!
//! **Bind**: the container sees the runner's folder. That is the fastest way, and it takes an engine that sees the
//! runner's files, and a runner that can remove what root in a container wrote among them.
//!
//! **Upload**: the folder is sent into a volume of the container's own. That works with every engine, a remote one
//! too, whoever the runner runs as, since it is the engine that removes the volume.

use std::{fmt, path::PathBuf};

use caisson_protocol::AttemptId;

use super::{archive, blocking, removal::remove_tree};
use crate::{
    config::WantedTransport,
    engine::{
        ContainerId, Engine, EngineError, EngineInfo, Owned, OwnedKind, WORKSPACE, WorkspaceMount,
        container_name,
    },
};

/// How a checkout gets into its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The container sees the runner's folder.
    Bind,
    /// The folder is sent into a volume of the container's own.
    Upload,
}

/// Why the transport that is wanted can't be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "workspace.transport bind needs a runner that is root, since it removes what root in a container wrote: set it to \
     upload or auto"
)]
pub struct BindNeedsRoot;

impl Transport {
    /// The transport that is wanted, or the best one that works here, and in the second case why. `seen` is whether the
    /// engine sees the runner's files, where that is known.
    ///
    /// # Errors
    /// When the one that is wanted would leave files behind.
    pub fn choose(
        wanted: WantedTransport,
        info: &EngineInfo,
        seen: Option<bool>,
    ) -> Result<(Self, Option<&'static str>), BindNeedsRoot> {
        let is_root = rustix::process::geteuid().is_root();
        Ok(match wanted {
            WantedTransport::Bind if !is_root => return Err(BindNeedsRoot),
            WantedTransport::Bind => (Self::Bind, None),
            WantedTransport::Upload => (Self::Upload, None),
            WantedTransport::Auto if !is_root => (
                Self::Upload,
                Some("the runner is not root, and could not remove what root in a container writes"),
            ),
            WantedTransport::Auto if info.remaps_users => {
                (Self::Upload, Some("root in a container could not read the runner's files"))
            }
            WantedTransport::Auto => match seen {
                Some(true) => (Self::Bind, Some("the engine sees the runner's files")),
                Some(false) => (Self::Upload, Some("the engine does not see the runner's files")),
                None => (Self::Upload, Some("that works in any case")),
            },
        })
    }

    /// What a container is to be made with.
    pub(crate) fn mount(self, folder: PathBuf) -> WorkspaceMount {
        match self {
            Self::Bind => WorkspaceMount::Folder(folder),
            Self::Upload => WorkspaceMount::Volume,
        }
    }

    /// What the engine has of an attempt whose container was made.
    pub(crate) fn owned(self, attempt: AttemptId) -> impl Iterator<Item = Owned> {
        let owned = move |kind| Owned { kind, id: container_name(attempt), attempt: Some(attempt) };
        let volume = (self == Self::Upload).then(|| owned(OwnedKind::Volume));
        std::iter::once(owned(OwnedKind::Container)).chain(volume)
    }

    /// Brings the checkout into a container that was made and not started yet. What it is brought from is not needed
    /// any more, and is removed.
    ///
    /// # Errors
    /// When the engine does not take it.
    pub(crate) async fn fill(
        self,
        engine: &dyn Engine,
        container: &ContainerId,
        folder: PathBuf,
    ) -> Result<(), EngineError> {
        match self {
            Self::Bind => Ok(()),
            Self::Upload => {
                let prefix = PathBuf::from(WORKSPACE.trim_start_matches('/'));
                engine.upload(container, archive::of(folder.clone(), prefix)).await?;
                // What stays is removed with the workspace.
                let _ = blocking(move || remove_tree(&folder)).await;
                Ok(())
            }
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bind => "bound",
            Self::Upload => "uploaded",
        })
    }
}
