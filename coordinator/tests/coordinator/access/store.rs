//! What the store of people and the audit log promises.

use std::collections::BTreeMap;

use caisson_coordinator::{
    access::{
        AccessStore, Change, Credential, CredentialEnd, Digest, Holder, Person, Registration, Role, Roll,
        Session, SqliteAccess, Token,
        audit::{Action, Actor, ActorKind, AuditFilter, Entry},
    },
    blocking::Blocking,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn entry(at: i64, on: &str) -> Entry {
    Entry::new(at, Actor::new(ActorKind::System, "test"), None, Action::Submit, on)
}

fn person(name: &str, role: Role, disabled: bool) -> Person {
    Person {
        name: name.parse().unwrap(),
        role,
        password_hash: "$argon2id$".into(),
        disabled,
        created_at: 1,
        signed_in_at: None,
    }
}

/// One of few, so that what happens to one of them meets the others.
fn digest() -> impl Strategy<Value = Digest> {
    (0..6u8).prop_map(|number| Digest::of(&number.to_string()))
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["anna", "ben", "cleo"][..])
}

fn change() -> impl Strategy<Value = Change> {
    let role = prop::sample::select(&Role::ALL[..]);
    let moment = prop::option::of(0..100i64);
    prop_oneof![
        (name(), role.clone(), any::<bool>())
            .prop_map(|(name, role, disabled)| Change::Person(person(name, role, disabled))),
        name().prop_map(|name| Change::PersonRemoved(name.parse().unwrap())),
        (digest(), prop::option::of(name()), role, moment.clone()).prop_map(
            |(digest, owner, role, expires_at)| {
                let owner = owner.map(|owner| owner.parse().unwrap());
                let id = format!("{:02x}", digest.as_bytes()[0]);
                Change::Token(Token {
                    id,
                    digest,
                    name: "t".into(),
                    role,
                    owner,
                    created_at: 2,
                    expires_at,
                    used_at: None,
                })
            }
        ),
        digest().prop_map(Change::TokenRemoved),
        (digest(), prop::option::of(name()), digest()).prop_map(|(digest, person, token)| {
            let holder = match person {
                Some(person) => Holder::Person(person.parse().unwrap()),
                None => Holder::Token(format!("{:02x}", token.as_bytes()[0])),
            };
            Change::Session(Session { digest, holder, created_at: 3, used_at: 3 })
        }),
        digest().prop_map(Change::SessionEnded),
        (digest(), any::<bool>(), moment.clone()).prop_map(|(digest, reusable, used_at)| {
            let id = format!("{:02x}", digest.as_bytes()[0]);
            let (name, created_by) = (id.clone(), "anna".into());
            Change::Registration(Registration {
                id,
                digest,
                name,
                reusable,
                created_by,
                created_at: 4,
                expires_at: None,
                used_at,
            })
        }),
        digest().prop_map(Change::RegistrationRemoved),
        digest().prop_map(Change::CredentialForgotten),
        (digest(), moment).prop_map(|(digest, ended)| {
            // Each digest is one runner's: no name has two that are in force.
            let runner = format!("{:02x}", digest.as_bytes()[0]);
            let ended = ended.map(|at| (CredentialEnd::Replaced, at));
            Change::Credential(Credential {
                digest,
                runner,
                registration: "r".into(),
                created_at: 5,
                used_at: None,
                ended,
            })
        }),
    ]
}

/// Whether it is one that is decided: nothing is somebody's who is not there, and no token or session is made twice.
fn is_decided(roll: &Roll, change: &Change) -> bool {
    match change {
        Change::Token(token) => {
            !roll.tokens.contains_key(&token.digest)
                && token.owner.as_ref().is_none_or(|owner| roll.people.contains_key(owner))
        }
        Change::Session(session) => {
            !roll.sessions.contains_key(&session.digest)
                && match &session.holder {
                    Holder::Person(name) => roll.people.contains_key(name),
                    Holder::Token(id) => roll.tokens.values().any(|token| token.id == *id),
                }
        }
        // What a registration is does not change, but when it was used; nor does a person's beginning.
        Change::Registration(new) => {
            roll.registrations.get(&new.digest).is_none_or(|old| old.reusable == new.reusable)
        }
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_is_what_was_changed(changes in prop::collection::vec(change(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = SqliteAccess::in_memory(Blocking::InPlace).unwrap();
            let mut roll = Roll::default();
            let mut version = 0;
            for change in changes {
                if !is_decided(&roll, &change) {
                    continue;
                }
                version = store.commit(version, std::slice::from_ref(&change), &[]).await.unwrap().unwrap();
                roll.apply(change);
                assert_eq!(store.roll().await.unwrap(), (roll.clone(), version));
            }
        });
    }
}

#[tokio::test]
async fn nothing_is_stored_by_who_has_seen_an_earlier_state() {
    let store = SqliteAccess::in_memory(Blocking::InPlace).unwrap();
    let anna = [Change::Person(person("anna", Role::Admin, false))];
    let ben = [Change::Person(person("ben", Role::Admin, false))];
    assert_eq!(store.commit(0, &anna, &[entry(1, "a")]).await.unwrap(), Some(1));
    assert_eq!(store.commit(0, &ben, &[entry(2, "b")]).await.unwrap(), None);
    let (roll, version) = store.roll().await.unwrap();
    assert_eq!((roll.people.len(), version), (1, 1));
    assert_eq!(store.audit(&AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap().len(), 1);
    assert_eq!(store.commit(1, &ben, &[]).await.unwrap(), Some(2));
}

#[tokio::test]
async fn s60_the_audit_log_only_grows() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("access.db");
    let store = SqliteAccess::open(&path).unwrap();
    let now = 2_000_000_000_000;
    store.record(&[entry(1, "old"), entry(now, "new")]).await.unwrap();
    let by_hand = rusqlite::Connection::open(&path).unwrap();
    let statements = BTreeMap::from([
        ("UPDATE audit SET actor = 'somebody else'", "does not change"),
        ("DELETE FROM audit", "is kept"),
        ("DELETE FROM audit WHERE number = 1", "is kept"),
        ("UPDATE audit_kept SET since = 9000000000000", "a day at least"),
    ]);
    for (statement, why) in statements {
        let refused = by_hand.execute_batch(statement).unwrap_err().to_string();
        assert!(refused.contains(why), "{statement}: {refused}");
    }
    store.forget(1000).await.unwrap();
    let left = store.audit(&AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap();
    assert_eq!(left.iter().map(|left| left.entry.on.as_str()).collect::<Vec<_>>(), ["new"]);
    store.record(&[entry(now, "newer")]).await.unwrap();
    let numbers = store.audit(&AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap();
    assert_eq!(numbers.iter().map(|entry| entry.number).collect::<Vec<_>>(), [3, 2], "no number comes again");
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("access.db");
    drop(SqliteAccess::open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = SqliteAccess::open(&path).err().unwrap().to_string();
    assert!(refused.contains("install a newer one"), "{refused}");
}
