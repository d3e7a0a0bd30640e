//! What was done: who, from where, when, what and on what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::roll::{Principal, PrincipalKind};
use crate::store::Millis;

/// The longest text of an entry that is kept, in bytes. Some of it comes from strangers.
const TEXT_BYTES_MAX: usize = 512;

/// A text that is none of the words it should be one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownWord;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Signed in.
    SignIn,
    /// Tried to sign in with a wrong name, password, token or link.
    SignInFailed,
    /// Signed out.
    SignOut,
    /// Tried what its role does not allow.
    Denied,
    /// Submitted a build.
    Submit,
    /// Submitted a build again.
    Rerun,
    /// Canceled a build.
    Cancel,
    /// Drained a runner.
    Drain,
    /// Added a person.
    PersonAdded,
    /// Gave a person another role, or let them in or kept them out.
    PersonChanged,
    /// Removed a person.
    PersonRemoved,
    /// Changed a password.
    PasswordChanged,
    /// Made a token.
    TokenMade,
    /// Revoked a token.
    TokenRevoked,
    /// Made a token that registers runners.
    RegistrationMade,
    /// Revoked a token that registers runners.
    RegistrationRevoked,
    /// A runner was given a credential.
    RunnerRegistered,
    /// A runner's credential was revoked.
    CredentialRevoked,
    /// A runner was refused.
    RunnerRefused,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 19] = [
        Self::SignIn,
        Self::SignInFailed,
        Self::SignOut,
        Self::Denied,
        Self::Submit,
        Self::Rerun,
        Self::Cancel,
        Self::Drain,
        Self::PersonAdded,
        Self::PersonChanged,
        Self::PersonRemoved,
        Self::PasswordChanged,
        Self::TokenMade,
        Self::TokenRevoked,
        Self::RegistrationMade,
        Self::RegistrationRevoked,
        Self::RunnerRegistered,
        Self::CredentialRevoked,
        Self::RunnerRefused,
    ];

    /// The action's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::SignInFailed => "sign_in_failed",
            Self::SignOut => "sign_out",
            Self::Denied => "denied",
            Self::Submit => "submit",
            Self::Rerun => "rerun",
            Self::Cancel => "cancel",
            Self::Drain => "drain",
            Self::PersonAdded => "person_added",
            Self::PersonChanged => "person_changed",
            Self::PersonRemoved => "person_removed",
            Self::PasswordChanged => "password_changed",
            Self::TokenMade => "token_made",
            Self::TokenRevoked => "token_revoked",
            Self::RegistrationMade => "registration_made",
            Self::RegistrationRevoked => "registration_revoked",
            Self::RunnerRegistered => "runner_registered",
            Self::CredentialRevoked => "credential_revoked",
            Self::RunnerRefused => "runner_refused",
        }
    }
}

impl std::str::FromStr for Action {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or(UnknownWord)
    }
}

/// What kind of somebody did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person who signed in with name and password.
    Person,
    /// Who showed a token.
    Token,
    /// A runner.
    Runner,
    /// Who sits at the coordinator's own machine.
    System,
    /// Nobody knows who.
    Stranger,
}

impl ActorKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Person, Self::Token, Self::Runner, Self::System, Self::Stranger];

    /// The kind's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Token => "token",
            Self::Runner => "runner",
            Self::System => "system",
            Self::Stranger => "stranger",
        }
    }
}

impl std::str::FromStr for ActorKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or(UnknownWord)
    }
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// What kind of somebody.
    pub kind: ActorKind,
    /// What they are called. A stranger's is the name of the person that they said to be.
    pub name: String,
}

impl Actor {
    /// Somebody of this kind.
    pub fn new(kind: ActorKind, name: impl Into<String>) -> Self {
        Self { kind, name: short(name.into()) }
    }
}

impl From<&Principal> for Actor {
    fn from(principal: &Principal) -> Self {
        let kind = match principal.kind {
            PrincipalKind::Person => ActorKind::Person,
            PrincipalKind::Token => ActorKind::Token,
        };
        Self::new(kind, &principal.name)
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Millis,
    /// By whom.
    pub actor: Actor,
    /// The address it came from.
    pub from: Option<String>,
    /// What.
    pub action: Action,
    /// On what: a build's id, a person's or a runner's name, …
    pub on: String,
    /// What else is worth knowing.
    pub detail: String,
}

impl Entry {
    /// Something that was done.
    pub fn new(
        at: Millis,
        actor: Actor,
        from: Option<String>,
        action: Action,
        on: impl Into<String>,
    ) -> Self {
        Self { at, actor, from, action, on: short(on.into()), detail: String::new() }
    }

    /// Adds what else is worth knowing.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = short(detail.into());
        self
    }
}

/// An entry as it is kept. They are numbered as they come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its number.
    pub number: u64,
    /// What was done.
    pub entry: Entry,
}

/// Which entries to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only by somebody of this name.
    pub actor: Option<String>,
    /// Only these actions; all of them when empty.
    pub actions: Vec<Action>,
    /// Only entries in which this occurs, whatever the case of its ASCII letters.
    pub text: Option<String>,
    /// Only entries with a smaller number.
    pub before: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

fn short(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}
