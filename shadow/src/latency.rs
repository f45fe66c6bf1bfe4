//! How much later the extracted side answers than the legacy side, request by request.
//!
//! Only requests that the shadow itself has sent to both sides count, one after the other in random
//! order: what a client waited for has come another way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Differences that are kept, the latest.
const KEPT_MAX: usize = 2_000;
/// With fewer, no interval of 95 % exists.
const PAIRS_MIN: usize = 6;

/// Differences of the time to an answer's head, extracted less legacy, in microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Latencies(Vec<i64>);

/// The median difference of two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyDifference {
    /// Requests that both sides were asked.
    pub pairs: u64,
    /// Extracted less legacy: above zero, the extracted side is slower.
    pub median_us: i64,
    /// The interval that has the true median with 95 % confidence, at this number of pairs.
    pub low_us: i64,
    pub high_us: i64,
}

impl Latencies {
    pub(crate) fn add(&mut self, legacy: Duration, extracted: Duration) {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        if self.0.len() >= KEPT_MAX {
            self.0.remove(0);
        }
        self.0
            .push(micros(extracted).saturating_sub(micros(legacy)));
    }

    /// The interval is that of the sign test, which holds whatever the times are distributed like.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "ranks among two thousand"
    )]
    pub(crate) fn difference(&self) -> Option<LatencyDifference> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let pairs = sorted.len();
        if pairs < PAIRS_MIN {
            return None;
        }
        // The rank of the lower end, from 1: pairs/2 less 1.96 standard deviations of a coin.
        let half = pairs as f64 / 2.0;
        let rank = (half - 0.98 * (pairs as f64).sqrt()).floor().max(1.0) as usize;
        Some(LatencyDifference {
            pairs: pairs as u64,
            median_us: *sorted.get(pairs / 2)?,
            low_us: *sorted.get(rank - 1)?,
            high_us: *sorted.get(pairs - rank)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64_with_seed;

    use super::*;

    /// Times that vary by some milliseconds, rarely by many, and a side that is so much slower.
    fn of(pairs: u64, slower_us: u64, seed: u64) -> LatencyDifference {
        let mut all = Latencies::default();
        let time = |n: u64| {
            let drawn = xxh3_64_with_seed(&n.to_le_bytes(), seed);
            let rare = if drawn.is_multiple_of(50) { 200_000 } else { 0 };
            1_000 + (drawn >> 20) % 8_000 + rare
        };
        for n in 0..pairs {
            let legacy = Duration::from_micros(time(2 * n));
            let extracted = Duration::from_micros(time(2 * n + 1) + slower_us);
            all.add(legacy, extracted);
        }
        all.difference().unwrap()
    }

    #[test]
    fn five_milliseconds_are_found_and_none_are_not_made_up() {
        for seed in 0..20 {
            let slower = of(400, 5_000, seed);
            assert!(
                slower.low_us > 3_000 && slower.high_us < 7_000,
                "{slower:?}"
            );
        }
        let covers = |seed: &u64| {
            let same = of(400, 0, *seed);
            same.low_us <= 0 && same.high_us >= 0
        };
        let covered = (0..1_000).filter(covers).count();
        assert!(covered >= 940, "{covered} of 1000 intervals have the truth");
    }

    #[test]
    fn a_few_pairs_say_nothing_and_memory_is_bounded() {
        let mut all = Latencies::default();
        for _ in 0..5 {
            all.add(Duration::ZERO, Duration::from_secs(1));
        }
        assert_eq!(all.difference(), None);
        for _ in 0..5_000 {
            all.add(Duration::from_secs(1), Duration::ZERO);
        }
        let found = all.difference().unwrap();
        assert_eq!((found.pairs, found.high_us), (2_000, -1_000_000));
    }
}
