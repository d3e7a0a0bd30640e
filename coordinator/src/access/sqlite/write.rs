//! Each change as a statement.

use rusqlite::{Connection, Result, named_params};

use crate::{
    access::{
        PersonName,
        audit::Entry,
        roll::{Change, Credential, CredentialEnd, Holder, Person, Registration, Session, Token},
        secret::Digest,
        store::Version,
    },
    store::Millis,
};

pub(super) fn apply(transaction: &Connection, change: &Change) -> Result<()> {
    match change {
        Change::Person(person) => put_person(transaction, person),
        Change::PersonRemoved(name) => {
            let sql = "DELETE FROM people WHERE name = ?1";
            transaction.prepare_cached(sql)?.execute([name.as_str()]).map(drop)
        }
        Change::Token(token) => put_token(transaction, token),
        Change::TokenRemoved(digest) => remove(transaction, "DELETE FROM tokens WHERE digest = ?1", digest),
        Change::Session(session) => put_session(transaction, session),
        Change::SessionEnded(digest) => remove(transaction, "DELETE FROM sessions WHERE digest = ?1", digest),
        Change::Registration(registration) => put_registration(transaction, registration),
        Change::RegistrationRemoved(digest) => {
            remove(transaction, "DELETE FROM registrations WHERE digest = ?1", digest)
        }
        Change::Credential(credential) => put_credential(transaction, credential),
        Change::CredentialForgotten(digest) => {
            remove(transaction, "DELETE FROM credentials WHERE digest = ?1", digest)
        }
    }
}

fn remove(transaction: &Connection, sql: &str, digest: &Digest) -> Result<()> {
    transaction.prepare_cached(sql)?.execute([digest.as_bytes()]).map(drop)
}

fn put_person(transaction: &Connection, person: &Person) -> Result<()> {
    let sql = "INSERT INTO people (name, role, password_hash, disabled, created_at, signed_in_at)
               VALUES (:name, :role, :password_hash, :disabled, :created_at, :signed_in_at)
               ON CONFLICT (name) DO UPDATE SET role = :role, password_hash = :password_hash,
                   disabled = :disabled, signed_in_at = :signed_in_at";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":name": person.name.as_str(),
        ":role": person.role.as_str(),
        ":password_hash": person.password_hash,
        ":disabled": person.disabled,
        ":created_at": person.created_at,
        ":signed_in_at": person.signed_in_at,
    })?;
    Ok(())
}

fn put_token(transaction: &Connection, token: &Token) -> Result<()> {
    let sql = "INSERT INTO tokens (digest, id, name, role, owner, created_at, expires_at, used_at)
               VALUES (:digest, :id, :name, :role, :owner, :created_at, :expires_at, :used_at)";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":digest": token.digest.as_bytes(),
        ":id": token.id,
        ":name": token.name,
        ":role": token.role.as_str(),
        ":owner": token.owner.as_ref().map(PersonName::as_str),
        ":created_at": token.created_at,
        ":expires_at": token.expires_at,
        ":used_at": token.used_at,
    })?;
    Ok(())
}

fn put_session(transaction: &Connection, session: &Session) -> Result<()> {
    let (person, token) = match &session.holder {
        Holder::Person(name) => (Some(name.as_str()), None),
        Holder::Token(id) => (None, Some(id.as_str())),
    };
    let sql = "INSERT INTO sessions (digest, person, token, created_at, used_at)
               VALUES (:digest, :person, :token, :created_at, :used_at)";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":digest": session.digest.as_bytes(),
        ":person": person,
        ":token": token,
        ":created_at": session.created_at,
        ":used_at": session.used_at,
    })?;
    Ok(())
}

fn put_registration(transaction: &Connection, registration: &Registration) -> Result<()> {
    let sql =
        "INSERT INTO registrations (digest, id, name, reusable, created_by, created_at, expires_at, used_at)
               VALUES (:digest, :id, :name, :reusable, :created_by, :created_at, :expires_at, :used_at)
               ON CONFLICT (digest) DO UPDATE SET used_at = :used_at";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":digest": registration.digest.as_bytes(),
        ":id": registration.id,
        ":name": registration.name,
        ":reusable": registration.reusable,
        ":created_by": registration.created_by,
        ":created_at": registration.created_at,
        ":expires_at": registration.expires_at,
        ":used_at": registration.used_at,
    })?;
    Ok(())
}

fn put_credential(transaction: &Connection, credential: &Credential) -> Result<()> {
    let ended = credential.ended.map(|(end, at)| (end_name(end), at));
    let sql = "INSERT INTO credentials (digest, runner, registration, created_at, used_at, ended, ended_at)
               VALUES (:digest, :runner, :registration, :created_at, :used_at, :ended, :ended_at)
               ON CONFLICT (digest) DO UPDATE SET ended = :ended, ended_at = :ended_at";
    transaction.prepare_cached(sql)?.execute(named_params! {
        ":digest": credential.digest.as_bytes(),
        ":runner": credential.runner,
        ":registration": credential.registration,
        ":created_at": credential.created_at,
        ":used_at": credential.used_at,
        ":ended": ended.map(|(end, _)| end),
        ":ended_at": ended.map(|(_, at)| at),
    })?;
    Ok(())
}

pub(super) fn end_name(end: CredentialEnd) -> &'static str {
    match end {
        CredentialEnd::Revoked => "revoked",
        CredentialEnd::Replaced => "replaced",
    }
}

pub(super) fn version(transaction: &Connection, version: Version) -> Result<()> {
    let number = i64::try_from(version).unwrap_or(i64::MAX);
    transaction.prepare_cached("UPDATE version SET number = ?1")?.execute([number]).map(drop)
}

pub(super) fn uses(transaction: &Connection, uses: &[(Digest, Millis)]) -> Result<()> {
    for table in ["tokens", "sessions", "credentials"] {
        let sql = format!("UPDATE {table} SET used_at = ?2 WHERE digest = ?1");
        let mut statement = transaction.prepare_cached(&sql)?;
        for (digest, at) in uses {
            statement.execute((digest.as_bytes(), at))?;
        }
    }
    Ok(())
}

pub(super) fn record(transaction: &Connection, entries: &[Entry]) -> Result<()> {
    let sql = "INSERT INTO audit (at, actor_kind, actor, address, action, target, detail)
               VALUES (:at, :actor_kind, :actor, :address, :action, :target, :detail)";
    let mut statement = transaction.prepare_cached(sql)?;
    for entry in entries {
        statement.execute(named_params! {
            ":at": entry.at,
            ":actor_kind": entry.actor.kind.as_str(),
            ":actor": entry.actor.name,
            ":address": entry.from,
            ":action": entry.action.as_str(),
            ":target": entry.on,
            ":detail": entry.detail,
        })?;
    }
    Ok(())
}

pub(super) fn forget(transaction: &Connection, before: Millis) -> Result<()> {
    transaction.execute("UPDATE audit_kept SET since = ?1", [before])?;
    transaction.execute("DELETE FROM audit WHERE at < ?1", [before])?;
    transaction.execute("DELETE FROM credentials WHERE ended_at < ?1", [before])?;
    Ok(())
}
