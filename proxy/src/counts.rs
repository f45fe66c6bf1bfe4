//! Requests, errors and times by side, and by build. Each core adds to its own counters; readers sum.

pub(crate) mod asked;
pub(crate) mod builds;
pub(crate) mod refusals;
pub(crate) mod routes;
mod slow;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outgrow_rollout::{ProxyEvidence, Side, SideCounts, SideTimes};

/// Buckets of the time histogram: four per power of two from one microsecond, which puts the
/// 99th percentile within a fifth of its value, up to half an hour.
const BUCKETS: usize = 4 * 31;
/// Of an answer's status; the last is that there was none.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// Requests by class.
type Classes = [AtomicU64; CLASSES.len()];

/// Powers of two of the bounds that are told: 256 microseconds to 33 seconds.
const TOLD: std::ops::RangeInclusive<usize> = 8..=25;

/// Counters of one row on one core, on lines of their own.
#[derive(Debug)]
#[repr(align(64))]
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

/// Only the core itself writes, so a plain load and store is enough and cheaper than an add.
pub(crate) fn raise(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Only the core itself writes.
fn raise_class(of: &Classes, status: Option<http::StatusCode>) {
    let class = status.map_or(CLASSES.len(), |status| usize::from(status.as_u16()) / 100);
    if let Some(counter) = of.get(class.wrapping_sub(1)) {
        raise(counter, 1);
    }
}

/// All classes, over these counters.
fn by_class<'a>(of: impl Iterator<Item = &'a Classes> + Clone) -> Vec<(&'static str, u64)> {
    let sum = |at: usize| of.clone().map(|of| of[at].load(Relaxed)).sum();
    let all = CLASSES.into_iter().enumerate();
    all.map(|(at, class)| (class, sum(at))).collect()
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Counters of a few rows, core by core.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: usize,
    counters: Box<[Counters]>,
}

impl Rows {
    pub(crate) fn new(rows: usize, cores: usize) -> Self {
        Self {
            rows,
            counters: (0..rows * cores).map(|_| Counters::default()).collect(),
        }
    }

    fn at(&self, core: usize, row: usize) -> Option<&Counters> {
        self.counters.get(core * self.rows + row)
    }

    /// An answer, or its absence. Called on the core's own thread only.
    fn count(&self, core: usize, row: usize, (error, took): (bool, Duration)) {
        let Some(counters) = self.at(core, row) else {
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
    fn fail(&self, core: usize, row: usize) {
        if let Some(counters) = self.at(core, row) {
            raise(&counters.errors, 1);
        }
    }

    /// One row, on each core.
    fn of(&self, row: usize) -> impl Iterator<Item = &Counters> + Clone {
        self.counters.iter().skip(row).step_by(self.rows.max(1))
    }

    fn sum(&self, row: usize, field: fn(&Counters) -> &AtomicU64) -> u64 {
        self.of(row).map(|c| field(c).load(Relaxed)).sum()
    }

    fn counts(&self, row: usize) -> SideCounts {
        SideCounts {
            requests: self.sum(row, |c| &c.requests),
            errors: self.sum(row, |c| &c.errors),
            p99_us: quantile(&self.buckets(row), 99),
        }
    }

    fn buckets(&self, row: usize) -> [u64; BUCKETS] {
        let mut times = [0_u64; BUCKETS];
        for counters in self.of(row) {
            for (total, bucket) in times.iter_mut().zip(&counters.times) {
                *total += bucket.load(Relaxed);
            }
        }
        times
    }

    /// As histograms are told: one bucket per power of two.
    fn times(&self, row: usize) -> SideTimes {
        let times = self.buckets(row);
        let mut told = SideTimes {
            errors: self.sum(row, |c| &c.errors),
            sum_us: self.sum(row, |c| &c.micros),
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

/// Counters of a slice, by side.
#[derive(Debug)]
pub(crate) struct Counts {
    rows: Rows,
    /// The times of both when the slice's share of reads was last changed.
    begun: Mutex<[[u64; BUCKETS]; 2]>,
}

impl Counts {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            rows: Rows::new(2, cores),
            begun: Mutex::new([[0; BUCKETS]; 2]),
        }
    }

    fn begun(&self) -> MutexGuard<'_, [[u64; BUCKETS]; 2]> {
        // Plain data: a panic elsewhere cannot leave it half changed.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another share is in force. How slow the sides were before says nothing of how they bear this one.
    pub(crate) fn begin(&self) {
        *self.begun() = [0, 1].map(|row| self.rows.buckets(row));
    }

    /// An answer, or its absence, of one side. Called on the core's own thread only.
    pub(crate) fn count(&self, core: usize, side: Side, error: bool, took: Duration) {
        self.rows.count(core, index(side), (error, took));
    }

    /// What was counted as an answer has turned out to be an error at its end. Called on the core's
    /// own thread only.
    pub(crate) fn fail(&self, core: usize, side: Side) {
        self.rows.fail(core, index(side));
    }

    /// All requests and errors, and the times since the share was last changed.
    pub(crate) fn read(&self) -> ProxyEvidence {
        let begun = *self.begun();
        let side = |side| {
            let row = index(side);
            let times = since(self.rows.buckets(row), &begun[row]);
            SideCounts {
                p99_us: quantile(&times, 99),
                ..self.rows.counts(row)
            }
        };
        ProxyEvidence {
            legacy: side(Side::Legacy),
            extracted: side(Side::Extracted),
        }
    }

    pub(crate) fn times(&self, side: Side) -> SideTimes {
        self.rows.times(index(side))
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

/// What came after `earlier`.
fn since(mut times: [u64; BUCKETS], earlier: &[u64; BUCKETS]) -> [u64; BUCKETS] {
    for (now, then) in times.iter_mut().zip(earlier) {
        *now = now.saturating_sub(*then);
    }
    times
}

/// The upper end of the bucket that holds this percentile.
fn quantile(times: &[u64; BUCKETS], percent: u64) -> Option<u64> {
    let total: u64 = times.iter().sum();
    let rank = total.saturating_mul(percent).div_ceil(100).max(1);
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
