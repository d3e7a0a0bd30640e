//! Who somebody is, by what they show.

use super::{Change, Holder, PersonName, Role, Roll, Session, Token, is_over};
use crate::{access::secret::Digest, store::Millis};

/// How many browsers one person may be signed in with; the one signed in longest ago is signed out.
const SESSIONS_OF_ONE_MAX: usize = 50;

/// How long a session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTerms {
    /// How long without being shown, in milliseconds.
    pub idle_ms: Millis,
    /// How long at all, in milliseconds.
    pub lifetime_ms: Millis,
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What they are called: a person's name, a token's, or a token's behind its owner's.
    pub name: String,
    /// What they are.
    pub kind: PrincipalKind,
    /// What they may do.
    pub role: Role,
    /// Who is responsible for them.
    pub person: Option<PersonName>,
    /// What they have shown.
    pub proof: Proof,
    /// When that ends.
    pub expires_at: Option<Millis>,
}

/// What somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// Who signed in with name and password.
    Person,
    /// Who showed a token, or signed in with one.
    Token,
}

/// What somebody has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A token.
    Token(Digest),
    /// A session's cookie.
    Session(Digest),
}

impl Roll {
    /// Who shows this, if it lets anybody in. `seen_at` is when it was last shown, where that is not stored yet.
    #[must_use]
    pub fn principal(
        &self,
        proof: Proof,
        seen_at: Option<Millis>,
        terms: SessionTerms,
        now: Millis,
    ) -> Option<Principal> {
        match proof {
            Proof::Token(digest) => self.of_token(digest.find(&self.tokens)?, proof, now),
            Proof::Session(digest) => {
                let session = digest.find(&self.sessions)?;
                let end = session.end(seen_at, terms);
                if is_over(Some(end), now) {
                    return None;
                }
                let holder = self.of_holder(&session.holder, proof, now)?;
                let expires_at = Some(holder.expires_at.map_or(end, |other| other.min(end)));
                Some(Principal { expires_at, ..holder })
            }
        }
    }

    /// Signs a browser in for somebody who may be.
    #[must_use]
    pub fn sign_in(&self, holder: &Holder, digest: Digest, now: Millis) -> Vec<Change> {
        let mut theirs: Vec<&Session> =
            self.sessions.values().filter(|session| session.holder == *holder).collect();
        theirs.sort_by_key(|session| session.created_at);
        let too_many = (theirs.len() + 1).saturating_sub(SESSIONS_OF_ONE_MAX);
        let mut changes: Vec<Change> =
            theirs[..too_many].iter().map(|session| Change::SessionEnded(session.digest)).collect();
        if let Holder::Person(name) = holder
            && let Some(person) = self.people.get(name)
        {
            let mut person = person.clone();
            person.signed_in_at = Some(now);
            changes.push(Change::Person(person));
        }
        changes.push(Change::Session(Session {
            digest,
            holder: holder.clone(),
            created_at: now,
            used_at: now,
        }));
        changes
    }

    /// The sessions that are over, to be forgotten.
    #[must_use]
    pub fn sessions_over(&self, terms: SessionTerms, now: Millis) -> Vec<Change> {
        let over = self.sessions.values().filter(|session| is_over(Some(session.end(None, terms)), now));
        over.map(|session| Change::SessionEnded(session.digest)).collect()
    }

    fn of_holder(&self, holder: &Holder, proof: Proof, now: Millis) -> Option<Principal> {
        match holder {
            Holder::Person(name) => {
                let person = self.people.get(name).filter(|person| !person.disabled)?;
                Some(Principal {
                    name: name.to_string(),
                    kind: PrincipalKind::Person,
                    role: person.role,
                    person: Some(name.clone()),
                    proof,
                    expires_at: None,
                })
            }
            Holder::Token(id) => self.of_token(self.token_of_id(id)?, proof, now),
        }
    }

    fn of_token(&self, token: &Token, proof: Proof, now: Millis) -> Option<Principal> {
        if is_over(token.expires_at, now) {
            return None;
        }
        let (name, role) = match &token.owner {
            None => (token.name.clone(), token.role),
            Some(owner) => {
                let owner = self.people.get(owner).filter(|person| !person.disabled)?;
                (format!("{}/{}", owner.name, token.name), token.role.min(owner.role))
            }
        };
        let (kind, person, expires_at) = (PrincipalKind::Token, token.owner.clone(), token.expires_at);
        Some(Principal { name, kind, role, person, proof, expires_at })
    }
}

impl Session {
    fn end(&self, seen_at: Option<Millis>, terms: SessionTerms) -> Millis {
        let used_at = seen_at.map_or(self.used_at, |seen_at| seen_at.max(self.used_at));
        (used_at + terms.idle_ms).min(self.created_at + terms.lifetime_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::roll::Person;

    const TERMS: SessionTerms = SessionTerms { idle_ms: 100, lifetime_ms: 1000 };

    fn name() -> PersonName {
        "anna".parse().unwrap()
    }

    fn roll() -> Roll {
        let mut roll = Roll::default();
        let (name, role) = (name(), Role::Operator);
        let (password_hash, disabled) = (String::new(), false);
        roll.apply(Change::Person(Person {
            name,
            role,
            password_hash,
            disabled,
            created_at: 0,
            signed_in_at: None,
        }));
        roll
    }

    fn signed_in(at: Millis) -> (Roll, Proof) {
        let mut roll = roll();
        let digest = Digest::of("session");
        roll.sign_in(&Holder::Person(name()), digest, at).into_iter().for_each(|change| roll.apply(change));
        (roll, Proof::Session(digest))
    }

    fn token(expires_at: Option<Millis>) -> (Roll, Proof) {
        let mut roll = roll();
        let digest = Digest::of("token");
        let (id, owner) = ("1".into(), Some(name()));
        let (name, role) = ("t".into(), Role::Submitter);
        roll.apply(Change::Token(Token {
            id,
            digest,
            name,
            role,
            owner,
            created_at: 0,
            expires_at,
            used_at: None,
        }));
        (roll, Proof::Token(digest))
    }

    #[test]
    fn a_session_ends_after_it_was_not_used_for_so_long() {
        let (roll, proof) = signed_in(1000);
        let at = |seen_at, now| roll.principal(proof, seen_at, TERMS, now).and_then(|who| who.expires_at);
        assert_eq!(at(None, 1000), Some(1100));
        assert_eq!(at(None, 1099), Some(1100));
        assert_eq!(at(None, 1100), None);
        assert_eq!(at(Some(1090), 1189), Some(1190), "it was shown since");
        assert_eq!(at(Some(1090), 1190), None);
        assert_eq!(at(Some(5), 1099), Some(1100), "what was seen before it began does not count");
    }

    #[test]
    fn a_session_ends_after_so_long_at_all() {
        let (roll, proof) = signed_in(1000);
        let at = |now| roll.principal(proof, Some(now), TERMS, now).and_then(|who| who.expires_at);
        assert_eq!(at(1950), Some(2000));
        assert_eq!(at(1999), Some(2000));
        assert_eq!(at(2000), None);
        let mut after = roll.clone();
        after.sessions_over(TERMS, 2000).into_iter().for_each(|change| after.apply(change));
        assert_eq!((roll.sessions.len(), after.sessions.len()), (1, 0));
    }

    #[test]
    fn a_session_with_a_token_ends_with_the_token() {
        let (mut roll, _) = token(Some(1050));
        let digest = Digest::of("session");
        let begins = roll.sign_in(&Holder::Token("1".into()), digest, 1000);
        begins.into_iter().for_each(|change| roll.apply(change));
        let at =
            |now| roll.principal(Proof::Session(digest), None, TERMS, now).and_then(|who| who.expires_at);
        assert_eq!((at(1049), at(1050)), (Some(1050), None));
    }

    #[test]
    fn a_token_ends_at_its_moment() {
        let (roll, proof) = token(Some(1000));
        let is_somebody = |now| roll.principal(proof, None, TERMS, now).is_some();
        assert!(is_somebody(999) && !is_somebody(1000));
    }

    #[test]
    fn what_proves_one_thing_proves_nothing_else() {
        let (roll, Proof::Session(session)) = signed_in(1000) else { unreachable!() };
        assert_eq!(roll.principal(Proof::Token(session), None, TERMS, 1000), None);
        let (roll, Proof::Token(token)) = token(None) else { unreachable!() };
        assert_eq!(roll.principal(Proof::Session(token), None, TERMS, 1000), None);
    }
}
