//! Rows as what they stand for.

use std::{collections::BTreeMap, str::FromStr};

use rusqlite::{
    Connection, Result, Row, ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ValueRef},
};

use super::write::end_name;
use crate::access::{
    audit::{Action, Actor, ActorKind, AuditFilter, Entry, Recorded},
    roll::{Credential, CredentialEnd, Holder, Person, Registration, Roll, Session, Token},
    secret::Digest,
    store::Version,
};

pub(super) fn version(reader: &Connection) -> Result<Version> {
    let number: i64 = reader.prepare_cached("SELECT number FROM version")?.query_row([], |row| row.get(0))?;
    Ok(number.unsigned_abs())
}

pub(super) fn roll(reader: &Connection) -> Result<Roll> {
    let mut statement = reader.prepare_cached("SELECT * FROM people")?;
    let people =
        statement.query_map([], person)?.map(|person| person.map(|person| (person.name.clone(), person)));
    Ok(Roll {
        people: people.collect::<Result<_>>()?,
        tokens: by_digest(reader, "SELECT * FROM tokens", token)?,
        sessions: by_digest(reader, "SELECT * FROM sessions", session)?,
        registrations: by_digest(reader, "SELECT * FROM registrations", registration)?,
        credentials: by_digest(reader, "SELECT * FROM credentials", credential)?,
    })
}

fn by_digest<T>(
    reader: &Connection,
    sql: &str,
    value: impl Fn(&Row, Digest) -> Result<T>,
) -> Result<BTreeMap<Digest, T>> {
    let mut statement = reader.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        let digest = row.get::<_, [u8; 32]>("digest")?.into();
        Ok((digest, value(row, digest)?))
    })?;
    rows.collect()
}

fn person(row: &Row) -> Result<Person> {
    Ok(Person {
        name: row.get::<_, Parsed<_>>("name")?.0,
        role: row.get::<_, Parsed<_>>("role")?.0,
        password_hash: row.get("password_hash")?,
        disabled: row.get("disabled")?,
        created_at: row.get("created_at")?,
        signed_in_at: row.get("signed_in_at")?,
    })
}

fn token(row: &Row, digest: Digest) -> Result<Token> {
    Ok(Token {
        id: row.get("id")?,
        digest,
        name: row.get("name")?,
        role: row.get::<_, Parsed<_>>("role")?.0,
        owner: row.get::<_, Option<Parsed<_>>>("owner")?.map(|owner| owner.0),
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        used_at: row.get("used_at")?,
    })
}

fn session(row: &Row, digest: Digest) -> Result<Session> {
    let holder = match row.get::<_, Option<Parsed<_>>>("person")? {
        Some(person) => Holder::Person(person.0),
        None => Holder::Token(row.get("token")?),
    };
    Ok(Session { digest, holder, created_at: row.get("created_at")?, used_at: row.get("used_at")? })
}

fn registration(row: &Row, digest: Digest) -> Result<Registration> {
    Ok(Registration {
        id: row.get("id")?,
        digest,
        name: row.get("name")?,
        reusable: row.get("reusable")?,
        created_by: row.get("created_by")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        used_at: row.get("used_at")?,
    })
}

fn credential(row: &Row, digest: Digest) -> Result<Credential> {
    let end: Option<String> = row.get("ended")?;
    let ends = [CredentialEnd::Revoked, CredentialEnd::Replaced];
    let end = end.and_then(|name| ends.into_iter().find(|end| end_name(*end) == name));
    Ok(Credential {
        digest,
        runner: row.get("runner")?,
        registration: row.get("registration")?,
        created_at: row.get("created_at")?,
        used_at: row.get("used_at")?,
        ended: end.zip(row.get("ended_at")?),
    })
}

pub(super) fn audit(reader: &Connection, filter: &AuditFilter) -> Result<Vec<Recorded>> {
    let mut wheres = vec!["TRUE".to_owned()];
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    if let Some(actor) = &filter.actor {
        wheres.push("actor = ?".into());
        values.push(Box::new(actor.clone()));
    }
    if !filter.actions.is_empty() {
        wheres.push(format!("action IN ({})", vec!["?"; filter.actions.len()].join(", ")));
        values.extend(filter.actions.iter().map(|action| Box::new(action.as_str()) as Box<dyn ToSql>));
    }
    if let Some(text) = &filter.text {
        let found = "instr(lower(actor || char(10) || coalesce(address, '') || char(10) || action || char(10) || target \
                     || char(10) || detail), ?) > 0";
        wheres.push(found.into());
        values.push(Box::new(text.to_ascii_lowercase()));
    }
    if let Some(before) = filter.before {
        wheres.push("number < ?".into());
        values.push(Box::new(i64::try_from(before).unwrap_or(i64::MAX)));
    }
    values.push(Box::new(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    let sql = format!("SELECT * FROM audit WHERE {} ORDER BY number DESC LIMIT ?", wheres.join(" AND "));
    let mut statement = reader.prepare_cached(&sql)?;
    statement.query_map(rusqlite::params_from_iter(values), recorded)?.collect()
}

fn recorded(row: &Row) -> Result<Recorded> {
    let number: i64 = row.get("number")?;
    let actor = Actor { kind: row.get::<_, Parsed<ActorKind>>("actor_kind")?.0, name: row.get("actor")? };
    let entry = Entry {
        at: row.get("at")?,
        actor,
        from: row.get("address")?,
        action: row.get::<_, Parsed<Action>>("action")?.0,
        on: row.get("target")?,
        detail: row.get("detail")?,
    };
    Ok(Recorded { number: number.unsigned_abs(), entry })
}

/// A value that is kept as its text.
struct Parsed<T>(T);

impl<T: FromStr> FromSql for Parsed<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(|_| FromSqlError::InvalidType)
    }
}
