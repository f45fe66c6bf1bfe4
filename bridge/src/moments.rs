//! When rows of the side that takes the writes changed, for whoever knows what else went on then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use outgrow_rollout::Side;
use outgrow_rollout::bypass::Changed;

use crate::db::stream::Change;
use crate::plan::Plan;
use crate::value::{Cell, key_text};

/// Changes of so many milliseconds are of one moment.
const WIDTH: i64 = 20;

/// Nobody needs to have fetched them; what is more is forgotten, the oldest first.
const KEPT: usize = 1_000;

/// How far a database's clock is from ours is asked anew after this.
const DATED: Duration = Duration::from_secs(10);

/// Changes of about one time, by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    at: i64,
    rows: u64,
    row: String,
}

/// Those that nobody has fetched, and by how much the database's clock is ahead of ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    waiting: VecDeque<Moment>,
    ahead: Option<(i64, Instant)>,
}

/// Between which moments something was, told by a clock that is so far ahead. A log may tell whole
/// seconds only.
pub(crate) fn between(at: i64, ahead: i64) -> (i64, i64) {
    let cut = if at % 1_000 == 0 { 999 } else { 0 };
    let from = at.saturating_sub(ahead);
    (from, from.saturating_add(cut))
}

/// Moments of changes in their order: when each was, and what names its row.
pub(crate) fn gathered(
    changes: impl Iterator<Item = (i64, impl FnOnce() -> String)>,
) -> Vec<Moment> {
    let mut all: Vec<Moment> = Vec::new();
    for (at, row) in changes {
        let last = all.last_mut();
        if let Some(last) = last.filter(|l| l.at.div_euclid(WIDTH) == at.div_euclid(WIDTH)) {
            last.rows += 1;
            continue;
        }
        if all.len() == KEPT {
            break;
        }
        all.push(Moment {
            at,
            rows: 1,
            row: row(),
        });
    }
    all
}

/// What names a row, for people.
pub(crate) fn named(side: Side, table: &str, key: &[Cell], op: &str) -> String {
    format!("{side} `{table}` key {} ({op})", key_text(key))
}

/// The same of changes of the stream.
pub(crate) fn of_stream(plan: &Plan, side: Side, changes: &[Change]) -> Vec<Moment> {
    let rows = changes.iter().filter(|change| !change.is_beat());
    gathered(rows.map(|change| {
        let name = || match change.row(plan, side) {
            Some((_, key)) => named(side, &change.table, &key, &change.op),
            None => format!("{side} `{}` ({})", change.table, change.op),
        };
        (change.at, name)
    }))
}

impl Moments {
    pub(crate) fn add(&mut self, new: Vec<Moment>) {
        self.waiting.extend(new);
        let over = self.waiting.len().saturating_sub(KEPT);
        self.waiting.drain(..over);
    }

    /// Whether it is to be asked how far the clock is ahead.
    pub(crate) fn are_undated(&self) -> bool {
        let known = self.ahead.is_some_and(|(_, asked)| asked.elapsed() < DATED);
        !self.waiting.is_empty() && !known
    }

    pub(crate) fn date(&mut self, ahead: i64) {
        self.ahead = Some((ahead, Instant::now()));
    }

    /// All that wait, once their clock is known.
    pub(crate) fn take(&mut self) -> Vec<Changed> {
        let Some((ahead, _)) = self.ahead else {
            return Vec::new();
        };
        let all = self.waiting.drain(..);
        all.map(|moment| Changed {
            between: between(moment.at, ahead),
            rows: moment.rows,
            row: moment.row,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(times: &[i64]) -> Vec<Moment> {
        let key = [Cell::Int(7)];
        let name = || named(Side::Legacy, "orders", &key, "u");
        gathered(times.iter().map(|at| (*at, name)))
    }

    #[test]
    fn changes_of_one_moment_are_one() {
        let all = told(&[1_000, 1_019, 1_020, 1_500, 1_490, -1]);
        let short: Vec<(i64, u64)> = all.iter().map(|m| (m.at, m.rows)).collect();
        assert_eq!(
            short,
            [(1_000, 2), (1_020, 1), (1_500, 1), (1_490, 1), (-1, 1)]
        );
        assert_eq!(all[0].row, "legacy `orders` key 7 (u)");
    }

    #[test]
    fn they_are_told_once_by_our_clock_and_have_a_bound() {
        let mut moments = Moments::default();
        assert!(!moments.are_undated());
        moments.add(told(&[10_123]));
        assert!(moments.take().is_empty() && moments.are_undated());
        moments.date(4_000);
        assert!(!moments.are_undated());
        let taken = moments.take();
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].between, taken[0].rows), ((6_123, 6_123), 1));
        assert!(moments.take().is_empty());
        let many: Vec<i64> = (1..3_000).map(|n| n * 1_000).collect();
        moments.add(told(&many[..900]));
        moments.add(told(&many[900..1_800]));
        let taken = moments.take();
        assert_eq!(taken.len(), KEPT);
        assert_eq!(
            taken[KEPT - 1].between,
            (1_796_000, 1_796_999),
            "whole seconds are those of that clock"
        );
        assert_eq!(told(&many).len(), KEPT);
    }
}
