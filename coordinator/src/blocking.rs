//! Where work that blocks is done.

use tokio::task::{JoinError, spawn_blocking};

/// Where work that blocks is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On threads of its own, so that it holds nobody up.
    #[default]
    Aside,
    /// Where it is asked for. A simulation has one thread for everything, so that each of its runs can be repeated.
    InPlace,
}

impl Blocking {
    /// Does the work. The error is a panic in it.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Aside => spawn_blocking(work).await,
            Self::InPlace => Ok(work()),
        }
    }
}
