//! A deadline that is moved with every request and hardly ever passes.
//!
//! A timer of the runtime is a place in a wheel; to take it and give it back for every request
//! costs more than to read the request. So the timer stays where it is when the deadline moves
//! away from it, and is set again only when it fires too early: once in the length of a timeout,
//! however many requests there were.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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

/// The timer of one client connection, kept while hyper has no use for it.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<Deadline>>);

/// Gives hyper's server the same timer again for each head that it waits for.
#[derive(Debug, Default)]
pub(crate) struct OneTimer(Arc<Kept>);

/// What hyper takes for a timer of its own.
struct Borrowed {
    /// Taken only when it is dropped.
    deadline: Option<Deadline>,
    home: Arc<Kept>,
}

impl Future for Borrowed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            Some(deadline) => deadline.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl hyper::rt::Sleep for Borrowed {}

impl Drop for Borrowed {
    fn drop(&mut self) {
        *self.home.0.lock().unwrap_or_else(PoisonError::into_inner) = self.deadline.take();
    }
}

impl hyper::rt::Timer for OneTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let kept = self
            .0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let deadline = match kept {
            Some(mut deadline) => {
                deadline.set(at);
                deadline
            }
            None => Deadline::new(at),
        };
        Box::pin(Borrowed {
            deadline: Some(deadline),
            home: self.0.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

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
    async fn hypers_timer_is_the_same_one_each_time() {
        let timer = OneTimer::default();
        let begun = TokioInstant::now();
        drop(hyper::rt::Timer::sleep_until(
            &timer,
            begun.into_std() + SECOND,
        ));
        hyper::rt::Timer::sleep_until(&timer, begun.into_std() + 2 * SECOND).await;
        assert_eq!(begun.elapsed().as_secs(), 2);
    }
}
