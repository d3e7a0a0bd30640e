//! From nothing to a registered connection.

use std::{sync::Arc, time::Duration};

use caisson_protocol::{
    CoordinatorMessage, FRAME_BYTES_MAX, HeldAttempt, KeepAliveTerms, PROTOCOL_VERSION, Refusal,
    Registration, RunnerMessage,
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{ConnectionError, Failure, Identity, trust};
use crate::builds::Builds;

/// How long it may take to connect, register and be answered.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);
/// What a connection reads ahead, in bytes. Almost all that comes is short.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// A connection to the coordinator.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects and registers, and brings what the runner holds in line with what the coordinator wants.
pub(super) async fn register(
    builds: &Arc<Builds>,
    identity: &Identity,
) -> Result<(Socket, KeepAliveTerms), Failure> {
    let exchange = async {
        let mut socket = dial(builds, identity).await?;
        let held: Vec<HeldAttempt> = builds.held().iter().map(|attempt| attempt.held()).collect();
        let registration = RunnerMessage::Register(registration(builds, identity, held.clone()));
        socket.send(text(&registration)).await.map_err(|error| lost(error.to_string()))?;
        let terms = answer(&mut socket, builds, identity, &held).await?;
        Ok((socket, terms))
    };
    match timeout(REGISTER_DEADLINE, exchange).await {
        Ok(result) => result,
        Err(_) => Err(lost(format!("no answer within {} s", REGISTER_DEADLINE.as_secs()))),
    }
}

/// A message as it goes over the wire.
pub(super) fn text(message: &RunnerMessage) -> Message {
    // Every message is made of texts, numbers and lists, all of which JSON has.
    Message::text(serde_json::to_string(message).unwrap_or_default())
}

async fn dial(builds: &Builds, identity: &Identity) -> Result<Socket, Failure> {
    let url = &builds.host().config.coordinator_url;
    // With https, this is who checks the certificate; a second registration changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let mut request = url.channel().into_client_request().map_err(|error| lost(error.to_string()))?;
    let credential = identity.credentials.get(&builds.host().config).await?;
    let mut token = HeaderValue::try_from(format!("Bearer {}", credential.expose()))
        .map_err(|error| lost(error.to_string()))?;
    token.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, token);

    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let authorities = trust::authorities(&builds.host().config).map_err(|error| lost(error.to_string()))?;
    let connector = authorities.map(|authorities| Connector::Rustls(Arc::new(authorities)));
    match connect_async_tls_with_config(request, Some(config), true, connector).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(match response.status() {
            StatusCode::UNAUTHORIZED => denied(url.to_string(), response.body().as_deref(), identity),
            status => lost(format!("the answer was {status}")),
        }),
        Err(error) => Err(lost(error.to_string())),
    }
}

/// The channel did not open. What was taken from this runner stays so; what the coordinator does not know, as one
/// without its data, can be had again.
fn denied(url: String, body: Option<&[u8]>, identity: &Identity) -> Failure {
    #[derive(Deserialize)]
    struct Told {
        code: String,
        detail: String,
    }
    match serde_json::from_slice(body.unwrap_or_default()) {
        Ok(Told { code, detail: cause }) if code == "credential_revoked" => {
            ConnectionError::NotLetIn { url, cause }.into()
        }
        _ => {
            identity.credentials.discard();
            lost("the coordinator does not know this runner's credential".into())
        }
    }
}

fn registration(builds: &Builds, identity: &Identity, held: Vec<HeldAttempt>) -> Registration {
    let config = &builds.host().config;
    Registration {
        protocol: PROTOCOL_VERSION,
        name: config.name.to_string(),
        instance: identity.instance,
        labels: config.labels.clone(),
        capacity: config.capacity.get(),
        version: env!("CARGO_PKG_VERSION").into(),
        engine: identity.engine.clone(),
        held,
        draining: builds.is_draining(),
        condition: builds.host().health.condition(),
    }
}

async fn answer(
    socket: &mut Socket,
    builds: &Arc<Builds>,
    identity: &Identity,
    listed: &[HeldAttempt],
) -> Result<KeepAliveTerms, Failure> {
    loop {
        let message = match socket.next().await {
            Some(Ok(Message::Text(message))) => message,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(_)) | None => return Err(lost("the connection ended before the answer".into())),
            Some(Err(error)) => return Err(lost(error.to_string())),
        };
        return match serde_json::from_str(&message) {
            Ok(CoordinatorMessage::Registered { keep_alive, keep, .. }) => {
                builds.settle(listed, &keep);
                Ok(keep_alive)
            }
            Ok(CoordinatorMessage::Refused { reason, message }) => {
                if reason == Refusal::ForeignName {
                    identity.credentials.discard();
                    return Err(lost(message));
                }
                Err(ConnectionError::Refused { reason, message }.into())
            }
            Ok(_) => Err(lost("the answer to register was something else".into())),
            Err(error) => Err(lost(format!("the answer to register can't be read: {error}"))),
        };
    }
}

pub(super) fn lost(cause: String) -> Failure {
    Failure::Lost { cause, registered: false }
}
