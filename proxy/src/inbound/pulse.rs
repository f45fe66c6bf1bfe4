//! Whether a client of HTTP/2 is still there, and how long it rests.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

use super::framed::Manners;
use crate::deadline::Deadline;

/// A client that has said nothing for this long is asked whether it is still there.
const PING_AFTER: Duration = Duration::from_secs(60);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Of the clock that timers go by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether the client is still there.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Whether it has sent something.
    manners: Rc<Manners>,
    pings: Option<PingPong>,
    asked: bool,
    deadline: Deadline,
}

impl Pulse {
    pub(super) fn new(manners: Rc<Manners>, pings: Option<PingPong>) -> Self {
        Self {
            manners,
            pings,
            asked: false,
            deadline: Deadline::new(now() + PING_AFTER),
        }
    }

    /// Ready when it has gone without a word.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked && self.manners.heard.take() {
            self.asked = false;
            self.deadline.set(now() + PING_AFTER);
        }
        while self.deadline.poll(cx).is_ready() {
            if self.manners.heard.take() {
                self.deadline.set(now() + PING_AFTER);
                continue;
            }
            if self.asked {
                return Poll::Ready(());
            }
            self.asked = true;
            self.deadline.set(now() + PONG_WITHIN);
            if let Some(pings) = &mut self.pings {
                // The answer to the last one makes way for this one. Any answer is one.
                let _ = pings.poll_pong(cx);
                let _ = pings.send_ping(Ping::opaque());
            }
        }
        Poll::Pending
    }
}

/// The requests of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    open: Cell<usize>,
    /// The last one has ended then.
    since: Cell<Instant>,
}

impl Streams {
    pub(super) fn none() -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            since: Cell::new(now()),
        })
    }

    pub(super) fn begin(self: &Rc<Self>) -> OpenStream {
        self.open.set(self.open.get() + 1);
        OpenStream(self.clone())
    }
}

/// One that is not over.
#[derive(Debug)]
pub(super) struct OpenStream(Rc<Streams>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.since.set(now());
    }
}

/// How long a client may have no request at all, whatever else it says.
#[derive(Debug)]
pub(super) struct Rest {
    streams: Rc<Streams>,
    most: Duration,
    /// None where it may rest for ever.
    deadline: Option<Deadline>,
}

impl Rest {
    pub(super) fn new(streams: Rc<Streams>, most: Duration) -> Self {
        let deadline = (!most.is_zero()).then(|| Deadline::new(now() + most));
        Self {
            streams,
            most,
            deadline,
        }
    }

    /// Ready when it has rested for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        loop {
            ready!(deadline.poll(cx));
            let now = now();
            let since = match self.streams.open.get() {
                0 => self.streams.since.get(),
                _ => now,
            };
            if since + self.most <= now {
                return Poll::Ready(());
            }
            deadline.set(since + self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_given_up() {
        let begun = now();
        let mut pulse = Pulse::new(Rc::default(), None);
        poll_fn(|cx| pulse.poll(cx)).await;
        assert_eq!(now() - begun, PING_AFTER + PONG_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_or_speaks_stays() {
        let manners = Rc::new(Manners::default());
        let mut pulse = Pulse::new(manners.clone(), None);
        let begun = now();
        for _ in 0..5 {
            // It is asked, and answers in time.
            let waited = timeout(PING_AFTER + PONG_WITHIN / 2, poll_fn(|cx| pulse.poll(cx)));
            assert!(waited.await.is_err());
            manners.heard.set(true);
        }
        let last = now();
        assert_eq!(last - begun, 5 * (PING_AFTER + PONG_WITHIN / 2));
        poll_fn(|cx| pulse.poll(cx)).await;
        assert_eq!(now() - last, PING_AFTER + PONG_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_begins_with_the_end_of_the_last_request() {
        let streams = Streams::none();
        let mut rest = Rest::new(streams.clone(), 10 * SECOND);
        let begun = now();
        let (one, two) = (streams.begin(), streams.begin());
        let requests = async {
            sleep(7 * SECOND).await;
            drop(one);
            sleep(18 * SECOND).await;
            drop(two);
            now()
        };
        let (ended, ()) = tokio::join!(requests, poll_fn(|cx| rest.poll(cx)));
        assert_eq!((now() - begun, now() - ended), (35 * SECOND, 10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_asks_anything_rests_from_the_beginning_or_for_ever() {
        let begun = now();
        let mut rest = Rest::new(Streams::none(), 10 * SECOND);
        poll_fn(|cx| rest.poll(cx)).await;
        assert_eq!(now() - begun, 10 * SECOND);
        let mut rest = Rest::new(Streams::none(), Duration::ZERO);
        let waited = timeout(1_000_000 * SECOND, poll_fn(|cx| rest.poll(cx)));
        assert!(waited.await.is_err());
    }
}
