//! People: they submit, cancel, look and drain, over HTTP and links as bad as those of the runners.

mod request;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caisson_protocol::{BuildId, BuildSpec, Labels, RunnerId, Status};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    books::Standing,
    dice::Dice,
    life::Life,
    network::Link,
    plan::Script,
    world::{World, short},
};
use request::{Answer, Lost, Request};

/// How long a person waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The label that some builds ask for.
const LABEL: &str = "special";

/// The people, and what they were told.
pub struct People {
    world: Arc<World>,
    link: Arc<Link>,
    life: Arc<Life>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    dice: Option<Dice>,
    submissions: BTreeMap<usize, Submitted>,
    /// How builds were when they were last shown to have ended.
    ended: BTreeMap<BuildId, String>,
    /// Builds of which was told that they are being canceled.
    canceling: Vec<BuildId>,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Submitted {
    Accepted(BuildId),
    Refused,
    /// No answer came.
    Unknown,
}

/// What a script is, as a build's description.
#[must_use]
pub fn spec(number: usize, script: &Script) -> BuildSpec {
    serde_json::from_value(json!({
        "repository_url": "https://example.org/app.git",
        "commit": "main",
        "command": command(number),
        "image": "busybox",
        "labels": labels(script.labelled),
        "timeout_seconds": script.timeout_seconds,
    }))
    .unwrap_or_else(|error| panic!("a script is a valid build: {error}"))
}

/// The labels of what has them.
#[must_use]
pub fn labels(labelled: bool) -> Labels {
    let names: &[&str] = if labelled { &[LABEL] } else { &[] };
    serde_json::from_value(json!(names)).unwrap_or_default()
}

fn command(number: usize) -> String {
    format!("run script {number}")
}

impl People {
    /// People who do what the plan says.
    pub fn begin(world: Arc<World>, link: Arc<Link>) -> Arc<Self> {
        let told = Told { dice: Some(world.dice.of("people")), ..Told::default() };
        let people = Arc::new(Self { world, link, life: Life::new(), told: Mutex::new(told) });
        for number in 0..people.world.plan.scripts.len() {
            tokio::spawn(Arc::clone(&people).submits(number));
        }
        tokio::spawn(Arc::clone(&people).looks());
        people
    }

    /// A person drains a runner.
    pub fn drain(self: &Arc<Self>, name: String) {
        let people = Arc::clone(self);
        tokio::spawn(async move {
            // As a person would: by name.
            let path = format!("/api/v1/runners/{name}/drain");
            if let Ok(answer) = people.ask(&Request::post(&path, &Value::Null)).await {
                let known = RunnerId::of_name(&name);
                people.world.note(format_args!("a person drains {name} ({known}): {}", answer.status));
                people.world.count("drained by a person");
            }
        });
    }

    /// Whether everything was submitted, or given up.
    pub fn are_done(&self) -> bool {
        self.told().submissions.len() == self.world.plan.scripts.len()
    }

    async fn submits(self: Arc<Self>, number: usize) {
        let script = self.world.plan.scripts[number].clone();
        sleep(script.submit_at).await;
        let submitted = self.submit(number, &script).await;
        self.world.note(format_args!("script {number} is submitted: {}", Shown(submitted)));
        self.told().submissions.insert(number, submitted);
        if let (Submitted::Accepted(build), Some(after)) = (submitted, script.cancel_after) {
            sleep(after).await;
            self.cancel(build).await;
        }
    }

    /// Submits a build. With a key it is submitted again until an answer comes.
    async fn submit(&self, number: usize, script: &Script) -> Submitted {
        let spec = json!(spec(number, script));
        let mut request = Request::post("/api/v1/builds", &spec);
        if script.keyed {
            request.key(&format!("key {number}"));
        }
        loop {
            match self.ask(&request).await {
                Ok(answer) => match self.submission_answered(number, &answer) {
                    Some(submitted) => return submitted,
                    None if script.keyed => {}
                    // What was refused is not there, so it may as well be tried again without a key.
                    None => return Submitted::Refused,
                },
                Err(Lost::NotConnected) if !script.keyed => return Submitted::Refused,
                Err(Lost::NotConnected) => {}
                Err(Lost::Unknown) => {
                    self.world.count("answer to a submission lost");
                    if !script.keyed {
                        return Submitted::Unknown;
                    }
                }
            }
            let pause_ms = self.dice(500..=4000);
            sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// What an answer means. `None` for: try again later.
    fn submission_answered(&self, number: usize, answer: &Answer) -> Option<Submitted> {
        let id = answer.body["id"].as_str().and_then(|id| id.parse().ok());
        match (answer.status, id) {
            (201 | 200, Some(id)) => {
                if answer.status == 200 {
                    self.world.count("submission repeated, same build");
                }
                let there = self.world.books().get(id).is_some_and(|entry| entry.script == number);
                let holds = if there { Ok(()) } else { Err(format!("{} for script {number}", short(id))) };
                self.world.hold("I7: what is accepted is committed", holds);
                Some(Submitted::Accepted(id))
            }
            (429, _) => {
                self.world.count("queue full");
                let (limit, depth) = (answer.body["limit"].as_u64(), answer.body["depth"].as_u64());
                let holds = if depth >= limit { Ok(()) } else { Err(format!("{depth:?} of {limit:?}")) };
                self.world.hold("I5: refused only when full", holds);
                Some(Submitted::Refused)
            }
            (503, _) if answer.body["code"] == "outcome_unknown" => {
                self.world.count("outcome of a submission unknown");
                (!self.world.plan.scripts[number].keyed).then_some(Submitted::Unknown)
            }
            (503, _) => {
                self.world.count("submission refused for now");
                None
            }
            _ => {
                let what = format!("{} to script {number}: {}", answer.status, answer.body);
                self.world.hold("answers are those of the API", Err(what));
                Some(Submitted::Unknown)
            }
        }
    }

    async fn cancel(&self, build: BuildId) {
        loop {
            if let Ok(answer) =
                self.ask(&Request::post(&format!("/api/v1/builds/{build}/cancel"), &Value::Null)).await
            {
                self.world.note(format_args!("cancel of {}: {}", short(build), answer.status));
                match answer.status {
                    202 => {
                        self.told().canceling.push(build);
                        return;
                    }
                    200 => return self.shown(build, &answer.body),
                    503 => {}
                    _ => {
                        let what = format!("{} to a cancel: {}", answer.status, answer.body);
                        return self.world.hold("answers are those of the API", Err(what));
                    }
                }
            }
            let pause_ms = self.dice(500..=4000);
            sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// Looks at things now and then.
    async fn looks(self: Arc<Self>) {
        loop {
            let pause_ms = self.dice(1000..=12_000);
            sleep(Duration::from_millis(pause_ms)).await;
            let submissions = self.told().submissions.clone();
            let accepted = submissions.values().filter_map(|submitted| match submitted {
                Submitted::Accepted(build) => Some(*build),
                Submitted::Refused | Submitted::Unknown => None,
            });
            let accepted: Vec<BuildId> = accepted.collect();
            let which = self.dice(0..=accepted.len() as u64 + 1);
            match usize::try_from(which).ok().and_then(|which| accepted.get(which)) {
                Some(build) => self.look_at(*build).await,
                None => self.look_around().await,
            }
        }
    }

    async fn look_at(&self, build: BuildId) {
        let Ok(answer) = self.ask(&Request::get(&format!("/api/v1/builds/{build}"))).await else { return };
        match answer.status {
            200 => self.shown(build, &answer.body),
            503 => {}
            status => {
                let what = format!("{status} for {}", short(build));
                self.world.hold("I1: an accepted build is shown", Err(what));
            }
        }
    }

    async fn look_around(&self) {
        for path in ["/api/v1/queue", "/api/v1/runners", "/api/v1/builds?limit=5"] {
            let Ok(answer) = self.ask(&Request::get(path)).await else { return };
            let fits = answer.status == 200 || answer.status == 503;
            let holds = if fits { Ok(()) } else { Err(format!("{} for {path}", answer.status)) };
            self.world.hold("answers are those of the API", holds);
        }
    }

    /// What has ended once has ended so for good.
    fn shown(&self, build: BuildId, body: &Value) {
        let status = body["status"].as_str().unwrap_or_default().to_owned();
        let terminal = Status::ALL.iter().any(|one| one.is_terminal() && one.as_str() == status);
        if terminal {
            let before = self.told().ended.entry(build).or_insert_with(|| status.clone()).clone();
            let holds = if before == status {
                Ok(())
            } else {
                Err(format!("{} was {before} and is {status}", short(build)))
            };
            self.world.hold("I2: what is shown to have ended stays so", holds);
        }
    }

    /// Once everything is over: what people were told is how it is.
    pub fn check(&self) {
        let told = self.told();
        for (number, submitted) in &told.submissions {
            self.world
                .hold("I7: submissions are there as often as was told", self.is_there(*number, *submitted));
        }
        let books = self.world.books();
        for build in &told.canceling {
            let canceled = books.get(*build).map(|entry| &entry.standing)
                == Some(&Standing::Ended(caisson_protocol::Outcome::Canceled));
            let holds = if canceled { Ok(()) } else { Err(format!("{:?}", books.get(*build))) };
            self.world.hold("rule 7: what is being canceled ends canceled", holds);
        }
        for (build, status) in &told.ended {
            let is = books.get(*build).map(|entry| &entry.standing);
            let same = matches!(is, Some(Standing::Ended(outcome)) if outcome.status().as_str() == status);
            let holds =
                if same { Ok(()) } else { Err(format!("{} was shown {status}, is {is:?}", short(*build))) };
            self.world.hold("I2: what was shown to have ended stays so", holds);
        }
    }

    fn is_there(&self, number: usize, submitted: Submitted) -> Result<(), String> {
        let books = self.world.books();
        let builds: Vec<BuildId> =
            books.builds.iter().filter(|(_, entry)| entry.script == number).map(|(id, _)| *id).collect();
        let fits = match submitted {
            Submitted::Accepted(build) => builds == [build],
            Submitted::Refused => builds.is_empty(),
            Submitted::Unknown => builds.len() <= 1,
        };
        let builds: Vec<String> = builds.into_iter().map(short).collect();
        if fits { Ok(()) } else { Err(format!("script {number}: {} is {builds:?}", Shown(submitted))) }
    }

    async fn ask(&self, request: &Request) -> Result<Answer, Lost> {
        timeout(PATIENCE, request.send(&self.link, &self.life)).await.unwrap_or(Err(Lost::Unknown))
    }

    fn dice(&self, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.told().dice.as_mut().map_or(0, |dice| dice.within(range))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Shown(Submitted);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Submitted::Accepted(build) => write!(f, "accepted as {}", short(build)),
            Submitted::Refused => f.write_str("refused"),
            Submitted::Unknown => f.write_str("unknown"),
        }
    }
}
