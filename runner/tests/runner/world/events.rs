//! What an engine tells of a runner's containers: a witness that is neither the runner nor its coordinator.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime},
};

use caisson_protocol::{AttemptId, BuildId};
use serde_json::Value;

/// What an engine has told, in its order.
pub(crate) struct Events {
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    events: Vec<Event>,
    listener: Option<Child>,
    over: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Event {
    Started {
        attempt: AttemptId,
        nanoseconds: u64,
    },
    Died {
        attempt: AttemptId,
        nanoseconds: u64,
    },
    /// The engine was killed. It ends what it finds of its containers before it answers again.
    EngineGone,
}

impl Events {
    /// Of the containers of one runner, from now on, on an engine that is perhaps not the machine's.
    pub(crate) fn of(runner: &str, host: Option<&str>) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let mut arguments: Vec<String> =
            host.into_iter().flat_map(|host| ["-H".to_owned(), host.to_owned()]).collect();
        arguments.extend(["events", "--format", "{{json .}}"].map(str::to_owned));
        for filter in [&format!("label=caisson.runner={runner}"), "event=start", "event=die"] {
            arguments.extend(["--filter".to_owned(), filter.to_owned()]);
        }
        let (heard, begun) = (Arc::clone(&told), now());
        thread::spawn(move || listen(&heard, &arguments, begun));
        Self { told }
    }

    /// Whether a container runs that has begun since.
    pub(crate) fn is_any_running(&self) -> bool {
        !running(&self.told.lock().unwrap().events).is_empty()
    }

    /// No attempt was run twice, nor after its end, nor beside another of its build.
    pub(crate) fn show_no_overlap(&self, ends: &BTreeMap<AttemptId, u64>) {
        let events = self.told.lock().unwrap().events.clone();
        for (index, event) in events.iter().enumerate() {
            let Event::Started { attempt, nanoseconds } = event else { continue };
            let before = &events[..index];
            let started = |event: &Event| matches!(event, Event::Started { attempt: a, .. } if a == attempt);
            assert!(!before.iter().any(started), "{attempt} was run twice");
            assert!(
                ends.get(attempt).is_none_or(|end| nanoseconds <= end),
                "{attempt} was run after its end"
            );
            let beside = running(before).remove(&attempt.build);
            assert_eq!(beside, None, "{attempt} was run while another attempt ran");
        }
    }

    /// Whether it has told of these.
    pub(crate) fn tell_of<'a>(&self, mut attempts: impl Iterator<Item = &'a AttemptId>) -> bool {
        let told = self.told.lock().unwrap();
        attempts.all(|one| {
            told.events.iter().any(|event| matches!(event, Event::Started { attempt, .. } if attempt == one))
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut told = self.told.lock().unwrap();
        told.over = true;
        if let Some(mut listener) = told.listener.take() {
            let _ = listener.kill();
            let _ = listener.wait();
        }
    }
}

/// A moment as engines tell it.
pub(crate) fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

fn running(events: &[Event]) -> BTreeMap<BuildId, AttemptId> {
    let mut running = BTreeMap::new();
    for event in events {
        match event {
            Event::Started { attempt, .. } => drop(running.insert(attempt.build, *attempt)),
            Event::Died { attempt, .. } if running.get(&attempt.build) == Some(attempt) => {
                running.remove(&attempt.build);
            }
            Event::Died { .. } => {}
            Event::EngineGone => running.clear(),
        }
    }
    running
}

/// Listens until nobody wants to know any more, also to the engine that comes after one that was killed.
fn listen(told: &Mutex<Told>, arguments: &[String], mut since: u64) {
    loop {
        let output = {
            let mut told = told.lock().unwrap();
            if told.over {
                return;
            }
            let since = format!("{}.{:09}", since / 1_000_000_000, since % 1_000_000_000);
            let mut listener = Command::new("docker")
                .args(arguments)
                .args(["--since", &since])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("run scripts/engine");
            let output = listener.stdout.take().unwrap();
            told.listener = Some(listener);
            output
        };
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let event = parse(&line);
            let mut told = told.lock().unwrap();
            // What was told at that very moment is told again.
            if !told.events.contains(&event) {
                if let Event::Started { nanoseconds, .. } | Event::Died { nanoseconds, .. } = event {
                    since = nanoseconds;
                }
                told.events.push(event);
            }
        }
        let mut told = told.lock().unwrap();
        if let Some(mut listener) = told.listener.take() {
            let _ = listener.wait();
        }
        if told.events.last().is_some_and(|last| *last != Event::EngineGone) {
            told.events.push(Event::EngineGone);
        }
        drop(told);
        thread::sleep(Duration::from_millis(20));
    }
}

fn parse(line: &str) -> Event {
    let told: Value = serde_json::from_str(line).unwrap();
    let attempt = told["Actor"]["Attributes"]["caisson.attempt"].as_str().unwrap().parse().unwrap();
    let nanoseconds = told["timeNano"].as_u64().unwrap();
    match told["Action"].as_str().unwrap() {
        "start" => Event::Started { attempt, nanoseconds },
        _ => Event::Died { attempt, nanoseconds },
    }
}
