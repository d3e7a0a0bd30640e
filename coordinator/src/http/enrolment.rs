//! How runners are let in: registration tokens, and the credential that each runner gets for one.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    access::{Address, Caller, bearer},
    model::moment,
    problem::{Problem, ProblemDocument},
    submission::read_json,
    tokens::end,
};
use crate::{
    access::{
        self, Access, AccessError, Digest, Refused,
        audit::{Action, Actor, ActorKind, Entry},
    },
    clock::now_ms,
};

/// The longest name of a runner, in characters.
pub(super) const RUNNER_NAME_MAX: usize = 128;

/// What admins ask for.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(registrations, make_registration))
        .routes(routes!(revoke_registration))
        .routes(routes!(credentials))
        .routes(routes!(revoke_credential))
}

/// What a runner asks for that has no credential yet.
pub(super) fn public() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(exchange))
}

/// What a runner shows once, for a credential of its own.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunnerRegistration {
    /// Its identity, by which it is revoked.
    id: String,
    /// What it is for, in its maker's words.
    name: String,
    /// Whether it registers more than one runner.
    reusable: bool,
    /// Who made it.
    created_by: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    expires_at: Option<OffsetDateTime>,
    /// When it last registered a runner.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    used_at: Option<OffsetDateTime>,
}

impl From<&access::Registration> for RunnerRegistration {
    fn from(registration: &access::Registration) -> Self {
        Self {
            id: registration.id.clone(),
            name: registration.name.clone(),
            reusable: registration.reusable,
            created_by: registration.created_by.clone(),
            created_at: moment(registration.created_at),
            expires_at: registration.expires_at.map(moment),
            used_at: registration.used_at.map(moment),
        }
    }
}

/// Registration tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunnerRegistrations {
    /// Newest first.
    registrations: Vec<RunnerRegistration>,
}

/// Shows the tokens that register runners.
#[utoipa::path(
    get,
    path = "/runner-registrations",
    operation_id = "runner_registrations",
    responses((status = 200, body = RunnerRegistrations))
)]
async fn registrations(State(app): State<Arc<App>>) -> Json<RunnerRegistrations> {
    let roll = app.access.roll();
    let mut registrations: Vec<_> = roll.registrations.values().map(RunnerRegistration::from).collect();
    registrations.sort_by(|one, other| (other.created_at, &one.name).cmp(&(one.created_at, &other.name)));
    Json(RunnerRegistrations { registrations })
}

/// A registration token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegistrationWanted {
    /// What it is for: 1 to 100 visible characters.
    #[schema(example = "host-7")]
    name: String,
    /// Whether it registers more than one runner.
    #[serde(default)]
    reusable: bool,
    /// In how many seconds it ends; never when it is left out.
    expires_in_seconds: Option<u64>,
}

/// A registration token that was made. Its secret is shown this once.
#[derive(Serialize, ToSchema)]
struct RegistrationMade {
    /// What is known of it.
    registration: RunnerRegistration,
    /// What a runner has in its `token_file`.
    secret: String,
}

/// Makes a token that registers runners: one, or as many as come.
#[utoipa::path(
    post,
    path = "/runner-registrations",
    operation_id = "make_runner_registration",
    request_body = RegistrationWanted,
    responses(
        (status = 201, body = RegistrationMade),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`name_taken`, `too_many`"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn make_registration(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<RegistrationMade>), Problem> {
    let RegistrationWanted { name, reusable, expires_in_seconds } = read_json(&body)?;
    let name = access::label(&name).map_err(|wrong| Problem::invalid("name", wrong))?;
    let now = now_ms();
    let secret = Access::registration_secret();
    let new = access::Registration {
        id: Uuid::new_v4().to_string(),
        digest: Digest::of(secret.expose()),
        name,
        reusable,
        created_by: caller.principal.name.clone(),
        created_at: now,
        expires_at: end(expires_in_seconds, now)?,
        used_at: None,
    };
    let entry = caller.does(Action::RegistrationMade, &new.name);
    let entry = entry.with(if reusable { "for any number of runners" } else { "for one runner" });
    app.access.change(vec![entry], |roll| Ok(((), roll.make_registration(new.clone())?))).await?;
    let registration = RunnerRegistration::from(&new);
    Ok((StatusCode::CREATED, Json(RegistrationMade { registration, secret: secret.expose().to_owned() })))
}

/// Revokes a registration token. Runners that have registered with it stay.
#[utoipa::path(
    delete,
    path = "/runner-registrations/{id}",
    operation_id = "revoke_runner_registration",
    params(("id" = String, Path, description = "The registration token's identity")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`kept_in_file`"),
    )
)]
async fn revoke_registration(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let (registration, _) = app.access.roll().revoke_registration(&id).map_err(AccessError::from)?;
    let entry = caller.does(Action::RegistrationRevoked, registration.name);
    let revoked = app.access.change(vec![entry], |roll| {
        let (_, changes) = roll.revoke_registration(&id)?;
        Ok(((), changes))
    });
    revoked.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What one runner opens the channel with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunnerCredential {
    /// The runner's name.
    name: String,
    /// The registration token that it was given for.
    registration: String,
    /// When it was given.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When its runner last connected.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    used_at: Option<OffsetDateTime>,
}

/// The credentials of runners.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunnerCredentials {
    /// By the runner's name.
    credentials: Vec<RunnerCredential>,
}

/// Shows which runners may connect.
#[utoipa::path(
    get,
    path = "/runner-credentials",
    operation_id = "runner_credentials",
    responses((status = 200, body = RunnerCredentials))
)]
async fn credentials(State(app): State<Arc<App>>) -> Json<RunnerCredentials> {
    let roll = app.access.roll();
    let current = roll.credentials.values().filter(|credential| credential.ended.is_none());
    let shown = current.map(|credential| RunnerCredential {
        name: credential.runner.clone(),
        registration: credential.registration.clone(),
        created_at: moment(credential.created_at),
        used_at: app.access.used_at(credential.digest, credential.used_at).map(moment),
    });
    let mut credentials: Vec<_> = shown.collect();
    credentials.sort_by(|one, other| one.name.cmp(&other.name));
    Json(RunnerCredentials { credentials })
}

/// Revokes a runner's credential: it is cut off at once, and ends. Its builds go to other runners.
#[utoipa::path(
    delete,
    path = "/runner-credentials/{name}",
    operation_id = "revoke_runner_credential",
    params(("name" = String, Path, description = "The runner's name")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn revoke_credential(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let entry = caller.does(Action::CredentialRevoked, &name);
    app.access.change(vec![entry], |roll| Ok(((), roll.revoke_credential(&name, now_ms())?))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which runner asks for a credential.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CredentialWanted {
    /// The runner's name. The credential opens the channel for a runner of this name only.
    #[schema(example = "host-7")]
    name: String,
}

/// A credential that was made. It is shown this once.
#[derive(Serialize, ToSchema)]
struct CredentialMade {
    /// What opens the channel, as `Authorization: Bearer …`.
    credential: String,
}

/// Gives a runner a credential of its own for a registration token, which is sent as `Authorization: Bearer …`.
#[utoipa::path(
    post,
    path = "/runner/credential",
    operation_id = "register_runner",
    request_body = CredentialWanted,
    responses(
        (status = 201, body = CredentialMade),
        (status = 401, body = ProblemDocument, content_type = "application/problem+json", description = "`registration_invalid`"),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`runner_known`: try again when that runner is gone"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn exchange(
    State(app): State<Arc<App>>,
    Address(from): Address,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<CredentialMade>), Problem> {
    let now = now_ms();
    let registration = Digest::of(bearer(&headers).unwrap_or_default());
    if app.access.roll().registration(registration, now).is_none() {
        let stranger = Actor::new(ActorKind::Stranger, "");
        let entry = Entry::new(now, stranger, Some(from.to_string()), Action::RunnerRefused, "");
        app.access.record(entry.with("a registration token that is not in force")).await?;
        return Err(AccessError::from(Refused::RegistrationInvalid).into());
    }
    let CredentialWanted { name } = read_json(&body)?;
    if let Some(wrong) = wrong_with_runner_name(&name) {
        return Err(Problem::invalid("name", wrong));
    }
    let of_that_name = name.clone();
    let is_known = app
        .dispatcher
        .look(move |scheduler| scheduler.runners().iter().any(|known| known.name == of_that_name));
    let actor = Actor::new(ActorKind::Runner, &name);
    let tells = |action| Entry::new(now, actor.clone(), Some(from.to_string()), action, &name);
    // A runner whose credentials were lost with the file they are in may have its name back at once: it is nobody else's.
    if is_known.await? && app.access.roll().has_enrolled(&name) {
        app.access.record(tells(Action::RunnerRefused).with("a runner of this name is there")).await?;
        let detail = format!(
            "a runner {name:?} is registered, and was heard of a moment ago: give each runner a name of its own, or \
             wait until that one is gone and try again"
        );
        return Err(Problem::new(StatusCode::CONFLICT, "runner_known", detail));
    }
    let secret = Access::credential_secret();
    let digest = Digest::of(secret.expose());
    app.access
        .change(vec![tells(Action::RunnerRegistered)], |roll| {
            Ok(((), roll.enrol(registration, &name, digest, now)?))
        })
        .await?;
    Ok((StatusCode::CREATED, Json(CredentialMade { credential: secret.expose().to_owned() })))
}

/// What is wrong with a runner's name.
pub(super) fn wrong_with_runner_name(name: &str) -> Option<String> {
    let bad = !(1..=RUNNER_NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control);
    bad.then(|| format!("expected 1 to {RUNNER_NAME_MAX} visible characters"))
}
