//! Tokens: what programs show instead of a person.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    access::Caller,
    model::moment,
    problem::{Problem, ProblemDocument},
    submission::read_json,
};
use crate::{
    access::{self, Access, Change, Digest, NewToken, Role, audit::Action},
    clock::now_ms,
    store::Millis,
};

/// The longest time that something may be given, in seconds: ten years.
const SECONDS_MAX: u64 = 10 * 365 * 24 * 60 * 60;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, make)).routes(routes!(revoke))
}

/// What a program shows instead of a person.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Token {
    /// Its identity, by which it is revoked.
    id: String,
    /// What it is for, in its maker's words.
    name: String,
    /// What it may do, as long as its owner may.
    role: Role,
    /// Whose it is; `null` for the admin token and those made with it.
    #[schema(required)]
    owner: Option<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    expires_at: Option<OffsetDateTime>,
    /// When it was last shown.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    used_at: Option<OffsetDateTime>,
}

impl Token {
    fn new(app: &App, token: &access::Token) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            role: token.role,
            owner: token.owner.as_ref().map(ToString::to_string),
            created_at: moment(token.created_at),
            expires_at: token.expires_at.map(moment),
            used_at: app.access.used_at(token.digest, token.used_at).map(moment),
        }
    }
}

/// Tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tokens {
    /// Newest first.
    tokens: Vec<Token>,
}

/// Shows the tokens of who asks; all tokens to an admin.
#[utoipa::path(get, path = "/tokens", operation_id = "tokens", responses((status = 200, body = Tokens)))]
async fn list(State(app): State<Arc<App>>, caller: Caller) -> Json<Tokens> {
    let roll = app.access.roll();
    let mut tokens: Vec<Token> =
        roll.tokens_for(&caller.principal).map(|token| Token::new(&app, token)).collect();
    tokens.sort_by(|one, other| (other.created_at, &one.name).cmp(&(one.created_at, &other.name)));
    Json(Tokens { tokens })
}

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenWanted {
    /// What it is for: 1 to 100 visible characters.
    #[schema(example = "nightly script")]
    name: String,
    /// What it may do: no more than who makes it.
    role: Role,
    /// In how many seconds it ends; never when it is left out.
    expires_in_seconds: Option<u64>,
}

/// A token that was made. Its secret is shown this once.
#[derive(Serialize, ToSchema)]
struct TokenMade {
    /// What is known of it.
    token: Token,
    /// What is sent as `Authorization: Bearer …`.
    secret: String,
}

/// Makes a token for who asks.
#[utoipa::path(
    post,
    path = "/tokens",
    operation_id = "make_token",
    request_body = TokenWanted,
    responses(
        (status = 201, body = TokenMade),
        (status = 403, body = ProblemDocument, content_type = "application/problem+json", description = "`role_too_high`, `token_by_token`"),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`name_taken`, `too_many`"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn make(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<TokenMade>), Problem> {
    let TokenWanted { name, role, expires_in_seconds } = read_json(&body)?;
    let name = access::label(&name).map_err(|wrong| Problem::invalid("name", wrong))?;
    let now = now_ms();
    let expires_at = end(expires_in_seconds, now)?;
    let secret = Access::token_secret();
    let new = NewToken {
        id: Uuid::new_v4().to_string(),
        digest: Digest::of(secret.expose()),
        name,
        role,
        expires_at,
    };
    let entry = caller.does(Action::TokenMade, &new.name).with(role.as_str());
    let made = app.access.change(vec![entry], |roll| {
        let token = roll.make_token(&caller.principal, new.clone(), now)?;
        Ok((token.clone(), vec![Change::Token(token)]))
    });
    let token = Token::new(&app, &made.await?);
    Ok((StatusCode::CREATED, Json(TokenMade { token, secret: secret.expose().to_owned() })))
}

/// Revokes a token: from then on it opens nothing, and what it has open ends.
#[utoipa::path(
    delete,
    path = "/tokens/{id}",
    operation_id = "revoke_token",
    params(("id" = String, Path, description = "The token's identity")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, body = ProblemDocument, content_type = "application/problem+json", description = "`kept_in_file`"),
    )
)]
async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let roll = app.access.roll();
    let (token, _) = roll.revoke_token(&caller.principal, &id).map_err(access::AccessError::from)?;
    let owner = token.owner.as_ref().map_or(String::new(), |owner| format!("of {owner}"));
    let entry = caller.does(Action::TokenRevoked, &token.name).with(owner);
    let revoked = app.access.change(vec![entry], |roll| {
        let (_, changes) = roll.revoke_token(&caller.principal, &id)?;
        Ok(((), changes))
    });
    revoked.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// When something ends that is given so many seconds.
pub(super) fn end(seconds: Option<u64>, now: Millis) -> Result<Option<Millis>, Problem> {
    match seconds {
        None => Ok(None),
        Some(seconds) if (1..=SECONDS_MAX).contains(&seconds) => {
            Ok(Some(now.saturating_add(Millis::try_from(seconds * 1000).unwrap_or(Millis::MAX))))
        }
        Some(_) => Err(Problem::invalid("expires_in_seconds", format!("expected 1 to {SECONDS_MAX}"))),
    }
}
