//! How everyone else speaks to the dispatcher.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_protocol::{BuildId, RunnerId};
use caisson_scheduler::{Answer, Event, Moment, RequestId, RunnerEvent, Scheduler, SessionId, Submission};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{Input, SessionLine};
use crate::{clock, store::Millis};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The store can't take anything in right now, or the coordinator is stopping. Nothing of what was asked took place.
    #[error("{0}")]
    Refused(String),
    /// The coordinator ended over it. Only its next start tells whether it took place.
    #[error("the coordinator ended before it knew")]
    Interrupted,
}

/// A way to the dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct DispatcherHandle {
    inputs: mpsc::Sender<Input>,
    health: watch::Receiver<bool>,
    sessions: Arc<AtomicU64>,
    began: Instant,
}

impl DispatcherHandle {
    pub(super) fn new(inputs: mpsc::Sender<Input>, health: watch::Receiver<bool>, began: Instant) -> Self {
        Self { inputs, health, sessions: Arc::default(), began }
    }

    /// Submits a build. The answer is true once it is there: what it tells is stored.
    ///
    /// # Errors
    /// When nothing can be stored right now.
    pub async fn submit(&self, submission: Submission) -> Result<Answer, Unavailable> {
        self.ask(|request| Event::Submit { request, submission }).await
    }

    /// Cancels a build.
    ///
    /// # Errors
    /// When nothing can be stored right now.
    pub async fn cancel(&self, build: BuildId) -> Result<Answer, Unavailable> {
        self.ask(move |request| Event::Cancel { request, build }).await
    }

    /// Drains a runner.
    ///
    /// # Errors
    /// When nothing can be stored right now.
    pub async fn drain(&self, runner: RunnerId) -> Result<Answer, Unavailable> {
        self.ask(move |request| Event::Drain { request, runner }).await
    }

    /// Shows the live state to `look`, and gives what it made of it.
    ///
    /// # Errors
    /// When the coordinator is stopping.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Scheduler) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (reply, seen) = oneshot::channel();
        let look = Box::new(move |scheduler: &Scheduler| {
            // Who does not wait any more has gone away.
            let _ = reply.send(look(scheduler));
        });
        self.inputs.send(Input::Look(look)).await.map_err(|_| stopping())?;
        seen.await.map_err(|_| stopping())
    }

    /// Announces a runner's connection. What it is to be told comes on `line`.
    ///
    /// # Errors
    /// When the coordinator is stopping.
    pub async fn connect(&self, line: SessionLine) -> Result<SessionId, Unavailable> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed) + 1);
        self.inputs.send(Input::Connect(session, line)).await.map_err(|_| stopping())?;
        Ok(session)
    }

    /// Passes on what a runner said.
    ///
    /// # Errors
    /// When the coordinator is stopping.
    pub async fn runner(&self, session: SessionId, event: RunnerEvent) -> Result<(), Unavailable> {
        self.inputs.send(Input::Runner(session, event)).await.map_err(|_| stopping())
    }

    /// Whether the store takes things in.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        *self.health.borrow() && !self.inputs.is_closed()
    }

    /// The time of day of a moment in the scheduler's life, for people.
    #[must_use]
    pub fn time_of(&self, moment: Moment) -> Millis {
        let ago = self.began.elapsed().saturating_sub(Duration::from_millis(moment.0));
        clock::now_ms() - Millis::try_from(ago.as_millis()).unwrap_or_default()
    }

    async fn ask(
        &self,
        event: impl FnOnce(RequestId) -> Event + Send + 'static,
    ) -> Result<Answer, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Ask { event: Box::new(event), reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| Unavailable::Interrupted)?
    }
}

fn stopping() -> Unavailable {
    Unavailable::Refused("the coordinator is stopping".into())
}
