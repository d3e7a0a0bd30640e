//! How often each caller may ask: by address and by token, and stricter where it is guessed who somebody is.
//!
//! A bucket for each caller, as one moment: when all that it has asked for so far is worked off at the rate it is
//! allowed (the *generic cell rate algorithm*). Moments are the runtime's, so that this holds in simulated time as well.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{App, access, front::network, problem::Problem};

/// For how many seconds' worth a caller may ask at once that was quiet before: a page loads many files.
const BURST_SECONDS: u32 = 10;
/// How many callers are told apart. Those beyond share what one may.
const CALLERS_MAX: usize = 65_536;
/// How often room is made for callers that are new.
const CLEAR_EVERY: Duration = Duration::from_secs(1);
/// Where somebody says who they are.
const DOORS: [&str; 4] =
    ["/sign-in", "/api/v1/session", "/api/v1/session/password", "/api/v1/runner/credential"];

/// How often each caller may ask.
pub struct Limiter {
    /// `None` where as many are taken as come.
    requests: Option<Buckets<Caller>>,
    failures: Option<Buckets<IpAddr>>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Caller {
    Address(IpAddr),
    /// The digest of what was shown, whether or not it is worth anything.
    Token([u8; 32]),
}

impl Limiter {
    /// So many requests in a second, and failures to sign in in a minute; 0 for as many as come.
    #[must_use]
    pub fn new(requests_per_second: u32, failures_per_minute: u32) -> Self {
        let requests = (requests_per_second > 0)
            .then(|| Buckets::new(requests_per_second.saturating_mul(BURST_SECONDS), BURST_SECONDS));
        let failures = (failures_per_minute > 0).then(|| Buckets::new(failures_per_minute, 60));
        Self { requests, failures }
    }

    /// As many as come.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(0, 0)
    }

    /// Counts a request. `Err` holds how long to wait.
    fn admit(&self, address: IpAddr, headers: &HeaderMap) -> Result<(), Duration> {
        // What is on this machine could overwhelm it in any other way, too.
        let Some(requests) = self.requests.as_ref().filter(|_| !address.is_loopback()) else { return Ok(()) };
        requests.take(Caller::Address(network(address)))?;
        let shown = access::bearer(headers).or_else(|| access::session(headers));
        match shown {
            Some(token) => requests.take(Caller::Token(Sha256::digest(token.as_bytes()).into())),
            None => Ok(()),
        }
    }
}

/// Refuses callers that ask too often.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limiter = &app.front.limiter;
    let address = app.front.caller(&request);
    if let Err(wait) = limiter.admit(address, request.headers()) {
        return refuse("too many requests from this address or with this token", wait);
    }
    let failures = limiter.failures.as_ref().filter(|_| is_attempt(&request));
    let Some(failures) = failures else { return next.run(request).await };
    // Counted beforehand, so that many guesses at once are not all let through before the first turns out wrong.
    let address = network(address);
    if let Err(wait) = failures.take(address) {
        return refuse("too many failed attempts to sign in from this address", wait);
    }
    let response = next.run(request).await;
    if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        failures.give_back(address);
    }
    response
}

/// Whether somebody says who they are. The page to do so on is looked at freely.
fn is_attempt(request: &Request) -> bool {
    let shows = *request.method() != Method::GET || request.uri().query().is_some();
    shows && *request.method() != Method::DELETE && DOORS.contains(&request.uri().path())
}

fn refuse(cause: &str, wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let problem = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        format!("{cause}: try again in {seconds} s"),
    );
    let mut response = problem.into_response();
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

/// A bucket for each of those that are told apart.
struct Buckets<K> {
    /// How much of its time each thing that is taken costs.
    interval: Duration,
    /// How far ahead of its time one may be.
    tolerance: Duration,
    callers: Mutex<Callers<K>>,
}

/// When each will have worked off all it took. Who has done so needs no entry.
struct Callers<K> {
    worked_off: HashMap<Option<K>, Instant>,
    /// When those without need were last looked for: not with every request, however many strangers come.
    cleared: Option<Instant>,
}

impl<K: Copy + Eq + Hash> Callers<K> {
    /// Where a caller stands, or, where there is no room for one more, all of those for whom there is none.
    fn place(&mut self, key: K, now: Instant) -> &mut Instant {
        let is_known = self.worked_off.contains_key(&Some(key));
        let is_full = |callers: &Self| callers.worked_off.len() >= CALLERS_MAX;
        if !is_known && is_full(self) && self.cleared.is_none_or(|then| now - then >= CLEAR_EVERY) {
            self.cleared = Some(now);
            self.worked_off.retain(|_, worked_off| *worked_off > now);
        }
        let has_room = is_known || !is_full(self);
        self.worked_off.entry(has_room.then_some(key)).or_insert(now)
    }
}

impl<K: Copy + Eq + Hash> Buckets<K> {
    /// `count` at once, and as many again in each period.
    fn new(count: u32, period_seconds: u32) -> Self {
        let period = Duration::from_secs(period_seconds.into());
        let interval = period / count.max(1);
        let callers = Mutex::new(Callers { worked_off: HashMap::new(), cleared: None });
        Self { interval, tolerance: period.saturating_sub(interval), callers }
    }

    fn take(&self, key: K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let worked_off = callers.place(key, now);
        let ahead = worked_off.saturating_duration_since(now);
        match ahead.checked_sub(self.tolerance) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *worked_off = now + ahead + self.interval;
                Ok(())
            }
        }
    }

    fn give_back(&self, key: K) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worked_off) = callers.worked_off.get_mut(&Some(key)) {
            *worked_off -= self.interval;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s51_a_bucket_gives_a_burst_and_then_its_rate() {
        let buckets = Buckets::new(10, 5);
        let taken = |key| (0..100).take_while(|_| buckets.take(key).is_ok()).count();
        assert_eq!((taken('a'), taken('a'), taken('b')), (10, 0, 10));
        let wait = buckets.take('a').unwrap_err();
        tokio::time::advance(wait + Duration::from_millis(1)).await;
        assert_eq!(taken('a'), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken('a'), 4);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken('a'), 10, "who was quiet for long has no more than one burst");
    }

    #[tokio::test(start_paused = true)]
    async fn s51_what_is_given_back_can_be_taken_again() {
        let buckets = Buckets::new(2, 60);
        for _ in 0..100 {
            buckets.take('a').unwrap();
            buckets.give_back('a');
        }
        assert!(buckets.take('a').is_ok() && buckets.take('a').is_ok() && buckets.take('a').is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn s51_callers_without_number_cost_no_memory_without_end() {
        let buckets = Buckets::new(1, 60);
        let cost = |keys: std::ops::Range<usize>| {
            let began = std::time::Instant::now();
            for key in keys {
                let _ = buckets.take(key);
            }
            began.elapsed()
        };
        let (with_room, without) = (cost(0..CALLERS_MAX), cost(CALLERS_MAX..2 * CALLERS_MAX));
        assert!(without < 50 * with_room, "nor time: {without:?} after {with_room:?}");
        let known = || buckets.callers.lock().unwrap().worked_off.len();
        assert!(known() <= CALLERS_MAX + 1, "{}", known());
        assert!(buckets.take(7).is_err(), "who was counted before still is");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(buckets.take(2 * CALLERS_MAX).is_ok());
        assert!(known() < 10, "those who have worked it off are forgotten: {}", known());
    }
}
