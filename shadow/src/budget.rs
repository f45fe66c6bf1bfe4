//! Bytes of copies that a slice holds in memory: those of requests, and of both sides' answers. A
//! route may have a part of its own, and takes of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A slice's budget, or that of a route within it. Taken from by every core, so one number without
/// a lock.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    held: AtomicUsize,
    within: Option<Arc<Budget>>,
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
            within: None,
        })
    }

    /// Another one, of which this one must have room for all, too.
    pub(crate) fn part(self: &Arc<Self>, most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: AtomicUsize::new(0),
            within: Some(self.clone()),
        })
    }

    /// For the moment that it takes to see that there is no room, others may see none either.
    fn take(&self, bytes: usize) -> bool {
        if bytes > self.most {
            return false;
        }
        let before = self.held.fetch_add(bytes, Relaxed);
        let fits = before <= self.most - bytes;
        let taken = fits && self.within.as_ref().is_none_or(|whole| whole.take(bytes));
        if !taken {
            self.held.fetch_sub(bytes, Relaxed);
        }
        taken
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
        if let Some(whole) = &self.within {
            whole.give_back(bytes);
        }
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
        let taken = self.of.take(bytes);
        if taken {
            self.held.fetch_add(bytes, Relaxed);
        }
        taken
    }

    /// Gives all of it back.
    pub(crate) fn give_back(&self) {
        self.of.give_back(self.held.swap(0, Relaxed));
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

    #[test]
    fn a_part_has_a_bound_of_its_own_and_takes_of_the_whole() {
        let whole = Budget::new(100);
        let (small, large) = (whole.part(30), whole.part(1_000));
        let (one, two, other) = (small.share(), large.share(), whole.share());
        assert!(!one.grow(31) && one.grow(30) && !one.grow(1));
        assert!(!two.grow(71) && two.grow(50));
        assert_eq!((small.held(), large.held(), whole.held()), (30, 50, 80));
        assert!(!other.grow(21) && other.grow(20));
        drop(one);
        assert_eq!((small.held(), whole.held()), (0, 70));
        drop((two, other));
        assert_eq!((large.held(), whole.held()), (0, 0));
    }
}
