//! Holding a slice's writes for the cutover.
//!
//! A write first counts itself in, then looks whether it is held; the cutover first sets the
//! hold, then looks at the count. With sequentially consistent order one of the two always sees
//! the other, so no write slips through between "none in flight" and "held".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use outgrow_rollout::{HoldFigures, SliceId};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::HoldError;

/// The gate that every write of a slice passes.
#[derive(Debug, Default)]
pub(crate) struct WriteGate {
    held: AtomicBool,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    /// Bytes that the bodies of those may take meanwhile.
    waiting_bytes: AtomicU64,
    /// Writes that waited since the last hold began.
    waited: AtomicU64,
    /// The same of all holds.
    waited_all: AtomicU64,
    refused: AtomicU64,
    waited_us: AtomicU64,
    idle: Notify,
    released: Notify,
}

/// How long writes wait, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) within: Duration,
    pub(crate) most: usize,
    /// Of bodies, all together.
    pub(crate) bytes: u64,
}

/// Why a write may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The hold lasted too long.
    TooLong,
    /// Too many wait already.
    TooMany,
}

/// One write in flight. Kept until its answer's head has come, whoever asked for it.
#[derive(Debug)]
pub(crate) struct Passage(Arc<WriteGate>);

impl Drop for Passage {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl WriteGate {
    fn leave(&self) {
        if self.in_flight.fetch_sub(1, SeqCst) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Passes at once, or waits for the release. `bytes`: what of its body may come while nobody reads
    /// it. Cancel safe: a dropped wait is no write.
    pub(crate) async fn pass(
        self: &Arc<Self>,
        patience: Patience,
        bytes: impl Fn() -> u64,
    ) -> Result<Passage, Refused> {
        let mut deadline = None;
        loop {
            self.in_flight.fetch_add(1, SeqCst);
            if !self.held.load(SeqCst) {
                return Ok(Passage(self.clone()));
            }
            self.leave();
            let _waiting = Waiting::enter(self, patience, bytes())?;
            if deadline.is_none() {
                self.waited.fetch_add(1, SeqCst);
                self.waited_all.fetch_add(1, Relaxed);
            }
            let until = *deadline.get_or_insert_with(|| Instant::now() + patience.within);
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.held.load(SeqCst) && timeout_at(until, released).await.is_err() {
                self.refused.fetch_add(1, Relaxed);
                return Err(Refused::TooLong);
            }
        }
    }

    /// Holds new writes; ready when none is in flight. On an error the hold stays in place.
    pub(crate) async fn hold(&self, within: Duration) -> Result<(), HoldError> {
        if !self.held.swap(true, SeqCst) {
            self.waited.store(0, SeqCst);
        }
        let until = Instant::now() + within;
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            let in_flight = self.in_flight.load(SeqCst);
            if in_flight == 0 {
                return Ok(());
            }
            if timeout_at(until, idle).await.is_err() {
                return Err(HoldError::InFlight {
                    writes: in_flight,
                    within,
                });
            }
        }
    }

    pub(crate) fn release(&self) {
        self.held.store(false, SeqCst);
        self.released.notify_waiters();
    }

    pub(crate) fn waited(&self) -> u64 {
        self.waited.load(SeqCst)
    }

    /// For the metrics.
    pub(crate) fn figures(&self, slice: &SliceId) -> HoldFigures {
        HoldFigures {
            slice: slice.clone(),
            held: self.is_held(),
            waiting: self.waiting.load(SeqCst) as u64,
            waited: self.waited_all.load(Relaxed),
            refused: self.refused.load(Relaxed),
            waited_us: self.waited_us.load(Relaxed),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(SeqCst)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }
}

/// Counts one waiting write, also when its client goes away.
struct Waiting<'a> {
    gate: &'a WriteGate,
    bytes: u64,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn enter(gate: &'a WriteGate, patience: Patience, bytes: u64) -> Result<Self, Refused> {
        let before = gate.waiting.fetch_add(1, SeqCst);
        let bytes_before = gate.waiting_bytes.fetch_add(bytes, Relaxed);
        let waiting = Self {
            gate,
            bytes,
            since: Instant::now(),
        };
        if before >= patience.most || bytes_before.saturating_add(bytes) > patience.bytes {
            gate.refused.fetch_add(1, Relaxed);
            Err(Refused::TooMany)
        } else {
            Ok(waiting)
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, SeqCst);
        self.gate.waiting_bytes.fetch_sub(self.bytes, Relaxed);
        let took = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.gate.waited_us.fetch_add(took, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn few(within: Duration, most: usize) -> Patience {
        Patience {
            within,
            most,
            bytes: 100,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_wait_have_a_bound_together() {
        let gate = Arc::new(WriteGate::default());
        gate.hold(SECOND).await.unwrap();
        let wait = |bytes: u64| {
            let gate = gate.clone();
            tokio::spawn(async move { gate.pass(few(SECOND, 9), || bytes).await.map(drop) })
        };
        let first = wait(60);
        tokio::task::yield_now().await;
        assert_eq!(wait(41).await.unwrap(), Err(Refused::TooMany));
        let (second, none) = (wait(40), wait(0));
        tokio::task::yield_now().await;
        gate.release();
        for ended in [first, second, none] {
            assert_eq!(ended.await.unwrap(), Ok(()));
        }
        assert_eq!(gate.waiting_bytes.load(Relaxed), 0, "given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_waits_for_writes_in_flight() {
        let gate = Arc::new(WriteGate::default());
        let passage = gate.pass(few(SECOND, 9), || 0).await.unwrap();
        let error = gate.hold(SECOND).await.unwrap_err();
        assert_eq!(
            error,
            HoldError::InFlight {
                writes: 1,
                within: SECOND
            }
        );
        let waits = tokio::spawn({
            let gate = gate.clone();
            async move { gate.hold(SECOND).await }
        });
        drop(passage);
        assert_eq!(waits.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn held_writes_go_on_at_the_release_and_are_refused_when_it_is_late() {
        let gate = Arc::new(WriteGate::default());
        gate.hold(SECOND).await.unwrap();
        assert_eq!(
            gate.pass(few(SECOND, 9), || 0).await.unwrap_err(),
            Refused::TooLong
        );
        assert_eq!(
            gate.pass(few(SECOND, 0), || 0).await.unwrap_err(),
            Refused::TooMany
        );
        let waits = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass(few(SECOND, 9), || 0).await.map(drop) }
        });
        while gate.waiting.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        gate.release();
        assert_eq!(waits.await.unwrap(), Ok(()));
        assert_eq!(gate.waited(), 2);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_write_is_in_flight_once_held() {
        let gate = Arc::new(WriteGate::default());
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let (gate, stop) = (gate.clone(), stop.clone());
                tokio::spawn(async move {
                    while !stop.load(SeqCst) {
                        let passage = gate.pass(few(60 * SECOND, 99), || 0).await.unwrap();
                        tokio::task::yield_now().await;
                        drop(passage);
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            gate.hold(60 * SECOND).await.unwrap();
            tokio::task::yield_now().await;
            // A write that looks counts itself for an instant, but none passes.
            assert!(gate.is_held());
            gate.release();
        }
        stop.store(true, SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(gate.in_flight(), 0);
    }
}
