//! Who may do what, and who did what.
//!
//! All that decides is in memory, as one `Roll`: letting somebody in asks no disk, and whoever follows the roll learns
//! at once that something was revoked. A change is decided on the roll, stored together with its entry in the audit log,
//! and only then seen by anybody.

pub mod audit;
mod name;
pub mod password;
mod role;
mod roll;
mod secret;
mod sqlite;
mod store;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use caisson_settings::Secret;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::audit::{AuditFilter, Entry, Recorded};
use crate::{
    clock::now_ms,
    store::{Millis, StoreError},
};

pub use name::PersonName;
pub(crate) use name::label;
pub use password::{Busy, Passwords};
pub use role::Role;
pub use roll::{
    ADMIN_TOKEN, Change, Credential, CredentialEnd, CredentialStanding, Holder, NewToken, Person,
    PersonChange, Principal, PrincipalKind, Proof, RUNNER_TOKEN, Refused, Registration, Roll, Session,
    SessionTerms, Token,
};
pub use secret::Digest;
pub use sqlite::SqliteAccess;
pub use store::{AccessStore, Version};

/// What the secrets of programs begin with.
const TOKEN_PREFIX: &str = "caisson_";
const REGISTRATION_PREFIX: &str = "caisson_registration_";
const CREDENTIAL_PREFIX: &str = "caisson_runner_";
/// How many entries of the audit log may wait to be written, and are written at once.
const NOTES_MAX: usize = 10_000;
/// How long they wait, so that many share one write: the disk is the one that builds wait for.
const NOTES_EVERY: Duration = Duration::from_millis(250);
/// How long a disk is left alone that does not take them.
const WRITE_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether another program has changed the roll.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is noted when secrets were last shown, in seconds.
const USES_EVERY: u64 = 60;
/// How often what is old is forgotten, in seconds.
const FORGET_EVERY: u64 = 60 * 60;

/// What people can set of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessTerms {
    /// How long a session lasts.
    pub session: SessionTerms,
    /// How long an entry of the audit log is kept, in milliseconds.
    pub audit_ms: Millis,
}

/// Why something can't be done.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It can't be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many passwords are being checked.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// Who may do what, and who did what.
pub struct Access {
    store: Arc<dyn AccessStore>,
    roll: watch::Sender<Arc<Roll>>,
    /// The version of the roll. Held by who changes it.
    version: tokio::sync::Mutex<Version>,
    /// When secrets were last shown, as far as that is not stored yet.
    uses: Mutex<BTreeMap<Digest, Millis>>,
    notes: mpsc::Sender<Entry>,
    notes_lost: AtomicU64,
    /// The code of the sign-in link, until it is used.
    sign_in_code: Mutex<Option<Digest>>,
    terms: AccessTerms,
    /// Where passwords are worked on.
    pub passwords: Passwords,
}

/// What the audit log still has to take in.
pub struct Notes(mpsc::Receiver<Entry>);

impl Access {
    /// Reads who may do what, and lets in who has the tokens in the files of `data_dir`, which are made where there are
    /// none.
    ///
    /// # Errors
    /// When the store can't be read, or a token's file can't be read or made, is empty, or can be read by others.
    pub async fn open(
        data_dir: &Path,
        store: Arc<dyn AccessStore>,
        terms: AccessTerms,
        passwords: Passwords,
    ) -> anyhow::Result<(Self, Notes)> {
        let admin = secret::in_file(&data_dir.join(ADMIN_TOKEN))?;
        let runner = secret::in_file(&data_dir.join(RUNNER_TOKEN))?;
        let (roll, version) = store.roll().await.context("who may do what can't be read")?;
        let (notes, waiting) = mpsc::channel(NOTES_MAX);
        let access = Self {
            store,
            roll: watch::Sender::new(Arc::new(roll)),
            version: tokio::sync::Mutex::new(version),
            uses: Mutex::default(),
            notes,
            notes_lost: AtomicU64::new(0),
            sign_in_code: Mutex::default(),
            terms,
            passwords,
        };
        let (admin, runner) = (Digest::of(admin.expose()), Digest::of(runner.expose()));
        access.change(vec![], |roll| Ok(((), roll.with_file_tokens(admin, runner, now_ms())))).await?;
        Ok((access, Notes(waiting)))
    }

    /// Who may do what, at this moment.
    #[must_use]
    pub fn roll(&self) -> Arc<Roll> {
        Arc::clone(&self.roll.borrow())
    }

    /// Tells whenever that becomes different.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<Roll>> {
        self.roll.subscribe()
    }

    /// Who shows this, if it lets anybody in. That it was shown is noted.
    #[must_use]
    pub fn principal(&self, proof: Proof) -> Option<Principal> {
        let (Proof::Token(digest) | Proof::Session(digest)) = proof;
        let now = now_ms();
        let seen_at = self.uses().get(&digest).copied();
        let principal = self.roll.borrow().principal(proof, seen_at, self.terms.session, now)?;
        self.uses().insert(digest, now);
        Some(principal)
    }

    /// What the runner's credential of this digest opens. That it was shown is noted.
    #[must_use]
    pub fn credential(&self, digest: Digest) -> CredentialStanding {
        let standing = self.roll.borrow().credential(digest);
        if matches!(standing, CredentialStanding::Opens(_)) {
            self.uses().insert(digest, now_ms());
        }
        standing
    }

    /// When the secret of this digest was last shown, if it is known from before.
    #[must_use]
    pub fn used_at(&self, digest: Digest, stored: Option<Millis>) -> Option<Millis> {
        self.uses().get(&digest).copied().max(stored)
    }

    /// Makes a change that is decided on the roll, and tells of it in the audit log, all of it or nothing. It is decided
    /// anew when another program was faster.
    ///
    /// # Errors
    /// When it is refused, or can't be stored.
    pub async fn change<T>(
        &self,
        entries: Vec<Entry>,
        decide: impl Fn(&Roll) -> Result<(T, Vec<Change>), Refused>,
    ) -> Result<T, AccessError> {
        let mut version = self.version.lock().await;
        loop {
            let (decided, changes) = decide(&self.roll.borrow())?;
            if changes.is_empty() && entries.is_empty() {
                return Ok(decided);
            }
            if let Some(stored) = self.store.commit(*version, &changes, &entries).await? {
                *version = stored;
                self.roll.send_modify(|roll| {
                    let roll = Arc::make_mut(roll);
                    changes.into_iter().for_each(|change| roll.apply(change));
                });
                return Ok(decided);
            }
            self.read_again(&mut version).await?;
        }
    }

    /// Adds to the audit log, and returns when that is durable.
    ///
    /// # Errors
    /// When it can't be stored.
    pub async fn record(&self, entry: Entry) -> Result<(), StoreError> {
        self.store.record(&[entry]).await
    }

    /// Adds to the audit log in a moment, together with what else comes in: this is for what people do all day, which
    /// must not wait for a disk of its own.
    pub fn note(&self, entry: Entry) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.notes.try_send(entry)
            && self.notes_lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            error!("the audit log loses entries: it can't be written as fast as they come");
        }
    }

    /// The entries of the audit log that match, newest first.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<Recorded>, StoreError> {
        self.store.audit(filter).await
    }

    /// A new code that signs one person in, once. The code before it is void.
    pub fn sign_in_code(&self) -> Secret {
        let code = secret::random("");
        *self.awaited_code() = Some(Digest::of(code.expose()));
        code
    }

    /// Whether this is the code of the sign-in link, which it is once.
    pub fn takes_code(&self, code: &str) -> bool {
        let code = Digest::of(code);
        self.awaited_code().take_if(|awaited| awaited.matches(&code)).is_some()
    }

    /// Signs a browser in, and gives what its cookie holds.
    ///
    /// # Errors
    /// When it can't be stored.
    pub async fn sign_in(&self, holder: &Holder, entry: Entry) -> Result<Secret, AccessError> {
        let session = secret::random("");
        let digest = Digest::of(session.expose());
        self.change(vec![entry], |roll| Ok(((), roll.sign_in(holder, digest, now_ms())))).await?;
        Ok(session)
    }

    /// How long a session lasts.
    #[must_use]
    pub fn session_terms(&self) -> SessionTerms {
        self.terms.session
    }

    /// The secret of a token that is to be made.
    #[must_use]
    pub fn token_secret() -> Secret {
        secret::random(TOKEN_PREFIX)
    }

    /// The secret of a registration token that is to be made.
    #[must_use]
    pub fn registration_secret() -> Secret {
        secret::random(REGISTRATION_PREFIX)
    }

    /// The credential of a runner that is to be let in.
    #[must_use]
    pub fn credential_secret() -> Secret {
        secret::random(CREDENTIAL_PREFIX)
    }

    /// Does what is to be done from time to time, and at the end writes down what is still to be told.
    pub async fn keep(self: Arc<Self>, mut notes: Notes, end: CancellationToken) {
        let [mut write, mut look] = [NOTES_EVERY, LOOK_EVERY].map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let mut batch = Vec::new();
        let mut looks: u64 = 0;
        let mut is_well = true;
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                _ = notes.0.recv_many(&mut batch, NOTES_MAX), if batch.is_empty() => write.reset(),
                _ = write.tick(), if !batch.is_empty() => {
                    if let Err(error) = self.write_down(&mut batch, &mut notes).await {
                        error!("the audit log can't be written, and {} entries wait for it: {error}", batch.len());
                        write.reset_after(WRITE_PAUSE);
                    }
                }
                _ = look.tick() => {
                    let tidied = self.tidy(looks).await;
                    if let Err(error) = &tidied && is_well {
                        warn!("what other programs change of who may do what is not seen: {error}");
                    }
                    is_well = tidied.is_ok();
                    looks += 1;
                }
            }
        }
        if let Err(error) = self.write_down(&mut batch, &mut notes).await {
            error!("the audit log loses {} entries: {error}", batch.len());
        }
        if let Err(error) = self.store_uses().await {
            warn!("when tokens were last used can't be stored: {error}");
        }
    }

    /// Writes a batch of entries and what has come since, all of it at once. What can't be written stays in it.
    async fn write_down(&self, batch: &mut Vec<Entry>, notes: &mut Notes) -> Result<(), StoreError> {
        while batch.len() < NOTES_MAX
            && let Ok(entry) = notes.0.try_recv()
        {
            batch.push(entry);
        }
        self.store.record(batch).await?;
        batch.clear();
        Ok(())
    }

    async fn tidy(&self, looks: u64) -> Result<(), AccessError> {
        let mut version = self.version.lock().await;
        if self.store.version().await? != *version {
            self.read_again(&mut version).await?;
        }
        drop(version);
        if looks % USES_EVERY == USES_EVERY - 1 {
            self.store_uses().await?;
            let terms = self.terms.session;
            let over = |roll: &Roll| [roll.sessions_over(terms, now_ms()), roll.credentials_over(now_ms())];
            self.change(vec![], |roll| Ok(((), over(roll).concat()))).await?;
        }
        if looks.is_multiple_of(FORGET_EVERY) {
            self.store.forget(now_ms() - self.terms.audit_ms).await?;
        }
        Ok(())
    }

    async fn read_again(&self, version: &mut Version) -> Result<(), StoreError> {
        let (roll, read) = self.store.roll().await?;
        *version = read;
        self.roll.send_replace(Arc::new(roll));
        Ok(())
    }

    /// Stores when secrets were last shown. The roll learns it too, quietly: it changes what nobody may do.
    async fn store_uses(&self) -> Result<(), StoreError> {
        let _unchanged = self.version.lock().await;
        let uses: Vec<(Digest, Millis)> = std::mem::take(&mut *self.uses()).into_iter().collect();
        if uses.is_empty() {
            return Ok(());
        }
        self.roll.send_if_modified(|roll| {
            Arc::make_mut(roll).note_uses(&uses);
            false
        });
        self.store.note_uses(&uses).await
    }

    fn uses(&self) -> MutexGuard<'_, BTreeMap<Digest, Millis>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn awaited_code(&self) -> MutexGuard<'_, Option<Digest>> {
        self.sign_in_code.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
