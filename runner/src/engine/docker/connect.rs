//! The way to an engine: a socket on this host, or TCP with TLS, where either side shows who it is.

use std::{fs::File, path::Path};

use bollard::{API_DEFAULT_VERSION, Docker};

use super::{credentials, error};
use crate::{config::EngineConfig, engine::EngineError};

/// bollard's own limit covers what it takes to answer. Our deadlines are shorter, but for waiting, which it exempts,
/// and for an upload, which may last.
const ANSWER_SECONDS: u64 = 24 * 3600;

pub(super) fn connect(config: &EngineConfig) -> Result<Docker, EngineError> {
    let host = config.host.as_str();
    let connected = if config.host.is_remote() {
        let tls = &config.tls;
        let ca = readable("engine.tls.ca", tls.ca.as_deref(), host)?;
        let cert = readable("engine.tls.cert", tls.cert.as_deref(), host)?;
        let key = readable("engine.tls.key", tls.key.as_deref(), host)?;
        // A second registration changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Docker::connect_with_ssl(host, key, cert, ca, ANSWER_SECONDS, API_DEFAULT_VERSION)
    } else {
        Docker::connect_with_unix(host, ANSWER_SECONDS, API_DEFAULT_VERSION)
    };
    connected.map(credentials::mend).map_err(|error| error::of_call(host, error))
}

/// bollard reads two of the files later, and does not say which one it can't read.
fn readable<'a>(name: &str, path: Option<&'a Path>, host: &str) -> Result<&'a Path, EngineError> {
    let Some(path) = path else {
        return Err(EngineError::Misconfigured(format!(
            "engine.host {host} needs engine.tls with ca, cert and key: over plain TCP whoever is on the way could \
             take over the engine's host"
        )));
    };
    match File::open(path) {
        Ok(_) => Ok(path),
        Err(error) => {
            Err(EngineError::Misconfigured(format!("{name} {} can't be read: {error}", path.display())))
        }
    }
}
