//! Errors that a caller sees: RFC 9457 problem details with a stable `code`.

use axum::{
    Json,
    body::to_bytes,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::error;
use utoipa::ToSchema;

use super::web;
use crate::{
    access::{AccessError, Busy, Refused},
    dispatcher::Unavailable,
    logs::LogError,
    store::StoreError,
};

/// How long a caller is asked to wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: u64 = 5;
/// The type of a problem document.
const PROBLEM_JSON: &str = "application/problem+json";
/// How much is read of a refusal that was not told as a problem.
const SAID_BYTES_MAX: usize = 4096;

/// A problem, as it is told.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    more: Map<String, Value>,
}

/// The body of every answer that is an error (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemDocument {
    /// The problem in a few words, the same for each `code`.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The problem, for programs. Does not change between releases.
    #[schema(example = "queue_full")]
    code: &'static str,
    /// This very problem: the thing, the cause and what to do.
    detail: String,
    /// The part of the request that is wrong, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Further facts.
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Problem {
    /// A problem of this kind.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), more: Map::new() }
    }

    /// A part of the request whose value is not one that can be taken.
    pub(super) fn invalid(field: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", format!("{field}: {detail}"))
            .with("field", field)
    }

    /// A request that can't be read.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", detail)
    }

    /// Something asked for that is not there.
    pub(super) fn missing(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    /// Something that may have taken place or not, or has and can't be shown.
    pub(super) fn outcome_unknown() -> Self {
        let detail = "the coordinator was interrupted, and this may have taken place or not: look before you ask \
                      again, or ask again with the same Idempotency-Key";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail)
    }

    /// Adds a fact.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let field = self.more.remove("field").and_then(|field| field.as_str().map(str::to_owned));
        let length = self.more.get("length").and_then(|length| format!("bytes */{length}").parse().ok());
        let body = ProblemDocument {
            title: self.title(),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            field,
            more: self.more,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                if let Some(length) = length {
                    headers.insert(header::CONTENT_RANGE, length);
                }
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl From<Unavailable> for Problem {
    fn from(cause: Unavailable) -> Self {
        let Unavailable::Refused(cause) = cause else { return Self::outcome_unknown() };
        let detail =
            format!("nothing can be stored right now, and nothing was: {cause}. Try again in a moment");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail)
    }
}

impl From<StoreError> for Problem {
    fn from(cause: StoreError) -> Self {
        error!("a query failed: {cause}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", cause.to_string())
    }
}

impl From<AccessError> for Problem {
    fn from(cause: AccessError) -> Self {
        let refused = match cause {
            AccessError::Refused(refused) => refused,
            AccessError::Store(cause) => return cause.into(),
            AccessError::Busy(busy) => return busy.into(),
        };
        let (status, code) = match &refused {
            Refused::Missing { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Refused::NameTaken { .. } => (StatusCode::CONFLICT, "name_taken"),
            Refused::LastAdmin(_) => (StatusCode::CONFLICT, "last_admin"),
            Refused::RoleTooHigh { .. } => (StatusCode::FORBIDDEN, "role_too_high"),
            Refused::TokenByToken => (StatusCode::FORBIDDEN, "token_by_token"),
            Refused::InFile(_) => (StatusCode::CONFLICT, "kept_in_file"),
            Refused::TooMany { .. } => (StatusCode::CONFLICT, "too_many"),
            Refused::RegistrationInvalid => (StatusCode::UNAUTHORIZED, "registration_invalid"),
        };
        Self::new(status, code, refused.to_string())
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", busy.to_string())
    }
}

impl From<LogError> for Problem {
    fn from(cause: LogError) -> Self {
        error!("a log can't be read: {cause}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "log_unreadable", cause.to_string())
    }
}

/// What is refused before or beside a handler, such as a body that is too large, is told like every other problem.
pub(super) async fn uniform(response: Response) -> Response {
    let status = response.status();
    let is_told = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == PROBLEM_JSON.as_bytes());
    let is_told = is_told || response.extensions().get::<web::ToldByPage>().is_some();
    if is_told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let code = match status {
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::REQUEST_TIMEOUT => "request_timeout",
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::UPGRADE_REQUIRED => "upgrade_required",
        _ if status.is_server_error() => "internal",
        _ => "malformed_request",
    };
    let (before, body) = response.into_parts();
    let said = to_bytes(body, SAID_BYTES_MAX).await.unwrap_or_default();
    let said = if said.is_empty() { code.into() } else { String::from_utf8_lossy(&said) };
    let mut told = Problem::new(status, code, said).into_response();
    told.headers_mut().extend(before.headers.get(header::ALLOW).map(|allow| (header::ALLOW, allow.clone())));
    told
}

/// For every path that leads nowhere.
pub(super) async fn not_found(uri: axum::http::Uri, headers: axum::http::HeaderMap) -> Response {
    if web::wants_page(&headers) && !uri.path().starts_with("/api/") {
        return web::page_with(StatusCode::NOT_FOUND, &headers);
    }
    let detail = format!("there is nothing at {}: see /api/v1/openapi.json for what there is", uri.path());
    Problem::missing(detail).into_response()
}
