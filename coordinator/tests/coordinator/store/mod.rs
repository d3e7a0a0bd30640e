//! The store: one list of laws, which every adapter obeys, and what SQLite has beside.

mod agreement;
mod laws;
mod sqlite;

use std::{path::Path, sync::Arc, time::Duration};

use caisson_coordinator::store::{
    BuildFilter, BuildKey, BuildRecord, MemoryStore, Millis, SqliteStore, Store, StoreError,
};
use caisson_protocol::{BuildId, Outcome, Status};
use caisson_scheduler::{AttemptEnd, Change, LiveBuild, Submission};
use tempfile::TempDir;

use crate::support::{commit, id, report, runner_ref, submission};

/// No build at all.
const NONE: [u64; 0] = [];

/// A store and where it keeps things.
struct Shelf {
    store: Arc<dyn Store>,
    folder: Option<TempDir>,
}

impl Shelf {
    fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::default()), folder: None }
    }

    fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        Self { store: Arc::new(open(&folder.path().join("caisson.db"))), folder: Some(folder) }
    }

    /// The same store after its program has ended and begun anew. What is in memory only is there as long as it is.
    fn reopened(mut self) -> Self {
        if let Some(folder) = &self.folder {
            let path = folder.path().join("caisson.db");
            self.store = Arc::new(MemoryStore::default());
            self.store = Arc::new(open(&path));
        }
        self
    }

    async fn commit(&self, changes: &[Change]) {
        self.commit_at(1000, changes).await;
    }

    async fn commit_at(&self, at: Millis, changes: &[Change]) {
        self.store.commit(changes, at).await.unwrap();
    }

    /// Commits what can't be, checks that nothing of it is there, and gives the error.
    async fn refuses(&self, changes: &[Change]) -> StoreError {
        let before = (self.list(&BuildFilter::default()).await, self.store.restore().await.unwrap());
        let error = self.store.commit(changes, 2000).await.expect_err("it was committed");
        let after = (self.list(&BuildFilter::default()).await, self.store.restore().await.unwrap());
        assert_eq!(before, after);
        error
    }

    async fn find(&self, number: u64) -> BuildRecord {
        self.store.build(BuildKey::Number(number)).await.unwrap().expect("it is there")
    }

    /// A build as a scheduler would take it up again, if it is live.
    async fn live(&self, number: u64) -> Option<LiveBuild> {
        self.store.restore().await.unwrap().builds.into_iter().find(|build| build.number == number)
    }

    async fn list(&self, filter: &BuildFilter) -> Vec<BuildRecord> {
        let limit = if filter.limit == 0 { usize::MAX } else { filter.limit };
        self.store.builds(&BuildFilter { limit, ..filter.clone() }).await.unwrap()
    }

    /// Checks what each search finds while the builds wait, and again once all of them have ended.
    async fn finds<const N: usize>(&self, searches: [(&str, Vec<u64>); N]) {
        for (text, found) in &searches {
            assert_eq!(self.numbers(with_text(text)).await, *found, "{text:?} among those that wait");
        }
        let all = self.numbers(BuildFilter::default()).await;
        self.commit(&all.into_iter().map(|number| ended(number, Outcome::Canceled)).collect::<Vec<_>>())
            .await;
        for (text, found) in &searches {
            assert_eq!(self.numbers(with_text(text)).await, *found, "{text:?} among those that have ended");
        }
    }

    /// The numbers of the builds that match.
    async fn numbers(&self, filter: BuildFilter) -> Vec<u64> {
        self.list(&filter).await.iter().map(|build| build.number).collect()
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open_patient(path, Duration::from_millis(50)).unwrap()
}

fn submitted(number: u64) -> Change {
    with_command(number, "make test")
}

fn with_command(number: u64, command: &str) -> Change {
    Change::Submitted { submission: submission(number, command), number }
}

fn with_spec(number: u64, change: impl FnOnce(&mut caisson_protocol::BuildSpec)) -> Change {
    let Submission { id, spec, key } = submission(number, "make test");
    let mut spec = Arc::unwrap_or_clone(spec);
    change(&mut spec);
    Change::Submitted { submission: Submission { id, spec: Arc::new(spec), key }, number }
}

fn tried(number: u64, attempt: u32) -> caisson_protocol::AttemptId {
    caisson_protocol::AttemptId { build: id(number), number: attempt }
}

fn assigned(number: u64, attempt: u32, runner: &str) -> Change {
    Change::Assigned { attempt: tried(number, attempt), runner: runner_ref(runner) }
}

fn started(number: u64, attempt: u32) -> Change {
    let (resolved_commit, image_digest) = (Some(commit()), Some("sha256:feed".to_owned()));
    Change::Started { attempt: tried(number, attempt), resolved_commit, image_digest }
}

fn over(number: u64, attempt: u32, end: AttemptEnd, charged: bool) -> Change {
    Change::AttemptEnded { attempt: tried(number, attempt), end, charged }
}

fn reported(number: u64, attempt: u32, outcome: &Outcome) -> Change {
    over(number, attempt, AttemptEnd::Reported(report(outcome.clone(), 5)), outcome.is_infrastructure())
}

fn requeued(number: u64) -> Change {
    Change::Requeued { build: id(number) }
}

fn ended(number: u64, outcome: Outcome) -> Change {
    Change::Ended { build: id(number), outcome }
}

/// A build's whole life, on one runner.
fn life(number: u64, outcome: &Outcome) -> Vec<Change> {
    vec![
        submitted(number),
        assigned(number, 1, "r1"),
        started(number, 1),
        reported(number, 1, outcome),
        ended(number, outcome.clone()),
    ]
}

fn of_status(statuses: &[Status]) -> BuildFilter {
    BuildFilter { statuses: statuses.to_vec(), ..BuildFilter::default() }
}

fn with_text(text: &str) -> BuildFilter {
    BuildFilter { text: Some(text.into()), ..BuildFilter::default() }
}

fn by_id(number: u64) -> BuildKey {
    BuildKey::Id(id(number))
}

fn unknown() -> BuildId {
    id(999_999)
}
