//! How fast transactions come, and how long it pays to wait for more of them. Pure.
//!
//! A batch costs the target about the same for one transaction as for a hundred. While they come
//! slowly, each is applied at once; from some thousands a second on, a rest of some milliseconds
//! gathers many, for a fraction of the work.

use std::time::{Duration, Instant};

/// Transactions that are worth one batch.
const WORTH: f64 = 96.0;
/// A second: below, a rest would gather few and keep them all waiting.
const FAST: f64 = 1_500.0;
/// However many could be gathered, nobody waits for longer.
const LONGEST: Duration = Duration::from_millis(10);
/// A rate is that of about the last so many seconds.
const MEMORY: f64 = 0.2;

#[derive(Debug, Default)]
pub(crate) struct Tempo {
    last: Option<Instant>,
    /// Transactions a second.
    rate: f64,
}

impl Tempo {
    /// Takes note of what has come since the last time, which may be nothing.
    pub(crate) fn came(&mut self, now: Instant, transactions: usize) {
        if let Some(last) = self.last.replace(now) {
            let passed = now.saturating_duration_since(last).as_secs_f64();
            let count = u32::try_from(transactions).unwrap_or(u32::MAX);
            let kept = (-passed / MEMORY).exp();
            // As if they had come evenly: what came at once counts for what it is over all.
            self.rate = self.rate * kept + f64::from(count) * (1.0 - kept) / passed.max(1e-6);
        }
    }

    /// How long to wait for more.
    pub(crate) fn rest(&self) -> Option<Duration> {
        (self.rate >= FAST).then(|| LONGEST.min(Duration::from_secs_f64(WORTH / self.rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After two seconds of so many transactions a second, in steps of so many milliseconds.
    fn after(rate: usize, step: u64) -> (Tempo, Instant) {
        let mut now = Instant::now();
        let mut tempo = Tempo::default();
        for _ in 0..2_000 / step {
            tempo.came(now, rate * usize::try_from(step).unwrap() / 1_000);
            now += Duration::from_millis(step);
        }
        (tempo, now)
    }

    #[test]
    fn what_comes_slowly_does_not_wait() {
        for rate in [0, 100, 1_000, 1_400] {
            assert_eq!(after(rate, 10).0.rest(), None, "{rate}");
        }
        let mut fresh = Tempo::default();
        fresh.came(Instant::now(), 100_000);
        assert_eq!(fresh.rest(), None, "nobody knows yet how long that took");
    }

    #[test]
    fn what_comes_fast_is_gathered_for_as_long_as_it_pays() {
        for step in [1, 10] {
            assert_eq!(after(2_000, step).0.rest(), Some(LONGEST));
        }
        let rest = after(32_000, 10).0.rest().unwrap();
        assert!(rest < Duration::from_millis(4), "{rest:?}");
    }

    #[test]
    fn silence_ends_it_soon() {
        let (mut tempo, mut now) = after(3_000, 10);
        assert!(tempo.rest().is_some());
        for _ in 0..30 {
            now += Duration::from_millis(10);
            tempo.came(now, 0);
        }
        assert_eq!(tempo.rest(), None);
    }

    #[test]
    fn one_large_pile_is_no_tempo() {
        let (mut tempo, now) = after(500, 10);
        tempo.came(now + Duration::from_millis(10), 150);
        assert_eq!(tempo.rest(), None);
    }
}
