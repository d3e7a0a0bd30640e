//! Who there is and who may do what, at one moment. Deciding is a function of it: nothing in here does any I/O, and
//! moments are handed in.

mod enrolment;
mod people;
mod sessions;
mod tokens;

use std::collections::BTreeMap;

use super::{name::PersonName, role::Role, secret::Digest};
use crate::store::Millis;

pub use enrolment::CredentialStanding;
pub use people::PersonChange;
pub use sessions::{Principal, PrincipalKind, Proof, SessionTerms};
pub use tokens::NewToken;

/// The identity of the token in `data_dir/admin-token`.
pub const ADMIN_TOKEN: &str = "admin-token";
/// The identity of the registration token in `data_dir/runner-token`.
pub const RUNNER_TOKEN: &str = "runner-token";

/// Somebody who may sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// What they are called, and sign in with.
    pub name: PersonName,
    /// What they may do.
    pub role: Role,
    /// The argon2id hash of their password, in PHC form.
    pub password_hash: String,
    /// Whether they are kept out for now.
    pub disabled: bool,
    /// When they were added.
    pub created_at: Millis,
    /// When they last signed in.
    pub signed_in_at: Option<Millis>,
}

/// What a program shows instead of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its identity.
    pub id: String,
    /// What is known of its secret.
    pub digest: Digest,
    /// What it is for, in its maker's words.
    pub name: String,
    /// What it may do; no more than its owner may at that moment.
    pub role: Role,
    /// Whose it is. The tokens that are nobody's are the one in the data folder and those made with it.
    pub owner: Option<PersonName>,
    /// When it was made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Option<Millis>,
    /// When it was last shown.
    pub used_at: Option<Millis>,
}

/// A browser that is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What is known of its secret.
    pub digest: Digest,
    /// Who it stands for.
    pub holder: Holder,
    /// When it began.
    pub created_at: Millis,
    /// When it was last shown.
    pub used_at: Millis,
}

/// Who a session stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Who signed in with a password.
    Person(PersonName),
    /// Who signed in with the token of this identity.
    Token(String),
}

/// What a runner shows once, for a credential of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its identity.
    pub id: String,
    /// What is known of its secret.
    pub digest: Digest,
    /// What it is for, in its maker's words.
    pub name: String,
    /// Whether it registers more than one runner.
    pub reusable: bool,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Option<Millis>,
    /// When it was last shown.
    pub used_at: Option<Millis>,
}

/// What one runner opens the channel with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What is known of its secret.
    pub digest: Digest,
    /// The only name that its holder may register under.
    pub runner: String,
    /// The registration that it was given for.
    pub registration: String,
    /// When it was made.
    pub created_at: Millis,
    /// When it was last shown.
    pub used_at: Option<Millis>,
    /// Why and when it ended. It is kept for a while, so that its runner can be told.
    pub ended: Option<(CredentialEnd, Millis)>,
}

/// Why a credential opens nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialEnd {
    /// An admin has revoked it.
    Revoked,
    /// Its runner's name was registered anew.
    Replaced,
}

/// Everybody who may do something, and what proves who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roll {
    /// Those who may sign in, by name.
    pub people: BTreeMap<PersonName, Person>,
    /// Tokens of programs.
    pub tokens: BTreeMap<Digest, Token>,
    /// Browsers that are signed in.
    pub sessions: BTreeMap<Digest, Session>,
    /// What runners register with.
    pub registrations: BTreeMap<Digest, Registration>,
    /// What runners connect with, and what they did before it was taken from them.
    pub credentials: BTreeMap<Digest, Credential>,
}

/// Something that becomes different. A value that is there already is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A person is added or has changed.
    Person(Person),
    /// A person goes, with their tokens and sessions.
    PersonRemoved(PersonName),
    /// A token is made.
    Token(Token),
    /// A token goes, with its sessions.
    TokenRemoved(Digest),
    /// A browser is signed in.
    Session(Session),
    /// A browser is signed out.
    SessionEnded(Digest),
    /// A registration is made or used.
    Registration(Registration),
    /// A registration goes.
    RegistrationRemoved(Digest),
    /// A credential is made or ends.
    Credential(Credential),
    /// A credential that has ended is forgotten.
    CredentialForgotten(Digest),
}

/// Why something does not become different.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What it is about is not there.
    #[error("there is no {what} {name:?}")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// How it was named.
        name: String,
    },
    /// There is one of that name already.
    #[error("there is a {what} {name:?} already: choose another name, or remove that one first")]
    NameTaken {
        /// What kind of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Nobody would be left who can say who may do what.
    #[error("{0:?} is the last admin: make somebody else one first")]
    LastAdmin(PersonName),
    /// It would let somebody do more than its maker may.
    #[error("a token can't have the role {wanted}: yours is {own}")]
    RoleTooHigh {
        /// What was asked for.
        wanted: Role,
        /// What its maker may do.
        own: Role,
    },
    /// A token of somebody who may do little makes no other: it could outlive its own end.
    #[error("a token makes no tokens: sign in with your name and password, or ask an admin")]
    TokenByToken,
    /// It is a file's.
    #[error(
        "{0} is the token in a file of the coordinator's data_dir: remove the file and restart the coordinator, which makes a new one"
    )]
    InFile(&'static str),
    /// There are too many.
    #[error("there are {limit} {what} already, and no more can be: remove some first")]
    TooMany {
        /// What kind of thing.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// It was used up, has ended or is unknown.
    #[error("this registration token is unknown, has ended or was used up: an admin makes a new one")]
    RegistrationInvalid,
}

impl Roll {
    /// Makes a change that was decided.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Person(person) => {
                self.people.insert(person.name.clone(), person);
            }
            Change::PersonRemoved(name) => {
                self.people.remove(&name);
                let owned = |token: &Token| token.owner.as_ref() == Some(&name);
                let tokens: Vec<Digest> =
                    self.tokens.values().filter(|token| owned(token)).map(|token| token.digest).collect();
                for digest in tokens {
                    self.apply(Change::TokenRemoved(digest));
                }
                self.sessions.retain(|_, session| session.holder != Holder::Person(name.clone()));
            }
            Change::Token(token) => {
                self.tokens.insert(token.digest, token);
            }
            Change::TokenRemoved(digest) => {
                if let Some(token) = self.tokens.remove(&digest) {
                    self.sessions.retain(|_, session| session.holder != Holder::Token(token.id.clone()));
                }
            }
            Change::Session(session) => {
                self.sessions.insert(session.digest, session);
            }
            Change::SessionEnded(digest) => {
                self.sessions.remove(&digest);
            }
            Change::Registration(registration) => {
                self.registrations.insert(registration.digest, registration);
            }
            Change::RegistrationRemoved(digest) => {
                self.registrations.remove(&digest);
            }
            Change::Credential(credential) => {
                self.credentials.insert(credential.digest, credential);
            }
            Change::CredentialForgotten(digest) => {
                self.credentials.remove(&digest);
            }
        }
    }

    /// Lets in who has the tokens in the files of the data folder, and nobody who had what was in there before.
    #[must_use]
    pub fn with_file_tokens(&self, admin: Digest, runner: Digest, now: Millis) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.token_of_id(ADMIN_TOKEN).is_none_or(|known| known.digest != admin) {
            changes.extend(self.token_of_id(ADMIN_TOKEN).map(|known| Change::TokenRemoved(known.digest)));
            changes.push(Change::Token(Token {
                id: ADMIN_TOKEN.into(),
                digest: admin,
                name: ADMIN_TOKEN.into(),
                role: Role::Admin,
                owner: None,
                created_at: now,
                expires_at: None,
                used_at: None,
            }));
        }
        let known = self.registrations.values().find(|known| known.id == RUNNER_TOKEN);
        if known.is_none_or(|known| known.digest != runner) {
            changes.extend(known.map(|known| Change::RegistrationRemoved(known.digest)));
            changes.push(Change::Registration(Registration {
                id: RUNNER_TOKEN.into(),
                digest: runner,
                name: RUNNER_TOKEN.into(),
                reusable: true,
                created_by: "system".into(),
                created_at: now,
                expires_at: None,
                used_at: None,
            }));
        }
        changes
    }

    /// Notes when secrets were last shown.
    pub fn note_uses(&mut self, uses: &[(Digest, Millis)]) {
        for (digest, at) in uses {
            if let Some(token) = self.tokens.get_mut(digest) {
                token.used_at = Some(*at);
            }
            if let Some(session) = self.sessions.get_mut(digest) {
                session.used_at = *at;
            }
            if let Some(credential) = self.credentials.get_mut(digest) {
                credential.used_at = Some(*at);
            }
        }
    }

    fn person(&self, name: &PersonName) -> Result<&Person, Refused> {
        self.people.get(name).ok_or_else(|| Refused::Missing { what: "person", name: name.to_string() })
    }

    fn token_of_id(&self, id: &str) -> Option<&Token> {
        self.tokens.values().find(|token| token.id == id)
    }
}

/// Whether a moment has come.
fn is_over(end: Option<Millis>, now: Millis) -> bool {
    end.is_some_and(|end| end <= now)
}
