//! When something was under way: who can have changed a row at a moment.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Times of requests of one kind, put together: memory is bounded by `kept / pause` of them.
#[derive(Debug, Clone)]
pub struct Spans {
    /// Milliseconds that are looked back.
    kept: i64,
    /// Shorter pauses are none, in milliseconds.
    pause: i64,
    open: u32,
    /// From and until, in Unix milliseconds, in order; the last one goes on while some are open.
    spans: VecDeque<(i64, i64)>,
    /// Until then something may have been, and is forgotten.
    forgotten: Option<i64>,
}

impl Spans {
    #[must_use]
    pub const fn new(kept: i64, pause: i64) -> Self {
        Self {
            kept,
            pause,
            open: 0,
            spans: VecDeque::new(),
            forgotten: None,
        }
    }

    /// One sets off.
    pub fn begins(&mut self, now: i64) {
        self.open += 1;
        if self.open > 1 {
            return;
        }
        match self.spans.back_mut() {
            // A clock that was set back makes no holes.
            Some((_, until)) if now.saturating_sub(*until) <= self.pause => {
                *until = now.max(*until);
            }
            _ => self.spans.push_back((now, now)),
        }
        let kept = now.saturating_sub(self.kept);
        while let Some((_, until)) = self.spans.front()
            && *until < kept
        {
            self.forgotten = self.forgotten.max(Some(*until));
            self.spans.pop_front();
        }
    }

    /// Up to when something is known: later than now where the clock was set back.
    #[must_use]
    pub fn latest(&self) -> Option<i64> {
        self.spans.back().map(|(_, until)| *until)
    }

    /// One is back.
    pub fn ends(&mut self, now: i64) {
        self.open = self.open.saturating_sub(1);
        if let Some((_, until)) = self.spans.back_mut() {
            *until = now.max(*until);
        }
    }

    /// Whether one was under way at some moment between these; `None` where that is forgotten.
    #[must_use]
    pub fn within(&self, between: &RangeInclusive<i64>) -> Option<bool> {
        if self
            .forgotten
            .is_some_and(|until| *between.start() <= until)
        {
            return None;
        }
        let first = self
            .spans
            .partition_point(|(_, until)| until < between.start());
        // The last goes on while some are open.
        let found = match self.spans.get(first) {
            Some(found) => Some(found),
            None => self.spans.back().filter(|_| self.open > 0),
        };
        Some(found.is_some_and(|(from, _)| from <= between.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans() -> Spans {
        Spans::new(60_000, 100)
    }

    fn at(spans: &Spans, from: i64, to: i64) -> bool {
        spans.within(&(from..=to)).unwrap()
    }

    #[test]
    fn two_at_a_time_are_one_until_the_last_is_back() {
        let mut all = spans();
        all.begins(1_000);
        all.begins(1_010);
        all.ends(1_020);
        assert!(!at(&all, 900, 999));
        // What is under way still may write at any time from its begin.
        assert!(at(&all, 2_000, 2_100));
        all.ends(3_000);
        assert!(at(&all, 2_900, 3_100) && !at(&all, 3_001, 3_100));
        // The clock is set back.
        all.begins(500);
        assert!(!at(&all, 400, 600), "noted as of 3,000");
        all.ends(510);
        assert!(at(&all, 2_999, 3_100));
        assert_eq!(all.spans.len(), 1);
    }

    #[test]
    fn each_pause_is_found() {
        let mut all = spans();
        for n in 0..50 {
            all.begins(n * 1_000);
            all.ends(n * 1_000 + 10);
        }
        for n in 0..50 {
            assert!(at(&all, n * 1_000 - 5, n * 1_000), "{n}");
            assert!(at(&all, n * 1_000 + 10, n * 1_000 + 500), "{n}");
            assert!(!at(&all, n * 1_000 + 11, n * 1_000 + 999), "{n}");
        }
    }

    #[test]
    fn what_is_forgotten_is_not_guessed_and_what_is_kept_has_a_bound() {
        let mut all = spans();
        for n in 0..1_000 {
            all.begins(n * 1_000);
            all.ends(n * 1_000 + 1);
        }
        assert!(all.spans.len() <= 62);
        assert!(!at(&all, 990_500, 990_900));
        assert_eq!(all.within(&(100_500..=100_900)), None);
        // With the least of pauses.
        let mut all = spans();
        for n in 0..10_000 {
            all.begins(n * 102);
            all.ends(n * 102 + 1);
        }
        assert!(all.spans.len() <= 600);
        // Without one.
        let mut all = spans();
        for n in 0..10_000 {
            all.begins(n * 100);
            all.ends(n * 100 + 1);
        }
        assert_eq!(all.spans.len(), 1);
    }
}
