//! How fast a backfill may go: so many rows a second, and not while following is behind or a database
//! is busy. Pure.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::load::Busy;
use crate::spec::Limits;

/// Chunks of a limited backfill in a second: it is to load the databases evenly.
const CHUNKS: u32 = 4;
/// What a backfill that was late may catch up with.
const LATE: Duration = Duration::from_secs(1);

/// What a backfill waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Rate,
    Lag,
    /// A database keeps much for the link.
    Kept,
    Load(Busy),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate => f.write_str("its rate"),
            Self::Lag => f.write_str("following to catch up"),
            Self::Kept => f.write_str("what the databases keep for the link to be applied"),
            Self::Load(busy) => busy.fmt(f),
        }
    }
}

/// When the next chunk may come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// Whether the next chunk has to wait, and for what.
    pub(crate) fn waits(
        &self,
        now: Instant,
        lag_ms: Option<u64>,
        busy: Option<Busy>,
        limits: &Limits,
    ) -> Option<Wait> {
        if lag_ms.is_some_and(|lag| u128::from(lag) > limits.copy_lag.as_millis()) {
            return Some(Wait::Lag);
        }
        if let Some(busy) = busy {
            return Some(Wait::Load(busy));
        }
        let early = limits.copy_rate.is_some() && self.due.is_some_and(|due| now < due);
        early.then_some(Wait::Rate)
    }

    /// Takes note of a chunk of so many rows.
    pub(crate) fn took(&mut self, now: Instant, rows: u64, rate: Option<NonZeroU32>) {
        let Some(rate) = rate else { return };
        let from = self.due.filter(|due| *due + LATE > now).unwrap_or(now);
        let cost = rows.saturating_mul(1_000_000) / u64::from(rate.get());
        self.due = from.checked_add(Duration::from_micros(cost));
    }
}

/// The most rows of a chunk at this rate.
pub(crate) fn rows(most: u32, rate: Option<NonZeroU32>) -> u32 {
    rate.map_or(most, |rate| most.min((rate.get() / CHUNKS).max(1)))
}

/// How many chunks go side by side: a rate is kept by one alone.
pub(crate) fn abreast(most: u32, rate: Option<NonZeroU32>) -> u32 {
    rate.map_or(most, |_| 1)
}

/// How long a round of chunks may go on while nothing else is to be done: with a rate, a chunk is all.
pub(crate) fn round(most: Duration, rate: Option<NonZeroU32>) -> Duration {
    rate.map_or(most, |_| Duration::ZERO)
}

/// A round's smallest chunks, of the full size: smaller ones cost more than lanes that wait.
const PARTS: u32 = 8;

/// The most rows of a lane's next chunk, so that all lanes end with their round: as many as this
/// lane is likely to write in what is left of it.
pub(crate) fn until_the_end(
    most: u32,
    lanes: u32,
    written: u64,
    spent: Duration,
    left: Duration,
) -> u32 {
    if written == 0 {
        return most;
    }
    let spent = spent.as_micros().max(1) * u128::from(lanes.max(1));
    let rows = u128::from(written).saturating_mul(left.as_micros()) / spent;
    let rows = u32::try_from(rows).unwrap_or(most);
    rows.clamp((most / PARTS).max(1).min(most), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(rate: u32) -> Limits {
        Limits {
            copy_rate: NonZeroU32::new(rate),
            ..Limits::default()
        }
    }

    #[test]
    fn rows_a_second_are_kept_however_long_a_chunk_takes() {
        let limits = limited(1_000);
        let began = Instant::now();
        let mut pace = Pace::default();
        let (mut now, mut copied) = (began, 0);
        while copied < 10_000 {
            if pace.waits(now, None, None, &limits).is_none() {
                now += Duration::from_millis(100);
                pace.took(now, 250, limits.copy_rate);
                copied += 250;
            }
            now += Duration::from_millis(1);
        }
        let took = now - began;
        assert!((9_500..=10_300).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn what_was_missed_long_ago_is_not_caught_up_with() {
        let limits = limited(100);
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.took(now, 100, limits.copy_rate);
        let later = now + Duration::from_secs(3_600);
        assert_eq!(pace.waits(later, None, None, &limits), None);
        pace.took(later, 100, limits.copy_rate);
        assert_eq!(pace.waits(later, None, None, &limits), Some(Wait::Rate));
    }

    #[test]
    fn a_lag_comes_before_all_else() {
        let limits = Limits::default();
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!(
            pace.waits(now, Some(10_001), None, &limits),
            Some(Wait::Lag)
        );
        assert_eq!(pace.waits(now, Some(10_000), None, &limits), None);
        assert_eq!(pace.waits(now, None, None, &limits), None);
    }

    #[test]
    fn lanes_end_with_their_round() {
        let ms = Duration::from_millis;
        let next = |written, spent, left| until_the_end(800, 2, written, ms(spent), ms(left));
        assert_eq!(next(0, 50, 450), 800, "how fast it goes is not known");
        assert_eq!(next(1_600, 100, 400), 800);
        assert_eq!(next(6_400, 400, 100), 800);
        assert_eq!(next(6_400, 400, 50), 400);
        assert_eq!(next(6_400, 499, 1), 100);
        let endless = until_the_end(800, 2, 1_600, ms(100), Duration::MAX);
        assert_eq!(endless, 800);
        assert_eq!(until_the_end(1, 1, 1, ms(1), ms(1)), 1);
    }

    #[test]
    fn a_slow_backfill_takes_small_chunks() {
        assert_eq!(rows(1_000, None), 1_000);
        assert_eq!(rows(1_000, NonZeroU32::new(100_000)), 1_000);
        assert_eq!(rows(1_000, NonZeroU32::new(400)), 100);
        assert_eq!(rows(1_000, NonZeroU32::new(1)), 1);
        assert_eq!(abreast(4, None), 4);
        assert_eq!(abreast(4, NonZeroU32::new(1_000)), 1);
        let second = Duration::from_secs(1);
        assert_eq!(round(second, None), second);
        assert_eq!(round(second, NonZeroU32::new(1_000)), Duration::ZERO);
    }
}
