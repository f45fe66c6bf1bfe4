//! How many clients are connected, and how many may be.
//!
//! Each holds a descriptor, and so does each connection with an upstream, each file and each database. Were
//! clients to take them all, those that are connected would not be answered either. So beyond a number
//! nobody is let in: who comes waits in the kernel's queue until somebody has left. When nearly so many are
//! there, connections end behind their next answer, so that those who wait get in soon.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

/// One part in so many is left when connections begin to end behind their answers.
const CROWDED: usize = 16;

/// All clients of a proxy.
#[derive(Debug)]
pub(crate) struct Clients {
    open: AtomicUsize,
    most: usize,
    crowded: AtomicBool,
    /// How often the door was shut.
    shut: AtomicU64,
}

impl Clients {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            most,
            crowded: AtomicBool::new(false),
            shut: AtomicU64::new(0),
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn shut(&self) -> u64 {
        self.shut.load(Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.open() >= self.most
    }

    /// The door is shut until somebody has left.
    pub(crate) fn shuts(&self) {
        self.shut.fetch_add(1, Relaxed);
    }

    /// Whether connections are to end behind their answers.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Relaxed)
    }

    pub(crate) fn enters(&self) {
        let open = self.open.fetch_add(1, SeqCst) + 1;
        self.crowds(open);
    }

    pub(crate) fn leaves(&self) {
        let open = self.open.fetch_sub(1, SeqCst) - 1;
        self.crowds(open);
    }

    fn crowds(&self, open: usize) {
        let crowded = open > self.most - self.most.div_ceil(CROWDED);
        // Whoever answers looks at it: written only when it changes.
        if crowded != self.is_crowded() {
            self.crowded.store(crowded, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_room_is_left_when_it_is_crowded() {
        for (most, from) in [(1, 1), (2, 2), (16, 16), (17, 16), (32, 31), (1_600, 1_501)] {
            let clients = Clients::new(most);
            for _ in 1..from {
                clients.enters();
            }
            assert!(!clients.is_crowded(), "{most}");
            clients.enters();
            assert!(clients.is_crowded(), "{most}");
            assert_eq!(clients.is_full(), from == most);
            clients.leaves();
            assert!(!clients.is_crowded() && !clients.is_full(), "{most}");
        }
        let clients = Clients::new(usize::MAX);
        clients.enters();
        assert!(!clients.is_crowded() && !clients.is_full());
    }
}
