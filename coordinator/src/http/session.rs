//! Signing in and out, and what a dashboard must know of its coordinator.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use caisson_settings::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    access::{SESSION_COOKIE, same_origin, session},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(about)).routes(routes!(sign_out))
}

/// The door for those who have no session yet.
pub(super) fn public() -> Router<Arc<App>> {
    Router::new().route("/api/v1/session", post(sign_in))
}

/// What a coordinator is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct About {
    /// The version of its program.
    version: &'static str,
    /// What a build is given that does not say.
    defaults: Defaults,
}

/// What a build is given that does not say.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Defaults {
    /// Its repository.
    #[schema(required)]
    repository_url: Option<String>,
    /// Its image.
    image: String,
    /// Its time limit.
    timeout_seconds: u32,
}

/// Tells what this coordinator is, and what a build is given that does not say.
#[utoipa::path(get, path = "/about", responses((status = 200, body = About)))]
async fn about(State(app): State<Arc<App>>) -> Json<About> {
    let defaults = Defaults {
        repository_url: app.defaults.repository_url.as_ref().map(ToString::to_string),
        image: app.defaults.image.to_string(),
        timeout_seconds: app.defaults.timeout.get(),
    };
    Json(About { version: env!("CARGO_PKG_VERSION"), defaults })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    token: String,
}

/// Signs a browser in with the admin token: from then on its cookie stands for it.
async fn sign_in(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    if !same_origin(&headers) {
        let detail = "the request comes from another site's page";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
    }
    let Credentials { token } = serde_json::from_slice(&body)
        .map_err(|_| Problem::malformed("expected an object with a `token`").with("field", "token"))?;
    if !app.guard.is_person(token.trim()) {
        let detail = "this is not the admin token: it is in the coordinator's data_dir/admin-token";
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "token_invalid", detail);
        return Err(problem.with("field", "token"));
    }
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &app.guard.new_session()))
}

/// Signs a browser out.
#[utoipa::path(delete, path = "/session", responses((status = 204, description = "Signed out")))]
async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Some(session) = session(&headers) {
        app.guard.sign_out(session);
    }
    let forget = format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    ([(header::SET_COOKIE, forget)], StatusCode::NO_CONTENT).into_response()
}

/// Gives a browser its session.
pub(super) fn with_cookie(mut response: Response, session: &Secret) -> Response {
    let cookie = format!("{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", session.expose());
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
