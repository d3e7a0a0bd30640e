//! A container's life: acquired, used once, disposed of.
//!
//! The order of its calls is what keeps its output whole and its end known: fill, attach, start, wait, ask how it ended.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use crate::{
    engine::{ContainerId, ContainerRequest, Engine, EngineError, Exit, Image, Signal},
    output::{LogBroken, LogSender, PumpError},
    workspace::Transport,
};

/// How long output may be held open, by a process that was left behind, after the command has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// For how many times its deadline an engine may be away while a command runs.
const AWAY_DEADLINES_MAX: u32 = 10;
/// How long a container takes to be gone after SIGKILL, at most.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// A container that is made, and whose command does not run yet.
pub struct Prepared {
    engine: Arc<dyn Engine>,
    id: ContainerId,
    deadline: Duration,
}

/// A container in which a command runs.
pub struct Container {
    engine: Arc<dyn Engine>,
    id: ContainerId,
    deadline: Duration,
    pump: Pump,
}

/// The task that takes in the container's output.
enum Pump {
    Running(JoinHandle<Result<(), PumpError>>),
    Ended,
}

/// Why nobody knows how a command ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine failed while the command ran.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Someone removed the container.
    #[error("the container was removed by someone else while the command ran")]
    Removed,
    /// The output has nowhere to go.
    #[error(transparent)]
    Log(#[from] LogBroken),
}

impl Prepared {
    /// Makes a container on an engine that has `deadline` to answer. Whoever drops this future does not know whether
    /// there is one.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn make(
        engine: Arc<dyn Engine>,
        deadline: Duration,
        request: &ContainerRequest,
    ) -> Result<Self, EngineError> {
        let id = engine.create(request).await?;
        Ok(Self { engine, id, deadline })
    }

    /// Brings the checkout into it.
    ///
    /// # Errors
    /// When the engine does not take it.
    pub async fn fill(&self, transport: Transport, folder: PathBuf) -> Result<(), EngineError> {
        transport.fill(&*self.engine, &self.id, folder).await
    }

    /// Starts its command; what that prints goes to `log`.
    ///
    /// # Errors
    /// [`EngineError::Refused`] from the start means that the image can't run a shell.
    pub async fn start(self, log: LogSender) -> Result<Container, StartError> {
        let Self { engine, id, deadline } = self;
        let output = engine.attach(&id).await.map_err(StartError::Attach)?;
        engine.start(&id).await.map_err(StartError::Start)?;
        Ok(Container { engine, id, deadline, pump: Pump::Running(tokio::spawn(log.pump(output))) })
    }
}

impl Container {
    /// Returns when the command has ended, and how. May be called again where it was dropped before.
    ///
    /// # Errors
    /// When the engine or the log failed meanwhile.
    pub async fn ended(&mut self) -> Result<Exit, RunError> {
        let (engine, id) = (Arc::clone(&self.engine), self.id.clone());
        tokio::select! {
            waited = engine.wait(&id) => waited.map_err(removed)?,
            untold = untold(&*engine, &id, self.deadline) => untold?,
            failed = self.pump.failed() => return Err(failed),
        }
        let exit = self.exit().await?;
        // An engine that shuts down ends its containers first, and the next one reports their end as the command's own.
        self.engine.saw_end(&self.id).await?;
        Ok(exit)
    }

    /// Kills the command, and tells how it has ended.
    ///
    /// # Errors
    /// As for [`Self::ended`], and when it can't be killed.
    pub async fn kill(&mut self) -> Result<Exit, RunError> {
        self.engine.kill(&self.id, Signal::Kill).await?;
        match timeout(KILL_DEADLINE, self.ended()).await {
            Ok(ended) => ended,
            Err(_) => Err(EngineError::Failed(format!("container {} runs on after SIGKILL", self.id)).into()),
        }
    }

    async fn exit(&self) -> Result<Exit, RunError> {
        let exit = self.engine.inspect(&self.id).await.map_err(removed)?;
        let running =
            || EngineError::Failed(format!("container {} runs on after it was said to have ended", self.id));
        exit.ok_or_else(|| running().into())
    }

    /// Whether the image has a shell after all, asked where the command was not found.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn has_shell(&self, image: &Image) -> Result<bool, EngineError> {
        self.engine.has_shell(&self.id, image).await
    }

    /// The engine's name for it.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Stops the command: SIGTERM, `grace` or until `hurry` returns, SIGKILL. Failures are left to the removal, which
    /// kills as well.
    pub async fn stop(&mut self, grace: Duration, hurry: impl Future) {
        if !grace.is_zero() {
            let terminated = self.engine.kill(&self.id, Signal::Terminate).await;
            tokio::select! {
                _ = self.engine.wait(&self.id), if terminated.is_ok() => return,
                () = tokio::time::sleep(grace) => {}
                _ = hurry => {}
            }
        }
        if let Err(error) = self.engine.kill(&self.id, Signal::Kill).await {
            warn!("container {} could not be killed: {error}", self.id);
            return;
        }
        if timeout(KILL_DEADLINE, self.engine.wait(&self.id)).await.is_err() {
            warn!("container {} runs on {} s after SIGKILL", self.id, KILL_DEADLINE.as_secs());
        }
    }

    /// Takes in what the command printed last. Where not all of it came it says why: the exit decides, so a process
    /// that was left behind and holds the output open is not waited for.
    pub async fn drain(self) -> Option<&'static str> {
        let Pump::Running(mut task) = self.pump else { return None };
        match timeout(DRAIN_DEADLINE, &mut task).await {
            Ok(Ok(Ok(()))) => None,
            Ok(_) => Some("The end of the output is missing: it was broken off"),
            Err(_) => {
                task.abort();
                // An aborted task holds its way into the log until it is gone.
                let _ = task.await;
                Some("The output was still open 5 s after the command had ended, and was cut")
            }
        }
    }
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody would hear what its command prints.
    #[error(transparent)]
    Attach(EngineError),
    /// Its command could not be started.
    #[error(transparent)]
    Start(EngineError),
}

impl Pump {
    /// Returns when the pump has failed or, once, when it is done. Never after that.
    async fn ended(&mut self) -> Result<(), RunError> {
        let Self::Running(task) = self else { return std::future::pending().await };
        let result = task.await;
        *self = Self::Ended;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(PumpError::Engine(error))) => Err(error.into()),
            Ok(Err(PumpError::Log(error))) => Err(error.into()),
            Err(error) => Err(EngineError::Failed(describe(&error)).into()),
        }
    }

    /// Returns when the pump has failed. Never when it is done.
    async fn failed(&mut self) -> RunError {
        match self.ended().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }
}

/// Whether what runs in a container may run on. One that has ended, or is gone, writes nowhere any more.
pub(crate) async fn may_run(engine: &dyn Engine, container: &str) -> bool {
    let inspected = engine.inspect(&ContainerId(container.to_owned())).await;
    !matches!(inspected, Ok(Some(_)) | Err(EngineError::NotFound(_)))
}

/// Returns when a container has ended and nobody told, or when nobody knows any more: the connection to an engine that
/// has lost its power stays open for ever.
async fn untold(engine: &dyn Engine, id: &ContainerId, deadline: Duration) -> Result<(), RunError> {
    let mut heard = Instant::now();
    loop {
        sleep(deadline / 2).await;
        match engine.inspect(id).await {
            Ok(None) => heard = Instant::now(),
            Ok(Some(_)) => {
                // It is told in this moment, most likely.
                sleep(deadline / 2).await;
                return Ok(());
            }
            Err(error @ EngineError::NotFound(_)) => return Err(removed(error)),
            Err(error) if heard.elapsed() > deadline * AWAY_DEADLINES_MAX => return Err(error.into()),
            Err(_) => {}
        }
    }
}

fn describe(error: &JoinError) -> String {
    format!("the output could not be taken in: {error}")
}

fn removed(error: EngineError) -> RunError {
    match error {
        EngineError::NotFound(_) => RunError::Removed,
        error => RunError::Engine(error),
    }
}
