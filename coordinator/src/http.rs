//! What the coordinator speaks with the world. One file for each kind of caller: the trust boundary is the file
//! boundary. Every route is denied by default: a caller is let in by the layer around its file's routes, and paths
//! that don't exist are as closed as those that do.

mod access;
mod audit;
mod body;
mod connections;
mod enrolment;
mod events;
mod follow;
mod front;
mod headers;
mod limits;
mod lines;
mod log;
mod model;
mod names;
mod page;
mod people;
mod person;
mod policy;
mod problem;
mod public;
mod runner;
mod serve;
mod session;
mod submission;
mod tls;
mod tokens;
mod trends;
mod web;

use std::sync::Arc;

use axum::{Router, middleware};
use caisson_protocol::BuildId;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    access::Access,
    dispatcher::DispatcherHandle,
    logs::{LogWatch, Logs},
    metrics::Metrics,
    settings::BuildDefaults,
    store::Store,
};

pub use connections::ConnectionLimits;
pub use events::{EventHub, publish};
pub use front::{Front, Peer};
pub use limits::Limiter;
pub use names::Names;
pub use policy::{Rule, policy};
pub use serve::{Door, connection, routes, serve};
pub use submission::{read_edits, read_submission};
pub use tls::{Certificate, CertificateFiles};

/// What handlers work with.
pub struct App {
    /// The way to every decision.
    pub dispatcher: DispatcherHandle,
    /// What is known of builds.
    pub store: Arc<dyn Store>,
    /// The logs of attempts.
    pub logs: Arc<dyn Logs>,
    /// Word that a log has grown.
    pub watch: Arc<LogWatch>,
    /// News for dashboards.
    pub events: EventHub,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who may do what, and who did what.
    pub access: Arc<Access>,
    /// Makes the identity of a new build.
    pub new_build: fn() -> BuildId,
    /// What a build is given that does not say.
    pub defaults: BuildDefaults,
    /// How it is reached.
    pub front: Front,
    /// Tells those who follow something that the coordinator stops.
    pub stopping: CancellationToken,
    /// Those who follow something.
    pub followers: TaskTracker,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Caisson", description = "Submit builds, watch them, read their logs."),
    components(schemas(problem::ProblemDocument, events::ServerEvent, follow::LogMessage))
)]
struct Document;

/// All routes, and their OpenAPI document.
pub fn router(app: Arc<App>) -> Router {
    let (person, public, document) = described();
    let document = document.to_pretty_json().unwrap_or_default();
    let person = person.merge(person::unlisted(document)).fallback(problem::not_found);
    let guarded = person.layer(middleware::from_fn_with_state(Arc::clone(&app), access::person));
    let runner = runner::routes().layer(middleware::from_fn_with_state(Arc::clone(&app), access::runner));
    guarded
        .merge(runner)
        .merge(public)
        .merge(public::routes())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), names::check))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), limits::check))
        .with_state(app)
}

/// The OpenAPI document that is generated from the handlers.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().2
}

/// The routes of people, those that are open to who has no session or credential yet, and the document of both.
fn described() -> (Router<Arc<App>>, Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let person = OpenApiRouter::with_openapi(Document::openapi()).nest("/api/v1", person::routes());
    let open = session::public().merge(enrolment::public());
    let (public, described) = OpenApiRouter::new().nest("/api/v1", open).split_for_parts();
    let (person, mut document) = person.split_for_parts();
    document.merge(described);
    (person, public, document)
}
