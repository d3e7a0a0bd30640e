//! The store in memory: for tests and simulations, which bring its crashes about themselves.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use caisson_protocol::{AttemptId, BuildId, Phases, Status};
use caisson_scheduler::{Change, RememberedKey, Restored, Submission};

use super::{
    AttemptRecord, AttemptResult, BuildFilter, BuildKey, BuildRecord, Millis, Store, StoreError,
    record::report,
};

/// Builds in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    builds: BTreeMap<u64, BuildRecord>,
    numbers: BTreeMap<BuildId, u64>,
    keys: Vec<RememberedKey>,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic half-way through a change can't leave a half: changes are made on a copy.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn restore(&self) -> Result<Restored, StoreError> {
        let state = self.state();
        let builds = state
            .builds
            .values()
            .filter(|build| !build.status.is_terminal())
            .map(BuildRecord::live)
            .collect();
        let latest_number = state.builds.keys().next_back().copied().unwrap_or(0);
        Ok(Restored { builds, latest_number, keys: state.keys.clone() })
    }

    async fn commit(&self, changes: &[Change], at: Millis) -> Result<(), StoreError> {
        let mut state = self.state();
        let mut next = state.clone();
        for change in changes {
            next.apply(change, at)?;
        }
        *state = next;
        Ok(())
    }

    async fn build(&self, which: BuildKey) -> Result<Option<BuildRecord>, StoreError> {
        let state = self.state();
        let number = match which {
            BuildKey::Number(number) => Some(number),
            BuildKey::Id(id) => state.numbers.get(&id).copied(),
        };
        Ok(number.and_then(|number| state.builds.get(&number).cloned()))
    }

    async fn builds(&self, filter: &BuildFilter) -> Result<Vec<BuildRecord>, StoreError> {
        let state = self.state();
        let before = filter.before.unwrap_or(u64::MAX);
        let found =
            state.builds.range(..before).rev().map(|(_, build)| build).filter(|build| matches(build, filter));
        Ok(found.take(filter.limit).cloned().collect())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl State {
    fn apply(&mut self, change: &Change, at: Millis) -> Result<(), StoreError> {
        match change {
            Change::Submitted { submission, number } => self.submitted(submission, *number, at)?,
            Change::Assigned { attempt, runner } => {
                if self.attempt(*attempt).is_ok() {
                    return Err(StoreError::Broken(format!("attempt {attempt} is there already")));
                }
                let build = self.build(attempt.build)?;
                build.status = Status::Assigned;
                build.attempts.push(AttemptRecord {
                    number: attempt.number,
                    runner: runner.clone(),
                    assigned_at: at,
                    started_at: None,
                    finished_at: None,
                    result: None,
                    charged: false,
                    phases: Phases::default(),
                    resolved_commit: None,
                    image_digest: None,
                    log_bytes: None,
                });
            }
            Change::Started { attempt, resolved_commit, image_digest } => {
                let build = self.build(attempt.build)?;
                build.status = Status::Running;
                build.started_at = Some(at);
                let tried = self.attempt(*attempt)?;
                tried.started_at = Some(at);
                tried.resolved_commit.clone_from(resolved_commit);
                tried.image_digest.clone_from(image_digest);
            }
            Change::Canceling { build } => self.build(*build)?.status = Status::Canceling,
            Change::AttemptEnded { attempt, end, charged } => {
                let tried = self.attempt(*attempt)?;
                if tried.result.is_some() {
                    return Err(StoreError::Broken(format!("attempt {attempt} has ended")));
                }
                tried.finished_at = Some(at);
                tried.result = Some(AttemptResult::of_attempt(end));
                tried.charged = *charged;
                if let Some(report) = report(end) {
                    tried.phases = report.phases;
                    tried.log_bytes = Some(report.log_bytes);
                    tried.resolved_commit = report.resolved_commit.clone().or(tried.resolved_commit.take());
                    tried.image_digest = report.image_digest.clone().or(tried.image_digest.take());
                }
            }
            Change::Requeued { build } => {
                let build = self.build(*build)?;
                build.status = Status::Queued;
                build.started_at = None;
            }
            Change::Ended { build, outcome } => {
                let build = self.build(*build)?;
                build.status = outcome.status();
                build.result = Some(outcome.into());
                build.finished_at = Some(at);
            }
            Change::Cleaned { attempt, runner, cleanup_ms } => {
                // Another runner's attempt, or none: not this one's to speak of.
                if let Ok(tried) = self.attempt(*attempt)
                    && tried.runner.id == *runner
                {
                    tried.phases.cleanup_ms = Some(*cleanup_ms);
                }
            }
        }
        Ok(())
    }

    fn submitted(&mut self, submission: &Submission, number: u64, at: Millis) -> Result<(), StoreError> {
        if self.builds.contains_key(&number) || self.numbers.contains_key(&submission.id) {
            return Err(StoreError::Broken(format!("build {} is there already", submission.id)));
        }
        let build = BuildRecord {
            id: submission.id,
            number,
            spec: submission.spec.clone(),
            status: Status::Queued,
            result: None,
            queued_at: at,
            started_at: None,
            finished_at: None,
            attempts: Vec::new(),
        };
        self.numbers.insert(submission.id, number);
        self.builds.insert(number, build);
        if let Some(key) = submission.key.clone() {
            self.keys.push(RememberedKey { key, build: submission.id });
        }
        Ok(())
    }

    /// A live build: what has ended is never changed again.
    fn build(&mut self, id: BuildId) -> Result<&mut BuildRecord, StoreError> {
        let number = self.numbers.get(&id).copied().unwrap_or(0);
        let live = self.builds.get_mut(&number).filter(|build| !build.status.is_terminal());
        live.ok_or_else(|| StoreError::Broken(format!("build {id} is not there or has ended")))
    }

    fn attempt(&mut self, id: AttemptId) -> Result<&mut AttemptRecord, StoreError> {
        let number = self.numbers.get(&id.build).copied().unwrap_or(0);
        let attempts = self.builds.get_mut(&number).map(|build| &mut build.attempts);
        let attempt = attempts.and_then(|attempts| attempts.iter_mut().find(|one| one.number == id.number));
        attempt.ok_or_else(|| StoreError::Broken(format!("attempt {id} is not there")))
    }
}

fn matches(build: &BuildRecord, filter: &BuildFilter) -> bool {
    let contains = |text: &String| {
        let text = text.to_ascii_lowercase();
        let spec = &build.spec;
        [spec.repository_url.as_str(), spec.commit.as_str(), spec.command.as_str()]
            .iter()
            .any(|field| field.to_ascii_lowercase().contains(&text))
    };
    (filter.statuses.is_empty() || filter.statuses.contains(&build.status))
        && filter.repository_url.as_ref().is_none_or(|url| build.spec.repository_url.as_str() == url)
        && filter.text.as_ref().is_none_or(contains)
}
