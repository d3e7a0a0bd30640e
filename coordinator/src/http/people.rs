//! Who may sign in: what admins ask for.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
};
use caisson_settings::Secret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    access::Caller,
    model::moment,
    problem::{Problem, ProblemDocument},
    submission::read_json,
};
use crate::{
    access::{Person, PersonChange, PersonName, Role, audit::Action, password},
    clock::now_ms,
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(change, remove))
}

/// Somebody who may sign in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct User {
    /// What they are called, and sign in with.
    name: String,
    /// What they may do.
    role: Role,
    /// Whether they are kept out for now.
    disabled: bool,
    /// When they were added.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When they last signed in.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    signed_in_at: Option<OffsetDateTime>,
}

impl From<&Person> for User {
    fn from(person: &Person) -> Self {
        Self {
            name: person.name.to_string(),
            role: person.role,
            disabled: person.disabled,
            created_at: moment(person.created_at),
            signed_in_at: person.signed_in_at.map(moment),
        }
    }
}

/// Everybody who may sign in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Users {
    /// By name.
    users: Vec<User>,
}

/// Shows who may sign in.
#[utoipa::path(get, path = "/users", operation_id = "users", responses((status = 200, body = Users)))]
async fn list(State(app): State<Arc<App>>) -> Json<Users> {
    Json(Users { users: app.access.roll().people.values().map(User::from).collect() })
}

/// Somebody to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUser {
    /// What they are called, and sign in with: a-z 0-9 . _ - @ +, up to 64.
    #[schema(example = "anna")]
    name: String,
    /// What they may do.
    role: Role,
    /// Their password until they change it: at least 10 characters.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// Adds somebody who may sign in.
#[utoipa::path(
    post,
    path = "/users",
    operation_id = "add_user",
    request_body = NewUser,
    responses(
        (status = 201, body = User),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`name_taken`"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn add(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<User>), Problem> {
    let NewUser { name, role, password } = read_json(&body)?;
    let name: PersonName = name.parse().map_err(|wrong: String| Problem::invalid("name", wrong))?;
    field_password("password", &password)?;
    let hash = app.access.passwords.hash(password).await?;
    let entry = caller.does(Action::PersonAdded, name.as_str()).with(role.as_str());
    let now = now_ms();
    app.access.change(vec![entry], |roll| Ok(((), roll.add_person(&name, role, &hash, now)?))).await?;
    Ok((StatusCode::CREATED, show(&app, &name)?))
}

/// What to change of somebody. What is left out stays as it was.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserEdits {
    /// What they may do.
    role: Option<Role>,
    /// Whether they are kept out for now.
    disabled: Option<bool>,
    /// A new password: at least 10 characters.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
}

/// Gives somebody another role or password, keeps them out or lets them in again. Who is kept out or given another
/// password is signed out everywhere.
#[utoipa::path(
    patch,
    path = "/users/{name}",
    operation_id = "change_user",
    params(("name" = String, Path, description = "The person's name")),
    request_body = UserEdits,
    responses(
        (status = 200, body = User),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`last_admin`"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<User>, Problem> {
    let name: PersonName = name.parse().map_err(|_| no_person(&name))?;
    let UserEdits { role, disabled, password } = read_json(&body)?;
    let mut entries = Vec::new();
    let told: Vec<String> = role
        .map(|role| format!("role {role}"))
        .into_iter()
        .chain(disabled.map(|disabled| if disabled { "kept out" } else { "let in" }.to_owned()))
        .collect();
    if !told.is_empty() {
        entries.push(caller.does(Action::PersonChanged, name.as_str()).with(told.join(", ")));
    }
    let mut change = PersonChange { role, disabled, password_hash: None };
    if let Some(password) = password {
        field_password("password", &password)?;
        change.password_hash = Some(app.access.passwords.hash(password).await?);
        entries.push(caller.does(Action::PasswordChanged, name.as_str()));
    }
    app.access.change(entries, |roll| Ok(((), roll.change_person(&name, &change, None)?))).await?;
    show(&app, &name)
}

/// Removes somebody, with all tokens of theirs.
#[utoipa::path(
    delete,
    path = "/users/{name}",
    operation_id = "remove_user",
    params(("name" = String, Path, description = "The person's name")),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`last_admin`"),
    )
)]
async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let name: PersonName = name.parse().map_err(|_| no_person(&name))?;
    let entry = caller.does(Action::PersonRemoved, name.as_str());
    app.access.change(vec![entry], |roll| Ok(((), roll.remove_person(&name)?))).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn show(app: &App, name: &PersonName) -> Result<Json<User>, Problem> {
    let roll = app.access.roll();
    roll.people.get(name).map(|person| Json(User::from(person))).ok_or_else(|| no_person(name.as_str()))
}

/// There is nobody of this name.
pub(super) fn no_person(name: &str) -> Problem {
    Problem::missing(format!("there is no person {name:?}"))
}

/// Refuses a password that nobody should have.
pub(super) fn field_password(field: &str, password: &Secret) -> Result<(), Problem> {
    password::check(password).map_err(|wrong| Problem::invalid(field, wrong))
}
