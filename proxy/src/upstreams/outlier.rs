//! Leaving an upstream alone that fails again and again: the decisions.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::balance::Set;
use crate::rules::Ejection;

/// What is known of one upstream. Shared by all cores, so that each of them need not learn by its
/// own failures; written on failures only, or after them, so that the way of a good answer is one
/// look at it.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    /// In a row.
    failures: AtomicU32,
    /// Answers in a row that broke off behind good heads, which end the other row.
    broken: AtomicU32,
    /// In a row, each soon after the one before.
    ejections: AtomicU32,
    /// Milliseconds since the start; the end of the present or last ejection.
    until: AtomicU64,
    /// Since the start.
    all: AtomicU64,
}

/// Whether one more may go: never the last one that is well, and no more than its share.
pub(crate) fn may_eject(
    rule: &Ejection,
    all: Set,
    healthy: Set,
    ejected: Set,
    index: usize,
) -> bool {
    let after = ejected.with(index);
    let most = (f64::from(all.len()) * rule.share_max).floor().max(1.0);
    f64::from(after.len()) <= most && !all.and(healthy).without(after).is_empty()
}

/// The number of this ejection in its row, and how long it lasts. Each `time` that was quiet
/// since the last one makes up for one before it.
pub(crate) fn term(rule: &Ejection, before: u32, quiet: Duration) -> (u32, Duration) {
    let forgotten = quiet
        .as_millis()
        .checked_div(rule.time.as_millis())
        .unwrap_or(u128::MAX);
    let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
    let number = before.saturating_sub(forgotten).saturating_add(1);
    (number, rule.time.saturating_mul(number).min(rule.time_max))
}

impl Outlier {
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Counts a failure; true when there were enough of them in a row.
    pub(crate) fn failed(&self, rule: &Ejection) -> bool {
        raise(&self.failures) >= rule.failures
    }

    /// The same of an answer that breaks off.
    pub(crate) fn broke_off(&self, rule: &Ejection) -> bool {
        raise(&self.broken) >= rule.failures
    }

    pub(crate) fn came_whole(&self) {
        if self.broken.load(Relaxed) != 0 {
            self.broken.store(0, Relaxed);
        }
    }

    /// Begins an ejection at `now`, in milliseconds since the start.
    pub(crate) fn eject(&self, rule: &Ejection, now: u64) {
        let quiet = now.saturating_sub(self.until.load(Relaxed));
        let before = self.ejections.load(Relaxed);
        let (number, lasts) = term(rule, before, Duration::from_millis(quiet));
        self.ejections.store(number, Relaxed);
        self.all.fetch_add(1, Relaxed);
        let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        self.until.store(now.saturating_add(lasts), Relaxed);
    }

    /// All ejections since the start.
    pub(crate) fn ejections(&self) -> u64 {
        self.all.load(Relaxed)
    }

    pub(crate) fn is_over(&self, now: u64) -> bool {
        now >= self.until.load(Relaxed)
    }

    /// Milliseconds that are left of an ejection.
    pub(crate) fn left(&self, now: u64) -> u64 {
        self.until.load(Relaxed).saturating_sub(now)
    }

    /// Takes it back on trial: one more failure is enough.
    pub(crate) fn try_again(&self, rule: &Ejection) {
        for row in [&self.failures, &self.broken] {
            row.store(rule.failures.saturating_sub(1), Relaxed);
        }
    }
}

/// Two cores at once may count one less: it takes one more then.
fn raise(row: &AtomicU32) -> u32 {
    let count = row.load(Relaxed).saturating_add(1);
    row.store(count, Relaxed);
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ejections_grow_and_are_forgotten() {
        let rule = Ejection::default();
        let s = Duration::from_secs;
        assert_eq!(term(&rule, 0, s(1_000)), (1, s(30)));
        assert_eq!(term(&rule, 1, s(2)), (2, s(60)));
        assert_eq!(term(&rule, 2, s(29)), (3, s(90)));
        assert_eq!(term(&rule, 3, s(61)), (2, s(60)), "two terms were quiet");
        assert_eq!(term(&rule, 40, s(0)), (41, s(300)));
    }

    #[test]
    fn a_row_is_broken_by_a_good_answer() {
        let (rule, outlier) = (Ejection::default(), Outlier::default());
        for _ in 0..4 {
            assert!(!outlier.failed(&rule));
        }
        outlier.succeeded();
        for _ in 0..4 {
            assert!(!outlier.failed(&rule));
        }
        assert!(outlier.failed(&rule));
        outlier.eject(&rule, 1_000_000);
        assert!(!outlier.is_over(1_029_999) && outlier.is_over(1_030_000));
        outlier.try_again(&rule);
        assert!(outlier.failed(&rule), "on trial");
        outlier.eject(&rule, 1_030_001);
        assert_eq!(outlier.left(1_030_001), 60_000);
    }

    /// The head of an answer says nothing of its end.
    #[test]
    fn a_row_of_broken_answers_is_ended_by_a_whole_one() {
        let (rule, outlier) = (Ejection::default(), Outlier::default());
        for _ in 0..4 {
            outlier.succeeded();
            assert!(!outlier.broke_off(&rule));
        }
        outlier.came_whole();
        for _ in 0..4 {
            outlier.succeeded();
            assert!(!outlier.broke_off(&rule));
        }
        assert!(outlier.broke_off(&rule));
        outlier.came_whole();
        outlier.try_again(&rule);
        outlier.succeeded();
        assert!(outlier.broke_off(&rule), "on trial");
    }

    proptest! {
        #[test]
        fn someone_who_is_well_is_left(
            count in 1_usize..8,
            healthy: u8,
            asked in proptest::collection::vec(0_usize..8, 0..20),
            share_max in 0.0..1.0_f64,
        ) {
            let rule = Ejection { share_max, ..Ejection::default() };
            let (all, healthy) = (Set::first(count), Set(u64::from(healthy)));
            let mut ejected = Set::NONE;
            for index in asked.into_iter().filter(|index| *index < count) {
                if may_eject(&rule, all, healthy, ejected, index) {
                    ejected = ejected.with(index);
                    prop_assert!(!all.and(healthy).without(ejected).is_empty());
                }
            }
            let most = (count as f64 * share_max).max(1.0);
            prop_assert!(f64::from(ejected.len()) <= most);
        }
    }
}
