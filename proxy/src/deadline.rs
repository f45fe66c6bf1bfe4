//! A deadline that is moved with every request and hardly ever passes.
//!
//! A timer of the runtime is a place in a wheel; to take it and give it back for every request
//! costs more than to read the request. So the timer stays where it is when the deadline moves
//! away from it, and is set again only when it fires too early: once in the length of a timeout,
//! however many requests there were.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Instant as TokioInstant, Sleep};

/// A point in time that moves.
#[derive(Debug)]
pub(crate) struct Deadline {
    timer: Pin<Box<Sleep>>,
    at: TokioInstant,
}

impl Deadline {
    pub(crate) fn new(at: Instant) -> Self {
        let at = TokioInstant::from_std(at);
        Self {
            timer: Box::pin(tokio::time::sleep_until(at)),
            at,
        }
    }

    pub(crate) fn set(&mut self, at: Instant) {
        self.at = TokioInstant::from_std(at);
        if self.timer.deadline() > self.at {
            self.timer.as_mut().reset(self.at);
        }
    }

    /// Ready once the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

/// The first of both, where there are any.
pub(crate) fn earliest((a, b): (Option<Instant>, Option<Instant>)) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// How long nothing may happen. Costs nothing before somebody has waited.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    deadline: Option<Deadline>,
    /// Nothing has happened since the deadline was set.
    waits: bool,
}

impl Idle {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            deadline: None,
            waits: false,
        }
    }

    /// Something has happened.
    pub(crate) fn ends(&mut self) {
        self.waits = false;
    }

    /// Ready when nothing has happened for so long. Polled where something is waited for.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = || Deadline::new(TokioInstant::now().into_std() + self.limit);
        let mut deadline = self.deadline.take().unwrap_or_else(begun);
        let polled = self.poll_by(&mut deadline, cx);
        self.deadline = Some(deadline);
        polled
    }

    /// The same by a deadline that is there anyway and not in use.
    pub(crate) fn poll_by(&mut self, deadline: &mut Deadline, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.waits, true) {
            deadline.set(TokioInstant::now().into_std() + self.limit);
        }
        deadline.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_when_it_was_set_last() {
        let begun = TokioInstant::now();
        let mut deadline = Deadline::new(begun.into_std() + SECOND);
        deadline.set(begun.into_std() + 3 * SECOND);
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
        deadline.set(begun.into_std() + 5 * SECOND);
        deadline.set(begun.into_std() + 4 * SECOND);
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_begins_anew_when_something_happens() {
        let begun = TokioInstant::now();
        let mut idle = Idle::new(3 * SECOND);
        for _ in 0..4 {
            let waited = tokio::time::timeout(2 * SECOND, poll_fn(|cx| idle.poll(cx)));
            assert!(waited.await.is_err());
            idle.ends();
        }
        poll_fn(|cx| idle.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 4 * 2 + 3);
    }
}
