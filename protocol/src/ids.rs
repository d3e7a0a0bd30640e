//! Who is who: builds, attempts, runners.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct IdError {
    text: String,
    expected: &'static str,
}

impl IdError {
    fn new(text: &str, expected: &'static str) -> Self {
        // An id is at most 47 characters; what is far longer is cut, so that an error stays readable.
        Self { text: text.chars().take(64).collect(), expected }
    }
}

/// A build's identity: a UUID of version 7, so ids sort by the time of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct BuildId(pub Uuid);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for BuildId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_uuid(text).map(Self).ok_or_else(|| IdError::new(text, "a build id (a UUID)"))
    }
}

/// A runner's identity, the same across its restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct RunnerId(pub Uuid);

impl RunnerId {
    /// The identity that belongs to a runner's name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        /// Names of runners have a space of their own, so that they never meet other name-based UUIDs.
        const RUNNERS: Uuid = Uuid::from_u128(0x5f1c_3d0a_9a51_4b52_8f0e_6d1b_0c41_55a7);
        Self(Uuid::new_v5(&RUNNERS, name.as_bytes()))
    }
}

impl fmt::Display for RunnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RunnerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_uuid(text).map(Self).ok_or_else(|| IdError::new(text, "a runner id (a UUID)"))
    }
}

/// One try of a build: the *fencing token*. Its number grows with each dispatch and is never used again, so a
/// message from an older try can be told from the current one's.
///
/// Written `<build id>.<number>`, also as the name of folders and containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The build that is tried.
    pub build: BuildId,
    /// Which try this is, from 1.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.build, self.number)
    }
}

impl FromStr for AttemptId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new(text, "an attempt id (<build id>.<number>)");
        let (build, number) = text.split_once('.').ok_or_else(error)?;
        let build = build.parse().map_err(|_| error())?;
        let canonical = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        match number.parse() {
            Ok(number) if canonical => Ok(Self { build, number }),
            _ => Err(error()),
        }
    }
}

impl Serialize for AttemptId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AttemptId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Ids become file names and labels, so only the one canonical spelling is taken.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.hyphenated().to_string() == text).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str = "019aac1e-7c00-7000-8000-000000000001";

    #[test]
    fn an_attempt_id_reads_back_as_written() {
        let id: AttemptId = format!("{BUILD}.12").parse().unwrap();
        assert_eq!(id.number, 12);
        assert_eq!(id.to_string(), format!("{BUILD}.12"));
    }

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        for text in ["", "7", "../x", &BUILD.to_uppercase(), &BUILD.replace('-', ""), &format!("{{{BUILD}}}")]
        {
            assert!(text.parse::<BuildId>().is_err(), "{text} was taken for a build id");
        }
        for tail in ["", ".", ".0", ".01", ".+1", ".1.1", ".-1", ".4294967296"] {
            assert!(format!("{BUILD}{tail}").parse::<AttemptId>().is_err(), "{tail} was taken");
        }
    }

    #[test]
    fn a_runner_keeps_its_identity_as_long_as_its_name() {
        assert_eq!(RunnerId::of_name("a"), RunnerId::of_name("a"));
        assert_ne!(RunnerId::of_name("a"), RunnerId::of_name("b"));
    }
}
