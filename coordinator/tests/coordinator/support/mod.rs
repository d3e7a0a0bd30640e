//! What the stories are told with: a coordinator of one's own, people, runners and viewers.

mod house;
mod runner;
mod tmpfs;
mod viewer;
mod words;

use std::time::Duration;

pub(crate) use house::{Answer, House};
pub(crate) use runner::{Runner, Socket};
pub(crate) use tmpfs::Tmpfs;
pub(crate) use viewer::Viewer;
pub(crate) use words::*;

/// How long anything that is waited for may take. Far beyond what it takes: a busy machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something to come true, and says what did not.
pub(crate) async fn eventually<T, F>(what: &str, mut look: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Waits for something that must come, and says what did not.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}
