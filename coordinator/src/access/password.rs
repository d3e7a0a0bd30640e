//! Passwords: kept as argon2id hashes, and checked one at a time, since each check takes 19 MiB and a good part of a
//! second on purpose.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use caisson_settings::Secret;
use tokio::sync::Semaphore;

use crate::blocking::Blocking;

/// How many passwords are worked on at once.
const AT_ONCE_MAX: usize = 1;
/// How many may wait for that. More than these are refused: who guesses passwords must not make memory or people wait.
const WAITING_MAX: usize = 32;
/// The shortest password, in characters.
const CHARS_MIN: usize = 10;
/// The longest password, in bytes.
const BYTES_MAX: usize = 1024;

/// Where passwords are worked on.
pub struct Passwords {
    blocking: Blocking,
    at_once: Semaphore,
    waiting: Semaphore,
    /// Checked against when there is no such person, so that the time of an answer does not tell who there is.
    nobody: String,
}

/// Too many passwords are being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked right now: try again in a moment")]
pub struct Busy;

impl Passwords {
    /// A place where this is done.
    #[must_use]
    pub fn new(blocking: Blocking) -> Self {
        let (at_once, waiting) = (Semaphore::new(AT_ONCE_MAX), Semaphore::new(AT_ONCE_MAX + WAITING_MAX));
        // A hash that no password has, with the parameters of every other one.
        let nobody = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGF0IGFsbA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        Self { blocking, at_once, waiting, nobody: nobody.to_owned() }
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// When too many are being worked on.
    pub async fn hash(&self, password: Secret) -> Result<String, Busy> {
        self.work(move || hash(&password)).await
    }

    /// Whether this is the password of this hash. Without a hash it takes as long to say no.
    ///
    /// # Errors
    /// When too many are being worked on.
    pub async fn verify(&self, password: Secret, hash: Option<String>) -> Result<bool, Busy> {
        let is_somebody = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        Ok(self.work(move || matches(&password, &hash)).await? && is_somebody)
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let _waits = self.waiting.try_acquire().map_err(|_| Busy)?;
        let _turn = self.at_once.acquire().await.map_err(|_| Busy)?;
        self.blocking.run(work).await.map_err(|_| Busy)
    }
}

/// What is wrong with a password that somebody wants to have.
///
/// # Errors
/// One line: what is expected.
pub fn check(password: &Secret) -> Result<(), String> {
    let password = password.expose();
    if password.chars().count() < CHARS_MIN || password.len() > BYTES_MAX || password.contains('\0') {
        return Err(format!(
            "expected at least {CHARS_MIN} characters, at most {BYTES_MAX} bytes, and no NUL"
        ));
    }
    Ok(())
}

/// The hash of a password, with salt and parameters.
#[must_use]
pub fn hash(password: &Secret) -> String {
    // The parameters are the crate's own, and a password of this length is never too long for them: a text that is no
    // hash lets nobody in.
    Argon2::default()
        .hash_password(password.expose().as_bytes())
        .map_or_else(|_| String::new(), |hash| hash.to_string())
}

fn matches(password: &Secret, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.into())
    }

    #[test]
    fn a_password_is_kept_as_its_argon2id_hash_alone() {
        let (one, other) = (hash(&secret("correct horse")), hash(&secret("correct horse")));
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, other, "each has its salt");
        assert!(!one.contains("horse"));
        assert!(matches(&secret("correct horse"), &one) && matches(&secret("correct horse"), &other));
        assert!(!matches(&secret("correct horse "), &one) && !matches(&secret(""), &one));
        assert!(!matches(&secret(""), ""), "no hash, no way in");
    }

    #[tokio::test]
    async fn nobody_has_a_password_and_that_takes_as_long_to_find_out() {
        let passwords = Passwords::new(Blocking::InPlace);
        assert!(PasswordHash::new(&passwords.nobody).is_ok(), "it is worked on like any other");
        assert_eq!(passwords.verify(secret(""), None).await, Ok(false));
        assert_eq!(passwords.verify(secret("nobody at all"), None).await, Ok(false));
    }

    #[tokio::test]
    async fn passwords_beyond_those_that_may_wait_are_refused() {
        let passwords = Passwords::new(Blocking::InPlace);
        let _all = passwords.waiting.acquire_many(u32::try_from(AT_ONCE_MAX + WAITING_MAX).unwrap()).await;
        assert_eq!(passwords.hash(secret("correct horse")).await, Err(Busy));
    }

    #[test]
    fn passwords_are_neither_short_nor_endless() {
        assert!(check(&secret("0123456789")).is_ok() && check(&secret(&"ä".repeat(10))).is_ok());
        for bad in ["", "012345678", "0123456789\0", &"a".repeat(1025)] {
            assert!(check(&secret(bad)).is_err(), "{bad:?}");
        }
    }
}
