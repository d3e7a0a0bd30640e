//! Growing pauses between tries, no two runners' alike.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Pauses that double up to a limit, each shortened by up to a quarter.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { next: min.min(max), max }
    }

    /// How long to wait before the next try.
    pub(super) fn next_pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.max);
        // After an outage all runners lost their connection at once, and would all come back at once.
        whole - whole.mul_f64(0.25 * random_part())
    }
}

/// A number from 0 to 1 that differs from one process to the next; it need not be hard to guess.
fn random_part() -> f64 {
    f64::from(u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_none_is_longer() {
        let (min, max) = (Duration::from_millis(200), Duration::from_secs(10));
        let mut backoff = Backoff::new(min, max);
        let mut whole = min;
        for _ in 0..20 {
            let pause = backoff.next_pause();
            assert!(pause <= whole && pause >= whole.mul_f64(0.75), "{pause:?} of {whole:?}");
            whole = (whole * 2).min(max);
        }
        assert_eq!(whole, max);
    }

    #[test]
    fn a_limit_below_the_first_pause_holds() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_millis(10));
        assert!(backoff.next_pause() <= Duration::from_millis(10));
    }
}
