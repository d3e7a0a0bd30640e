//! What opens a registry: read from the file that `docker login` writes, whenever an image is pulled, so that a new
//! password needs no restart.

use std::{collections::HashMap, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bollard::{Docker, auth::DockerCredentials};
use caisson_protocol::ImageRef;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

/// The name by which Docker's own registry stands in the file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
const HEADER: HeaderName = HeaderName::from_static("x-registry-auth");

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
}

/// Why the credentials can't be used. What they are is never part of it.
#[derive(Debug, thiserror::Error)]
#[error("image.credentials_file {path}: {cause}")]
pub(super) struct CredentialsError {
    path: String,
    cause: String,
}

/// The credentials for an image's registry, if there are any.
pub(super) async fn of(
    image: &ImageRef,
    file: Option<&Path>,
) -> Result<Option<DockerCredentials>, CredentialsError> {
    let Some(path) = file else { return Ok(None) };
    let error = |cause: String| CredentialsError { path: path.display().to_string(), cause };
    let text = tokio::fs::read(path).await.map_err(|cause| error(cause.to_string()))?;
    let file: File =
        serde_json::from_slice(&text).map_err(|_| error("not the JSON that docker login writes".into()))?;
    let registry = match image.registry() {
        ImageRef::DEFAULT_REGISTRY => DOCKER_HUB,
        host => host,
    };
    let Some(entry) = file.auths.get(registry) else { return Ok(None) };
    let broken = || error(format!("the entry {registry} has no user and password"));
    let auth = BASE64_STANDARD.decode(entry.auth.trim()).map_err(|_| broken())?;
    let auth = String::from_utf8(auth).map_err(|_| broken())?;
    let (user, password) = auth.split_once(':').ok_or_else(broken)?;
    Ok(Some(DockerCredentials {
        username: Some(user.to_owned()),
        password: Some(password.to_owned()),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    }))
}

/// bollard writes credentials in base64's first alphabet and Docker reads them in its second, and without a word
/// leaves away what it can't read.
pub(super) fn mend(docker: Docker) -> Docker {
    docker.with_request_modifier(|mut request| {
        let mended = request.headers().get(HEADER).and_then(|header| header.to_str().ok()).map(|header| {
            let mut mended = HeaderValue::try_from(header.replace('+', "-").replace('/', "_"));
            if let Ok(value) = &mut mended {
                value.set_sensitive(true);
            }
            mended
        });
        if let Some(Ok(mended)) = mended {
            request.headers_mut().insert(HEADER, mended);
        }
        request
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_are_those_of_the_images_registry() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.json");
        let auth = BASE64_STANDARD.encode("user:pass:word");
        std::fs::write(&file, format!(r#"{{"auths":{{"r.example.org:5000":{{"auth":"{auth}"}}}}}}"#))
            .unwrap();
        let found = async |image: &str| of(&image.parse().unwrap(), Some(&file)).await;
        let own = found("r.example.org:5000/app:1").await.unwrap().unwrap();
        assert_eq!((own.username.as_deref(), own.password.as_deref()), (Some("user"), Some("pass:word")));
        assert!(found("busybox").await.unwrap().is_none());
        assert!(found("r.example.org/app").await.unwrap().is_none());

        std::fs::write(&file, r#"{"auths":{"https://index.docker.io/v1/":{"auth":"secret"}}}"#).unwrap();
        let error = found("busybox").await.unwrap_err().to_string();
        assert!(error.contains("config.json") && !error.contains("secret"), "{error}");
        assert!(found("docker.io/library/busybox").await.is_err(), "it is on Docker's own as well");
    }
}
