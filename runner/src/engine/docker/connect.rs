//! The way to an engine: a socket on this host, or TCP with TLS, where either side shows who it is.

use std::path::Path;

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{credentials, error};
use crate::{
    config::{EngineConfig, EngineTls},
    engine::EngineError,
    tls,
};

/// bollard's own limit covers what it takes to answer. Our deadlines are shorter, but for waiting, which it exempts,
/// and for an upload, which may last.
const ANSWER_SECONDS: u64 = 24 * 3600;

pub(super) fn connect(config: &EngineConfig) -> Result<Docker, EngineError> {
    let host = config.host.as_str();
    let connected = if config.host.is_remote() {
        over_tls(host, client(host, &config.tls)?)
    } else {
        Docker::connect_with_unix(host, ANSWER_SECONDS, API_DEFAULT_VERSION)
    };
    connected.map(credentials::mend).map_err(|error| error::of_call(host, error))
}

/// bollard's own way would trust whomever the system trusts, too: any public authority could vouch for another engine.
fn over_tls(host: &str, config: ClientConfig) -> Result<Docker, Error> {
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
    let mut client = Client::builder(TokioExecutor::new());
    // As over a socket: an engine that comes back is not looked for over a connection of before.
    let client = client.pool_max_idle_per_host(0).build(connector);
    let transport = move |request| {
        let answer = client.request(request);
        async move { answer.await.map_err(Error::from) }
    };
    let address = host.replacen("tcp://", "https://", 1);
    Docker::connect_with_custom_transport(transport, Some(address), ANSWER_SECONDS, API_DEFAULT_VERSION)
}

/// What trusts the engine that `ca` has signed, and shows the runner's own certificate.
fn client(host: &str, tls: &EngineTls) -> Result<ClientConfig, EngineError> {
    let wrong = |name: &str, path: &Path, cause: String| {
        EngineError::Misconfigured(format!("engine.tls.{name} {} can't be used: {cause}", path.display()))
    };
    let (Some(ca), Some(cert), Some(key)) = (&tls.ca, &tls.cert, &tls.key) else {
        return Err(EngineError::Misconfigured(format!(
            "engine.host {host} needs engine.tls with ca, cert and key: over plain TCP whoever is on the way could \
             take over the engine's host"
        )));
    };
    let roots = tls::authorities(ca).map_err(|cause| wrong("ca", ca, cause))?;
    let trusting = tls::trusting(roots).map_err(|error| wrong("ca", ca, error.to_string()))?;
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong("cert", cert, error.to_string()))?;
    let own = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("key", key, error.to_string()))?;
    trusting.with_client_auth_cert(chain, own).map_err(|error| wrong("key", key, error.to_string()))
}
