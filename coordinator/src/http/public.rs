//! What is open to everyone: whether the coordinator is well, and the door.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use serde::Deserialize;

use super::{
    App,
    access::Address,
    problem::Problem,
    session::{self, with_cookie},
    web,
};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        // A look at the head of the page alone, as programs that preview links take, must not use the link up.
        .route("/sign-in", get(sign_in).head(async || StatusCode::METHOD_NOT_ALLOWED))
        .merge(web::routes())
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
    code: Option<String>,
}

/// Opens the dashboard to who has the printed link, which works once. Without a code it is the page to sign in on.
async fn sign_in(
    State(app): State<Arc<App>>,
    Query(SignIn { code }): Query<SignIn>,
    Address(from): Address,
    headers: HeaderMap,
) -> Response {
    let Some(code) = code else { return web::page(headers).await };
    let session = match session::by_link(&app, &code, from.to_string()).await {
        Ok(session) => session,
        Err(problem) => return problem.into_response(),
    };
    let Some(session) = session else {
        if web::wants_page(&headers) {
            return web::page_with(StatusCode::UNAUTHORIZED, &headers);
        }
        let detail = "this link was used before or is an old one: restart the coordinator to get a new one";
        return Problem::new(StatusCode::UNAUTHORIZED, "sign_in_code_invalid", detail).into_response();
    };
    let mut response = with_cookie(&app, Redirect::to("/").into_response(), &session);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
