//! The coordinator's certificate: read at the start, and again when its files change or SIGHUP says so. Connections
//! that are open keep what they began with.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and those that lead from it to one that clients trust, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// A certificate in use.
pub struct Certificate {
    files: CertificateFiles,
    current: Arc<Current>,
}

/// What new connections are shown.
struct Current(RwLock<Arc<CertifiedKey>>);

/// Tells whether a file was written since: its time, its size and its place on the disk.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Certificate {
    /// Reads it.
    ///
    /// # Errors
    /// When a file can't be read, has not what it should, or the key is another certificate's.
    pub fn read(files: CertificateFiles) -> anyhow::Result<Self> {
        let pair = files.read()?;
        Ok(Self { files, current: Arc::new(Current(RwLock::new(Arc::new(pair)))) })
    }

    /// What makes connections out of bytes: TLS 1.2 or 1.3, with HTTP/1.1 within.
    ///
    /// # Errors
    /// When the library does not support what it should.
    pub fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config =
            versions.with_no_client_auth().with_cert_resolver(Arc::clone(&self.current) as Arc<_>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config).into())
    }

    /// Keeps it current, for ever.
    pub async fn keep_current(self) {
        let mut hang_up = signal(SignalKind::hangup()).ok();
        let mut seen = self.files.stamps();
        loop {
            let told = async {
                match &mut hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                _ = told => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let stamps = self.files.stamps();
            if told || stamps != seen {
                seen = stamps;
                self.read_again();
            }
        }
    }

    /// A new pair that is not whole, as while its two files are being replaced, is not used.
    fn read_again(&self) {
        match self.files.read() {
            Ok(pair) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                info!("new connections get the certificate that is now in {}", self.files.cert.display());
            }
            Err(error) => warn!("the new certificate is not used, the one before it stays: {error:#}"),
        }
    }
}

impl CertificateFiles {
    fn read(&self) -> anyhow::Result<CertifiedKey> {
        let chain = read_chain(&self.cert).with_context(|| format!("tls.cert: {}", self.cert.display()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(readable)
            .with_context(|| format!("tls.key: {}", self.key.display()))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .with_context(|| format!("tls: {} is not the key of {}", self.key.display(), self.cert.display()))
    }

    fn stamps(&self) -> [Stamp; 2] {
        [stamp(&self.cert), stamp(&self.key)]
    }
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(readable)?;
    let chain = all.collect::<Result<Vec<_>, _>>().map_err(readable)?;
    ensure!(!chain.is_empty(), "there is no certificate in it: expected one in PEM");
    Ok(chain)
}

/// The library's words are for programmers.
fn readable(error: rustls::pki_types::pem::Error) -> anyhow::Error {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => io::Error::new(error.kind(), error.to_string()).into(),
        Error::NoItemsFound => anyhow::anyhow!("what it should hold is not in it: expected PEM"),
        other => anyhow::anyhow!("this is not PEM: {other}"),
    }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len(), about.ino()))
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}
