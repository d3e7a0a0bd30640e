//! Where a build stands, and how an attempt at it ends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a runner.
    Queued,
    /// A runner has it and prepares: clones, gets the image, makes the container.
    Assigned,
    /// The command runs.
    Running,
    /// On the way to `canceled`; the runner is stopping it.
    Canceling,
    /// The command ended with exit code 0.
    Succeeded,
    /// The command ended with another exit code.
    Failed,
    /// The time limit was reached.
    TimedOut,
    /// A person stopped it.
    Canceled,
    /// It could not be run: the cause lies outside the command.
    Errored,
}

impl Status {
    /// Every status, in the order of a build's life.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::Canceling,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Canceled,
        Self::Errored,
    ];

    /// Whether the build has ended, for good.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Assigned | Self::Running | Self::Canceling)
    }

    /// The name as written in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Errored => "errored",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// The command ended with exit code 0.
    Succeeded,
    /// The command ended with another exit code.
    Failed {
        /// The code as the container gave it; a signal `n` shows as `128 + n`.
        exit_code: u8,
        /// What else is known of it. Never what the outcome is derived from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<FailureNote>,
    },
    /// The time limit was reached and the container was stopped.
    TimedOut,
    /// The container was stopped because a person asked for it.
    Canceled,
    /// The build could not be run.
    Errored {
        /// The cause, for programs.
        reason: ErrorReason,
        /// The cause and what to do, for people.
        message: String,
    },
}

impl Outcome {
    /// The status of a build that ends this way.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Succeeded => Status::Succeeded,
            Self::Failed { .. } => Status::Failed,
            Self::TimedOut => Status::TimedOut,
            Self::Canceled => Status::Canceled,
            Self::Errored { .. } => Status::Errored,
        }
    }

    /// The command's exit code, where it ended by itself.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Succeeded => Some(0),
            Self::Failed { exit_code, .. } => Some(*exit_code),
            Self::TimedOut | Self::Canceled | Self::Errored { .. } => None,
        }
    }

    /// The name of what is known beyond the status, as written in the API and in the store.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Failed { note, .. } => note.map(FailureNote::as_str),
            Self::Errored { reason, .. } => Some(reason.as_str()),
            Self::Succeeded | Self::TimedOut | Self::Canceled => None,
        }
    }

    /// What is said to people beyond the status.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Errored { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Whether another attempt, on another runner where there is one, may end better.
    #[must_use]
    pub fn is_infrastructure(&self) -> bool {
        matches!(self, Self::Errored { reason, .. } if !reason.is_permanent())
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name as written in the API and in the store.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// What is known of a failed command beside its exit code.
    FailureNote {
        /// The exit code is the one a process has that a signal ended.
        KilledBySignal = "killed_by_signal",
        /// The engine saw the container run out of memory.
        OutOfMemory = "out_of_memory",
        /// It had written more than its runner allows, and was killed for it.
        DiskLimit = "disk_limit",
    }
}

named! {
    /// Why a build could not be run: the cause lies with the CI or with what it was asked for, never with the command.
    ErrorReason {
        /// The repository does not exist, or is not shown to us.
        RepositoryNotFound = "repository_not_found",
        /// The repository's URL is not allowed on the runner.
        RepositoryDenied = "repository_denied",
        /// The repository has no such commit, branch or tag.
        CommitNotFound = "commit_not_found",
        /// The repository could not be fetched: its server is away, slow or broken.
        CloneFailed = "clone_failed",
        /// The repository, or the commit, is larger than the runner allows.
        TooLarge = "too_large",
        /// No such image.
        ImageNotFound = "image_not_found",
        /// The registry refuses to give the image, or the runner to ask that registry.
        ImageDenied = "image_denied",
        /// The image was not pulled: its registry is away, slow or broken.
        ImageFailed = "image_failed",
        /// The image can't run a command: it has no shell, or is made for another platform.
        ImageUnusable = "image_unusable",
        /// The engine failed, was away, or lost the container.
        EngineFailed = "engine_failed",
        /// The runner's disk is full.
        DiskFull = "disk_full",
        /// The runner itself failed.
        RunnerFailed = "runner_failed",
        /// The runner died or lost its connection for too long.
        RunnerLost = "runner_lost",
    }
}

impl ErrorReason {
    /// Whether another attempt would end the same way.
    #[must_use]
    pub fn is_permanent(self) -> bool {
        match self {
            Self::RepositoryNotFound
            | Self::RepositoryDenied
            | Self::CommitNotFound
            | Self::TooLarge
            | Self::ImageNotFound
            | Self::ImageDenied
            | Self::ImageUnusable => true,
            Self::CloneFailed
            | Self::ImageFailed
            | Self::EngineFailed
            | Self::DiskFull
            | Self::RunnerFailed
            | Self::RunnerLost => false,
        }
    }
}

/// How long each part of an attempt took, in milliseconds. What an attempt did not come to is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Phases {
    /// Fetching the repository and checking the commit out.
    #[serde(rename = "clone", default, skip_serializing_if = "Option::is_none")]
    pub clone_ms: Option<u64>,
    /// Getting the image, where it was not there.
    #[serde(rename = "image", default, skip_serializing_if = "Option::is_none")]
    pub image_ms: Option<u64>,
    /// Making and starting the container.
    #[serde(rename = "create", default, skip_serializing_if = "Option::is_none")]
    pub create_ms: Option<u64>,
    /// Running the command.
    #[serde(rename = "run", default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<u64>,
    /// Removing container and workspace, which happens after the outcome is told.
    #[serde(rename = "cleanup", default, skip_serializing_if = "Option::is_none")]
    pub cleanup_ms: Option<u64>,
}
