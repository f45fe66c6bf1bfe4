//! Requests, errors and times by side. Each core adds to its own counters; readers sum.

pub(crate) mod refusals;
pub(crate) mod routes;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outgrow_rollout::{ProxyEvidence, Side, SideCounts, SideTimes};

/// Buckets of the time histogram: four per power of two from one microsecond, which puts the
/// 99th percentile within a fifth of its value, up to half an hour.
const BUCKETS: usize = 4 * 31;
/// Powers of two of the bounds that are told: 256 microseconds to 33 seconds.
const TOLD: std::ops::RangeInclusive<usize> = 8..=25;

/// Counters of one side on one core.
#[derive(Debug)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    /// All times together, in microseconds.
    micros: AtomicU64,
    times: Box<[AtomicU64]>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            micros: AtomicU64::new(0),
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
pub(crate) fn raise(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
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
        let took = micros(took);
        raise(&counters.requests, 1);
        if error {
            raise(&counters.errors, 1);
        }
        raise(&counters.micros, took);
        raise(&counters.times[bucket(took)], 1);
    }

    /// What was counted as an answer has turned out to be an error at its end. Called on the core's
    /// own thread only.
    pub(crate) fn fail(&self, core: usize, side: Side) {
        if let Some(sides) = self.cores.get(core) {
            raise(&sides[index(side)].errors, 1);
        }
    }

    pub(crate) fn read(&self) -> ProxyEvidence {
        ProxyEvidence {
            legacy: self.side(Side::Legacy),
            extracted: self.side(Side::Extracted),
        }
    }

    fn side(&self, side: Side) -> SideCounts {
        let of = self.cores.iter().map(|sides| &sides[index(side)]);
        let sum = |field: fn(&Counters) -> &AtomicU64| -> u64 {
            of.clone().map(|c| field(c).load(Relaxed)).sum()
        };
        SideCounts {
            requests: sum(|c| &c.requests),
            errors: sum(|c| &c.errors),
            p99_us: p99(&self.buckets(side)),
        }
    }

    fn buckets(&self, side: Side) -> [u64; BUCKETS] {
        let mut times = [0_u64; BUCKETS];
        for counters in self.cores.iter().map(|sides| &sides[index(side)]) {
            for (total, bucket) in times.iter_mut().zip(&counters.times) {
                *total += bucket.load(Relaxed);
            }
        }
        times
    }

    /// As histograms are told: one bucket per power of two.
    pub(crate) fn times(&self, side: Side) -> SideTimes {
        let of = || self.cores.iter().map(|sides| &sides[index(side)]);
        let times = self.buckets(side);
        let mut told = SideTimes {
            errors: of().map(|c| c.errors.load(Relaxed)).sum(),
            sum_us: of().map(|c| c.micros.load(Relaxed)).sum(),
            ..SideTimes::default()
        };
        let mut from = 0;
        for power in TOLD {
            let to = 4 * power;
            told.within_us
                .push((1 << power, times[from..to].iter().sum()));
            from = to;
        }
        told.above = times[from..].iter().sum();
        told
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Legacy => 0,
        Side::Extracted => 1,
    }
}

fn bucket(micros: u64) -> usize {
    let micros = micros.max(1);
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
    fn a_histogram_has_every_request_under_its_bound() {
        let counts = Counts::new(1);
        let times = [0, 255, 256, 300, 512, 1_000_000, 40_000_000];
        for micros in times {
            counts.count(0, Side::Legacy, micros == 0, Duration::from_micros(micros));
        }
        let told = counts.times(Side::Legacy);
        assert_eq!((told.requests(), told.errors), (7, 1));
        assert_eq!(told.sum_us, times.iter().sum::<u64>());
        assert_eq!(told.within_us[..3], [(256, 2), (512, 2), (1_024, 1)]);
        assert_eq!((told.within_us.len(), told.above), (18, 1));
        assert_eq!(counts.times(Side::Extracted).requests(), 0);
    }

    #[test]
    fn every_time_has_a_bucket() {
        for micros in [0, 1, 2, 3, 4, 1_000_000, u64::MAX] {
            assert!(bucket(micros) < BUCKETS);
        }
    }
}
