//! The same by build, of a slice whose service has several, and by the class of the status, too.

use std::time::Duration;

use outgrow_rollout::{AnswerFigures, BAR_PERCENTS, BARS, Pace, SideCounts, SideTimes};

use super::slow::SlowCounts;
use super::{BUCKETS, Classes, Rows, by_class, micros, quantile, raise_class, since};

/// One build on one core, on a line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(Classes);

/// Counters of a slice, by build in the order of the config.
#[derive(Debug)]
pub(crate) struct BuildCounts {
    rows: Rows,
    /// Core by core.
    classes: Box<[Line]>,
    pub(crate) slow: SlowCounts,
}

/// Totals of one build at some moment.
#[derive(Debug, Clone)]
pub(crate) struct Total {
    errors: u64,
    times: [u64; BUCKETS],
}

impl Default for Total {
    fn default() -> Self {
        Self {
            errors: 0,
            times: [0; BUCKETS],
        }
    }
}

impl Total {
    /// What came after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> AnswerFigures {
        let times = self.times_since(earlier);
        AnswerFigures {
            requests: times.iter().sum(),
            errors: self.errors.saturating_sub(earlier.errors),
            p50_us: quantile(&times, 50),
            p99_us: quantile(&times, 99),
        }
    }

    fn times_since(&self, earlier: &Self) -> [u64; BUCKETS] {
        since(self.times, &earlier.times)
    }

    /// How many answers came after `earlier`, and what they keep.
    pub(crate) fn percentiles_since(&self, earlier: &Self) -> (u64, [Option<u64>; BARS]) {
        let times = self.times_since(earlier);
        let at = |percent| quantile(&times, percent);
        (times.iter().sum(), BAR_PERCENTS.map(at))
    }
}

impl BuildCounts {
    pub(crate) fn new(builds: usize, cores: usize) -> Self {
        Self {
            rows: Rows::new(builds, cores),
            classes: (0..builds * cores).map(|_| Line::default()).collect(),
            slow: SlowCounts::new(builds, cores),
        }
    }

    /// An answer with this status to this client, or its absence. Called on the core's own thread only.
    pub(crate) fn count(
        &self,
        (core, build, client): (usize, usize, u64),
        status: Option<http::StatusCode>,
        outcome: (bool, Duration),
    ) {
        self.rows.count(core, build, outcome);
        self.slow.count((core, build, client), micros(outcome.1));
        if let Some(Line(of)) = self.classes.get(core * self.rows.rows + build) {
            raise_class(of, status);
        }
    }

    /// What was counted as an answer has turned out to be an error at its end. Called on the core's
    /// own thread only.
    pub(crate) fn fail(&self, (core, build): (usize, usize)) {
        self.rows.fail(core, build);
    }

    pub(crate) fn counts(&self, build: usize) -> SideCounts {
        self.rows.counts(build)
    }

    /// What a build has answered so far, by the present bars.
    pub(crate) fn pace(&self, build: usize) -> Pace {
        Pace {
            requests: self.rows.sum(build, |c| &c.requests),
            slow: self.slow.read(build),
        }
    }

    pub(crate) fn times(&self, build: usize) -> SideTimes {
        self.rows.times(build)
    }

    pub(crate) fn classes(&self, build: usize) -> Vec<(&'static str, u64)> {
        let of = self.classes.iter().skip(build);
        let of = of.step_by(self.rows.rows.max(1));
        by_class(of.map(|Line(of)| of))
    }

    /// What a build has had so far.
    pub(crate) fn total(&self, build: usize) -> Total {
        let mut total = Total::default();
        self.add_to(&mut total, build);
        total
    }

    /// Adds what a build has had so far.
    pub(crate) fn add_to(&self, total: &mut Total, build: usize) {
        total.errors += self.rows.sum(build, |c| &c.errors);
        let own = self.rows.buckets(build);
        for (total, own) in total.times.iter_mut().zip(own) {
            *total += own;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn builds_are_counted_apart_by_class_and_since_a_moment() {
        let counts = BuildCounts::new(2, 2);
        let ms = Duration::from_millis;
        let of = |build| {
            let mut total = Total::default();
            counts.add_to(&mut total, build);
            total
        };
        for core in 0..2 {
            counts.count((core, 0, 7), Some(StatusCode::OK), (false, ms(1)));
            counts.count((core, 1, 7), Some(StatusCode::NOT_FOUND), (false, ms(4)));
        }
        counts.count((1, 1, 7), None, (true, ms(64)));
        counts.count((0, 1, 7), Some(StatusCode::BAD_GATEWAY), (true, ms(4)));
        counts.fail((0, 1));
        let told = |build| {
            let mut classes = counts.classes(build);
            classes.retain(|(_, requests)| *requests > 0);
            classes
        };
        assert_eq!(told(0), [("2xx", 2)]);
        assert_eq!(told(1), [("4xx", 2), ("5xx", 1), ("none", 1)]);
        let now = counts.times(1);
        assert_eq!((now.requests(), now.errors), (4, 3));
        let then = of(1);
        let all = then.since(&Total::default());
        assert_eq!((all.requests, all.errors), (4, 3));
        assert!((4_000..5_000).contains(&all.p50_us.unwrap()), "{all:?}");
        assert!((64_000..82_000).contains(&all.p99_us.unwrap()), "{all:?}");
        assert_eq!(of(1).since(&then), AnswerFigures::default());
        counts.count((0, 1, 7), Some(StatusCode::OK), (false, ms(1)));
        let since = of(1).since(&then);
        assert_eq!((since.requests, since.errors), (1, 0));
        assert_eq!(since.p50_us, since.p99_us);
    }
}
