//! Two clocks, read at once: the wall's, which says when something was for others and which people
//! set, and one that nobody sets, by which time passes.

use std::time::{Duration, Instant, SystemTime};

/// Now, by both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) wall: SystemTime,
    pub(crate) steady: Instant,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// The time since then, whatever was done to the wall's clock; none where another thread looked
    /// at it first.
    pub(crate) fn since(self, then: Self) -> Duration {
        self.steady.saturating_duration_since(then.steady)
    }

    /// By how much the wall's clock was set back since then.
    pub(crate) fn set_back_since(self, then: Self) -> Duration {
        let due = then.wall + self.since(then);
        due.duration_since(self.wall).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use super::*;

    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// So many seconds after the begin of both clocks.
    pub(crate) fn at(seconds: u64) -> Moment {
        set(seconds, 0)
    }

    /// Likewise, with the wall's clock set by so many seconds.
    pub(crate) fn set(seconds: u64, by: i64) -> Moment {
        let wall = seconds.saturating_add_signed(by);
        Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall),
            steady: *BEGUN + Duration::from_secs(seconds),
        }
    }

    #[test]
    fn time_passes_by_the_clock_that_nobody_sets() {
        let seconds = Duration::from_secs;
        for (now, since, back) in [
            (at(60), 10, 0),
            (set(60, 3_600), 10, 0),
            (set(60, -40), 10, 40),
            // Another thread's look.
            (at(49), 0, 1),
        ] {
            assert_eq!(now.since(at(50)), seconds(since), "{now:?}");
            assert_eq!(now.set_back_since(at(50)), seconds(back), "{now:?}");
        }
        assert_eq!(at(60).set_back_since(set(50, 3_600)), seconds(3_600));
    }
}
