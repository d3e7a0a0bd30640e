//! A submitted build, from the body of a request to a valid description. Everything that can be wrong is told with
//! the field it is wrong in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Write as _},
    str::FromStr,
    sync::Arc,
};

use axum::http::HeaderMap;
use caisson_protocol::{
    BuildId, BuildLimits, BuildSpec, Label, Labels, Network, RepositoryUrl, TimeoutSeconds,
};
use caisson_scheduler::{IdempotencyKey, Submission};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::problem::Problem;
use crate::settings::BuildDefaults;

/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// A build to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBuild {
    /// A SHA, branch or tag.
    #[serde(default)]
    #[schema(required, example = "main")]
    commit: String,
    /// What to run, by `sh -ec`.
    #[serde(default)]
    #[schema(required, example = "make test")]
    command: String,
    /// Where the code comes from; the coordinator's own default when it is left out.
    #[schema(example = "https://example.org/team/app.git")]
    repository_url: Option<String>,
    /// The image of the container; the coordinator's default when it is left out.
    #[schema(example = "debian:bookworm-slim")]
    image: Option<String>,
    /// Further environment variables.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Labels that the runner must have.
    #[serde(default)]
    labels: BTreeSet<String>,
    /// How long an attempt may take, 1 second to 30 days.
    timeout_seconds: Option<u32>,
    /// What it is held to, where that is less than its runner allows.
    #[schema(value_type = Option<BuildLimits>)]
    limits: Option<Map<String, Value>>,
    /// What its container can reach: `none` for nothing but itself, `bridge` for what its runner allows.
    network: Option<Network>,
}

/// What is changed of a build that is submitted again. What is left out stays as it was.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Edits {
    /// A SHA, branch or tag.
    commit: Option<String>,
    /// What to run.
    command: Option<String>,
    /// Where the code comes from.
    repository_url: Option<String>,
    /// The image of the container.
    image: Option<String>,
    /// Environment variables: those with a value are set, those with null are taken away, all others stay.
    #[serde(default)]
    env: BTreeMap<String, Option<String>>,
    /// Labels that the runner must have, all of them.
    labels: Option<BTreeSet<String>>,
    /// How long an attempt may take, 1 second to 30 days.
    timeout_seconds: Option<u32>,
    /// What it is held to, where that is less than its runner allows, all of it.
    #[schema(value_type = Option<BuildLimits>)]
    limits: Option<Map<String, Value>>,
    /// What its container can reach: `none` for nothing but itself, `bridge` for what its runner allows.
    network: Option<Network>,
}

/// A build as it was, with what `body` changes.
pub(super) fn edited(spec: &BuildSpec, body: &[u8], defaults: &BuildDefaults) -> Result<BuildSpec, Problem> {
    let edits: Edits = read_json(body)?;
    edits.applied_to(spec).check(defaults)
}

impl Edits {
    fn applied_to(self, spec: &BuildSpec) -> NewBuild {
        let mut env: BTreeMap<String, String> =
            spec.env.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for (name, value) in self.env {
            match value {
                Some(value) => env.insert(name, value),
                None => env.remove(&name),
            };
        }
        NewBuild {
            commit: self.commit.unwrap_or_else(|| spec.commit.to_string()),
            command: self.command.unwrap_or_else(|| spec.command.as_str().to_owned()),
            repository_url: Some(self.repository_url.unwrap_or_else(|| spec.repository_url.clone().into())),
            image: Some(self.image.unwrap_or_else(|| spec.image.to_string())),
            env,
            labels: self.labels.unwrap_or_else(|| spec.labels.iter().map(ToString::to_string).collect()),
            timeout_seconds: Some(self.timeout_seconds.unwrap_or(spec.timeout_seconds.get())),
            limits: self.limits.or_else(|| as_written(&spec.limits)),
            network: Some(self.network.unwrap_or(spec.network)),
        }
    }
}

/// Reads a submission and does nothing with it. `Err` holds the problem that would be told.
pub fn read_submission(
    body: &[u8],
    defaults: &BuildDefaults,
) -> Result<BuildSpec, impl std::fmt::Debug + use<>> {
    read_json::<NewBuild>(body).and_then(|new| new.check(defaults))
}

/// Reads what is to be changed of a build and does nothing with it. `Err` holds the problem that would be told.
pub fn read_edits(
    spec: &BuildSpec,
    body: &[u8],
    defaults: &BuildDefaults,
) -> Result<BuildSpec, impl std::fmt::Debug + use<>> {
    edited(spec, body, defaults)
}

/// Reads a submission, which becomes the build `id`.
pub(super) fn read(
    id: BuildId,
    body: &[u8],
    headers: &HeaderMap,
    defaults: &BuildDefaults,
) -> Result<Submission, Problem> {
    let new: NewBuild = read_json(body)?;
    let spec = new.check(defaults)?;
    Ok(Submission { id, spec: Arc::new(spec), key: key(headers, body)? })
}

pub(super) fn read_json<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| unreadable(&error))?;
    json.end().map_err(|error| Problem::malformed(format!("the body is not one JSON object: {error}")))?;
    Ok(read)
}

impl NewBuild {
    fn check(self, defaults: &BuildDefaults) -> Result<BuildSpec, Problem> {
        let repository_url: RepositoryUrl = match (&self.repository_url, &defaults.repository_url) {
            (Some(given), _) => parse("repository_url", given)?,
            (None, Some(default)) => default.clone(),
            (None, None) => {
                let detail =
                    "name one, or set a default with `repository_url` in the coordinator's configuration";
                return Err(Problem::invalid("repository_url", detail));
            }
        };
        if repository_url.is_file() && !defaults.allow_file_urls {
            let detail =
                "file URLs are not allowed here: set `git.allow_file_urls: true` on coordinator and runners";
            return Err(Problem::invalid("repository_url", detail));
        }
        let labels = self
            .labels
            .iter()
            .map(|label| parse::<Label>("labels", label))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let timeout = self.timeout_seconds.map(TimeoutSeconds::try_from).transpose();
        Ok(BuildSpec {
            repository_url,
            commit: parse("commit", &self.commit)?,
            command: parse("command", &self.command)?,
            image: self.image.as_deref().map_or(Ok(defaults.image.clone()), |image| parse("image", image))?,
            env: self.env.try_into().map_err(|error| invalid("env", &error))?,
            labels: Labels::try_from(labels).map_err(|error| invalid("labels", &error))?,
            timeout_seconds: timeout
                .map_err(|error| invalid("timeout_seconds", &error))?
                .unwrap_or(defaults.timeout),
            limits: self.limits.map(limits).transpose()?.unwrap_or_default(),
            network: self.network.unwrap_or_default(),
        })
    }
}

fn limits(given: Map<String, Value>) -> Result<BuildLimits, Problem> {
    serde_path_to_error::deserialize(Value::Object(given)).map_err(|error| {
        let field = format!("limits.{}", error.path());
        invalid(field.trim_end_matches('.'), error.inner())
    })
}

fn as_written(limits: &BuildLimits) -> Option<Map<String, Value>> {
    serde_json::to_value(limits).ok().and_then(|value| value.as_object().cloned())
}

fn parse<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| invalid(field, &error))
}

fn invalid(field: &str, error: &impl Display) -> Problem {
    Problem::invalid(field, error.to_string())
}

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let path = error.path().to_string();
    let problem = Problem::malformed(match path.as_str() {
        "." => format!("the body is not a build: {}", error.inner()),
        path => format!("{path}: {}", error.inner()),
    });
    if path == "." { problem } else { problem.with("field", path) }
}

/// The name under which a repeated submission is recognised, and what was submitted under it.
fn key(headers: &HeaderMap, body: &[u8]) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let detail = format!("expected 1 to {KEY_BYTES_MAX} visible ASCII characters");
        return Err(Problem::invalid("Idempotency-Key", detail));
    }
    let mut digest = String::with_capacity(64);
    for byte in Sha256::digest(body) {
        // Writing into a String does not fail.
        let _ = write!(digest, "{byte:02x}");
    }
    Ok(Some(IdempotencyKey { key: key.to_owned(), digest }))
}
