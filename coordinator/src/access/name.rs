//! What people call themselves and what they make.

use std::fmt;

use serde::Serialize;

/// The longest name of a person, in bytes.
const PERSON_BYTES_MAX: usize = 64;
/// The longest name of a token or a runner's registration, in characters.
const LABEL_CHARS_MAX: usize = 100;

/// A person's name, which is what they sign in with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PersonName(String);

impl PersonName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for PersonName {
    type Err = String;

    /// Few characters, and no capitals: no two names look alike, and none needs escaping in an address.
    fn from_str(text: &str) -> Result<Self, String> {
        let begins =
            text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@+".contains(&byte);
        if !begins || text.len() > PERSON_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(format!(
                "expected 1 to {PERSON_BYTES_MAX} of a-z 0-9 . _ - @ +, beginning with a letter or digit"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a token or a registration is called, for people: some visible characters.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let text = text.trim();
    let characters = text.chars().count();
    if !(1..=LABEL_CHARS_MAX).contains(&characters) || text.chars().any(char::is_control) {
        return Err(format!("expected 1 to {LABEL_CHARS_MAX} visible characters"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["anna", "a", "0", "anna.b_c-d+e@example.org", &"a".repeat(64)] {
            assert_eq!(name.parse::<PersonName>().map(|name| name.to_string()), Ok(name.to_owned()));
        }
        for name in ["", "Anna", " anna", "anna\n", "-anna", ".", "änna", "a/b", "a b", &"a".repeat(65)] {
            assert!(name.parse::<PersonName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn labels_are_visible() {
        assert_eq!(label("  Äpfel und Birnen "), Ok("Äpfel und Birnen".into()));
        for bad in ["", "  ", "a\tb", "a\u{7}", &"a".repeat(101)] {
            assert!(label(bad).is_err(), "{bad:?}");
        }
    }
}
