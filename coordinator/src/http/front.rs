//! How the coordinator is reached, and who is at the other end.

use std::net::IpAddr;

use axum::http::{HeaderMap, Request};

use super::{limits::Limiter, names::Names};

/// How the coordinator is reached.
pub struct Front {
    /// By which names.
    pub names: Names,
    /// Whether a proxy that speaks TLS is the only one that reaches it.
    pub behind_proxy: bool,
    /// Whether it speaks TLS itself.
    pub tls: bool,
    /// How often each caller may ask.
    pub limiter: Limiter,
}

impl Front {
    /// Of a coordinator that takes whatever comes, as in a simulated world.
    #[must_use]
    pub fn open() -> Self {
        Self { names: Names::Any, behind_proxy: false, tls: false, limiter: Limiter::unlimited() }
    }

    /// Whether what people send crosses the network encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls || self.behind_proxy
    }

    /// The address that a request comes from.
    ///
    /// A proxy adds the address it was asked from to the end of `X-Forwarded-For`. What stands before that, the caller
    /// wrote; and without a proxy all of it.
    #[must_use]
    pub fn caller<B>(&self, request: &Request<B>) -> IpAddr {
        let forwarded = self.behind_proxy.then(|| forwarded(request.headers())).flatten();
        let peer = || request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        forwarded.unwrap_or_else(peer).to_canonical()
    }
}

/// The address at the other end of a connection. Each request bears it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Whose an address is. Whoever has one of version 6 has all of its network.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) if address.is_loopback() => address.into(),
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
    }
}

fn forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    let without_port = last.parse::<std::net::SocketAddr>().map(|address| address.ip());
    without_port.ok().or_else(|| last.trim_start_matches('[').trim_end_matches(']').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(behind_proxy: bool, forwarded: &[&str]) -> String {
        let mut request = Request::builder().extension(Peer([10, 0, 0, 1].into()));
        for line in forwarded {
            request = request.header("x-forwarded-for", *line);
        }
        Front { behind_proxy, ..Front::open() }.caller(&request.body(()).unwrap()).to_string()
    }

    #[test]
    fn s51_a_proxy_is_believed_who_asks_and_nobody_else_is() {
        assert_eq!(from(false, &["203.0.113.7"]), "10.0.0.1");
        assert_eq!(from(true, &["203.0.113.7"]), "203.0.113.7");
        // What the caller wrote itself stands first.
        assert_eq!(from(true, &["1.2.3.4, 203.0.113.7"]), "203.0.113.7");
        assert_eq!(from(true, &["1.2.3.4", "203.0.113.7:1234"]), "203.0.113.7");
        assert_eq!(from(true, &["[2001:db8::7]:80"]), "2001:db8::7");
        assert_eq!(from(true, &["::ffff:203.0.113.7"]), "203.0.113.7");
        for unreadable in [&[][..], &[""], &["203.0.113.7,"], &["unknown"]] {
            assert_eq!(from(true, unreadable), "10.0.0.1", "{unreadable:?}");
        }
    }

    #[test]
    fn s51_a_network_of_version_6_is_one_caller() {
        let network = |text: &str| super::network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("203.0.113.7"), "203.0.113.7");
        assert_eq!(network("::ffff:203.0.113.7"), "203.0.113.7");
        assert_eq!(network("::1"), "::1");
    }
}
