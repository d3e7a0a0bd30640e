//! By which names the coordinator may be asked for.
//!
//! A page elsewhere can have a name of its own point here (DNS rebinding), and would then be of the same origin as the
//! dashboard. It shows in `Host`, which no page can choose: a name that is not the coordinator's own is refused. An
//! address can't be pointed elsewhere, so a request for one was meant for it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, problem::Problem};

/// The names that a coordinator goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Any: a proxy in front sees to it.
    Any,
    /// This machine's, and the public one where there is one.
    Local {
        /// The name in `public_url`.
        public: Option<String>,
    },
    /// Any address, and the public name where there is one.
    Reachable {
        /// The name in `public_url`.
        public: Option<String>,
    },
}

impl Names {
    /// Whether a request is for this coordinator.
    #[must_use]
    pub fn take(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        self.have(asked_for(headers, uri))
    }

    /// Whether this name is one of them.
    fn have(&self, name: &str) -> bool {
        let in_brackets = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match in_brackets {
            Some(address) => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => name.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        let (public, is_ours) = match self {
            Self::Any => return true,
            Self::Local { public } => (public, address.is_some_and(|address| address.is_loopback())),
            Self::Reachable { public } => (public, address.is_some()),
        };
        is_ours
            || name.eq_ignore_ascii_case("localhost")
            || public.as_ref().is_some_and(|public| name.eq_ignore_ascii_case(public))
    }

    fn told(&self) -> String {
        match self {
            Self::Any => "any name".into(),
            Self::Local { public: None } => "localhost or 127.0.0.1".into(),
            Self::Reachable { public: None } => {
                "its address, or set `public_url` to the address that people use".into()
            }
            Self::Local { public: Some(public) } | Self::Reachable { public: Some(public) } => public.clone(),
        }
    }
}

/// Refuses requests for somebody else.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.front.names.take(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    let detail = format!(
        "the Host of this request is not one of this coordinator's names: use {}",
        app.front.names.told()
    );
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail).into_response()
}

/// The name in `Host`, without its port.
fn asked_for<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let authority = match headers.get(header::HOST) {
        Some(host) => host.to_str().unwrap_or_default(),
        None => uri.authority().map_or("", |authority| authority.as_str()),
    };
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn takes(names: &Names, host: &'static str) -> bool {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        names.take(&headers, &Uri::from_static("/"))
    }

    #[test]
    fn s42_only_this_machines_names_are_local() {
        let local = Names::Local { public: None };
        for host in ["localhost", "LOCALHOST:3000", "127.0.0.1:3000", "127.0.0.2", "[::1]:3000"] {
            assert!(takes(&local, host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "192.168.1.7:3000",
            "",
            "127.0.0.1.evil.example:80",
            "::1]:80",
        ] {
            assert!(!takes(&local, host), "{host}");
        }
    }

    #[test]
    fn s42_one_that_others_reach_goes_by_its_addresses_and_its_public_name() {
        let nameless = Names::Reachable { public: None };
        let named = Names::Reachable { public: Some("ci.example.org".into()) };
        for host in ["192.168.1.7:3000", "[2001:db8::7]:3000", "localhost"] {
            assert!(takes(&nameless, host) && takes(&named, host), "{host}");
        }
        assert!(takes(&named, "CI.example.org:443") && !takes(&nameless, "ci.example.org"));
        for host in ["evil.example", "ci.example.org.evil.example", "xci.example.org", "", "7"] {
            assert!(!takes(&nameless, host) && !takes(&named, host), "{host}");
        }
        assert!(takes(&Names::Any, "evil.example"));
    }
}
