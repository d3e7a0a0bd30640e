//! Who is let in.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, problem::Problem};

/// The name of the cookie that holds a person's session.
pub(super) const SESSION_COOKIE: &str = "caisson_session";

/// Lets people in: by token, or by the session of a browser.
pub(super) async fn person(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if bearer(headers).is_some_and(|token| app.guard.is_person(token)) {
        return next.run(request).await;
    }
    let signed_in = session(headers).is_some_and(|session| app.guard.is_session(session));
    if !signed_in {
        return unauthorized(
            "send the admin token as `Authorization: Bearer …`, or sign in with the printed link",
        );
    }
    // A browser sends its cookie along with whatever page asks: what changes something, and what stays open, must
    // come from our own.
    let changes =
        !matches!(*request.method(), Method::GET | Method::HEAD) || headers.contains_key(header::UPGRADE);
    if changes && !same_origin(headers) {
        let detail = "the request comes from another site's page";
        return Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into_response();
    }
    next.run(request).await
}

/// Lets runners in, by their token.
pub(super) async fn runner(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if bearer(request.headers()).is_some_and(|token| app.guard.is_runner(token)) {
        return next.run(request).await;
    }
    unauthorized(
        "send the runner token as `Authorization: Bearer …`: it is in the coordinator's data_dir/runner-token",
    )
}

fn unauthorized(detail: &str) -> Response {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response()
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
    fn a_page_of_another_site_is_told_apart() {
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
