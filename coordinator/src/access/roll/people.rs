//! People come, change and go.

use super::{Change, Holder, Person, PersonName, Refused, Role, Roll};
use crate::{access::secret::Digest, store::Millis};

/// How many people there may be.
const PEOPLE_MAX: usize = 10_000;

/// What becomes different of a person. What is left out stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonChange {
    /// What they may do.
    pub role: Option<Role>,
    /// Whether they are kept out.
    pub disabled: Option<bool>,
    /// The hash of a new password.
    pub password_hash: Option<String>,
}

impl Roll {
    /// Adds somebody.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add_person(
        &self,
        name: &PersonName,
        role: Role,
        password_hash: &str,
        now: Millis,
    ) -> Result<Vec<Change>, Refused> {
        if self.people.contains_key(name) {
            return Err(Refused::NameTaken { what: "person", name: name.to_string() });
        }
        if self.people.len() >= PEOPLE_MAX {
            return Err(Refused::TooMany { what: "people", limit: PEOPLE_MAX });
        }
        Ok(vec![Change::Person(Person {
            name: name.clone(),
            role,
            password_hash: password_hash.to_owned(),
            disabled: false,
            created_at: now,
            signed_in_at: None,
        })])
    }

    /// Changes somebody. Who is kept out, or given another password, is signed out everywhere but where `keep` is.
    ///
    /// # Errors
    /// When there is no such person, or no admin would be left.
    pub fn change_person(
        &self,
        name: &PersonName,
        change: &PersonChange,
        keep: Option<Digest>,
    ) -> Result<Vec<Change>, Refused> {
        let mut person = self.person(name)?.clone();
        person.role = change.role.unwrap_or(person.role);
        person.disabled = change.disabled.unwrap_or(person.disabled);
        if let Some(hash) = &change.password_hash {
            person.password_hash.clone_from(hash);
        }
        if person.role != Role::Admin || person.disabled {
            self.another_admin_than(name)?;
        }
        let signs_out = person.disabled || change.password_hash.is_some();
        let mut changes = vec![Change::Person(person)];
        if signs_out {
            let theirs = self.sessions.values().filter(|session| {
                session.holder == Holder::Person(name.clone()) && Some(session.digest) != keep
            });
            changes.extend(theirs.map(|session| Change::SessionEnded(session.digest)));
        }
        Ok(changes)
    }

    /// Removes somebody, with their tokens and sessions.
    ///
    /// # Errors
    /// When there is no such person, or no admin would be left.
    pub fn remove_person(&self, name: &PersonName) -> Result<Vec<Change>, Refused> {
        self.person(name)?;
        self.another_admin_than(name)?;
        Ok(vec![Change::PersonRemoved(name.clone())])
    }

    /// Refuses to lose the last admin. Who is none can't be the last one.
    fn another_admin_than(&self, name: &PersonName) -> Result<(), Refused> {
        let mut admins =
            self.people.values().filter(|person| person.role == Role::Admin && !person.disabled).peekable();
        let only = admins.next().filter(|_| admins.peek().is_none());
        match only {
            Some(only) if only.name == *name => Err(Refused::LastAdmin(name.clone())),
            _ => Ok(()),
        }
    }
}
