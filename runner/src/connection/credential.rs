//! What opens the channel to this runner alone: given once for a registration token, and kept in `work_dir/credential`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use caisson_settings::Secret;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::{ConnectionError, Failure, dial::lost, trust};
use crate::config::{Config, TokenError};

/// How a runner comes by its credential.
#[derive(Debug)]
pub struct Credentials {
    file: PathBuf,
    /// What registers the runner, where it has no credential.
    token: Result<Secret, TokenError>,
    /// Whether the coordinator does not know what is in the file.
    stale: AtomicBool,
}

/// What the coordinator answers, as far as a runner reads it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    credential: Option<Secret>,
    detail: String,
}

impl Credentials {
    /// The credential in this folder, and for a runner that has none the registration token in its settings.
    ///
    /// # Errors
    /// When it has neither.
    pub fn open(config: &Config, work_dir: &Path) -> Result<Self, TokenError> {
        let file = work_dir.join("credential");
        let token = config.read_token();
        match token {
            Err(error) if !file.exists() => Err(error),
            token => Ok(Self { file, token, stale: AtomicBool::new(false) }),
        }
    }

    /// The credential: the one that is kept, or a new one.
    pub(super) async fn get(&self, config: &Config) -> Result<Secret, Failure> {
        if !self.stale.load(Ordering::Relaxed)
            && let Some(kept) = self.kept().map_err(|error| self.unusable(&error))?
        {
            return Ok(kept);
        }
        let url = &config.coordinator_url;
        let Ok(token) = &self.token else {
            return Err(ConnectionError::Unknown { url: url.to_string(), file: self.file.clone() }.into());
        };
        let credential = register(config, token).await?;
        self.keep(&credential).map_err(|error| self.unusable(&error))?;
        self.stale.store(false, Ordering::Relaxed);
        info!("registered at {url}, and has a credential of its own");
        Ok(credential)
    }

    /// The coordinator does not know what is kept, or it is another name's: the runner registers anew.
    pub(super) fn discard(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    fn kept(&self) -> io::Result<Option<Secret>> {
        match fs::read_to_string(&self.file) {
            Ok(text) => {
                Ok(Some(text.trim()).filter(|text| !text.is_empty()).map(|text| Secret::new(text.into())))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Written beside its place and moved there, so that a crash leaves the one or the other.
    fn keep(&self, credential: &Secret) -> io::Result<()> {
        let draft = self.file.with_extension("new");
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{}", credential.expose())?;
        file.sync_all()?;
        fs::rename(&draft, &self.file)?;
        self.file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn unusable(&self, error: &io::Error) -> Failure {
        lost(format!("{}: {error}", self.file.display()))
    }
}

/// Exchanges a registration token for a credential.
async fn register(config: &Config, token: &Secret) -> Result<Secret, Failure> {
    let url = &config.coordinator_url;
    // A token goes where it is meant to go, and nowhere else.
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let authorities = trust::authorities(config).map_err(|error| lost(error.to_string()))?;
    let http = match authorities {
        Some(authorities) => http.tls_backend_preconfigured(authorities),
        None => http,
    };
    let http = http.build().map_err(|error| lost(told(&error)))?;
    let request = http.post(url.credential()).bearer_auth(token.expose());
    let body = json!({ "name": config.name.to_string() });
    let answer = request.json(&body).send().await.map_err(|error| lost(told(&error)))?;
    let status = answer.status();
    let Answer { credential, detail } = answer.json().await.unwrap_or_default();
    match (status, credential) {
        (StatusCode::CREATED, Some(credential)) => Ok(credential),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Err(ConnectionError::Denied { url: url.to_string() }.into())
        }
        (StatusCode::UNPROCESSABLE_ENTITY, _) => {
            Err(ConnectionError::NotRegistered { url: url.to_string(), cause: detail }.into())
        }
        (_, _) if detail.is_empty() => Err(lost(format!("the answer was {status}"))),
        (_, _) => Err(lost(detail)),
    }
}

/// An error and what is behind it: the first says only that a request failed.
fn told(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
