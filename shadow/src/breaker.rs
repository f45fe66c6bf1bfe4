//! Whether a candidate is asked at all: one that fails again and again is left alone for a while.
//!
//! What is not asked then is no evidence for the candidate: it counts as failed. So a dead
//! candidate costs no time and no connections, and never looks better than it is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row; fewer are chance.
const FAILURES_MAX: u32 = 5;

/// Between two tries of a candidate that fails, at first; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);

/// A candidate that was mended is asked again within so long.
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    pause: Duration,
    /// Nobody asks before; set while it fails.
    until: Option<Instant>,
    /// One has been let through to see whether it answers again.
    tries: bool,
}

impl Breaker {
    /// Whether somebody may ask now. Of those that wait for the end of a pause, one may.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.until = now.checked_add(state.pause);
                state.tries = true;
                true
            }
        }
    }

    pub(crate) fn ended(&self, well: bool, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if well {
            *state = State::default();
            return;
        }
        state.failures = state.failures.saturating_add(1);
        // Those that were on their way when it began say nothing new.
        if state.failures < FAILURES_MAX || state.until.is_some() && !state.tries {
            return;
        }
        state.tries = false;
        state.pause = (state.pause * 2).clamp(PAUSE, PAUSE_MAX);
        state.until = now.checked_add(state.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_that_fails_is_tried_once_a_pause_until_it_answers() {
        let (breaker, begun) = (Breaker::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        for _ in 0..FAILURES_MAX + 10 {
            breaker.ended(false, begun);
        }
        assert!(!breaker.admits(at(999)));
        assert!(
            breaker.admits(at(1_000)) && !breaker.admits(at(1_000)),
            "one tries"
        );
        breaker.ended(false, at(1_001));
        assert!(
            !breaker.admits(at(3_000)) && breaker.admits(at(3_001)),
            "twice as long"
        );
        let mut now = 4_000;
        for _ in 0..10 {
            now += 5_000;
            breaker.ended(false, at(now));
            now += 30_000;
            assert!(breaker.admits(at(now)), "never longer than half a minute");
        }
        breaker.ended(true, at(now));
        assert!(breaker.admits(at(now)) && breaker.admits(at(now)));
    }

    #[test]
    fn single_failures_close_nothing() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for n in 0..100 {
            assert!(breaker.admits(now));
            breaker.ended(n % 4 == 0, now);
        }
    }
}
