//! A network that can be made bad: a TCP proxy between a runner and its coordinator.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the network does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything arrives at once.
    Fine,
    /// Everything arrives this much later.
    Slow(Duration),
    /// Nothing arrives, and nobody is told: connections stay open, new ones are accepted.
    Swallow,
    /// Connections are cut, and new ones refused.
    Cut,
    /// Each connection is cut after this many bytes from the runner, in mid-frame as a rule.
    CutAfter(usize),
    /// Each message from the runner arrives twice.
    Twice,
}

pub struct ChaosProxy {
    pub address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    accepting: JoinHandle<()>,
}

impl ChaosProxy {
    pub async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(watch::Sender::new(Weather::Fine));
        let accepting = tokio::spawn(accept(listener, to.to_owned(), Arc::clone(&weather)));
        Self { address, weather, accepting }
    }

    pub fn turns(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: String, weather: Arc<watch::Sender<Weather>>) {
    loop {
        let (runner, _) = listener.accept().await.unwrap();
        if *weather.borrow() == Weather::Cut {
            continue;
        }
        let Ok(coordinator) = TcpStream::connect(&to).await else { continue };
        tokio::spawn(connection(runner, coordinator, weather.subscribe()));
    }
}

/// Passes both directions on until one ends or the weather cuts them.
async fn connection(runner: TcpStream, coordinator: TcpStream, mut weather: watch::Receiver<Weather>) {
    let (from_runner, to_runner) = runner.into_split();
    let (from_coordinator, to_coordinator) = coordinator.into_split();
    let up = pass(from_runner, to_coordinator, weather.clone(), true);
    let down = pass(from_coordinator, to_runner, weather.clone(), false);
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = weather.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    is_up: bool,
) {
    let mut frames = Frames::default();
    let mut passed = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..read];
        let now = *weather.borrow();
        // Messages are told apart from the beginning on, whatever the weather, or their edges would be lost.
        let messages = if is_up { frames.take(bytes) } else { vec![] };
        let out = match now {
            Weather::Fine => bytes.to_vec(),
            Weather::Slow(by) => {
                tokio::time::sleep(by).await;
                bytes.to_vec()
            }
            Weather::Swallow => continue,
            Weather::Cut => return,
            Weather::CutAfter(most) if is_up && passed + read > most => {
                let _ = to.write_all(&bytes[..most.saturating_sub(passed)]).await;
                return;
            }
            Weather::CutAfter(_) => bytes.to_vec(),
            Weather::Twice if is_up => {
                messages.into_iter().flat_map(|message| [message.clone(), message].concat()).collect()
            }
            Weather::Twice => bytes.to_vec(),
        };
        passed += read;
        if to.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Tells whole WebSocket messages apart in a stream of bytes (RFC 6455, 5.2). The HTTP head before them is passed as
/// one piece, once.
#[derive(Default)]
struct Frames {
    pending: Vec<u8>,
    is_upgraded: bool,
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.pending.extend_from_slice(bytes);
        let mut whole = Vec::new();
        if !self.is_upgraded {
            let Some(end) = self.pending.windows(4).position(|four| four == b"\r\n\r\n") else {
                return whole;
            };
            whole.push(self.pending.drain(..end + 4).collect());
            self.is_upgraded = true;
        }
        while let Some(length) = frame_length(&self.pending).filter(|length| *length <= self.pending.len()) {
            whole.push(self.pending.drain(..length).collect());
        }
        whole
    }
}

fn frame_length(bytes: &[u8]) -> Option<usize> {
    let short = usize::from(bytes.get(1)? & 0x7f);
    let mask = if bytes[1] & 0x80 == 0 { 0 } else { 4 };
    let (head, payload) = match short {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).unwrap()),
        short => (2, short),
    };
    Some(head + mask + payload)
}
