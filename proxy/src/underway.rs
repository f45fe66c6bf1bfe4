//! When writes were under way: who can have changed a row at a moment.
//!
//! Nothing is noted until somebody asks for the first time.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use outgrow_rollout::Spans;

use crate::recent::millis;

/// Milliseconds that are looked back. A change that is noticed later than that says nothing.
const KEPT: i64 = 60_000;

/// Shorter pauses are none, in milliseconds. So there is a bound to what is kept.
const PAUSE: i64 = 10;

/// What was on its way already when the first one was noted has ended after this, in milliseconds, but
/// for a few; and those that are slower write at their begin, most likely.
const UNSEEN: i64 = 2_000;

/// A clock that goes back by more than this was set, in milliseconds.
const SET_BACK: i64 = 1_000;

/// Nobody asks.
const OFF: i64 = i64::MAX;

/// Writes of one slice, or those of none, by all cores.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// All that is later was noted, in Unix milliseconds.
    since: AtomicI64,
    spans: Mutex<Spans>,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self {
            since: AtomicI64::new(OFF),
            spans: Mutex::new(Spans::new(KEPT, PAUSE)),
        }
    }
}

/// A write on its way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Going(Arc<UnderWay>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.spans().ends(now());
    }
}

fn now() -> i64 {
    i64::try_from(millis(SystemTime::now())).unwrap_or(i64::MAX)
}

impl UnderWay {
    /// Held for a few comparisons and additions, twice a write.
    fn spans(&self) -> MutexGuard<'_, Spans> {
        // Plain data: a panic elsewhere leaves nothing half-done that matters.
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a write sets off, if anybody asks.
    pub(crate) fn begins(self: &Arc<Self>) -> Option<Going> {
        if self.since.load(Relaxed) == OFF {
            return None;
        }
        let now = now();
        let mut spans = self.spans();
        if spans.latest().is_some_and(|latest| latest > now + SET_BACK) {
            // What was then is not told from what is now.
            *spans = Spans::new(KEPT, PAUSE);
            self.since.store(now + UNSEEN, Relaxed);
        }
        spans.begins(now);
        drop(spans);
        Some(Going(self.clone()))
    }

    /// From now on all writes come by here; before, another process took some.
    pub(crate) fn restart(&self) {
        if self.since.load(Relaxed) != OFF {
            self.since.store(now(), Relaxed);
        }
    }

    /// Whether a write was under way at some moment between these, in Unix milliseconds; `None` where
    /// nobody knows. From the first call on, writes are noted.
    pub(crate) fn within(&self, between: &RangeInclusive<i64>) -> Option<bool> {
        let now = now();
        let begun = self
            .since
            .compare_exchange(OFF, now + UNSEEN, Relaxed, Relaxed);
        let since = begun.map_or_else(|since| since, |_| OFF);
        match *between.start() < since || *between.start() > now {
            true => None,
            false => self.spans().within(between),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_noted_is_told() {
        let writes = Arc::new(UnderWay::default());
        assert!(writes.begins().is_none(), "nobody asks");
        let asked = now();
        assert_eq!(writes.within(&(asked..=asked)), None);
        let going = writes.begins();
        assert!(going.is_some());
        assert_eq!(writes.within(&(asked..=asked)), None, "not yet");
        // As if that had been a while ago.
        writes.since.store(asked - 1_000, Relaxed);
        assert_eq!(writes.within(&(asked - 1_001..=asked)), None);
        assert_eq!(writes.within(&(asked - 500..=asked - 400)), Some(false));
        assert_eq!(writes.within(&(asked..=now())), Some(true));
        drop(going);
        // The clock was set back.
        let hour = 3_600_000;
        writes.spans().begins(now() + hour);
        writes.spans().ends(now() + hour);
        let going = writes.begins();
        assert_eq!(writes.within(&(asked - 500..=asked - 400)), None);
        assert!(writes.spans().latest() < Some(now() + hour));
        drop(going);
        writes.since.store(asked - 1_000, Relaxed);
        writes.restart();
        assert_eq!(writes.within(&(asked - 500..=asked - 400)), None);
        assert_eq!(
            writes.within(&(now() + 60_000..=now() + 60_001)),
            None,
            "to come"
        );
    }
}
