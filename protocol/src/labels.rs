//! Labels: what a runner offers and a build asks for, such as `arm64` or `gpu`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many labels a runner or a build may have.
const LABELS_MAX: usize = 32;

/// One label: 1 to 64 characters of `a-z A-Z 0-9 . _ : / = -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// A text that is no label, or too many of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The text is empty, too long or has a character that labels don't have.
    #[error("a label has 1 to 64 characters of a-z A-Z 0-9 . _ : / = -")]
    Malformed,
    /// More labels than one may have.
    #[error("at most {LABELS_MAX} labels are allowed")]
    TooMany,
}

impl Label {
    /// The label's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"._:/=-".contains(&b);
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(valid);
        if fits { Ok(Self(text.to_owned())) } else { Err(LabelError::Malformed) }
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// A bounded set of labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "BTreeSet<Label>", into = "BTreeSet<Label>")]
pub struct Labels(BTreeSet<Label>);

impl Labels {
    /// Whether a runner with these labels serves a build that asks for `wanted`.
    #[must_use]
    pub fn offer(&self, wanted: &Self) -> bool {
        wanted.0.is_subset(&self.0)
    }

    /// Those of `wanted` that are not among these.
    #[must_use]
    pub fn missing(&self, wanted: &Self) -> Self {
        Self(wanted.0.difference(&self.0).cloned().collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }
}

impl TryFrom<BTreeSet<Label>> for Labels {
    type Error = LabelError;

    fn try_from(labels: BTreeSet<Label>) -> Result<Self, LabelError> {
        if labels.len() > LABELS_MAX { Err(LabelError::TooMany) } else { Ok(Self(labels)) }
    }
}

impl From<Labels> for BTreeSet<Label> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(Label::as_str).collect();
        f.write_str(&texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> Labels {
        let set: BTreeSet<Label> = texts.iter().map(|t| t.parse().unwrap()).collect();
        set.try_into().unwrap()
    }

    #[test]
    fn a_runner_serves_builds_that_ask_for_no_more_than_it_offers() {
        let runner = labels(&["arm64", "gpu"]);
        assert!(runner.offer(&labels(&[])));
        assert!(runner.offer(&labels(&["gpu"])));
        assert!(!runner.offer(&labels(&["gpu", "macos"])));
        assert_eq!(runner.missing(&labels(&["gpu", "macos"])), labels(&["macos"]));
    }

    #[test]
    fn labels_are_bounded() {
        for text in ["", "a b", "ü", "a\n", &"x".repeat(65)] {
            assert_eq!(text.parse::<Label>(), Err(LabelError::Malformed), "{text:?}");
        }
        let many: BTreeSet<Label> = (0..33).map(|n| format!("l{n}").parse().unwrap()).collect();
        assert_eq!(Labels::try_from(many), Err(LabelError::TooMany));
    }
}
