//! The steps of a build, up to its outcome: workspace, checkout, image, container, and the command's end.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use caisson_protocol::{ErrorReason, Outcome, Phases, ResolvedCommit, RunnerMessage};
use tokio::time::Instant;

use super::{
    Attempt, Builds, Host,
    attempt::{Interrupt, Stage, Stop},
    disk, outcome,
};
use crate::{
    checkout::CheckoutError,
    config::{self, Limits},
    container::{Container, Prepared, RunError, StartError},
    engine::{ContainerRequest, EngineError, Exit, Image, ImageError},
    images::Use,
    output::LogSender,
    sweep,
};

/// A build on its way, and what is known of it so far.
pub(super) struct Build<'a> {
    host: &'a Host,
    builds: &'a Builds,
    attempt: &'a Attempt,
    deadline: Instant,
    pub(super) log: LogSender,
    pub(super) phases: Phases,
    pub(super) resolved_commit: Option<ResolvedCommit>,
    pub(super) image_digest: Option<String>,
    pub(super) container_made: bool,
    pub(super) image_use: Option<Use<'a>>,
}

impl<'a> Build<'a> {
    pub(super) fn new(builds: &'a Builds, attempt: &'a Attempt, log: LogSender, deadline: Instant) -> Self {
        Self {
            host: &builds.host,
            builds,
            attempt,
            deadline,
            log,
            phases: Phases::default(),
            resolved_commit: None,
            image_digest: None,
            container_made: false,
            image_use: None,
        }
    }

    pub(super) async fn steps(&mut self) -> Result<Outcome, Cut> {
        self.give_back_unless_healthy().await?;
        let workspace = self.make_workspace().await?;
        let commit = self.check_out(workspace.clone()).await?;
        let mut image = self.get_image().await?;
        let container = match self.start(&commit, &image, workspace.clone()).await {
            // Somebody has removed it meanwhile, as who tidies up an engine does.
            Err(NotStarted::ImageGone) => {
                image = self.get_image().await?;
                self.start(&commit, &image, workspace).await?
            }
            started => started?,
        };
        self.builds.outbox.say(RunnerMessage::Started {
            attempt: self.attempt.id(),
            resolved_commit: commit.clone(),
            image_digest: image.digest.clone(),
        });
        self.attempt.enter(Stage::Running { resolved_commit: commit, image_digest: image.digest.clone() });
        let begun = Instant::now();
        let ended = self.follow(container, &image).await;
        self.phases.run_ms = Some(elapsed_ms(begun));
        ended
    }

    /// A build that has no place in the spool, since the disk is full, is given back.
    pub(super) async fn give_back_for_want_of_room(&self, error: &std::io::Error) -> Result<Outcome, Cut> {
        self.give_back_unless_healthy().await?;
        Err(Cut::Failed(outcome::of_disk(error, "the runner can't spool the build")))
    }

    /// What took the build before down may still be there: no attempt is wasted on it.
    async fn give_back_unless_healthy(&self) -> Result<(), Cut> {
        if self.host.disks.lack().await.is_some() {
            self.host.health.doubt();
        }
        match self.unless_interrupted(self.host.health.allows_builds()).await? {
            true => Ok(()),
            false => Err(Cut::Interrupted(Interrupt::Stop(Stop::Release))),
        }
    }

    async fn make_workspace(&self) -> Result<PathBuf, Cut> {
        let build = self.attempt.id().build;
        if self.host.workspaces.path(build).exists() {
            // An earlier attempt has left it, and perhaps its container, which would write into this one's.
            self.unless_interrupted(sweep::remove_containers(self.host, build)).await??;
        }
        let made = self.host.workspaces.make(build).await;
        made.map_err(|error| Cut::Failed(outcome::of_disk(&error, "the runner can't make a workspace")))
    }

    async fn check_out(&mut self, workspace: PathBuf) -> Result<ResolvedCommit, Cut> {
        let begun = Instant::now();
        let spec = &self.attempt.assignment.spec;
        self.log.say(format!("Cloning {} at {}", spec.repository_url, spec.commit)).await;
        let checkout = self.host.checkout.run(&spec.repository_url, &spec.commit, workspace, &self.log);
        let commit = self.unless_interrupted(checkout).await;
        self.phases.clone_ms = Some(elapsed_ms(begun));
        let commit = commit??;
        self.log.say(format!("Checked out {}", commit.as_str())).await;
        self.resolved_commit = Some(commit.clone());
        Ok(commit)
    }

    async fn get_image(&mut self) -> Result<Image, Cut> {
        let begun = Instant::now();
        let log = self.log.clone();
        let progress = move |line: String| log.mention(line);
        let spec = &self.attempt.assignment.spec;
        let mut image_use = self.host.images.begin_use(&spec.image);
        let image = self.host.engine.ensure_image(&spec.image, &self.host.config.image, &progress);
        let image = self.unless_interrupted(image).await;
        self.phases.image_ms = Some(elapsed_ms(begun));
        let image = image??;
        image_use.found(&image);
        self.image_use = Some(image_use);
        self.image_digest.clone_from(&image.digest);
        Ok(image)
    }

    /// Making a container is not interrupted: whoever asked for it would not know whether there is one.
    async fn start(
        &mut self,
        commit: &ResolvedCommit,
        image: &Image,
        workspace: PathBuf,
    ) -> Result<Container, NotStarted> {
        let begun = Instant::now();
        let spec = &self.attempt.assignment.spec;
        if let Some(asked) = config::in_words(&spec.limits, spec.network) {
            self.log.say(format!("Limits of its own: {asked}")).await;
        }
        let request = self.request(commit, image, workspace.clone());
        self.container_made = true;
        let started = self.make_and_start(&request, workspace).await;
        self.phases.create_ms = Some(elapsed_ms(begun));
        started
    }

    async fn make_and_start(
        &self,
        request: &ContainerRequest,
        workspace: PathBuf,
    ) -> Result<Container, NotStarted> {
        let (engine, deadline) = (Arc::clone(&self.host.engine), self.host.config.engine.deadline.0);
        let prepared = match Prepared::make(engine, deadline, request).await {
            Err(EngineError::NotFound(_)) => return Err(NotStarted::ImageGone),
            made => made.map_err(Cut::from)?,
        };
        let filled = self.unless_interrupted(prepared.fill(self.host.transport, workspace)).await?;
        filled.map_err(Cut::from)?;
        let started = prepared.start(self.log.clone()).await.map_err(|error| match error {
            StartError::Start(EngineError::Refused(cause)) => self.image_unusable(&cause),
            StartError::Attach(error) | StartError::Start(error) => error.into(),
        });
        Ok(started?)
    }

    fn request(&self, commit: &ResolvedCommit, image: &Image, workspace: PathBuf) -> ContainerRequest {
        let id = self.attempt.id();
        let spec = &self.attempt.assignment.spec;
        let own = [
            ("CI", "true".to_owned()),
            ("CAISSON_BUILD_ID", id.build.to_string()),
            ("CAISSON_ATTEMPT", id.number.to_string()),
            ("CAISSON_COMMIT", commit.as_str().to_owned()),
            ("CAISSON_REPOSITORY_URL", spec.repository_url.to_string()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let theirs = spec.env.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = &self.host.config;
        ContainerRequest {
            attempt: id,
            owner: config.owner(),
            image: image.id.clone(),
            command: spec.command.as_str().to_owned(),
            environment: theirs.chain(own).collect::<BTreeMap<_, _>>(),
            workspace: self.host.transport.mount(workspace),
            limits: self.limits(),
            network: config.network.narrowed_to(spec.network),
        }
    }

    fn limits(&self) -> Limits {
        self.host.config.limits.lowered_to(&self.attempt.assignment.spec.limits)
    }

    /// Waits for the command's end, or stops it.
    async fn follow(&mut self, mut container: Container, image: &Image) -> Result<Outcome, Cut> {
        let ended = tokio::select! {
            biased;
            ended = self.run(&mut container, image) => ended,
            interrupt = self.attempt.interrupted(self.deadline) => Err(Cut::Interrupted(interrupt)),
        };
        if let Err(Cut::Interrupted(interrupt)) = &ended {
            let grace = if interrupt.is_gentle() { self.host.config.stop_grace.0 } else { Duration::ZERO };
            container.stop(grace, self.attempt.abandoned()).await;
        }
        if let Some(missing) = container.drain().await {
            self.log.say(missing).await;
        }
        ended
    }

    /// Lets the command run to its end, or until it has written too much.
    async fn run(&self, container: &mut Container, image: &Image) -> Result<Outcome, Cut> {
        let workspace = self.host.workspaces.path(self.attempt.id().build);
        let (limit, id) = (self.limits().disk, container.id().clone());
        let excess = tokio::select! {
            biased;
            ended = container.ended() => return self.judge(container, image, ended).await,
            excess = disk::exceeds(limit.0, &*self.host.engine, &id, &workspace) => excess,
        };
        self.log.say(format!("Killed: {}", excess.in_words(limit))).await;
        let ended = container.kill().await;
        self.judge(container, image, ended).await.map(outcome::killed_for_disk)
    }

    async fn judge(
        &self,
        container: &Container,
        image: &Image,
        ended: Result<Exit, RunError>,
    ) -> Result<Outcome, Cut> {
        let exit = match ended {
            Ok(exit) => exit,
            // Why the log is broken is told where it is closed.
            Err(error) => return Err(Cut::Failed(outcome::engine_failed(error.to_string()))),
        };
        // The engine's init takes the place of a shell that is not there, or that this processor can't run.
        if exit.code == outcome::EXIT_NOT_FOUND && !container.has_shell(image).await? {
            return Err(self.image_unusable("it has no sh"));
        }
        let foreign = image.architecture != self.host.architecture && !image.architecture.is_empty();
        if exit.code == outcome::EXIT_NOT_EXECUTABLE && foreign {
            return Err(self.image_unusable(&format!("it is made for {}", image.architecture)));
        }
        Ok(outcome::of_exit(&exit))
    }

    fn image_unusable(&self, cause: &str) -> Cut {
        let image = &self.attempt.assignment.spec.image;
        let message = format!("the image {image} can't run a command: {cause}");
        Cut::Failed(outcome::errored(ErrorReason::ImageUnusable, message))
    }

    async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, Cut> {
        tokio::select! {
            biased;
            interrupt = self.attempt.interrupted(self.deadline) => Err(Cut::Interrupted(interrupt)),
            done = work => Ok(done),
        }
    }
}

/// Why a build did not come to its own end.
pub(super) enum Cut {
    Interrupted(Interrupt),
    Failed(Outcome),
}

impl From<CheckoutError> for Cut {
    fn from(error: CheckoutError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ImageError> for Cut {
    fn from(error: ImageError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<EngineError> for Cut {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

/// Why a container does not run.
enum NotStarted {
    /// The engine has the image no more.
    ImageGone,
    /// Anything else.
    Cut(Cut),
}

impl From<Cut> for NotStarted {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

impl From<NotStarted> for Cut {
    fn from(error: NotStarted) -> Self {
        match error {
            NotStarted::ImageGone => {
                Self::Failed(outcome::engine_failed("the image is removed again and again".into()))
            }
            NotStarted::Cut(cut) => cut,
        }
    }
}

/// The time since an instant, in milliseconds.
pub(super) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
