//! The networks that builds join. In none of them does one build reach another.
//!
//! Docker keeps the members of a network apart where it is told to. It has some thirty networks to give, so the builds of
//! a runner share one. Podman drops that option, and keeps networks apart from each other instead, of which it has
//! thousands: there each attempt has one of its own, which goes with its container.

use std::collections::HashMap;

use bollard::{errors::Error, models::NetworkCreateRequest};
use tracing::warn;

use super::{Dialect, DockerEngine, error::STATUS_NOT_FOUND, label, request};
use crate::engine::{ContainerRequest, EngineError, Owned, OwnedKind, Owner, container_name};

/// The name of the network that a build joins.
pub(super) fn name(request: &ContainerRequest, dialect: Dialect) -> String {
    match dialect {
        Dialect::Docker => shared_name(&request.owner),
        Dialect::Podman => container_name(request.attempt),
    }
}

fn shared_name(owner: &Owner) -> String {
    let coordinator =
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, owner.coordinator.to_string().as_bytes());
    let coordinator = coordinator.simple().to_string();
    format!("caisson-{}-{}", owner.runner, &coordinator[..8])
}

/// Makes the network that a build joins, where it is not there. All that this takes has one deadline: on an engine that
/// is frozen, no build waits for those before it.
pub(super) async fn ensure(engine: &DockerEngine, request: &ContainerRequest) -> Result<(), EngineError> {
    let network = body(request, engine.facts().dialect);
    let name = network.name.clone();
    let make = async {
        // Docker lets two networks have one name, so only one is made at a time.
        let _guard = engine.network.lock().await;
        match engine.docker.inspect_network(&name, None).await {
            Err(Error::DockerResponseServerError { status_code: STATUS_NOT_FOUND, .. }) => {
                engine.docker.create_network(network).await.map(|made| made.warning)
            }
            found => found.map(|_| String::new()),
        }
    };
    let warning = engine.call("make network", make).await?;
    if !warning.is_empty() {
        warn!("the engine, of the network {name}: {warning}");
    }
    Ok(())
}

fn body(request: &ContainerRequest, dialect: Dialect) -> NetworkCreateRequest {
    let (options, labels) = match dialect {
        Dialect::Docker => {
            let apart = ("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned());
            (Some(HashMap::from([apart])), HashMap::from(label::owner(&request.owner)))
        }
        Dialect::Podman => (None, request::labels(request)),
    };
    NetworkCreateRequest {
        name: name(request, dialect),
        driver: Some("bridge".into()),
        options,
        labels: Some(labels),
        ..NetworkCreateRequest::default()
    }
}

/// The network that goes with a container.
pub(super) fn goes_with(owned: &Owned, dialect: Dialect) -> Option<Owned> {
    let attempt =
        owned.attempt.filter(|_| owned.kind == OwnedKind::Container && dialect == Dialect::Podman)?;
    Some(Owned { kind: OwnedKind::Network, id: container_name(attempt), attempt: Some(attempt) })
}
