//! A world for stories: a coordinator with a store, scripted runners, and time that passes only when told to.
//!
//! After every step the world checks the scheduler's own invariants, the laws of the history in the store, and that
//! the two agree.

use std::collections::BTreeMap;

use caisson_protocol::{
    AttemptId, BuildId, Condition, CoordinatorMessage, HeldAttempt, HeldPhase, Outcome, Refusal, Registration,
};
use caisson_scheduler::{
    Answer, Effect, Event, Moment, RequestId, Rules, RunnerEvent, Scheduler, SessionId, Step, Submission,
};

use crate::{store::Store, words::*};

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) rules: Rules,
    pub(crate) scheduler: Scheduler,
    pub(crate) store: Store,
    /// The scheduler as it was when it last started or recovered, and what it was told and decided since.
    origin: Scheduler,
    told: Vec<(Moment, Event, Step)>,
    processes: BTreeMap<String, Process>,
    names: BTreeMap<BuildId, String>,
    answers: BTreeMap<RequestId, Answer>,
    sessions: u64,
    requests: u64,
    instances: u64,
    builds: u64,
}

/// A runner's program. It takes what it is given and tells so; the rest is up to the story.
#[derive(Clone)]
struct Process {
    registration: Registration,
    session: Option<SessionId>,
    held: Vec<HeldAttempt>,
    /// Whether it speaks.
    awake: bool,
    /// Whether assignments reach it.
    receives: bool,
    speaks_at: Moment,
    heard: Vec<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(RULES)
    }

    pub(crate) fn with(rules: Rules) -> Self {
        let scheduler = Scheduler::new(rules);
        Self {
            now: Moment(1_000_000),
            rules,
            origin: scheduler.clone(),
            scheduler,
            store: Store::new(rules),
            told: Vec::new(),
            processes: BTreeMap::new(),
            names: BTreeMap::new(),
            answers: BTreeMap::new(),
            sessions: 0,
            requests: 0,
            instances: 0,
            builds: 0,
        }
    }

    // What people do.

    pub(crate) fn submit(&mut self, name: &str) -> BuildId {
        self.submit_for(name, &[])
    }

    pub(crate) fn submit_for(&mut self, name: &str, wanted: &[&str]) -> BuildId {
        let submission = Submission { spec: spec(wanted), ..self.fresh(name) };
        let id = submission.id;
        assert_eq!(self.ask_submit(submission), Answer::Accepted { build: id }, "{name} is not accepted");
        id
    }

    /// A submission that was not made before.
    pub(crate) fn fresh(&mut self, name: &str) -> Submission {
        let submission = submission(self.builds + 1);
        self.names.insert(submission.id, name.to_owned());
        submission
    }

    pub(crate) fn fresh_keyed(&mut self, name: &str, key: &str, digest: &str) -> Submission {
        let submission = self.fresh(name);
        Submission { key: keyed(0, key, digest).key, ..submission }
    }

    pub(crate) fn ask_submit(&mut self, submission: Submission) -> Answer {
        let answer = self.ask(|request| Event::Submit { request, submission });
        self.builds += u64::from(matches!(answer, Answer::Accepted { .. }));
        answer
    }

    pub(crate) fn cancel(&mut self, build: BuildId) -> Answer {
        self.ask(|request| Event::Cancel { request, build })
    }

    pub(crate) fn drain(&mut self, runner: &str) -> Answer {
        let runner = runner_id(runner);
        self.ask(|request| Event::Drain { request, runner })
    }

    fn ask(&mut self, event: impl FnOnce(RequestId) -> Event) -> Answer {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.apply(event(request));
        self.answers[&request]
    }

    // What runners do.

    pub(crate) fn runner(&mut self, name: &str, capacity: u32) {
        self.runner_with(name, capacity, &[]);
    }

    pub(crate) fn runner_with(&mut self, name: &str, capacity: u32, offered: &[&str]) {
        let registration = Registration { labels: labels(offered), ..registration(name, 0, capacity) };
        let process = Process {
            registration,
            session: None,
            held: Vec::new(),
            awake: true,
            receives: true,
            speaks_at: self.now,
            heard: Vec::new(),
        };
        self.processes.insert(name.to_owned(), process);
        self.restarts(name);
    }

    /// The same process connects, and says what it holds.
    pub(crate) fn connects(&mut self, name: &str) -> SessionId {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let process = self.process(name);
        process.session = Some(session);
        process.awake = true;
        let registration = Registration { held: process.held.clone(), ..process.registration.clone() };
        self.register(session, registration);
        session
    }

    pub(crate) fn register(&mut self, session: SessionId, registration: Registration) {
        let runner = runner_id(&registration.name);
        self.apply(Event::Runner { session, event: RunnerEvent::Register { runner, registration } });
    }

    pub(crate) fn latest_session(&self) -> u64 {
        self.sessions
    }

    /// A connection that nobody has used.
    pub(crate) fn new_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(self.sessions)
    }

    /// A new process in the place of the one before, which is gone without a word. It takes up what had ended.
    pub(crate) fn restarts(&mut self, name: &str) {
        self.instances += 1;
        let instance = uuid::Uuid::from_u128(self.instances.into());
        let process = self.process(name);
        process.held.retain(|held| held.phase == HeldPhase::Finished);
        process.registration.instance = instance;
        self.connects(name);
    }

    /// The connection is cut, and the coordinator notices.
    pub(crate) fn loses_connection(&mut self, name: &str) {
        let session = self.process(name).session.take();
        if let Some(session) = session {
            self.apply(Event::Runner { session, event: RunnerEvent::Disconnected });
        }
    }

    /// It says nothing any more; its connection stands.
    pub(crate) fn freezes(&mut self, name: &str) {
        self.process(name).awake = false;
    }

    pub(crate) fn thaws(&mut self, name: &str) {
        self.process(name).awake = true;
    }

    /// From now on, no assignment gets through to it.
    pub(crate) fn loses_assignments(&mut self, name: &str) {
        self.process(name).receives = false;
    }

    pub(crate) fn receives_assignments(&mut self, name: &str) {
        self.process(name).receives = true;
    }

    pub(crate) fn changes_capacity(&mut self, name: &str, capacity: u32) {
        self.process(name).registration.capacity = capacity;
    }

    pub(crate) fn starts_draining(&mut self, name: &str) {
        self.process(name).registration.draining = true;
        let held = self.process(name).held.clone();
        self.says(name, RunnerEvent::Draining { held });
    }

    pub(crate) fn falls_ill(&mut self, name: &str) {
        self.condition(name, Some("its disk is full"));
    }

    pub(crate) fn recovers(&mut self, name: &str) {
        self.condition(name, None);
    }

    fn condition(&mut self, name: &str, unhealthy: Option<&str>) {
        let condition = Condition { unhealthy: unhealthy.map(str::to_owned), ..Condition::default() };
        self.process(name).registration.condition = condition.clone();
        self.says(name, RunnerEvent::Condition(condition));
    }

    pub(crate) fn keeps_alive(&mut self, name: &str) {
        let held = self.process(name).held.clone();
        self.says(name, RunnerEvent::KeepAlive { held });
    }

    pub(crate) fn starts(&mut self, name: &str, build: BuildId) {
        let attempt = self.held(name, build);
        self.phase(name, attempt, HeldPhase::Running);
        self.says(name, RunnerEvent::Started { attempt, resolved_commit: commit(), image_digest: None });
    }

    pub(crate) fn succeeds(&mut self, name: &str, build: BuildId) {
        self.finishes(name, build, Outcome::Succeeded);
    }

    pub(crate) fn finishes(&mut self, name: &str, build: BuildId, outcome: Outcome) {
        let attempt = self.held(name, build);
        self.phase(name, attempt, HeldPhase::Finished);
        self.says(name, RunnerEvent::Finished { attempt, report: report(outcome) });
    }

    /// It ends while there is no connection: the report waits in the spool.
    pub(crate) fn finishes_unheard(&mut self, name: &str, build: BuildId) {
        let attempt = self.held(name, build);
        self.phase(name, attempt, HeldPhase::Finished);
    }

    pub(crate) fn releases(&mut self, name: &str, build: BuildId) {
        let attempt = self.held(name, build);
        self.process(name).held.retain(|held| held.attempt != attempt);
        self.says(name, RunnerEvent::Released { attempt });
    }

    pub(crate) fn says(&mut self, name: &str, event: RunnerEvent) {
        let Some(session) = self.session(name) else { return };
        self.says_on(session, event);
    }

    pub(crate) fn says_on(&mut self, session: SessionId, event: RunnerEvent) {
        self.apply(Event::Runner { session, event });
    }

    pub(crate) fn session(&self, name: &str) -> Option<SessionId> {
        self.processes[name].session
    }

    pub(crate) fn has_process(&self, name: &str) -> bool {
        self.processes.contains_key(name)
    }

    pub(crate) fn registration(&self, name: &str) -> Registration {
        self.processes[name].registration.clone()
    }

    // What happens to the coordinator.

    /// Time passes: runners that are awake speak every interval, and the timer goes off at each deadline.
    pub(crate) fn passes(&mut self, ms: u64) {
        let end = self.now.after_ms(ms);
        loop {
            let speaker = self.next_to_speak();
            let speaks_at = speaker.as_ref().map_or(Moment(u64::MAX), |(at, _)| *at);
            let wakes_at = self.scheduler.next_deadline().unwrap_or(Moment(u64::MAX));
            let next = speaks_at.min(wakes_at);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            match speaker {
                Some((at, name)) if at <= wakes_at => self.speaks(&name),
                _ => self.wakes(),
            }
        }
        self.now = end;
    }

    /// The coordinator is away for a while, and what runners say in the meantime waits.
    pub(crate) fn stalls(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.wakes();
    }

    pub(crate) fn wakes(&mut self) {
        self.apply(Event::Wake);
    }

    /// The coordinator dies, and another one goes on with what is stored. All connections end.
    pub(crate) fn coordinator_restarts(&mut self) {
        self.processes.values_mut().for_each(|process| process.session = None);
        self.scheduler = Scheduler::restore(self.rules, self.now, self.store.restored());
        self.begins_anew();
    }

    /// Something is decided that can't be stored. Nobody hears of it.
    pub(crate) fn commit_fails(&mut self, event: Event) {
        self.commit_of_all_fails([event], &[]);
    }

    pub(crate) fn commit_of_all_fails<const N: usize>(&mut self, events: [Event; N], refused: &[RequestId]) {
        for event in events {
            self.scheduler.apply(self.now, event);
        }
        self.scheduler.recover(self.now, self.store.restored(), refused);
        self.begins_anew();
    }

    fn begins_anew(&mut self) {
        self.store.agrees(&self.scheduler).unwrap();
        self.origin = self.scheduler.clone();
        self.told.clear();
    }

    /// One event, one step: decided, stored, checked, let out.
    pub(crate) fn apply(&mut self, event: Event) {
        let step = self.scheduler.apply(self.now, event.clone());
        self.told.push((self.now, event, step.clone()));
        let offers = self.scheduler.runners().into_iter();
        let offers = offers.filter_map(|runner| Some((runner.id, runner.registration?.labels))).collect();
        self.store.commit(&step.changes, &offers).unwrap();
        self.store.agrees(&self.scheduler).unwrap();
        self.scheduler.check().unwrap();
        for effect in step.effects {
            match effect {
                Effect::Answer { request, answer } => drop(self.answers.insert(request, answer)),
                Effect::Send { session, message } => self.deliver(session, message),
                Effect::Close { session } => self.close(session),
            }
        }
    }

    /// The same events make the same steps, from the same beginning.
    pub(crate) fn repeats(&self) {
        let mut again = self.origin.clone();
        for (now, event, step) in &self.told {
            assert_eq!(again.apply(*now, event.clone()), *step);
        }
        assert_eq!(again, self.scheduler);
    }

    fn deliver(&mut self, session: SessionId, message: CoordinatorMessage) {
        let word = self.in_words(&message);
        let Some(process) = self.processes.values_mut().find(|p| p.session == Some(session)) else { return };
        process.heard.push(word);
        match message {
            CoordinatorMessage::Registered { drop, .. } => {
                process.held.retain(|held| !drop.contains(&held.attempt));
            }
            CoordinatorMessage::Assign { attempt, .. } if process.receives => {
                process.held.push(HeldAttempt { attempt, phase: HeldPhase::Preparing });
                self.says_on(session, RunnerEvent::Accepted { attempt });
            }
            CoordinatorMessage::Drop { attempt } | CoordinatorMessage::FinishedAck { attempt } => {
                process.held.retain(|held| held.attempt != attempt);
            }
            CoordinatorMessage::Drain => process.registration.draining = true,
            _ => {}
        }
    }

    fn close(&mut self, session: SessionId) {
        if let Some(process) = self.processes.values_mut().find(|p| p.session == Some(session)) {
            process.session = None;
            process.heard.push("closed".to_owned());
        }
    }

    fn next_to_speak(&self) -> Option<(Moment, String)> {
        let speaking =
            self.processes.iter().filter(|(_, process)| process.awake && process.session.is_some());
        speaking.map(|(name, process)| (process.speaks_at, name.clone())).min()
    }

    fn speaks(&mut self, name: &str) {
        let next = self.now.after_ms(self.rules.interval_ms);
        self.process(name).speaks_at = next;
        self.keeps_alive(name);
    }

    // What one sees.

    #[track_caller]
    pub(crate) fn expect(&self, build: BuildId, status: &str) {
        assert_eq!(self.status(build), status, "build {}", self.names[&build]);
    }

    /// What a runner was told since it was last asked.
    pub(crate) fn told(&mut self, name: &str) -> Vec<String> {
        std::mem::take(&mut self.process(name).heard)
    }

    pub(crate) fn answer(&self, request: RequestId) -> Option<Answer> {
        self.answers.get(&request).copied()
    }

    pub(crate) fn last_step(&self) -> &Step {
        &self.told.last().unwrap().2
    }

    pub(crate) fn runners(&self) -> Vec<String> {
        self.scheduler.runners().into_iter().map(|runner| runner.name).collect()
    }

    pub(crate) fn queue(&self) -> Vec<String> {
        let waiting = self.scheduler.queue(usize::MAX);
        waiting.iter().map(|build| self.names[&build.id].clone()).collect()
    }

    /// The attempt of a build that a runner's process has.
    pub(crate) fn held(&self, name: &str, build: BuildId) -> AttemptId {
        let held = self.processes[name].held.iter().map(|held| held.attempt);
        held.rev().find(|attempt| attempt.build == build).unwrap()
    }

    pub(crate) fn holds(&self, name: &str) -> Vec<AttemptId> {
        self.processes[name].held.iter().map(|held| held.attempt).collect()
    }

    fn status(&self, build: BuildId) -> String {
        let row = self.store.row(build).unwrap();
        let attempt = match row.attempts.len() {
            0 => String::new(),
            number => format!(", attempt {number}"),
        };
        let place = match (row.current(), &row.outcome) {
            (Some(current), _) => format!(" on {}", current.runner.name),
            (_, Some(Outcome::Errored { reason, .. })) => format!(", {reason}"),
            _ => String::new(),
        };
        format!("{}{attempt}{place}", row.status)
    }

    fn in_words(&self, message: &CoordinatorMessage) -> String {
        let name = |attempt: &AttemptId| {
            let build = self.names.get(&attempt.build).map_or("?", String::as_str);
            format!("{build}.{}", attempt.number)
        };
        let list = |attempts: &[AttemptId]| attempts.iter().map(name).collect::<Vec<_>>().join(" ");
        match message {
            CoordinatorMessage::Registered { keep, drop, .. } => match (keep.len(), drop.len()) {
                (0, 0) => "registered".to_owned(),
                _ => format!("registered, keep [{}] drop [{}]", list(keep), list(drop)),
            },
            CoordinatorMessage::Refused { reason: Refusal::Superseded, .. } => "superseded".to_owned(),
            CoordinatorMessage::Assign { attempt, .. } => format!("assign {}", name(attempt)),
            CoordinatorMessage::Cancel { attempt } => format!("cancel {}", name(attempt)),
            CoordinatorMessage::Drop { attempt } => format!("drop {}", name(attempt)),
            CoordinatorMessage::FinishedAck { attempt } => format!("ack {}", name(attempt)),
            CoordinatorMessage::Drain => "drain".to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap()
    }

    fn phase(&mut self, name: &str, attempt: AttemptId, phase: HeldPhase) {
        let held = self.process(name).held.iter_mut();
        held.filter(|held| held.attempt == attempt).for_each(|held| held.phase = phase);
    }
}
