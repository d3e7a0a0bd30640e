//! The bound on what a build writes. No engine keeps one on the file systems that most hosts have (overlay2 on ext4),
//! so what there is gets measured again and again, and a build that has written too much is killed soon after.

mod tree;

use std::{mem, path::Path, time::Duration};

use caisson_settings::ByteSize;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    engine::{ContainerId, Engine},
    workspace::blocking,
};

/// How long the first pause is, and the shortest.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// How many times longer than a measurement the pause after it is: a tree of a million files costs its build little.
const PAUSE_RATIO: u32 = 20;
/// How many times in a row what was written may defy being measured. What is changed meanwhile may do so once.
const UNMEASURED_MAX: u32 = 3;

/// Why a build has to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// It has written more than it may.
    TooMuch,
    /// It has written what can't be measured, as folders that lie too deep.
    Unmeasured,
}

impl Excess {
    /// The same for a build's log.
    pub(super) fn in_words(self, limit: ByteSize) -> String {
        match self {
            Self::TooMuch => format!("workspace and container take more than limits.disk ({limit})"),
            Self::Unmeasured => format!(
                "what lies in workspace and container can't be measured, and so not be held to limits.disk ({limit}): its \
                 folders lie too deep"
            ),
        }
    }
}

/// Returns when what a container has written and its workspace together take more than `limit` bytes, or could not be
/// measured again and again. The engine's own absence is noticed elsewhere.
pub(super) async fn exceeds(
    limit: u64,
    engine: &dyn Engine,
    container: &ContainerId,
    workspace: &Path,
) -> Excess {
    let mut pause = PAUSE_MIN;
    let mut unmeasured = 0;
    let mut is_told = false;
    loop {
        sleep(pause).await;
        let began = Instant::now();
        let folder = workspace.to_owned();
        let in_folder = blocking(move || tree::bytes_in(&folder)).await;
        // That the runner can't read its own disk is no build's doing.
        let (in_folder, beside) = (in_folder.unwrap_or(Some(0)), engine.written(container).await);
        if let Err(error) = &beside
            && !mem::replace(&mut is_told, true)
        {
            warn!("container {container}: what it writes beside its workspace can't be measured: {error}");
        }
        // While the engine can't be asked, the workspace is measured all the same.
        match (in_folder, beside.unwrap_or(Some(0))) {
            (Some(workspace), Some(beside)) if workspace + beside <= limit => unmeasured = 0,
            (Some(_), Some(_)) => return Excess::TooMuch,
            _ => unmeasured += 1,
        }
        if unmeasured >= UNMEASURED_MAX {
            return Excess::Unmeasured;
        }
        pause = PAUSE_MIN.max(began.elapsed() * PAUSE_RATIO);
    }
}
