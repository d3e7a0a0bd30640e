//! Which addresses are cloned from: what a build names may lead into the network that the runner is in, and that is not
//! everyone's to look into.
//!
//! A name is resolved here and judged by every address it has. For `git`, and for `http` where private addresses are
//! refused, the fetch then goes to the address that was judged. With `https` and `ssh` it goes to the name, which is
//! resolved once more; whoever leads that elsewhere (DNS rebinding) fails at the certificate or the host key, before
//! anything is asked.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs},
};

use caisson_protocol::{ErrorReason, RepositoryUrl};
use serde::{Deserialize, Serialize};
use url::Url;

use super::CheckoutError;
use crate::config::{CoordinatorUrl, Git, PrivateAddresses};

/// What variables of the environment name the proxy that `https` goes through.
const HTTPS_PROXIES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Which addresses a runner clones from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Targets {
    private: PrivateAddresses,
    /// Hosts that are always cloned from.
    allowed_hosts: Vec<String>,
    /// Where the coordinator is: a private address there tells of a cluster that is its owner's own.
    coordinator: CoordinatorUrl,
}

impl Targets {
    pub(super) fn new(git: &Git, coordinator: &CoordinatorUrl) -> Self {
        let allowed_hosts = git.allowed_hosts.iter().map(|host| bare(host).to_lowercase()).collect();
        Self { private: git.private_addresses, allowed_hosts, coordinator: coordinator.clone() }
    }

    /// The address to fetch `repository` from, after it was found to be one that may be.
    pub(super) fn address(&self, repository: &RepositoryUrl) -> Result<String, CheckoutError> {
        let unchanged = || Ok(repository.to_string());
        let Some((mut url, host, port)) = parts(repository.as_str()) else { return unchanged() };
        if self.allowed_hosts.contains(&host) {
            return unchanged();
        }
        let addresses = match resolve(&host, port) {
            Ok(addresses) => addresses,
            // The proxy knows names that this host does not, and connects in its stead.
            Err(_) if url.scheme() == "https" && has_proxy() => return unchanged(),
            Err(error) => {
                return Err(CheckoutError {
                    reason: ErrorReason::CloneFailed,
                    message: format!("{repository} could not be fetched: {host}: {error}"),
                });
            }
        };
        let refuses = self.refuses_private();
        for address in &addresses {
            let rule = match Kind::of(*address) {
                Kind::Public => continue,
                Kind::Private if !refuses => continue,
                Kind::Private => "a private address, which git.private_addresses on the runner refuses",
                Kind::Metadata => "a link-local or metadata address, which no runner clones from",
            };
            return Err(CheckoutError {
                reason: ErrorReason::RepositoryDenied,
                message: format!(
                    "{repository} leads to {address}: {rule}, unless {host} is in git.allowed_hosts there"
                ),
            });
        }
        let pinned = url.scheme() == "git" || (url.scheme() == "http" && refuses);
        match addresses.first() {
            // An address in a URL needs brackets where it is of version 6.
            Some(IpAddr::V4(address)) if pinned => set_host(&mut url, &address.to_string()),
            Some(IpAddr::V6(address)) if pinned => set_host(&mut url, &format!("[{address}]")),
            _ => {}
        }
        Ok(url.into())
    }

    fn refuses_private(&self) -> bool {
        match self.private {
            PrivateAddresses::Allow => false,
            PrivateAddresses::Refuse => true,
            // Where it is can't be told: to refuse is the safe side.
            PrivateAddresses::Auto => parts(&self.coordinator.to_string())
                .and_then(|(_, host, port)| resolve(&host, port).ok())
                .is_none_or(|addresses| addresses.iter().any(|address| Kind::of(*address) == Kind::Public)),
        }
    }
}

/// What is at an address, as far as that can be told from itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    /// Of this machine, of its network, or of nobody in particular.
    Private,
    /// Of the link, where clouds tell a machine its own secrets.
    Metadata,
}

impl Kind {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        /// Where clouds keep what they tell their machines, beside the link: Azure, Alibaba, Oracle.
        const METADATA: [[u8; 4]; 3] = [[168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]];
        match address.octets() {
            [169, 254, ..] => Self::Metadata,
            octets if METADATA.contains(&octets) => Self::Metadata,
            [0 | 10 | 127 | 224.., ..]
            | [100, 64..=127, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [192, 0, 0, _]
            | [198, 18..=19, ..] => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        /// Amazon's.
        const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
        let carried = |high: u16, low: u16| {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match address.segments() {
            _ if address == METADATA => Self::Metadata,
            [0xfe80..=0xfebf, ..] => Self::Metadata,
            // Addresses of version 4 in the clothes of version 6: mapped, compatible, translated (RFC 6052), 6to4.
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => {
                carried(high, low)
            }
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => carried(high, low),
            // Only what is given out for the world is public; Teredo tunnels, and translation within a network, aren't.
            [0x2001, 0, ..] | [0x64, 0xff9b, 1, ..] => Self::Private,
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Private,
        }
    }
}

/// A URL with its host and port; nothing for one that names no host.
fn parts(url: &str) -> Option<(Url, String, u16)> {
    let url = Url::parse(url).ok()?;
    let host = bare(url.host_str()?).to_lowercase();
    let port = url.port_or_known_default().unwrap_or(match url.scheme() {
        "ssh" => 22,
        _ => 9418,
    });
    (!host.is_empty()).then_some((url, host, port))
}

/// A host without the brackets that an address of version 6 has in a URL.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn set_host(url: &mut Url, host: &str) {
    // What is refused here is fetched from by its name.
    let _ = url.set_host(Some(host));
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let addresses: Vec<IpAddr> = (host, port).to_socket_addrs()?.map(|address| address.ip()).collect();
    if addresses.is_empty() { Err(io::Error::other("this name has no address")) } else { Ok(addresses) }
}

fn has_proxy() -> bool {
    HTTPS_PROXIES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(private: PrivateAddresses, allowed: &[&str], coordinator: &str) -> Targets {
        Targets {
            private,
            allowed_hosts: allowed.iter().map(ToString::to_string).collect(),
            coordinator: coordinator.to_owned().try_into().unwrap(),
        }
    }

    fn address(targets: &Targets, url: &str) -> Result<String, CheckoutError> {
        targets.address(&url.parse().unwrap())
    }

    fn kind(text: &str) -> Kind {
        Kind::of(text.parse().unwrap())
    }

    #[test]
    fn s47_addresses_are_told_apart_in_whatever_clothes() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:0a00:0001::",
            "2001:0:1::1",
            "100::1",
        ] {
            assert_eq!(kind(text), Kind::Private, "{text}");
        }
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
        ] {
            assert_eq!(kind(text), Kind::Metadata, "{text}");
        }
        for text in [
            "8.8.8.8",
            "140.82.121.3",
            "172.32.0.1",
            "172.15.0.1",
            "100.128.0.1",
            "100.63.0.1",
            "192.169.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:0808:0808::",
        ] {
            assert_eq!(kind(text), Kind::Public, "{text}");
        }
    }

    #[test]
    fn s47_private_addresses_follow_the_rule_in_every_way_they_can_be_written() {
        let refuse = targets(PrivateAddresses::Refuse, &[], "http://127.0.0.1:3000");
        let allow = targets(PrivateAddresses::Allow, &[], "https://8.8.8.8");
        for host in
            ["127.0.0.1", "localhost", "10.0.0.7", "0x7f.1", "2130706433", "0", "[::1]", "[::ffff:10.0.0.1]"]
        {
            for scheme in ["http", "https", "git", "ssh"] {
                let url = format!("{scheme}://{host}/app.git");
                let refused = address(&refuse, &url).unwrap_err();
                assert_eq!(refused.reason, ErrorReason::RepositoryDenied, "{url}");
                assert!(refused.message.contains("git.private_addresses"), "{refused}");
                assert!(refused.message.contains("git.allowed_hosts"), "{refused}");
                assert!(address(&allow, &url).is_ok(), "{url}");
            }
        }
    }

    #[test]
    fn s47_metadata_is_refused_unless_its_host_is_named() {
        for host in
            ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "0xa9fea9fe"]
        {
            let url = format!("http://{host}/latest/meta-data");
            let allow = targets(PrivateAddresses::Allow, &[], "http://127.0.0.1:3000");
            let refused = address(&allow, &url).unwrap_err();
            assert_eq!(refused.reason, ErrorReason::RepositoryDenied, "{url}");
            assert!(refused.message.contains("metadata"), "{refused}");
        }
        let named = targets(PrivateAddresses::Refuse, &["169.254.1.1", "localhost"], "https://8.8.8.8");
        for url in ["http://169.254.1.1/app", "git://LOCALHOST/app", "https://localhost:8443/app"] {
            assert!(address(&named, url).is_ok(), "{url}");
        }
        assert!(address(&named, "http://127.0.0.1/app").is_err(), "the name is allowed, not its address");
    }

    #[test]
    fn s47_the_rule_follows_where_the_coordinator_is() {
        let auto = |coordinator: &str| {
            address(&targets(PrivateAddresses::Auto, &[], coordinator), "http://10.0.0.7/app").is_ok()
        };
        for private in
            ["http://127.0.0.1:3000", "http://localhost:3000", "https://192.168.1.7", "http://[::1]:3000"]
        {
            assert!(auto(private), "{private}");
        }
        for public in ["https://8.8.8.8", "https://no-such-host.invalid"] {
            assert!(!auto(public), "{public}");
        }
    }

    #[test]
    fn s47_what_was_judged_is_what_is_connected_to() {
        let refuse = targets(PrivateAddresses::Refuse, &[], "http://127.0.0.1:3000");
        let allow = targets(PrivateAddresses::Allow, &[], "http://127.0.0.1:3000");
        assert_eq!(address(&refuse, "http://8.8.8.8:8080/a").unwrap(), "http://8.8.8.8:8080/a");
        let pinned = address(&allow, "git://localhost:9999/app").unwrap();
        assert!(["git://127.0.0.1:9999/app", "git://[::1]:9999/app"].contains(&pinned.as_str()), "{pinned}");
        // The certificate and the host key are the name's.
        for url in ["https://localhost/app", "ssh://git@localhost/app", "http://localhost/app"] {
            assert_eq!(address(&allow, url).unwrap(), url);
        }
    }

    #[test]
    fn s47_a_name_that_can_not_be_judged_is_not_fetched_from() {
        let allow = targets(PrivateAddresses::Allow, &[], "http://127.0.0.1:3000");
        for host in ["no-such-host.invalid", "ex%61mple.invalid"] {
            let refused = address(&allow, &format!("ssh://{host}/app")).unwrap_err();
            assert_eq!(refused.reason, ErrorReason::CloneFailed);
            assert!(refused.message.contains(host), "{refused}");
        }
    }
}
