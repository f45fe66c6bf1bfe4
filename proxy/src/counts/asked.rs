//! Those who are asked who may ask: their questions, by what came of them, and how long they took. Each core adds to
//! its own counters; readers sum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use outgrow_rollout::SideTimes;

use super::{Rows, raise};

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Passed,
    Refused,
    /// No answer, or one that says neither.
    Failed,
}

const CAME: [(Came, &str); 3] = [
    (Came::Passed, "passed"),
    (Came::Refused, "refused"),
    (Came::Failed, "failed"),
];

/// Where the word on a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Kept,
    /// Another request had asked.
    Waited,
    Asked,
}

const FROM: [(From, &str); 3] = [
    (From::Kept, "kept"),
    (From::Waited, "waited"),
    (From::Asked, "asked"),
];

/// Counters of one core, on lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; 3]);

/// Three counters of each core.
#[derive(Debug)]
struct Tally(Box<[Line]>);

impl Tally {
    fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| Line::default()).collect())
    }

    /// Called on the core's own thread only.
    fn count<T: PartialEq>(&self, core: usize, of: &[(T, &str); 3], what: T) {
        let at = of.iter().position(|(own, _)| *own == what);
        if let (Some(Line(counters)), Some(at)) = (self.0.get(core), at) {
            raise(&counters[at], 1);
        }
    }

    fn read<T>(&self, of: &[(T, &'static str); 3]) -> Vec<(&'static str, u64)> {
        let sum = |at: usize| self.0.iter().map(|Line(own)| own[at].load(Relaxed)).sum();
        let all = of.iter().enumerate();
        all.map(|(at, (_, name))| (*name, sum(at))).collect()
    }
}

/// Of one that is asked.
#[derive(Debug)]
pub(crate) struct AskedCounts {
    times: Rows,
    came: Tally,
    from: Tally,
}

impl AskedCounts {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            times: Rows::new(1, cores),
            came: Tally::new(cores),
            from: Tally::new(cores),
        }
    }

    /// A question, and what came of it. Called on the core's own thread only.
    pub(crate) fn count(&self, core: usize, came: Came, begun: Instant) {
        let took = Instant::now().saturating_duration_since(begun);
        self.add(core, came, took);
    }

    fn add(&self, core: usize, came: Came, took: Duration) {
        self.times.count(core, 0, (came == Came::Failed, took));
        self.came.count(core, &CAME, came);
    }

    /// A token, and where the word on it came from. Called on the core's own thread only.
    pub(crate) fn finds(&self, core: usize, from: From) {
        self.from.count(core, &FROM, from);
    }

    pub(crate) fn times(&self) -> SideTimes {
        self.times.times(0)
    }

    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        self.came.read(&CAME)
    }

    pub(crate) fn sources(&self) -> Vec<(&'static str, u64)> {
        self.from.read(&FROM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_counted_by_what_came_of_them() {
        let counts = AskedCounts::new(2);
        for (core, came, micros) in [
            (0, Came::Passed, 100),
            (1, Came::Passed, 400),
            (1, Came::Refused, 400),
            (0, Came::Failed, 3_000_000),
            (2, Came::Failed, 1),
        ] {
            counts.add(core, came, Duration::from_micros(micros));
        }
        counts.finds(0, From::Kept);
        counts.finds(1, From::Kept);
        counts.finds(1, From::Asked);
        let outcomes = [("passed", 2), ("refused", 1), ("failed", 1)];
        assert_eq!(counts.outcomes(), outcomes);
        let sources = [("kept", 2), ("waited", 0), ("asked", 1)];
        assert_eq!(counts.sources(), sources);
        let times = counts.times();
        assert_eq!((times.requests(), times.errors), (4, 1));
        assert_eq!(times.within_us[..2], [(256, 1), (512, 2)]);
    }
}
