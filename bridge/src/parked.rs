//! When parked rows have their turn again. Decides only; the engine does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use outgrow_rollout::Side;

use crate::db::books::{Parked, ParkedAt};
use crate::plan::Plan;
use crate::value::Key;

/// Rows tried at once: each try is a transaction with a savepoint a row.
pub(crate) const AT_ONCE: u32 = 200;
/// Between two tries: at first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(30);

/// Goes round all parked rows, some at a time, so that rows that nothing can free do not keep
/// others from their turn. Rounds that free nothing come less and less often.
#[derive(Debug)]
pub(crate) struct Retries {
    next: Instant,
    wait: Duration,
    /// The last row that was tried in this round.
    after: Option<ParkedAt>,
    /// Whether this round has freed something.
    freed: bool,
}

impl Retries {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: now,
            wait: FIRST,
            after: None,
            freed: false,
        }
    }

    pub(crate) fn due(&self, now: Instant) -> bool {
        now >= self.next
    }

    pub(crate) fn after(&self) -> Option<&ParkedAt> {
        self.after.as_ref()
    }

    /// A row was parked just now: what it waits for may be near.
    pub(crate) fn parked(&mut self, now: Instant) {
        self.wait = FIRST;
        self.next = now + FIRST;
    }

    /// Something has changed that rows may have waited for.
    pub(crate) fn at_once(&mut self, now: Instant) {
        self.next = now;
    }

    /// These were tried, so many less are parked now.
    pub(crate) fn tried(&mut self, now: Instant, rows: &[Parked], freed: bool) {
        self.freed |= freed;
        let round_is_over = rows.len() < AT_ONCE as usize;
        if round_is_over {
            self.wait = if self.freed {
                FIRST
            } else {
                self.wait.saturating_mul(2).min(LAST)
            };
            self.freed = false;
            self.after = None;
        } else {
            self.after = rows.last().map(Parked::at);
        }
        self.next = now + if round_is_over { self.wait } else { FIRST };
    }
}

/// The keys of parked rows by group; rows of tables that are not mapped any more are left out.
pub(crate) fn keys(plan: &Plan, rows: &[Parked]) -> HashMap<usize, Vec<Key>> {
    let mut keys: HashMap<usize, Vec<Key>> = HashMap::new();
    for one in rows {
        if let Some(group) = plan.group_of(Side::Legacy, &one.table) {
            let width = plan.groups[group].tables(Side::Legacy)[0].key.len();
            let key = one.cells.iter().take(width).cloned().collect();
            keys.entry(group).or_default().push(key);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(from: u32, to: u32) -> Vec<Parked> {
        (from..to)
            .map(|n| Parked {
                table: "item".to_owned(),
                key: n.to_string(),
                reason: String::new(),
                content: String::new(),
                at_ms: i64::from(n),
                cells: vec![i64::from(n).into()],
            })
            .collect()
    }

    #[test]
    fn every_row_has_its_turn_before_one_has_another() {
        let mut now = Instant::now();
        let mut retries = Retries::new(now);
        let all = rows(0, 500);
        let mut tried = Vec::new();
        for _ in 0..3 {
            assert!(retries.due(now));
            let from = retries.after().map_or(0, |at| at.at_ms + 1);
            let some: Vec<Parked> = all
                .iter()
                .filter(|row| row.at_ms >= from)
                .take(AT_ONCE as usize)
                .cloned()
                .collect();
            tried.extend(some.iter().map(|row| row.at_ms));
            retries.tried(now, &some, false);
            assert!(!retries.due(now));
            now += LAST;
        }
        assert_eq!(tried, (0..500).collect::<Vec<i64>>());
        assert_eq!(retries.after(), None);
    }

    #[test]
    fn rounds_that_free_nothing_come_less_often() {
        let now = Instant::now();
        let mut retries = Retries::new(now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            retries.tried(now, &rows(0, 3), false);
            waits.push(retries.wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 30, 30, 30]);
        retries.tried(now, &rows(0, 3), true);
        assert_eq!(retries.wait, FIRST);
    }

    #[test]
    fn a_row_freed_early_in_a_round_counts_for_the_round() {
        let now = Instant::now();
        let mut retries = Retries::new(now);
        retries.tried(now, &rows(0, AT_ONCE), true);
        assert_eq!(retries.after().map(|at| at.at_ms), Some(199));
        retries.tried(now, &rows(200, 210), false);
        assert_eq!(retries.wait, FIRST);
        retries.tried(now, &rows(0, 3), false);
        assert_eq!(retries.wait, FIRST * 2);
    }
}
