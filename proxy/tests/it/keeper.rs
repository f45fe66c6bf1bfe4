//! A shadow that keeps what it is offered.

use std::sync::{Arc, Mutex};

use http::Method;
use outgrow_rollout::SliceId;
use outgrow_shadow::{Draft, Exchange, Issuer, Lost, Tap, Ticket};
use outgrow_testkit::eventually;

use crate::harness::WAIT;

pub(crate) struct Keeper {
    body_cap: usize,
    /// This method alone.
    only: Option<Method>,
    copies: Arc<Copies>,
}

#[derive(Default)]
struct Copies {
    kept: Mutex<Vec<Exchange>>,
    lost: Mutex<Vec<Lost>>,
}

impl Keeper {
    /// Wants everything, and so many bytes of each body at the most.
    pub(crate) fn of_all(body_cap: usize) -> Arc<Self> {
        Arc::new(Self {
            body_cap,
            only: None,
            copies: Arc::default(),
        })
    }

    pub(crate) fn of(only: Method, body_cap: usize) -> Arc<Self> {
        Arc::new(Self {
            body_cap,
            only: Some(only),
            copies: Arc::default(),
        })
    }

    /// How many copies there are.
    pub(crate) fn len(&self) -> usize {
        self.copies.kept.lock().unwrap().len()
    }

    /// Why tickets brought nothing.
    pub(crate) fn lost(&self) -> Vec<Lost> {
        self.copies.lost.lock().unwrap().clone()
    }

    /// Waits until there are so many, and takes all.
    pub(crate) async fn taken(&self, count: usize) -> Vec<Exchange> {
        eventually("the copies", WAIT, || async {
            let mut kept = self.copies.kept.lock().unwrap();
            (kept.len() >= count).then(|| std::mem::take(&mut *kept))
        })
        .await
    }

    /// Waits for a copy, the first of which is 0.
    pub(crate) async fn nth<T>(&self, nth: usize, of: impl Fn(&Exchange) -> T) -> T {
        eventually("the copy", WAIT, || async {
            let kept = self.copies.kept.lock().unwrap();
            kept.get(nth).map(&of)
        })
        .await
    }
}

impl Tap for Keeper {
    fn admit(&self, _: &SliceId, route: &Arc<str>, method: &Method, _: u64) -> Option<Ticket> {
        let is_wanted = self.only.as_ref().is_none_or(|only| only == method);
        is_wanted.then(|| Ticket::new(self.body_cap, route.clone(), self.copies.clone()))
    }
}

impl Issuer for Copies {
    fn take(self: Arc<Self>, draft: Box<Draft>) {
        let mut exchange = draft.open().unwrap();
        exchange.ticket.settle();
        self.kept.lock().unwrap().push(exchange);
    }

    fn lose(&self, _: &str, why: Lost) {
        self.lost.lock().unwrap().push(why);
    }
}
