//! What is open to everyone: whether the coordinator is well, and the door.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use serde::Deserialize;

use super::{App, access::SESSION_COOKIE, problem::Problem};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        // A look at the head of the page alone, as programs that preview links take, must not use the link up.
        .route("/sign-in", get(sign_in).head(async || StatusCode::METHOD_NOT_ALLOWED))
}

/// The process answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Builds are taken in.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.dispatcher.is_healthy() && !app.stopping.is_cancelled() {
        "ready\n".into_response()
    } else {
        let detail = "the store takes nothing in right now, or the coordinator is stopping";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail).into_response()
    }
}

#[derive(Deserialize)]
struct SignIn {
    code: String,
}

/// Opens the dashboard to who has the printed link. A link works once.
async fn sign_in(State(app): State<Arc<App>>, Query(SignIn { code }): Query<SignIn>) -> Response {
    let Some(session) = app.guard.sign_in(&code) else {
        let detail = "this link was used before or is an old one: restart the coordinator to get a new one";
        return Problem::new(StatusCode::UNAUTHORIZED, "sign_in_code_invalid", detail).into_response();
    };
    let cookie = format!("{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", session.expose());
    let mut response = Redirect::to("/").into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
