//! An ssh server that lets one key in and runs nothing but `git-upload-pack`.

use std::{collections::HashMap, net::SocketAddr, process::Stdio, sync::Arc};

use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey, PublicKey},
    server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey, run_stream},
};
use tokio::{io::copy_bidirectional, net::TcpListener, process::Command, task::JoinHandle};

pub struct SshServer {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl SshServer {
    pub async fn start(host_key: PrivateKey, allowed: PublicKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Config { keys: vec![host_key], ..Config::default() });
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let guest = Guest { allowed: allowed.clone(), channels: HashMap::new() };
                let config = Arc::clone(&config);
                tokio::spawn(async move { drop(run_stream(config, stream, guest).await) });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub fn new_key() -> PrivateKey {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap()
}

struct Guest {
    allowed: PublicKey,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let known = key.public_key.key_data() == self.allowed.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(data);
        let path = command.strip_prefix("git-upload-pack '").and_then(|rest| rest.strip_suffix('\''));
        match (path, self.channels.remove(&id)) {
            (Some(path), Some(channel)) => {
                session.channel_success(id)?;
                tokio::spawn(upload_pack(path.to_owned(), channel));
            }
            _ => session.channel_failure(id)?,
        }
        Ok(())
    }
}

async fn upload_pack(path: String, channel: Channel<Msg>) {
    let git = Command::new("git-upload-pack").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut git = git.expect("git is not there");
    let mut pipes = tokio::io::join(git.stdout.take().unwrap(), git.stdin.take().unwrap());
    let mut stream = channel.into_stream();
    let _ = copy_bidirectional(&mut pipes, &mut stream).await;
    let _ = git.wait().await;
}
