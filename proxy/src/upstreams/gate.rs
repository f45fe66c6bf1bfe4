//! How many requests one upstream has at a time, and how many may wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::rules::UpstreamLimits;

/// The gate of one upstream, shared by all cores.
#[derive(Debug)]
pub(crate) struct Gate {
    rule: UpstreamLimits,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Kept as long as the connection is in use.
pub(crate) type Turn = OwnedSemaphorePermit;

/// Why a request got no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("too many requests wait already")]
    Queue,
    #[error("it waited too long for its turn")]
    Late,
}

/// Counts a request that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Gate {
    pub(crate) fn new(rule: &UpstreamLimits) -> Self {
        let turns = rule.connections.min(Semaphore::MAX_PERMITS);
        Self {
            rule: rule.clone(),
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A turn, if one is free and nobody waits for it.
    pub(crate) fn enter(&self) -> Option<Turn> {
        self.turns.clone().try_acquire_owned().ok()
    }

    /// Waits for a turn, first come, first served. Cancel safe: a dropped wait has no turn.
    pub(crate) async fn wait(&self, until: Instant) -> Result<Turn, Full> {
        let before = self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.rule.waiting {
            return Err(Full::Queue);
        }
        let until = until.min(Instant::now() + self.rule.wait);
        let turn = timeout_at(until, self.turns.clone().acquire_owned()).await;
        // The gate is never closed: an error is the time's.
        turn.map_err(|_| Full::Late)?.map_err(|_| Full::Late)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_and_places_to_wait_are_counted() {
        let gate = Arc::new(Gate::new(&UpstreamLimits {
            connections: 1,
            waiting: 1,
            wait: Duration::from_secs(1),
        }));
        let far = Instant::now() + Duration::from_secs(60);
        let turn = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        let second = tokio::spawn({
            let gate = gate.clone();
            async move { gate.wait(far).await }
        });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.wait(far).await.unwrap_err(), Full::Queue);
        drop(turn);
        let turn = second.await.unwrap().unwrap();
        assert_eq!(gate.wait(far).await.unwrap_err(), Full::Late);
        drop(turn);
        assert!(gate.enter().is_some());
        assert_eq!(gate.waiting(), 0);
    }
}
