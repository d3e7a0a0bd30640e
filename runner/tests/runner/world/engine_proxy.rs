//! An engine's socket behind one of a test's own, at which what passes is lost, refused and cut off.

use std::path::PathBuf;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// The engine's socket behind one of our own that can be shut.
pub(crate) struct EngineProxy {
    pub(crate) path: PathBuf,
    gate: watch::Sender<Gate>,
}

/// What gets through to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Everything.
    Open,
    /// What is there goes on; nothing new, as when the engine begins to shut down.
    NothingNew,
    /// Nothing, as when it was killed.
    Shut,
    /// Nothing, and what is there stays open for ever, as when its host has lost its power.
    Dead,
    /// Everything but what would remove a container, which is said to be going on.
    Removing,
    /// Everything, but that for the next container there is no image.
    ForgetsImage,
    /// Everything but the next such call, which never reaches the engine.
    LosesQuestion(Call),
    /// Everything, but that what the engine answers to the next such call never comes.
    LosesAnswer(Call),
    /// Everything, but that what the engine has ended stays open.
    NeverEnds,
    /// Everything but what is asked for in this path, which is never answered.
    Swallows(&'static str),
    /// Everything but what is asked for in `path`, to which this is the answer.
    Answers { path: &'static str, status: &'static str, body: &'static str },
}

/// What an engine is asked to do with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Upload,
    Attach,
    Start,
    Wait,
    Inspect,
    Remove,
}

impl Call {
    /// What every build does with its container, in this order.
    pub(crate) const OF_A_BUILD: [Self; 6] =
        [Self::Create, Self::Attach, Self::Start, Self::Wait, Self::Inspect, Self::Remove];

    /// Whether this is what a question asks for.
    fn is_in(self, question: &[u8]) -> bool {
        let line = first_line(question);
        let asks = |method: &str, what: &str| line.starts_with(method) && line.contains(what);
        match self {
            Self::Create => asks("POST", "/containers/create?"),
            Self::Upload => asks("PUT", "/archive?"),
            Self::Attach => asks("POST", "/attach?"),
            Self::Start => asks("POST", "/start"),
            Self::Wait => asks("POST", "/wait?"),
            // Neither a list nor a measurement.
            Self::Inspect => {
                asks("GET", "/json")
                    && asks("", "/containers/")
                    && !asks("", "/containers/json")
                    && !asks("", "size=true")
            }
            Self::Remove => asks("DELETE", "/containers/"),
        }
    }
}

impl EngineProxy {
    /// Before the machine's engine.
    pub(crate) fn start(path: PathBuf) -> Self {
        Self::before("/var/run/docker.sock".into(), path)
    }

    pub(crate) fn before(engine: PathBuf, path: PathBuf) -> Self {
        let gate = watch::Sender::new(Gate::Open);
        let proxy = Self { path, gate: gate.clone() };
        let listener = UnixListener::bind(&proxy.path).unwrap();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let now = *gate.borrow();
                if now == Gate::NothingNew || now == Gate::Shut {
                    continue;
                }
                // Where it is away, the client finds that it is.
                if let Ok(engine) = UnixStream::connect(&engine).await {
                    tokio::spawn(pass(client, engine, gate.clone()));
                }
            }
        });
        proxy
    }

    pub(crate) fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// Waits until what was to happen once has happened.
    pub(crate) async fn is_open_again(&self) {
        let what = format!("the engine is asked for what {:?} is about", *self.gate.borrow());
        super::until(&what, async || *self.gate.borrow() == Gate::Open).await;
    }

    pub(crate) fn setting(&self) -> String {
        format!("engine.host=unix://{}", self.path.display())
    }
}

/// What of a connection gets nowhere.
#[derive(Default)]
struct Lost {
    questions: bool,
    answers: bool,
}

async fn pass(client: UnixStream, engine: UnixStream, gate: watch::Sender<Gate>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = engine.into_split();
    let (mut question, mut answered, mut body) = (vec![0; 65536], vec![0; 65536], vec![0; 65536]);
    let mut changes = gate.subscribe();
    let (mut asks, mut lost) = (true, Lost::default());
    loop {
        let now = *changes.borrow_and_update();
        if now == Gate::Shut {
            break;
        }
        if now == Gate::Dead {
            let _ = changes.wait_for(|gate| *gate == Gate::Shut).await;
            break;
        }
        tokio::select! {
            asked = from_client.read(&mut question), if asks => {
                let Ok(length) = asked else { break };
                let question = &question[..length];
                if question.is_empty() {
                    asks = false;
                    let _ = to_engine.shutdown().await;
                    continue;
                }
                match answer_in_its_place(question, &gate, &mut lost) {
                    Some(answer) => {
                        if has_more_to_come(question) {
                            let _ = from_client.read(&mut body).await;
                        }
                        let _ = to_client.write_all(answer.as_bytes()).await;
                    }
                    None if lost.questions => {}
                    None => if to_engine.write_all(question).await.is_err() { break },
                }
            }
            read = from_engine.read(&mut answered) => {
                let Ok(length @ 1..) = read else {
                    if *gate.borrow() == Gate::NeverEnds {
                        std::future::pending::<()>().await;
                    }
                    break;
                };
                if !lost.answers && to_client.write_all(&answered[..length]).await.is_err() {
                    break;
                }
            }
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
}

/// What the gate does with a question: answers it itself, or has it or its answer lost.
fn answer_in_its_place(question: &[u8], gate: &watch::Sender<Gate>, lost: &mut Lost) -> Option<String> {
    let now = *gate.borrow();
    match now {
        Gate::Removing if Call::Remove.is_in(question) => {
            return Some(answer("409 Conflict", "removal of container is already in progress"));
        }
        Gate::ForgetsImage if Call::Create.is_in(question) => {
            gate.send_replace(Gate::Open);
            return Some(answer("404 Not Found", &says("no such image")));
        }
        Gate::LosesQuestion(call) if call.is_in(question) => {
            gate.send_replace(Gate::Open);
            lost.questions = true;
        }
        Gate::LosesAnswer(call) if call.is_in(question) => {
            gate.send_replace(Gate::Open);
            lost.answers = true;
        }
        Gate::Swallows(path) if first_line(question).contains(path) => lost.questions = true,
        Gate::Answers { path, status, body } if first_line(question).contains(path) => {
            return Some(answer(status, body));
        }
        _ => {}
    }
    None
}

/// The head of a request comes in one piece.
fn first_line(question: &[u8]) -> String {
    let line = question.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

/// A body comes apart from its head, but not always.
fn has_more_to_come(question: &[u8]) -> bool {
    let head = String::from_utf8_lossy(question).to_lowercase();
    question.ends_with(b"\r\n\r\n")
        && head.contains("content-length: ")
        && !head.contains("content-length: 0\r")
}

fn says(message: &str) -> String {
    json!({"message": message}).to_string()
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}
