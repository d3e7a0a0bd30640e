//! Who is let in.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, State},
    http::{HeaderMap, Method, Request, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, policy, problem::Problem};
use crate::{
    access::{
        Access, CredentialEnd, CredentialStanding, Digest, Principal, Proof, Role,
        audit::{Action, Actor, ActorKind, Entry},
    },
    clock::now_ms,
};

/// The name of the cookie that holds a person's session.
pub(super) const SESSION_COOKIE: &str = "caisson_session";
/// How often it is looked whether who follows something still may: what ends by itself is not told.
const STILL_EVERY: Duration = Duration::from_secs(60);

/// Somebody who was let in. Each handler that is asked by people can have it.
#[derive(Clone)]
pub(super) struct Caller {
    access: Arc<Access>,
    /// Who it is.
    pub(super) principal: Principal,
    from: IpAddr,
}

impl Caller {
    /// What they do, for the audit log.
    pub(super) fn does(&self, action: Action, on: impl Into<String>) -> Entry {
        Entry::new(now_ms(), Actor::from(&self.principal), Some(self.from.to_string()), action, on)
    }

    /// Notes what they did in the audit log, in a moment.
    pub(super) fn did(&self, action: Action, on: impl Into<String>) {
        self.notes(self.does(action, on));
    }

    /// The same, of an entry that says more.
    pub(super) fn notes(&self, entry: Entry) {
        self.access.note(entry);
    }

    /// Waits until they are not let in any more. What they follow ends then.
    pub(super) async fn dismissed(&self) {
        let mut roll = self.access.follow();
        loop {
            roll.borrow_and_update();
            if self.access.principal(self.principal.proof).is_none() {
                return;
            }
            tokio::select! {
                changed = roll.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(STILL_EVERY) => {}
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // The layer around every route of people puts it there.
        parts.extensions.get().cloned().ok_or_else(not_signed_in)
    }
}

/// The address that a request comes from.
pub(super) struct Address(pub(super) IpAddr);

impl FromRequestParts<Arc<App>> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(Self(app.front.caller(&Request::from_parts(parts.clone(), ()))))
    }
}

/// Lets people in, by token or by the session of a browser, to what their role allows.
pub(super) async fn person(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let headers = request.headers();
    let by_token = bearer(headers).and_then(|token| app.access.principal(Proof::Token(Digest::of(token))));
    let by_session =
        || session(headers).and_then(|cookie| app.access.principal(Proof::Session(Digest::of(cookie))));
    let Some(principal) = by_token.or_else(by_session) else { return not_signed_in().into_response() };
    // A browser sends its cookie along with whatever page asks: what changes something, and what stays open, must
    // come from our own.
    let changes =
        !matches!(*request.method(), Method::GET | Method::HEAD) || headers.contains_key(header::UPGRADE);
    if matches!(principal.proof, Proof::Session(_)) && changes && !same_origin(headers) {
        return foreign_origin().into_response();
    }
    let caller = Caller { access: Arc::clone(&app.access), principal, from: app.front.caller(&request) };
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        match policy::needed(request.method(), route.as_str()) {
            Some(role) if caller.principal.role >= role => {}
            Some(role) => {
                caller.did(Action::Denied, format!("{} {}", request.method(), request.uri().path()));
                return forbidden(caller.principal.role, role).into_response();
            }
            None => return method_not_allowed(request.method(), route.as_str()),
        }
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// A runner that was let in by its credential.
#[derive(Debug, Clone)]
pub(super) struct RunnerCaller {
    /// The only name that it may register under.
    pub(super) name: String,
    /// What it has shown.
    pub(super) credential: Digest,
    /// Where it is.
    pub(super) from: IpAddr,
}

/// Lets runners in, by the credential that each has of its own.
pub(super) async fn runner(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let from = app.front.caller(&request);
    let Some(credential) = bearer(request.headers()).map(Digest::of) else {
        return Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", EXCHANGE).into_response();
    };
    let end = match app.access.credential(credential) {
        CredentialStanding::Opens(name) => {
            request.extensions_mut().insert(RunnerCaller { name, credential, from });
            return next.run(request).await;
        }
        CredentialStanding::Ended(end) => Some(end),
        CredentialStanding::Unknown => None,
    };
    if let Some(end) = end {
        let actor = Actor::new(ActorKind::Runner, "");
        let entry = Entry::new(now_ms(), actor, Some(from.to_string()), Action::RunnerRefused, "");
        app.access.note(entry.with(ended(end)));
        return Problem::new(StatusCode::UNAUTHORIZED, "credential_revoked", ended(end)).into_response();
    }
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", EXCHANGE).into_response()
}

const EXCHANGE: &str = "send the runner's credential as `Authorization: Bearer …`: POST /api/v1/runner/credential gives \
                        one for a registration token";

/// Why a credential opens nothing any more, and what to do.
pub(super) fn ended(end: CredentialEnd) -> &'static str {
    match end {
        CredentialEnd::Revoked => {
            "the runner's credential was revoked: to let it in again, remove the file `credential` in its work_dir and \
             give it a registration token that is in force"
        }
        CredentialEnd::Replaced => {
            "another runner has registered under this name: give each runner a name of its own"
        }
    }
}

fn not_signed_in() -> Problem {
    let detail = "send a token as `Authorization: Bearer …`, or sign in";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

pub(super) fn foreign_origin() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "the request comes from another site's page")
}

fn forbidden(own: Role, needed: Role) -> Problem {
    let detail = format!("this needs the role {needed}, and yours is {own}: ask an admin");
    Problem::new(StatusCode::FORBIDDEN, "role_too_low", detail).with("needs_role", needed.as_str())
}

fn method_not_allowed(method: &Method, path: &str) -> Response {
    let detail = format!("{path} knows no {method}: see /api/v1/openapi.json for what it knows");
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
    ([(header::ALLOW, policy::allowed(path))], problem).into_response()
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

/// The session that a browser's cookie names.
pub(super) fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies.flat_map(|cookies| cookies.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == SESSION_COOKIE).then_some(value)
    })
}

/// Browsers send `Origin` with whatever changes something; other clients don't, and have no cookie to abuse.
pub(super) fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| authority == host)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let headers = with(header::COOKIE, "theme=dark; caisson_session=abc; x=y");
        assert_eq!(session(&headers), Some("abc"));
        assert_eq!(session(&with(header::COOKIE, "xcaisson_session=abc")), None);
    }

    #[test]
    fn s39_a_page_of_another_site_is_told_apart() {
        let mut headers = with(header::HOST, "localhost:3000");
        assert!(same_origin(&headers));
        headers.insert(header::ORIGIN, HeaderValue::from_static("http://localhost:3000"));
        assert!(same_origin(&headers));
        for origin in ["http://localhost:3001", "https://evil.example", "null"] {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert!(!same_origin(&headers), "{origin}");
        }
    }
}
