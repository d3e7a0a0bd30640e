//! Runners are enrolled: a registration token is exchanged for a credential of the runner's own.

use super::{Change, Credential, CredentialEnd, RUNNER_TOKEN, Refused, Registration, Roll, is_over};
use crate::{access::secret::Digest, store::Millis};

/// How many registration tokens there may be.
const REGISTRATIONS_MAX: usize = 1000;
/// How long it is known why a credential has ended, in milliseconds: 30 days.
const ENDED_MS: Millis = 30 * 24 * 60 * 60 * 1000;

/// What a credential opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialStanding {
    /// The channel, for the runner of this name.
    Opens(String),
    /// Nothing any more.
    Ended(CredentialEnd),
    /// Nothing, and never has: nobody here has made it.
    Unknown,
}

impl Roll {
    /// Makes a registration token.
    ///
    /// # Errors
    /// When there is one of that name, or there are too many.
    pub fn make_registration(&self, new: Registration) -> Result<Vec<Change>, Refused> {
        if self.registrations.values().any(|known| known.name == new.name) {
            return Err(Refused::NameTaken { what: "registration token", name: new.name });
        }
        if self.registrations.len() >= REGISTRATIONS_MAX {
            return Err(Refused::TooMany { what: "registration tokens", limit: REGISTRATIONS_MAX });
        }
        Ok(vec![Change::Registration(new)])
    }

    /// Revokes a registration token. The runners that have registered with it stay.
    ///
    /// # Errors
    /// When there is none of that identity, or it is the one in the data folder.
    pub fn revoke_registration(&self, id: &str) -> Result<(Registration, Vec<Change>), Refused> {
        let found = self.registrations.values().find(|registration| registration.id == id);
        let found =
            found.ok_or_else(|| Refused::Missing { what: "registration token", name: id.to_owned() })?;
        if found.id == RUNNER_TOKEN {
            return Err(Refused::InFile(RUNNER_TOKEN));
        }
        Ok((found.clone(), vec![Change::RegistrationRemoved(found.digest)]))
    }

    /// The registration of this digest, if it still registers runners.
    #[must_use]
    pub fn registration(&self, digest: Digest, now: Millis) -> Option<&Registration> {
        digest.find(&self.registrations).filter(|registration| !is_over(registration.expires_at, now))
    }

    /// Gives a runner the credential of this digest for its registration token.
    ///
    /// # Errors
    /// When the token registers nobody.
    pub fn enrol(
        &self,
        registration: Digest,
        runner: &str,
        credential: Digest,
        now: Millis,
    ) -> Result<Vec<Change>, Refused> {
        let registration = self.registration(registration, now).ok_or(Refused::RegistrationInvalid)?;
        let mut changes = self.end_credential(runner, CredentialEnd::Replaced, now);
        changes.push(if registration.reusable {
            Change::Registration(Registration { used_at: Some(now), ..registration.clone() })
        } else {
            Change::RegistrationRemoved(registration.digest)
        });
        changes.push(Change::Credential(Credential {
            digest: credential,
            runner: runner.to_owned(),
            registration: registration.name.clone(),
            created_at: now,
            used_at: None,
            ended: None,
        }));
        Ok(changes)
    }

    /// Whether a runner of this name was ever given a credential.
    #[must_use]
    pub fn has_enrolled(&self, runner: &str) -> bool {
        self.credentials.values().any(|credential| credential.runner == runner)
    }

    /// What is opened by the credential of this digest.
    #[must_use]
    pub fn credential(&self, digest: Digest) -> CredentialStanding {
        match digest.find(&self.credentials) {
            None => CredentialStanding::Unknown,
            Some(Credential { ended: Some((end, _)), .. }) => CredentialStanding::Ended(*end),
            Some(credential) => CredentialStanding::Opens(credential.runner.clone()),
        }
    }

    /// Takes a runner's credential from it.
    ///
    /// # Errors
    /// When it has none.
    pub fn revoke_credential(&self, runner: &str, now: Millis) -> Result<Vec<Change>, Refused> {
        let changes = self.end_credential(runner, CredentialEnd::Revoked, now);
        if changes.is_empty() {
            return Err(Refused::Missing { what: "credential of a runner", name: runner.to_owned() });
        }
        Ok(changes)
    }

    /// The credentials that ended long ago, to be forgotten: runners that come and go leave them by the thousand. Who
    /// shows one after that is a stranger.
    #[must_use]
    pub fn credentials_over(&self, now: Millis) -> Vec<Change> {
        let over = |credential: &&Credential| {
            credential.ended.is_some_and(|(_, at)| is_over(Some(at + ENDED_MS), now))
        };
        let over = self.credentials.values().filter(over);
        over.map(|credential| Change::CredentialForgotten(credential.digest)).collect()
    }

    fn end_credential(&self, runner: &str, end: CredentialEnd, now: Millis) -> Vec<Change> {
        let current = |credential: &&Credential| credential.runner == runner && credential.ended.is_none();
        let ended = |credential: &Credential| Credential { ended: Some((end, now)), ..credential.clone() };
        self.credentials
            .values()
            .filter(current)
            .map(|credential| Change::Credential(ended(credential)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_ended_long_ago_are_forgotten_and_no_others() {
        let mut roll = Roll::default();
        let digest = |name: &str| Digest::of(name);
        for (name, ended) in [("current", None), ("old", Some(1000)), ("recent", Some(2000))] {
            roll.apply(Change::Credential(Credential {
                digest: digest(name),
                runner: name.into(),
                registration: "r".into(),
                created_at: 0,
                used_at: None,
                ended: ended.map(|at| (CredentialEnd::Replaced, at)),
            }));
        }
        assert_eq!(roll.credentials_over(1000 + ENDED_MS - 1), []);
        assert_eq!(roll.credentials_over(1000 + ENDED_MS), [Change::CredentialForgotten(digest("old"))]);
        roll.credentials_over(Millis::MAX).into_iter().for_each(|change| roll.apply(change));
        assert_eq!(roll.credential(digest("current")), CredentialStanding::Opens("current".into()));
        assert_eq!(roll.credential(digest("recent")), CredentialStanding::Unknown);
    }
}
