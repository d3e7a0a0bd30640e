//! An image registry that has images: the test image, each with a layer on top that nobody has yet.

use std::{
    collections::BTreeMap,
    io::Read,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, time::sleep};

use super::{IMAGE, docker};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// How large an image's own layer is.
pub(crate) const OWN_BYTES: usize = 1024 * 1024;
/// How many pieces of a blob are sent with a pause before each.
const PIECES: usize = 8;

/// A registry at an address of its own.
pub(crate) struct Registry {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
}

/// What a registry gives.
#[derive(Default)]
struct Shelf {
    /// The test image: its configuration and its layers.
    base: (Value, Vec<Bytes>),
    digests: BTreeMap<String, String>,
    /// Manifests by the name of their image and by digest.
    manifests: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Bytes>,
    pause: Duration,
    health: Health,
    asked: usize,
}

/// How a registry is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It gives what it is asked for.
    #[default]
    Well,
    /// It has errors instead.
    Broken,
    /// It says nothing more from the middle of a layer on.
    Stuck,
}

impl Registry {
    /// With images of these names, each blob of which takes eight times `pause`.
    pub(crate) async fn with(names: &[&str], pause: Duration) -> Self {
        let shelf = Arc::new(Mutex::new(Shelf { base: saved(), pause, ..Shelf::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(give).with_state(Arc::clone(&shelf));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let registry = Self { address, shelf };
        names.iter().for_each(|name| registry.renew(name));
        registry
    }

    /// Gives a name to an image that nobody has yet.
    pub(crate) fn renew(&self, name: &str) {
        self.shelf().add(name);
    }

    /// How it is from the next request on.
    pub(crate) fn is(&self, health: Health) {
        self.shelf().health = health;
    }

    /// How often it was asked for something.
    pub(crate) fn asked(&self) -> usize {
        self.shelf().asked
    }

    /// What begins the names of its images.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// What an image is called.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}:1", self.address)
    }

    /// The digest of an image's manifest.
    pub(crate) fn digest(&self, name: &str) -> String {
        self.shelf().digests[name].clone()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }
}

/// A test that succeeds removes what its runner was to keep.
impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let names: Vec<_> = self.shelf().digests.keys().cloned().collect();
            for name in &names {
                // Also those that have no tag any more.
                let remove = "docker rmi --force $(docker images --quiet \"$0\")";
                let _ = Command::new("sh").args(["-c", remove, &format!("{}/{name}", self.address)]).output();
            }
        }
    }
}

fn saved() -> (Value, Vec<Bytes>) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("image.tar");
    docker(&["save", IMAGE, "-o", file.to_str().unwrap()]);
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(std::fs::File::open(&file).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, mut content) = (entry.path().unwrap().display().to_string(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        files.insert(name, content);
    }
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let config = serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
    let layers = manifest[0]["Layers"].as_array().unwrap().iter();
    (config, layers.map(|layer| Bytes::from(files[layer.as_str().unwrap()].clone())).collect())
}

impl Shelf {
    fn add(&mut self, name: &str) {
        let (mut config, mut layers) = self.base.clone();
        let own = own_layer(name);
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest(&own).into());
        config.as_object_mut().unwrap().remove("history");
        layers.push(own);
        let blob = |shelf: &mut Self, kind: &str, content: Bytes| {
            let digest = digest(&content);
            let described = json!({"mediaType": kind, "size": content.len(), "digest": digest});
            shelf.blobs.insert(digest, content);
            described
        };
        let config = blob(self, CONFIG, serde_json::to_vec(&config).unwrap().into());
        let layers: Vec<_> = layers.into_iter().map(|layer| blob(self, LAYER, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let digest = digest(&manifest);
        self.manifests.insert(format!("/v2/{name}/manifests/1"), manifest.clone());
        self.manifests.insert(format!("/v2/{name}/manifests/{digest}"), manifest);
        self.digests.insert(name.to_owned(), digest);
    }
}

/// A file that is in no other image.
fn own_layer(name: &str) -> Bytes {
    let content = vec![uuid::Uuid::new_v4().as_bytes()[0]; OWN_BYTES];
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(OWN_BYTES as u64);
    header.set_mode(0o644);
    let file = format!("own-{name}-{}", uuid::Uuid::new_v4());
    archive.append_data(&mut header, file, content.as_slice()).unwrap();
    archive.into_inner().unwrap().into()
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

async fn give(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let path = request.uri().path();
    let mut shelf = shelf.lock().unwrap();
    shelf.asked += 1;
    if path == "/v2/" {
        return StatusCode::OK.into_response();
    }
    if shelf.health == Health::Broken {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    if let Some(manifest) = shelf.manifests.get(path) {
        let headers = [("content-type", MANIFEST.to_owned()), ("docker-content-digest", digest(manifest))];
        return (headers, manifest.clone()).into_response();
    }
    let blob = path.rsplit_once("/blobs/").and_then(|(_, digest)| shelf.blobs.get(digest));
    let Some(blob) = blob.cloned() else { return StatusCode::NOT_FOUND.into_response() };
    let (length, pause) = (blob.len(), shelf.pause);
    let pieces: Vec<Bytes> = blob.chunks(length.div_ceil(PIECES)).map(Bytes::copy_from_slice).collect();
    let sticks = shelf.health == Health::Stuck && length >= OWN_BYTES;
    let given = if sticks { PIECES / 2 } else { PIECES };
    let slowly = stream::iter(pieces).take(given).then(move |piece| async move {
        sleep(pause).await;
        Ok::<_, std::io::Error>(piece)
    });
    // The rest of what is there of it; nothing, unless it is stuck.
    let rest = std::future::pending().into_stream().take(usize::from(sticks));
    ([("content-length", length.to_string())], Body::from_stream(slowly.chain(rest))).into_response()
}
