//! What people do at the coordinator's own machine: add the first admin, give somebody another password. It works on the
//! same file as the coordinator, whether or not that runs.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use caisson_settings::Secret;
use clap::{Args, Subcommand};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    access::{
        AccessStore, Change, PersonChange, PersonName, Refused, Role, Roll, SqliteAccess,
        audit::{Action, Actor, ActorKind, Entry},
        password,
    },
    clock::now_ms,
};

/// What to do about those who may sign in.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Adds somebody who may sign in.
    Add {
        /// What they are called, and sign in with.
        name: PersonName,
        /// What they may do: viewer, submitter, operator or admin.
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Gives somebody another password, and signs them out everywhere.
    Password {
        /// What they are called.
        name: PersonName,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Shows who may sign in.
    List,
}

/// Where a password comes from: a file, the terminal, or the first line of what is piped in. Never an argument, which
/// every user of the machine could see.
#[derive(Debug, Args)]
pub struct PasswordSource {
    /// File whose first line is the password, instead of asking for it.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Does it, on the coordinator whose data is in this folder.
///
/// # Errors
/// When it is refused, or can't be done.
pub async fn user(data_dir: &Path, command: UserCommand) -> anyhow::Result<()> {
    let store = open(data_dir)?;
    match command {
        UserCommand::Add { name, role, password } => {
            let taken = || Refused::NameTaken { what: "person", name: name.to_string() };
            // Said before a password is asked for.
            ensure!(!store.roll().await?.0.people.contains_key(&name), taken());
            let hash = password::hash(&password.read()?);
            let entry = entry(Action::PersonAdded, &name).with(role.as_str());
            change(&store, &entry, |roll| roll.add_person(&name, role, &hash, now_ms())).await?;
            say(&format!("{name} may sign in, as {role}"))
        }
        UserCommand::Password { name, password } => {
            let missing = || Refused::Missing { what: "person", name: name.to_string() };
            ensure!(store.roll().await?.0.people.contains_key(&name), missing());
            let change_to = PersonChange {
                password_hash: Some(password::hash(&password.read()?)),
                ..PersonChange::default()
            };
            let entry = entry(Action::PasswordChanged, &name);
            change(&store, &entry, |roll| roll.change_person(&name, &change_to, None)).await?;
            say(&format!("{name} has another password, and is signed out everywhere"))
        }
        UserCommand::List => {
            let (roll, _) = store.roll().await?;
            for person in roll.people.values() {
                let state = if person.disabled { ", kept out" } else { "" };
                let signed_in = person.signed_in_at.map_or("never signed in".into(), |at| {
                    let at = OffsetDateTime::from_unix_timestamp(at / 1000).ok();
                    let at = at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
                    format!("signed in {at}")
                });
                say(&format!("{}: {}{state}, {signed_in}", person.name, person.role))?;
            }
            Ok(())
        }
    }
}

/// Opens the file, as its owner alone: what root made in there, the coordinator could not write.
fn open(data_dir: &Path) -> anyhow::Result<SqliteAccess> {
    let folder = || format!("data_dir {}", data_dir.display());
    let owner = fs::metadata(data_dir).with_context(folder)?.uid();
    let us = rustix::process::geteuid().as_raw();
    if owner != us {
        bail!("{} is of user {owner}, and you are {us}: run this as that user, such as by sudo -u", folder());
    }
    let file = data_dir.join("access.db");
    SqliteAccess::open(&file).with_context(|| file.display().to_string())
}

/// Makes a change, however often another program is faster.
async fn change(
    store: &SqliteAccess,
    entry: &Entry,
    decide: impl Fn(&Roll) -> Result<Vec<Change>, Refused>,
) -> anyhow::Result<()> {
    loop {
        let (roll, version) = store.roll().await?;
        if store.commit(version, &decide(&roll)?, std::slice::from_ref(entry)).await?.is_some() {
            return Ok(());
        }
    }
}

fn entry(action: Action, name: &PersonName) -> Entry {
    Entry::new(now_ms(), Actor::new(ActorKind::System, "caisson-coordinator"), None, action, name.as_str())
}

impl PasswordSource {
    fn read(&self) -> anyhow::Result<Secret> {
        let password = match &self.password_file {
            Some(file) => first_line(
                fs::File::open(file).map(io::BufReader::new).with_context(|| file.display().to_string())?,
            )?,
            None if io::stdin().is_terminal() => asked_for()?,
            None => first_line(io::stdin().lock())?,
        };
        password::check(&password).map_err(|wrong| anyhow::anyhow!("the password: {wrong}"))?;
        Ok(password)
    }
}

/// Asks on the terminal, twice and without echo.
fn asked_for() -> anyhow::Result<Secret> {
    let [password, again] =
        ["Password: ", "The same again: "].map(|prompt| rpassword::prompt_password(prompt).map(Secret::new));
    let password = password.context("no password can be asked for: use --password-file")?;
    ensure!(password == again?, "these are two different passwords: nothing was changed");
    Ok(password)
}

fn first_line(mut from: impl BufRead) -> anyhow::Result<Secret> {
    let mut line = String::new();
    from.read_line(&mut line).context("the password")?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
