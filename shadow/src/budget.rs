//! Bytes of copies that a slice holds in memory: those of requests, and of both sides' answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A slice's budget. Taken from by every core, so one number without a lock.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    held: AtomicUsize,
}

/// What one pair holds of it; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Budget>,
    held: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: AtomicUsize::new(0),
        })
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share {
            of: self.clone(),
            held: AtomicUsize::new(0),
        }
    }
}

impl Share {
    /// Takes so many bytes more; false, and nothing taken, where there are not so many.
    pub(crate) fn grow(&self, bytes: usize) -> bool {
        let more = |held: usize| held.checked_add(bytes).filter(|all| *all <= self.of.most);
        let taken = self.of.held.fetch_update(Relaxed, Relaxed, more).is_ok();
        if taken {
            self.held.fetch_add(bytes, Relaxed);
        }
        taken
    }

    /// Gives all of it back.
    pub(crate) fn give_back(&self) {
        self.of.held.fetch_sub(self.held.swap(0, Relaxed), Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_come_back() {
        let budget = Budget::new(100);
        let (one, two) = (budget.share(), budget.share());
        assert!(one.grow(60) && !two.grow(41) && two.grow(40) && !one.grow(1));
        assert!(!two.grow(usize::MAX));
        drop(one);
        assert_eq!(budget.held(), 40);
        assert!(two.grow(60));
        drop(two);
        assert_eq!(budget.held(), 0);
    }
}
