//! Names and addresses: what was taken is taken again as it is written, and holds nothing that it must not.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    str::FromStr,
};

use caisson_protocol::{
    AttemptId, BuildId, Command, Commit, Environment, ImageRef, Label, RepositoryUrl, ResolvedCommit,
    RunnerId,
};
use url::Url;

pub(crate) fn repository_url(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(url) = text.parse::<RepositoryUrl>() else { return };
    assert_eq!(url.as_str().parse::<RepositoryUrl>().as_ref(), Ok(&url), "it is taken again as it is kept");
    assert!(!url.as_str().contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\'));
    let parts = Url::parse(url.as_str()).expect("what is kept is a URL");
    assert!(["https", "http", "ssh", "git", "file"].contains(&parts.scheme()));
    assert_eq!(parts.password(), None);
    assert!(parts.username().is_empty() || parts.scheme() == "ssh");
    assert!(!parts.username().starts_with('-') && !parts.host_str().unwrap_or_default().starts_with('-'));
    assert_eq!(url.is_file(), parts.scheme() == "file");
    assert_eq!(url.is_file(), parts.host_str().unwrap_or_default().is_empty());
}

/// The first byte says which kind of name the rest is.
pub(crate) fn names(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let Ok(text) = str::from_utf8(rest) else { return };
    match kind {
        b'c' => commit(text),
        b'i' => same::<ImageRef>(text),
        b'l' => same::<Label>(text),
        b'v' => variable(text),
        b's' => {
            if let Ok(command) = text.parse::<Command>() {
                assert!(command.as_str() == text && !text.contains('\0'));
            }
        }
        b'b' => id::<BuildId>(text),
        b'r' => id::<RunnerId>(text),
        b'a' => {
            id::<AttemptId>(text);
            if let Ok(attempt) = text.parse::<AttemptId>() {
                let name = attempt.to_string();
                assert!(!name.contains(['/', '\0']) && !name.starts_with('.'), "it is a folder's name");
            }
        }
        _ => {}
    }
}

fn commit(text: &str) {
    same::<Commit>(text);
    if let Ok(commit) = text.parse::<Commit>() {
        assert!(!text.starts_with('-') && !text.contains("..") && !text.contains(char::is_whitespace));
        assert_eq!(commit.as_sha().is_some(), text.parse::<ResolvedCommit>().is_ok());
    }
}

/// What is taken stays as it is.
fn same<T: FromStr + Display>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        assert_eq!(name.to_string(), text);
        assert!(!text.is_empty() && !text.contains(char::is_control) && text.len() <= 512);
    }
}

/// An id may be written in more than one way, and is kept in one.
fn id<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert_eq!(id.to_string().parse::<T>().expect("it is taken as it is written"), id);
    }
}

fn variable(text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let given = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    if let Ok(environment) = Environment::try_from(given) {
        assert!(name != "CI" && !name.starts_with("CAISSON_"));
        assert_eq!(environment.iter().collect::<Vec<_>>(), [(name, value)]);
    }
}
