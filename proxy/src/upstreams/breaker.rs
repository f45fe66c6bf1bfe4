//! Sparing a service that fails: nothing is sent to it for a while, then one request finds out
//! whether it is back.
//!
//! Shared by all cores. While it is closed a good answer costs two looks and two counts of the
//! core's own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::time::Duration;

use outgrow_rollout::CircuitFigures;

use crate::rules::BreakerRule;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
/// One request is on its way to find out.
const PROBING: u8 = 2;

/// Parts of the window: one that is left out at its beginning is a tenth of it.
const BUCKETS: u64 = 10;

/// The breaker of one service. Times are milliseconds since the start.
#[derive(Debug)]
pub(crate) struct Breaker {
    pub(crate) rule: BreakerRule,
    state: AtomicU8,
    /// In a row.
    failures: AtomicU32,
    /// Answers in a row that broke off behind good heads, which end the other row.
    broken: AtomicU32,
    /// In a row.
    openings: AtomicU32,
    until: AtomicU64,
    /// Times that it closed again: what was counted before says nothing.
    closings: AtomicU32,
    /// Times that it opened.
    opened: AtomicU64,
    /// By core, which alone writes it.
    calls: Box<[Calls]>,
}

/// What one core has seen.
#[derive(Debug, Default)]
struct Calls {
    requests: AtomicU64,
    failures: AtomicU64,
}

/// The way through.
#[derive(Debug)]
pub(crate) enum Pass {
    Usual,
    Probe(Probe),
}

/// The one request that finds out. Dropped without an outcome (its client has left), the next one
/// tries.
#[derive(Debug)]
pub(crate) struct Probe(Arc<Breaker>);

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self
            .0
            .state
            .compare_exchange(PROBING, OPEN, Release, Relaxed);
    }
}

/// A counter that one core alone writes.
fn raise(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

/// How long it stays open, the `number`th time in a row, from 0.
fn term(rule: &BreakerRule, number: u32) -> Duration {
    let factor = 2_u32.saturating_pow(number);
    rule.open.saturating_mul(factor).min(rule.open_max)
}

/// Whether so many failures of so many requests are too many.
pub(crate) fn is_bad(rule: &BreakerRule, requests: u64, failures: u64) -> bool {
    let least = (requests as f64) * rule.success_rate;
    requests >= u64::from(rule.requests_min) && ((requests.saturating_sub(failures)) as f64) < least
}

impl Breaker {
    pub(crate) fn new(rule: BreakerRule, cores: usize) -> Self {
        Self {
            rule,
            state: AtomicU8::new(CLOSED),
            failures: AtomicU32::new(0),
            broken: AtomicU32::new(0),
            openings: AtomicU32::new(0),
            until: AtomicU64::new(0),
            closings: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            calls: (0..cores).map(|_| Calls::default()).collect(),
        }
    }

    /// Lets a request through, or says for how many milliseconds it will not.
    pub(crate) fn enter(self: &Arc<Self>, now: impl FnOnce() -> u64) -> Result<Pass, u64> {
        let state = self.state.load(Acquire);
        if state == CLOSED {
            return Ok(Pass::Usual);
        }
        let left = self.until.load(Relaxed).saturating_sub(now());
        let mine = state == OPEN
            && left == 0
            && self
                .state
                .compare_exchange(OPEN, PROBING, AcqRel, Relaxed)
                .is_ok();
        if mine {
            return Ok(Pass::Probe(Probe(self.clone())));
        }
        Err(left)
    }

    /// How a request ended. Called on the core's own thread only.
    pub(crate) fn record(&self, core: usize, pass: Pass, failed: bool, now: u64) {
        if let Some(calls) = self.calls.get(core) {
            raise(&calls.requests);
            if failed {
                raise(&calls.failures);
            }
        }
        match (pass, failed) {
            (Pass::Usual, false) => {
                if self.failures.load(Relaxed) != 0 {
                    self.failures.store(0, Relaxed);
                }
            }
            (Pass::Usual, true) => {
                let row = self.failures.fetch_add(1, Relaxed).saturating_add(1);
                if self.rule.failures > 0 && row >= self.rule.failures {
                    self.trip(now);
                }
            }
            (Pass::Probe(probe), false) => {
                self.failures.store(0, Relaxed);
                self.openings.store(0, Relaxed);
                self.closings.fetch_add(1, Relaxed);
                self.state.store(CLOSED, Release);
                // Only now: it would let another one try.
                drop(probe);
            }
            (Pass::Probe(probe), true) => {
                self.open(PROBING, now);
                drop(probe);
            }
        }
    }

    /// An answer that was recorded as good has broken off. Called on the core's own thread only.
    pub(crate) fn broke_off(&self, core: usize, now: u64) {
        if let Some(calls) = self.calls.get(core) {
            raise(&calls.failures);
        }
        let row = self.broken.fetch_add(1, Relaxed).saturating_add(1);
        if self.rule.failures > 0 && row >= self.rule.failures {
            self.trip(now);
        }
    }

    pub(crate) fn came_whole(&self) {
        if self.broken.load(Relaxed) != 0 {
            self.broken.store(0, Relaxed);
        }
    }

    /// Opens, unless it is open already.
    pub(crate) fn trip(&self, now: u64) {
        if self.state.load(Relaxed) == CLOSED {
            self.open(CLOSED, now);
        }
    }

    /// Others have joined: the next request finds out how they do.
    pub(crate) fn look_again(&self, now: u64) {
        if self.state.load(Acquire) == OPEN {
            self.until.fetch_min(now, Relaxed);
        }
    }

    fn open(&self, from: u8, now: u64) {
        let number = self.openings.load(Relaxed);
        let lasts = u64::try_from(term(&self.rule, number).as_millis()).unwrap_or(u64::MAX);
        // First: whoever sees it open sees until when.
        self.until.store(now.saturating_add(lasts), Relaxed);
        let opened = self.state.compare_exchange(from, OPEN, Release, Relaxed);
        if opened.is_ok() {
            self.openings.store(number.saturating_add(1), Relaxed);
            self.opened.fetch_add(1, Relaxed);
        }
    }

    /// `closed`, `open` or `half-open`, and for how many milliseconds it stays open.
    pub(crate) fn told(&self, now: u64) -> (&'static str, u64) {
        let left = self.until.load(Relaxed).saturating_sub(now);
        match self.state.load(Acquire) {
            CLOSED => ("closed", 0),
            OPEN if left > 0 => ("open", left),
            _ => ("half-open", 0),
        }
    }

    /// For the metrics.
    pub(crate) fn figures(&self, now: u64) -> CircuitFigures {
        CircuitFigures {
            state: self.told(now).0.to_owned(),
            opened: self.opened.load(Relaxed),
        }
    }

    /// Requests and failures since the start.
    fn counts(&self) -> (u64, u64) {
        self.calls.iter().fold((0, 0), |(requests, failures), of| {
            (
                requests + of.requests.load(Relaxed),
                failures + of.failures.load(Relaxed),
            )
        })
    }
}

/// What the guard's thread remembers of a breaker: counts at points in time.
#[derive(Debug, Default)]
pub(crate) struct Window {
    points: VecDeque<(u64, u64, u64)>,
    closings: u32,
}

impl Window {
    /// Requests and failures within the window, where totals were noted at `now`.
    fn observe(&mut self, now: u64, window: u64, (requests, failures): (u64, u64)) -> (u64, u64) {
        while self.points.len() > 1 && self.points[1].0.saturating_add(window) <= now {
            self.points.pop_front();
        }
        let due = self
            .points
            .back()
            .is_none_or(|(at, ..)| now.saturating_sub(*at) >= window / BUCKETS);
        if due {
            self.points.push_back((now, requests, failures));
        }
        let (_, r, f) = self.points.front().copied().unwrap_or_default();
        (requests.saturating_sub(r), failures.saturating_sub(f))
    }

    /// Opens the breaker when too much failed within its window.
    pub(crate) fn look(&mut self, breaker: &Breaker, now: u64) {
        let closings = breaker.closings.load(Relaxed);
        if self.closings != closings || breaker.state.load(Relaxed) != CLOSED {
            self.closings = closings;
            self.points.clear();
        }
        let window = u64::try_from(breaker.rule.window.as_millis()).unwrap_or(u64::MAX);
        let (requests, failures) = self.observe(now, window, breaker.counts());
        if is_bad(&breaker.rule, requests, failures) {
            breaker.trip(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn breaker() -> Arc<Breaker> {
        let rule = BreakerRule {
            failures: 3,
            success_rate: 0.5,
            requests_min: 10,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(15),
        };
        Arc::new(Breaker::new(rule, 1))
    }

    fn pass(breaker: &Arc<Breaker>, now: u64, failed: bool) {
        let pass = breaker.enter(|| now).unwrap();
        breaker.record(0, pass, failed, now);
    }

    #[test]
    fn a_row_of_failures_opens_it_and_one_probe_finds_out() {
        let breaker = breaker();
        for failed in [true, true, false, true, true, true] {
            pass(&breaker, 100, failed);
        }
        assert_eq!(breaker.enter(|| 100).unwrap_err(), 5_000);
        assert_eq!(breaker.told(100), ("open", 5_000));
        assert_eq!(breaker.told(5_100), ("half-open", 0));
        let probe = breaker.enter(|| 5_100).unwrap();
        assert!(matches!(probe, Pass::Probe(_)));
        assert_eq!(breaker.enter(|| 5_100).unwrap_err(), 0, "one at a time");
        drop(probe);
        pass(&breaker, 5_200, true);
        assert_eq!(
            breaker.enter(|| 5_200).unwrap_err(),
            10_000,
            "twice as long"
        );
        pass(&breaker, 15_200, true);
        assert_eq!(breaker.enter(|| 15_200).unwrap_err(), 15_000, "at most");
        breaker.look_again(16_000);
        pass(&breaker, 16_000, true);
        assert_eq!(breaker.told(16_001), ("open", 14_999), "who joined fails");
        pass(&breaker, 31_000, false);
        assert_eq!(breaker.told(31_000), ("closed", 0));
        pass(&breaker, 31_200, true);
        pass(&breaker, 31_200, true);
        assert!(breaker.enter(|| 31_200).is_ok(), "the row began anew");
    }

    #[test]
    fn a_bad_share_opens_it() {
        let (breaker, mut window) = (breaker(), Window::default());
        window.look(&breaker, 0);
        for n in 0..20_u64 {
            pass(&breaker, n * 100, n % 5 < 2);
            window.look(&breaker, n * 100);
        }
        assert_eq!(breaker.told(2_000).0, "closed", "four of ten fail");
        for n in 20..60_u64 {
            if let Ok(pass) = breaker.enter(|| n * 100) {
                breaker.record(0, pass, n % 3 != 0, n * 100);
            }
            window.look(&breaker, n * 100);
        }
        assert_ne!(breaker.told(6_000).0, "closed", "two of three fail");
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut window = Window::default();
        assert_eq!(window.observe(0, 10_000, (0, 0)), (0, 0));
        assert_eq!(window.observe(500, 10_000, (50, 50)), (50, 50));
        assert_eq!(window.observe(1_000, 10_000, (60, 50)), (60, 50));
        assert_eq!(window.observe(10_999, 10_000, (70, 50)), (70, 50));
        assert_eq!(window.observe(11_000, 10_000, (70, 50)), (10, 0));
        assert_eq!(window.observe(60_000, 10_000, (70, 50)), (0, 0));
    }

    proptest! {
        /// Whatever happens, a service that is well again is found again.
        #[test]
        fn it_closes_at_last(steps in proptest::collection::vec((0_u64..4_000, any::<bool>()), 0..80)) {
            let breaker = breaker();
            let mut now = 0;
            for (ms, failed) in steps {
                now += ms;
                if let Ok(pass) = breaker.enter(|| now) {
                    breaker.record(0, pass, failed, now);
                }
            }
            now += 15_000;
            let pass = breaker.enter(|| now);
            prop_assert!(pass.is_ok());
            breaker.record(0, pass.unwrap(), false, now);
            prop_assert_eq!(breaker.told(now).0, "closed");
        }
    }
}
