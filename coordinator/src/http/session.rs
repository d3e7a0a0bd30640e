//! Signing in and out, and what a dashboard must know of its coordinator and its user.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use caisson_settings::Secret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    access::{Address, Caller, SESSION_COOKIE, foreign_origin, same_origin},
    model::moment,
    people::{field_password, no_person},
    problem::{Problem, ProblemDocument},
    submission::read_json,
};
use crate::{
    access::{
        ADMIN_TOKEN, AccessError, Change, Digest, Holder, PersonChange, PersonName, PrincipalKind, Proof,
        Refused, Role,
        audit::{Action, Actor, ActorKind, Entry},
    },
    clock::now_ms,
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(about))
        .routes(routes!(show, sign_out))
        .routes(routes!(change_password))
}

/// The door for those who have no session yet.
pub(super) fn public() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(sign_in))
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

/// Who asks, and what they may do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Session {
    /// What they are called: a person's name, or a token's.
    name: String,
    /// Whether they showed name and password or a token.
    kind: SessionKind,
    /// What they may do.
    role: Role,
    /// When they must sign in again, if they don't come back before; `null` for a token that never ends.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    expires_at: Option<OffsetDateTime>,
}

/// What somebody signed in with.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SessionKind {
    /// Name and password.
    Person,
    /// A token, or the sign-in link.
    Token,
}

/// Tells who asks, and what they may do.
#[utoipa::path(get, path = "/session", operation_id = "session", responses((status = 200, body = Session)))]
async fn show(caller: Caller) -> Json<Session> {
    let principal = caller.principal;
    let kind = match principal.kind {
        PrincipalKind::Person => SessionKind::Person,
        PrincipalKind::Token => SessionKind::Token,
    };
    let expires_at = principal.expires_at.map(moment);
    Json(Session { name: principal.name, kind, role: principal.role, expires_at })
}

/// A token, or name and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    /// A token.
    #[schema(value_type = Option<String>, format = Password)]
    token: Option<Secret>,
    /// A person's name.
    name: Option<String>,
    /// Their password.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
}

/// Signs a browser in, with a token or with name and password: from then on its cookie stands for that.
#[utoipa::path(
    post,
    path = "/session",
    operation_id = "sign_in",
    request_body = SignIn,
    responses(
        (status = 204, description = "Signed in"),
        (status = 401, body = ProblemDocument, content_type = "application/problem+json", description = "`token_invalid`, `credentials_invalid`"),
        (status = 403, body = ProblemDocument, content_type = "application/problem+json", description = "`person_disabled`"),
    )
)]
async fn sign_in(
    State(app): State<Arc<App>>,
    Address(from): Address,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    if !same_origin(&headers) {
        return Err(foreign_origin());
    }
    let from = Some(from.to_string());
    let given: SignIn = read_json(&body)?;
    let tried = match given {
        SignIn { token: Some(token), name: None, password: None } => by_token(&app, &token),
        SignIn { token: None, name: Some(name), password: Some(password) } => {
            by_password(&app, &name, password).await?
        }
        _ => {
            let detail = "expected a `token`, or `name` and `password`";
            return Err(Problem::malformed(detail).with("field", "token"));
        }
    };
    match tried {
        Ok((holder, actor)) => {
            let entry = Entry::new(now_ms(), actor, from, Action::SignIn, "");
            let session = app.access.sign_in(&holder, entry).await?;
            Ok(with_cookie(&app, StatusCode::NO_CONTENT.into_response(), &session))
        }
        Err((problem, actor)) => {
            app.access.record(Entry::new(now_ms(), actor, from, Action::SignInFailed, "")).await?;
            Err(problem)
        }
    }
}

/// Who may sign in, or what is said to who may not. Either way the audit log is told who.
type Tried = Result<(Holder, Actor), (Problem, Actor)>;

fn by_token(app: &App, token: &Secret) -> Tried {
    let digest = Digest::of(token.expose().trim());
    let roll = app.access.roll();
    match (app.access.principal(Proof::Token(digest)), digest.find(&roll.tokens)) {
        (Some(principal), Some(token)) => Ok((Holder::Token(token.id.clone()), Actor::from(&principal))),
        _ => {
            let detail = "this is not the admin token, which is in the coordinator's data_dir/admin-token, nor any \
                          other that is in force";
            let problem =
                Problem::new(StatusCode::UNAUTHORIZED, "token_invalid", detail).with("field", "token");
            Err((problem, Actor::new(ActorKind::Stranger, "")))
        }
    }
}

async fn by_password(app: &App, name: &str, password: Secret) -> Result<Tried, Problem> {
    let person =
        name.parse::<PersonName>().ok().and_then(|name| app.access.roll().people.get(&name).cloned());
    let hash = person.as_ref().map(|person| person.password_hash.clone());
    // Many a name that is nobody's is a password in the wrong field: it is not kept.
    let tried = Actor::new(ActorKind::Stranger, if person.is_some() { name } else { "" });
    let is_right = app.access.passwords.verify(password, hash).await?;
    Ok(match person.filter(|_| is_right) {
        None => {
            let detail = "there is nobody of this name and password";
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "credentials_invalid", detail);
            Err((problem.with("field", "password"), tried))
        }
        Some(person) if person.disabled => {
            let detail = "you are kept out for now: ask an admin";
            let problem = Problem::new(StatusCode::FORBIDDEN, "person_disabled", detail);
            Err((problem, Actor::new(ActorKind::Person, name)))
        }
        Some(person) => Ok((Holder::Person(person.name), Actor::new(ActorKind::Person, name))),
    })
}

/// Signs somebody in who has the link that the coordinator printed at its start.
pub(super) async fn by_link(app: &App, code: &str, from: String) -> Result<Option<Secret>, Problem> {
    if !app.access.takes_code(code) {
        let stranger = Actor::new(ActorKind::Stranger, "");
        let entry = Entry::new(now_ms(), stranger, Some(from), Action::SignInFailed, "");
        app.access.record(entry.with("by link")).await?;
        return Ok(None);
    }
    let actor = Actor::new(ActorKind::Token, ADMIN_TOKEN);
    let entry = Entry::new(now_ms(), actor, Some(from), Action::SignIn, "").with("by link");
    Ok(Some(app.access.sign_in(&Holder::Token(ADMIN_TOKEN.into()), entry).await?))
}

/// Signs a browser out.
#[utoipa::path(delete, path = "/session", responses((status = 204, description = "Signed out")))]
async fn sign_out(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    if let Proof::Session(session) = caller.principal.proof {
        let entry = caller.does(Action::SignOut, "");
        app.access.change(vec![entry], |_| Ok(((), vec![Change::SessionEnded(session)]))).await?;
    }
    let forget = format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    Ok(([(header::SET_COOKIE, forget)], StatusCode::NO_CONTENT).into_response())
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// The one so far.
    #[schema(value_type = String, format = Password)]
    current_password: Secret,
    /// The one from then on: at least 10 characters.
    #[schema(value_type = String, format = Password)]
    new_password: Secret,
}

/// Changes one's own password. All other sessions of the person end.
#[utoipa::path(
    put,
    path = "/session/password",
    request_body = NewPassword,
    responses(
        (status = 204, description = "Changed"),
        (status = 403, body = ProblemDocument, content_type = "application/problem+json", description = "`no_person`, `password_wrong`"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn change_password(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let NewPassword { current_password, new_password } = read_json(&body)?;
    let (PrincipalKind::Person, Some(name), Proof::Session(session)) =
        (caller.principal.kind, &caller.principal.person, caller.principal.proof)
    else {
        let detail = "who signed in with a token has no password: sign in with name and password";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no_person", detail));
    };
    let roll = app.access.roll();
    let hash = roll.people.get(name).map(|person| person.password_hash.clone());
    field_password("new_password", &new_password)?;
    if !app.access.passwords.verify(current_password, hash).await? {
        app.access
            .record(caller.does(Action::SignInFailed, name.as_str()).with("a wrong current password"))
            .await?;
        let wrong = Problem::new(StatusCode::FORBIDDEN, "password_wrong", "this is not your password so far");
        return Err(wrong.with("field", "current_password"));
    }
    let change = PersonChange {
        password_hash: Some(app.access.passwords.hash(new_password).await?),
        ..PersonChange::default()
    };
    let entry = caller.does(Action::PasswordChanged, name.as_str());
    let changed =
        app.access.change(vec![entry], |roll| Ok(((), roll.change_person(name, &change, Some(session))?)));
    match changed.await {
        Err(AccessError::Refused(Refused::Missing { .. })) => Err(no_person(name.as_str())),
        changed => Ok(changed.map(|()| StatusCode::NO_CONTENT)?),
    }
}

/// Gives a browser its session.
pub(super) fn with_cookie(app: &App, mut response: Response, session: &Secret) -> Response {
    let seconds = app.access.session_terms().lifetime_ms / 1000;
    let secure = if app.front.is_encrypted() { "; Secure" } else { "" };
    let cookie = format!(
        "{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}",
        session.expose()
    );
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
