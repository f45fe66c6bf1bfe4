//! How a slice's answers compared over time, in intervals that grow with it, for charts.

use outgrow_rollout::Side;
use serde::{Deserialize, Serialize};

/// Intervals that are kept; with more, two become one.
const INTERVALS_MAX: usize = 120;
/// Seconds of an interval to begin with.
const WIDTH: i64 = 60;
/// Marks of new evidence that are kept, the latest.
const MARKS_MAX: usize = 20;

/// The course of one slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// Seconds of an interval.
    pub(crate) width: i64,
    pub(crate) intervals: Vec<Interval>,
    /// When evidence began anew, in Unix seconds.
    pub(crate) marks: Vec<i64>,
}

/// What came within one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Its begin, in Unix seconds.
    pub(crate) at: i64,
    pub(crate) compared: u64,
    pub(crate) against: u64,
    pub(crate) legacy: Times,
    pub(crate) extracted: Times,
}

/// Times to the heads of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) sum_us: u64,
}

impl Times {
    pub(crate) fn mean_us(&self) -> Option<u64> {
        self.sum_us.checked_div(self.count)
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            width: WIDTH,
            intervals: Vec::new(),
            marks: Vec::new(),
        }
    }
}

impl History {
    pub(crate) fn compared(&mut self, now: i64, against: bool) {
        if let Some(interval) = self.at(now) {
            interval.compared += 1;
            interval.against += u64::from(against);
        }
    }

    pub(crate) fn answered(&mut self, now: i64, side: Side, sum_us: u64) {
        let one = Times { count: 1, sum_us };
        if let Some(interval) = self.at(now) {
            match side {
                Side::Legacy => interval.legacy.add(one),
                Side::Extracted => interval.extracted.add(one),
            }
        }
    }

    /// Evidence begins anew.
    pub(crate) fn mark(&mut self, now: i64) {
        if self.marks.len() >= MARKS_MAX {
            self.marks.remove(0);
        }
        self.marks.push(now);
    }

    /// The interval of this moment. A clock that was set back counts into the latest one.
    fn at(&mut self, now: i64) -> Option<&mut Interval> {
        let begin = |width: i64| now.div_euclid(width.max(1)) * width.max(1);
        if self
            .intervals
            .last()
            .is_none_or(|last| last.at < begin(self.width))
        {
            let at = begin(self.width);
            self.intervals.push(Interval {
                at,
                ..Interval::default()
            });
        }
        while self.intervals.len() > INTERVALS_MAX {
            self.widen();
        }
        self.intervals.last_mut()
    }

    fn widen(&mut self) {
        self.width = self.width.max(1).saturating_mul(2);
        let mut wide: Vec<Interval> = Vec::new();
        for one in std::mem::take(&mut self.intervals) {
            let at = one.at.div_euclid(self.width) * self.width;
            match wide.last_mut().filter(|last| last.at == at) {
                Some(last) => {
                    last.compared += one.compared;
                    last.against += one.against;
                    last.legacy.add(one.legacy);
                    last.extracted.add(one.extracted);
                }
                None => wide.push(Interval { at, ..one }),
            }
        }
        self.intervals = wide;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_and_lose_nothing() {
        let mut history = History::default();
        for n in 0..50_000_i64 {
            history.compared(1_700_000_000 + n * 7, n % 10 == 0);
            history.answered(1_700_000_000 + n * 7, Side::Extracted, 100);
        }
        assert!(history.intervals.len() <= INTERVALS_MAX);
        assert!(history.intervals.len() > INTERVALS_MAX / 3);
        let sum = |of: &dyn Fn(&Interval) -> u64| history.intervals.iter().map(of).sum::<u64>();
        assert_eq!(sum(&|one| one.compared), 50_000);
        assert_eq!(sum(&|one| one.against), 5_000);
        assert_eq!(sum(&|one| one.extracted.count), 50_000);
        assert_eq!(history.intervals[5].extracted.mean_us(), Some(100));
        assert_eq!(history.intervals[5].legacy.mean_us(), None);
        let mut ats = history.intervals.iter().map(|one| one.at);
        assert!(ats.clone().is_sorted() && ats.all(|at| at % history.width == 0));
        // A clock that was set back.
        let before = history.intervals.len();
        history.compared(5, false);
        assert_eq!(history.intervals.len(), before);
        for n in 0..100 {
            history.mark(n);
        }
        assert_eq!((history.marks.len(), history.marks[0]), (MARKS_MAX, 80));
    }
}
