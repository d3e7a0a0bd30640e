//! Whom a runner trusts to be its coordinator.

use std::{io, net::IpAddr};

use rustls::ClientConfig;
use tracing::warn;

use crate::{
    config::{Config, CoordinatorUrl},
    tls,
};

/// What a coordinator must show: a certificate that those in `tls.ca` have signed. Nothing where the system's
/// certificates decide.
pub(super) fn authorities(config: &Config) -> io::Result<Option<ClientConfig>> {
    let Some(path) = &config.tls.ca else { return Ok(None) };
    let told = |cause: String| io::Error::other(format!("tls.ca {}: {cause}", path.display()));
    let roots = tls::authorities(path).map_err(told)?;
    let trusting = tls::trusting(roots).map_err(|error| told(error.to_string()))?;
    Ok(Some(trusting.with_no_client_auth()))
}

/// Says so where what a runner says to its coordinator can be read on the way.
pub(super) fn warn_in_the_clear(coordinator: &CoordinatorUrl) {
    if is_in_the_clear(coordinator) {
        warn!(
            "what this runner says to {coordinator} is not encrypted, its credential included: use https, unless the \
             network between them is nobody else's"
        );
    }
}

fn is_in_the_clear(coordinator: &CoordinatorUrl) -> bool {
    let Ok(url) = url::Url::parse(&coordinator.to_string()) else { return false };
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    url.scheme() == "http" && !is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s53_a_channel_in_the_clear_is_told_unless_it_stays_on_this_machine() {
        let told = |url: &str| is_in_the_clear(&url.to_owned().try_into().unwrap());
        for url in ["http://ci.example.org", "http://192.168.1.7:3000", "http://[2001:db8::7]:3000"] {
            assert!(told(url), "{url}");
        }
        for url in
            ["https://ci.example.org", "http://127.0.0.1:3000", "http://localhost:3000", "http://[::1]:3000"]
        {
            assert!(!told(url), "{url}");
        }
    }

    #[test]
    fn s53_authorities_that_can_not_be_read_are_told_with_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let mut config = Config::default();
        assert!(authorities(&config).unwrap().is_none(), "the system's decide");
        config.tls.ca = Some(path.clone());
        for content in
            [None, Some("nothing"), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
        {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let told = authorities(&config).unwrap_err().to_string();
            assert!(told.contains("tls.ca") && told.contains("ca.pem"), "{told}");
        }
    }
}
