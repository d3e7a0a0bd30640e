//! What people and their programs ask for.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequestParts, Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use caisson_protocol::{BuildId, RepositoryUrl, RunnerId, Status};
use caisson_scheduler::{Answer, Submission, WaitingBuild};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    access::Caller,
    audit, enrolment, events, follow, lines, log,
    model::{Build, BuildPage, Queue, QueuedBuild, RunnerState, Runners, WaitingBuilds},
    page, people,
    problem::{Problem, ProblemDocument},
    session,
    submission::{self, Edits, NewBuild},
    tokens, trends,
};
use crate::{
    access::audit::Action,
    store::{BuildFilter, BuildKey, BuildRecord},
};

/// How many builds a page has when the caller does not say, and at most.
const PAGE_DEFAULT: usize = 30;
const PAGE_MAX: usize = 100;
/// The longest text to search for, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// How many waiting builds are shown; how many there are is told beside.
const QUEUE_SHOWN_MAX: usize = 1000;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(submit, list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(rerun))
        .routes(routes!(log::text))
        .routes(routes!(follow::stream))
        .routes(routes!(queue))
        .routes(routes!(runners))
        .routes(routes!(drain))
        .routes(routes!(events::stream))
        .merge(lines::routes())
        .merge(session::routes())
        .routes(routes!(trends::trends))
        .merge(people::routes())
        .merge(tokens::routes())
        .merge(enrolment::routes())
        .merge(audit::routes())
}

/// Routes that the OpenAPI document does not describe.
pub(super) fn unlisted(document: String) -> Router<Arc<App>> {
    let document = Bytes::from(document);
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Router::new()
        .route("/api/v1/openapi.json", get(move || async move { (json, document) }))
        .route("/metrics", get(metrics))
}

/// Query parameters, with a problem document for those that don't fit.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(parameters) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::malformed(error.body_text()))?;
        Ok(Self(parameters))
    }
}

/// Submits a build.
///
/// With an `Idempotency-Key` header, the same key and body give the same build however often they are sent.
#[utoipa::path(
    post,
    path = "/builds",
    request_body = NewBuild,
    responses(
        (status = 201, body = Build, headers(("Location" = String, description = "The build"))),
        (status = 200, body = Build, description = "The same submission was accepted before: this is its build"),
        (status = 400, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, body = ProblemDocument, content_type = "application/problem+json", description = "`queue_full`"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn submit(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let submission = submission::read((app.new_build)(), &body, &headers, &app.defaults)?;
    accept(&app, submission, |build| caller.did(Action::Submit, build.to_string())).await
}

async fn accept(
    app: &App,
    submission: Submission,
    is_new: impl FnOnce(BuildId),
) -> Result<Response, Problem> {
    let (status, id) = match app.dispatcher.submit(submission).await? {
        Answer::Accepted { build } => {
            is_new(build);
            (StatusCode::CREATED, build)
        }
        Answer::Repeated { build } => (StatusCode::OK, build),
        Answer::KeyReused => {
            let detail =
                "this Idempotency-Key was used before with another body: use a new key for a new build";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail));
        }
        Answer::QueueFull { limit, depth } => {
            let detail =
                format!("{depth} builds wait, and no more than {limit} may: try again when some have begun");
            let full = Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail);
            return Err(full.with("limit", limit).with("depth", depth));
        }
        other => return Err(unexpected(other)),
    };
    let (_, build) = present_changed(app, id).await?;
    let location = format!("/api/v1/builds/{id}");
    Ok((status, [(header::LOCATION, location)], Json(build)).into_response())
}

/// Which builds to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only builds with one of these statuses, separated by commas.
    status: Option<String>,
    /// Only builds of this repository.
    repository: Option<String>,
    /// Only builds in whose repository, commit or command this occurs.
    q: Option<String>,
    /// How many, 1 to 100.
    limit: Option<usize>,
    /// Where the page before said to go on.
    cursor: Option<String>,
}

/// Lists builds, newest first.
#[utoipa::path(
    get,
    path = "/builds",
    params(ListQuery),
    responses((status = 200, body = BuildPage), (status = 422, body = ProblemDocument, content_type = "application/problem+json"))
)]
async fn list(State(app): State<Arc<App>>, query: Parameters<ListQuery>) -> Result<Json<BuildPage>, Problem> {
    let mut filter = query.0.filter()?;
    let limit = filter.limit;
    // One more than asked tells whether there is a next page.
    filter.limit += 1;
    let mut found = app.store.builds(&filter).await?;
    let next_cursor = page::cut(&mut found, limit, |build| build.number);
    Ok(Json(BuildPage { builds: present_all(&app, &found).await?, next_cursor }))
}

impl ListQuery {
    fn filter(self) -> Result<BuildFilter, Problem> {
        let statuses =
            self.status.iter().flat_map(|names| names.split(',')).map(status).collect::<Result<_, _>>()?;
        Ok(BuildFilter {
            statuses,
            // As it is stored: `HTTPS://Example.org/app` is the same repository.
            repository_url: self.repository.map(|url| url.parse::<RepositoryUrl>().map_or(url, Into::into)),
            text: page::text(self.q, TEXT_BYTES_MAX)?,
            before: page::before(self.cursor.as_deref())?,
            limit: page::limit(self.limit, PAGE_DEFAULT, PAGE_MAX)?,
        })
    }
}

fn status(name: &str) -> Result<Status, Problem> {
    Status::ALL.into_iter().find(|status| status.as_str() == name).ok_or_else(|| {
        let names = Status::ALL.map(Status::as_str).join(", ");
        Problem::invalid("status", format!("{name:?} is none of {names}"))
    })
}

/// Shows a build, by its id or its number.
#[utoipa::path(
    get,
    path = "/builds/{id}",
    params(("id" = String, Path, description = "The build's id or number")),
    responses((status = 200, body = Build), (status = 404, body = ProblemDocument, content_type = "application/problem+json"))
)]
async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Build>, Problem> {
    let build = find(&app, &id).await?;
    Ok(Json(present(&app, &build).await?))
}

/// Cancels a build, in whatever state it is. May be repeated.
#[utoipa::path(
    post,
    path = "/builds/{id}/cancel",
    params(("id" = String, Path, description = "The build's id or number")),
    responses(
        (status = 200, body = Build, description = "It has ended: by this, or before"),
        (status = 202, body = Build, description = "Its runner is stopping it"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let build = find(&app, &id).await?;
    match app.dispatcher.cancel(build.id).await? {
        Answer::Canceling => caller.did(Action::Cancel, build.id.to_string()),
        Answer::BuildNotLive => {}
        other => return Err(unexpected(other)),
    }
    let (status, build) = present_changed(&app, build.id).await?;
    let status = if status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(build)).into_response())
}

/// Submits a build again: as it was, or with what the body changes.
#[utoipa::path(
    post,
    path = "/builds/{id}/rerun",
    params(("id" = String, Path, description = "The build's id or number")),
    request_body = Option<Edits>,
    responses(
        (status = 201, body = Build, headers(("Location" = String, description = "The new build"))),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, body = ProblemDocument, content_type = "application/problem+json", description = "`queue_full`"),
    )
)]
async fn rerun(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let build = find(&app, &id).await?;
    let original = build.id;
    let spec = if body.is_empty() {
        build.spec
    } else {
        Arc::new(submission::edited(&build.spec, &body, &app.defaults)?)
    };
    let submission = Submission { id: (app.new_build)(), spec, key: None };
    accept(&app, submission, |build| {
        caller.notes(caller.does(Action::Rerun, build.to_string()).with(format!("of {original}")));
    })
    .await
}

/// Shows what waits, oldest first, and why.
#[utoipa::path(get, path = "/queue", responses((status = 200, body = WaitingBuilds)))]
async fn queue(State(app): State<Arc<App>>) -> Result<Json<WaitingBuilds>, Problem> {
    let Queue { limit, depth, builds } = present_queue(&app).await?;
    let mut waiting = Vec::new();
    for place in builds {
        // What began to run since is not waiting any more.
        if let Some(build) = app.store.build(BuildKey::Id(place.id)).await? {
            waiting.push(place.of(&build));
        }
    }
    Ok(Json(WaitingBuilds { limit, depth, builds: waiting }))
}

pub(super) async fn present_queue(app: &App) -> Result<Queue, Problem> {
    let (limit, depth, waiting) = app
        .dispatcher
        .look(|scheduler| {
            (scheduler.rules().queue_capacity, scheduler.waiting(), scheduler.queue(QUEUE_SHOWN_MAX))
        })
        .await?;
    Ok(Queue { limit, depth, builds: waiting.iter().map(QueuedBuild::from).collect() })
}

/// Shows the runners and what each does.
#[utoipa::path(get, path = "/runners", responses((status = 200, body = Runners)))]
async fn runners(State(app): State<Arc<App>>) -> Result<Json<Runners>, Problem> {
    Ok(Json(present_runners(&app).await?))
}

pub(super) async fn present_runners(app: &App) -> Result<Runners, Problem> {
    let runners = app.dispatcher.look(caisson_scheduler::Scheduler::runners).await?;
    let shown = |runner| RunnerState::new(runner, runner.heard.map(|heard| app.dispatcher.time_of(heard)));
    Ok(Runners { runners: runners.iter().map(shown).collect() })
}

/// Drains a runner: it takes no further builds, ends those it has, and goes away.
#[utoipa::path(
    post,
    path = "/runners/{id}/drain",
    params(("id" = String, Path, description = "The runner's id or name")),
    responses(
        (status = 202, body = Runners),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn drain(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let runner = id.parse().unwrap_or_else(|_| RunnerId::of_name(&id));
    match app.dispatcher.drain(runner).await? {
        Answer::Draining => {
            caller.did(Action::Drain, id);
            Ok((StatusCode::ACCEPTED, runners(State(app)).await?).into_response())
        }
        _ => Err(Problem::missing(format!(
            "there is no runner {id:?}: see /api/v1/runners for those there are"
        ))),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics.show()).into_response()
}

/// The build that a path names.
pub(super) async fn find(app: &App, name: &str) -> Result<BuildRecord, Problem> {
    let missing = || Problem::missing(format!("there is no build {name:?}: name it by its id or its number"));
    let key = match (name.parse::<BuildId>(), name.parse::<u64>()) {
        (Ok(id), _) => BuildKey::Id(id),
        (_, Ok(number)) => BuildKey::Number(number),
        _ => return Err(missing()),
    };
    app.store.build(key).await?.ok_or_else(missing)
}

async fn present(app: &App, build: &BuildRecord) -> Result<Build, Problem> {
    let mut shown = present_all(app, std::slice::from_ref(build)).await?;
    shown.pop().ok_or_else(|| Problem::missing("the build is gone"))
}

/// A build after something was done with it: that it can't be shown does not mean that nothing took place.
async fn present_changed(app: &App, id: BuildId) -> Result<(Status, Build), Problem> {
    let shown = async {
        let build = find(app, &id.to_string()).await?;
        Ok((build.status, present(app, &build).await?))
    };
    shown.await.map_err(|_: Problem| Problem::outcome_unknown())
}

/// Builds as they are shown: what is stored, and for those that wait what the queue says.
pub(super) async fn present_all(app: &App, builds: &[BuildRecord]) -> Result<Vec<Build>, Problem> {
    let waiting: Vec<BuildId> =
        builds.iter().filter(|build| build.status == Status::Queued).map(|build| build.id).collect();
    let waiting: BTreeMap<BuildId, WaitingBuild> = if waiting.is_empty() {
        BTreeMap::new()
    } else {
        let look = move |scheduler: &caisson_scheduler::Scheduler| {
            waiting.into_iter().filter_map(|id| Some((id, scheduler.waiting_build(id)?))).collect()
        };
        app.dispatcher.look(look).await?
    };
    Ok(builds.iter().map(|build| Build::new(build, waiting.get(&build.id))).collect())
}

fn unexpected(answer: Answer) -> Problem {
    tracing::error!("the scheduler answered something else than it was asked: {answer:?}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the coordinator is at fault: see its log")
}
