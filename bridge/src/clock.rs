//! The time of day as the bridge reads it. Nothing that is written to the slice's tables hangs on
//! it: heartbeats carry it, and say from when on what was written is on the other side.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::db::now_ms;

/// The machine's clock, or one that goes ahead of it or behind: for tests of clocks that are set.
/// Clones are one clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Sets it so many milliseconds ahead of the machine's; behind, if negative.
    pub fn set_ahead(&self, millis: i64) {
        self.0.store(millis, Ordering::Release);
    }

    pub(crate) fn now_ms(&self) -> i64 {
        now_ms().saturating_add(self.0.load(Ordering::Acquire))
    }
}
