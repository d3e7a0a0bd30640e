//! The audit log, for admins.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    model::moment,
    page,
    person::Parameters,
    problem::{Problem, ProblemDocument},
};
use crate::access::audit::{Action, ActorKind, AuditFilter, Recorded};

/// How many entries a page has when the caller does not say, and at most.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 500;
/// The longest text to look for, in bytes.
const TEXT_BYTES_MAX: usize = 256;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// One thing that was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditEntry {
    /// Its number: they are counted as they come in.
    number: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// What kind of somebody did it.
    actor_kind: ActorKind,
    /// Who did it; empty where nobody knows. A stranger's is the name that they tried.
    actor: String,
    /// The address that it came from.
    #[schema(required)]
    from: Option<String>,
    /// What was done.
    action: Action,
    /// On what: a build's id, the name of a person, token or runner, …
    on: String,
    /// What else is worth knowing.
    detail: String,
}

impl From<Recorded> for AuditEntry {
    fn from(Recorded { number, entry }: Recorded) -> Self {
        Self {
            number,
            at: moment(entry.at),
            actor_kind: entry.actor.kind,
            actor: entry.actor.name,
            from: entry.from,
            action: entry.action,
            on: entry.on,
            detail: entry.detail,
        }
    }
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditPage {
    /// Newest first.
    entries: Vec<AuditEntry>,
    /// Where to go on, if there is more.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Which entries to show.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    /// Only by somebody of this name.
    actor: Option<String>,
    /// Only these actions, separated by commas.
    action: Option<String>,
    /// Only entries in which this occurs.
    q: Option<String>,
    /// How many, 1 to 500.
    limit: Option<usize>,
    /// Where the page before said to go on.
    cursor: Option<String>,
}

/// Shows who did what, newest first.
#[utoipa::path(
    get,
    path = "/audit",
    operation_id = "audit",
    params(AuditQuery),
    responses((status = 200, body = AuditPage), (status = 422, body = ProblemDocument, content_type = "application/problem+json"))
)]
async fn list(
    State(app): State<Arc<App>>,
    query: Parameters<AuditQuery>,
) -> Result<Json<AuditPage>, Problem> {
    let mut filter = query.0.filter()?;
    let limit = filter.limit;
    // One more than asked tells whether there is a next page.
    filter.limit += 1;
    let mut found = app.access.audit(&filter).await?;
    let next_cursor = page::cut(&mut found, limit, |recorded| recorded.number);
    Ok(Json(AuditPage { entries: found.into_iter().map(AuditEntry::from).collect(), next_cursor }))
}

impl AuditQuery {
    fn filter(self) -> Result<AuditFilter, Problem> {
        let names = self.action.iter().flat_map(|names| names.split(','));
        Ok(AuditFilter {
            actor: self.actor,
            actions: names.map(action).collect::<Result<_, _>>()?,
            text: page::text(self.q, TEXT_BYTES_MAX)?,
            before: page::before(self.cursor.as_deref())?,
            limit: page::limit(self.limit, PAGE_DEFAULT, PAGE_MAX)?,
        })
    }
}

fn action(name: &str) -> Result<Action, Problem> {
    name.parse().map_err(|_| {
        let names = Action::ALL.map(Action::as_str).join(", ");
        Problem::invalid("action", format!("{name:?} is none of {names}"))
    })
}
