//! Who wrote lately: a client that has just written reads from the writer until the bridge has
//! carried its write over.
//!
//! A fixed table of times by the hash of the cohort key. Two keys in one slot only means that the
//! second one reads from the writer, too, for the length of the lag.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Slots of a slice: 128 KiB, so that ten thousand writers within one lag rarely share one.
const SLOTS: usize = 16_384;

/// Nothing was ever said about how far the bridge is: the slice has no link.
const UNKNOWN: u64 = u64::MAX;

/// Times of the last writes, in milliseconds since 1970.
#[derive(Debug)]
pub(crate) struct RecentWrites {
    slots: Box<[AtomicU64]>,
    applied_through: AtomicU64,
    /// Another process takes writes, too, and does not say of whom.
    shared: AtomicBool,
}

impl Default for RecentWrites {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            applied_through: AtomicU64::new(UNKNOWN),
            shared: AtomicBool::new(false),
        }
    }
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
}

impl RecentWrites {
    fn slot(&self, key: u64) -> &AtomicU64 {
        &self.slots[usize::try_from(key % SLOTS as u64).unwrap_or(0)]
    }

    /// A write of this key was answered at `now`. Where the clock was set back a moment ago, that is before
    /// what is carried over already; it counts as no earlier than that.
    pub(crate) fn wrote(&self, key: u64, now: SystemTime) {
        let through = self.applied_through.load(Relaxed);
        let known = if through == UNKNOWN { 0 } else { through };
        self.slot(key).fetch_max(millis(now).max(known), Relaxed);
    }

    /// From now on another process takes writes, too: everybody may have written.
    pub(crate) fn share(&self) {
        self.shared.store(true, Relaxed);
    }

    /// From now on this process takes all writes. What was written before it knows nothing of.
    pub(crate) fn share_no_more(&self, now: SystemTime) {
        for slot in &self.slots {
            slot.fetch_max(millis(now), Relaxed);
        }
        self.shared.store(false, Relaxed);
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Relaxed)
    }

    /// Everything that the writer committed before this is on the other side. `None` while the
    /// link cannot tell, which keeps every recent writer at the writer.
    pub(crate) fn set_applied_through(&self, through: Option<SystemTime>) {
        self.applied_through
            .store(through.map_or(0, millis), Relaxed);
    }

    /// Whether a bridge carries writes of one side to the other.
    pub(crate) fn is_linked(&self) -> bool {
        self.applied_through.load(Relaxed) != UNKNOWN
    }

    /// When the key's last write was answered, in milliseconds since 1970; 0 for never.
    pub(crate) fn last(&self, key: u64) -> u64 {
        self.slot(key).load(Relaxed)
    }

    /// Up to when a side that is asked now has all writes, in milliseconds since 1970.
    pub(crate) fn seen(&self, is_writer: bool, now: SystemTime) -> u64 {
        let through = self.applied_through.load(Relaxed);
        match is_writer || through == UNKNOWN {
            true => millis(now),
            false => through,
        }
    }

    /// Whether the key's last write may not have reached the other side; `carried` is when that was as far
    /// as the client itself has proof of it, which may have written elsewhere.
    pub(crate) fn ahead(&self, key: u64, carried: u64) -> bool {
        let through = self.applied_through.load(Relaxed);
        // The clock of the stamp is read after the commit, so an equal time may be later.
        through != UNKNOWN && (self.last(key).max(carried) >= through.max(1) || self.is_shared())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_writer_is_ahead_until_the_bridge_has_passed_its_write() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let recent = RecentWrites::default();
        recent.wrote(7, at(1_000));
        assert!(
            !recent.ahead(7, 0),
            "a slice without a link has nothing to wait for"
        );
        recent.set_applied_through(None);
        assert!(recent.ahead(7, 0));
        assert!(!recent.ahead(8, 0), "never wrote");
        recent.set_applied_through(Some(at(1_000)));
        assert!(recent.ahead(7, 0));
        recent.set_applied_through(Some(at(1_001)));
        assert!(!recent.ahead(7, 0));
        assert!(
            !recent.ahead(8, 1_000) && recent.ahead(8, 1_001),
            "written elsewhere"
        );
        recent.wrote(7, at(900));
        assert!(
            recent.ahead(7, 0),
            "the clock was set back, and nobody has said so yet"
        );
        recent.set_applied_through(Some(at(1_002)));
        assert!(!recent.ahead(7, 0));
        recent.share();
        assert!(recent.ahead(7, 0) && recent.ahead(8, 0), "whoever it was");
        recent.share_no_more(at(2_000));
        assert!(recent.ahead(8, 0), "who wrote there last");
        recent.set_applied_through(Some(at(2_001)));
        assert!(!recent.ahead(7, 0) && !recent.ahead(8, 0));
    }

    #[test]
    fn a_side_has_what_it_wrote_or_what_the_bridge_brought() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let recent = RecentWrites::default();
        assert_eq!(recent.seen(false, at(2_000)), 2_000, "one database");
        recent.set_applied_through(Some(at(1_500)));
        assert_eq!(recent.seen(false, at(2_000)), 1_500);
        assert_eq!(recent.seen(true, at(2_000)), 2_000);
        recent.set_applied_through(None);
        assert_eq!(recent.seen(false, at(2_000)), 0, "nobody knows");
        recent.wrote(7, at(1_000));
        assert_eq!((recent.last(7), recent.last(8)), (1_000, 0));
    }
}
