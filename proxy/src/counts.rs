//! Requests, errors and times by side. Each core adds to its own counters; readers sum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outgrow_rollout::{ProxyEvidence, Side, SideCounts};

/// Buckets of the time histogram: four per power of two from one microsecond, which puts the
/// 99th percentile within a fifth of its value, up to half an hour.
const BUCKETS: usize = 4 * 31;

/// Counters of one side on one core.
#[derive(Debug)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    times: Box<[AtomicU64]>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            times: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// Counters of a slice.
#[derive(Debug)]
pub(crate) struct Counts {
    cores: Vec<[Counters; 2]>,
}

/// Only the core itself writes, so a plain load and store is enough and cheaper than an add.
fn raise(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Counts {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores: (0..cores).map(|_| Default::default()).collect(),
        }
    }

    /// An answer, or its absence, of one side. Called on the core's own thread only.
    pub(crate) fn count(&self, core: usize, side: Side, error: bool, took: Duration) {
        let Some(counters) = self.cores.get(core).map(|sides| &sides[index(side)]) else {
            return;
        };
        raise(&counters.requests);
        if error {
            raise(&counters.errors);
        }
        raise(&counters.times[bucket(took)]);
    }

    pub(crate) fn read(&self) -> ProxyEvidence {
        ProxyEvidence {
            legacy: self.side(Side::Legacy),
            extracted: self.side(Side::Extracted),
        }
    }

    fn side(&self, side: Side) -> SideCounts {
        let mut sum = SideCounts::default();
        let mut times = [0_u64; BUCKETS];
        for counters in self.cores.iter().map(|sides| &sides[index(side)]) {
            sum.requests += counters.requests.load(Relaxed);
            sum.errors += counters.errors.load(Relaxed);
            for (total, bucket) in times.iter_mut().zip(&counters.times) {
                *total += bucket.load(Relaxed);
            }
        }
        sum.p99_us = p99(&times);
        sum
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Legacy => 0,
        Side::Extracted => 1,
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2();
    // The two bits below the highest one.
    let quarter = if power >= 2 {
        (micros >> (power - 2)) & 3
    } else {
        0
    };
    (4 * power as usize + quarter as usize).min(BUCKETS - 1)
}

/// The upper end of the bucket that holds the 99th percentile.
fn p99(times: &[u64; BUCKETS]) -> Option<u64> {
    let total: u64 = times.iter().sum();
    let rank = total - total / 100;
    let mut seen = 0;
    let at = times.iter().position(|count| {
        seen += count;
        total > 0 && seen >= rank
    })?;
    let (power, quarter) = (at / 4, at as u64 % 4);
    Some(((1_u64 << power) * (5 + quarter)) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cores_and_finds_the_tail() {
        let counts = Counts::new(2);
        for n in 0..1_000_u64 {
            let core = usize::try_from(n % 2).unwrap();
            let took = if n < 980 { 1_000 } else { 64_000 };
            counts.count(
                core,
                Side::Extracted,
                n % 10 == 0,
                Duration::from_micros(took),
            );
        }
        let seen = counts.read();
        assert_eq!(seen.legacy, SideCounts::default());
        assert_eq!(
            (seen.extracted.requests, seen.extracted.errors),
            (1_000, 100)
        );
        let p99 = seen.extracted.p99_us.unwrap();
        assert!((64_000..=82_000).contains(&p99), "{p99}");
    }

    #[test]
    fn every_time_has_a_bucket() {
        for micros in [0, 1, 2, 3, 4, 1_000_000, u64::MAX] {
            assert!(bucket(Duration::from_micros(micros)) < BUCKETS);
        }
    }
}
