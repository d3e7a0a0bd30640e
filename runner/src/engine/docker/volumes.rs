//! What volumes take. An engine measures all that it has at once, and tells of them together: `GET /system/df`.

use std::collections::{BTreeMap, BTreeSet};

use bollard::Docker;
use http::{Uri, uri::PathAndQuery};
use serde::Deserialize;

use super::DockerEngine;
use crate::engine::EngineError;

/// The newest version of the API whose answer has the form that all older ones have.
const API_MAX: (u32, u32) = (1, 51);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    /// `null` where there is none.
    volumes: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    name: String,
    usage_data: Option<UsageData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UsageData {
    /// In bytes; -1 where it could not be measured, or the volume's driver does not know.
    size: i64,
}

/// What the volumes of these names take together, in bytes; nothing where the engine can't tell of one. No names cost
/// no call.
pub(super) async fn bytes(
    engine: &DockerEngine,
    names: &BTreeSet<String>,
) -> Result<Option<u64>, EngineError> {
    if names.is_empty() {
        return Ok(Some(0));
    }
    let answer = {
        let _turn = engine.measuring.lock().await;
        let asking = asking_for(&engine.docker, question(&engine.facts().api));
        engine.measure("measure volumes", asking.ping()).await?
    };
    let sizes = sizes(&answer)
        .map_err(|error| EngineError::Failed(format!("it does not say what its volumes take: {error}")))?;
    Ok(names.iter().map(|name| sizes.get(name).copied().flatten()).sum())
}

/// A client whose calls all ask for this. bollard knows the newest engines' answer alone, and hands out the text of no
/// answer but that to a ping.
fn asking_for(docker: &Docker, question: PathAndQuery) -> Docker {
    docker.clone().with_request_modifier(move |mut request| {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(question.clone());
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request
    })
}

/// Engines before API 1.42 don't know `type`, and measure the rest as well.
fn question(api: &str) -> PathAndQuery {
    const NEWEST: &str = "/v1.51/system/df?type=volume";
    let version =
        api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let older = version.filter(|version| *version < API_MAX);
    let older =
        older.and_then(|(major, minor)| format!("/v{major}.{minor}/system/df?type=volume").parse().ok());
    older.unwrap_or_else(|| PathAndQuery::from_static(NEWEST))
}

fn sizes(answer: &str) -> serde_json::Result<BTreeMap<String, Option<u64>>> {
    let usage: Usage = serde_json::from_str(answer)?;
    let volumes = usage.volumes.into_iter().flatten();
    let size = |usage: UsageData| u64::try_from(usage.size).ok();
    Ok(volumes.map(|Volume { name, usage_data }| (name, usage_data.and_then(size))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_asked_in_a_version_that_it_has_and_whose_answer_is_understood() {
        assert_eq!(question("1.41"), "/v1.41/system/df?type=volume");
        assert_eq!(question("1.55"), "/v1.51/system/df?type=volume");
        assert_eq!(question(""), "/v1.51/system/df?type=volume");
    }

    #[test]
    fn the_answer_of_any_engine_is_understood() {
        let docker = r#"{"LayersSize":7,"Images":null,"Volumes":[
            {"Name":"a","Driver":"local","UsageData":{"RefCount":1,"Size":20971520}},
            {"Name":"elsewhere","UsageData":{"RefCount":0,"Size":-1}}, {"Name":"unknown"}]}"#;
        let expected = [("a", Some(20_971_520)), ("elsewhere", None), ("unknown", None)];
        let expected = expected.map(|(name, size)| (name.to_owned(), size));
        assert_eq!(sizes(docker).unwrap(), BTreeMap::from(expected));
        assert_eq!(sizes(r#"{"Volumes":null}"#).unwrap(), BTreeMap::new());
        assert!(sizes("OK").is_err());
    }
}
