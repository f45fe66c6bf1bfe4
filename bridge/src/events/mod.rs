//! Change events of a link: what the source commits, told to a broker, at least once, in order for
//! each key, and never at the cost of the link.
//!
//! The publisher is one more reader of the source's change stream with a place of its own, kept in
//! the source's database. What has not been told yet is not trimmed, up to a limit: a broker that
//! is away for too long must not fill the disk of the source. Beyond the limit publishing is
//! *parked*: it says so, and goes on when somebody tells it to, with an event that names the gap.
//!
//! The broker is behind [`Sink`]; nothing here knows which one it is.

mod event;
mod publisher;
mod segments;
mod state;
mod trimming;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

pub use event::Event;
pub(crate) use publisher::{begin, publish};
pub(crate) use state::State;
pub(crate) use trimming::{resume, trim_to};

use crate::plan::Plan;

/// Where the events of a link go, and how long they are kept for it.
#[derive(Debug, Clone)]
pub struct Events {
    pub sink: Arc<dyn Sink>,
    /// Places of the source's change stream that are kept for a broker that is away, at most.
    /// Heartbeats, some six a second, have places, too.
    pub keep: u64,
    /// Whether events show the row from before the change, too, and both rows as of that change.
    pub before: bool,
}

/// What a publication gives.
pub type Publishing<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// A broker.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Hands events over, in this order, and waits until the broker has them all. No two of them
    /// are about one key, so what comes after a failure is sent again without harm.
    fn publish<'a>(&'a self, events: &'a [Event]) -> Publishing<'a>;
}

/// Why a broker did not take events.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// It may take them later: it is away, or full, or not set up yet.
    #[error("{0}")]
    Trouble(String),
    /// It will never take the event at this place, for its size.
    #[error("{what}")]
    TooLarge { at: usize, what: String },
}

/// What the link's worker and its publisher know of one another.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) events: Events,
    /// The plan that the worker follows at present.
    plan: Mutex<Option<Arc<Plan>>>,
    state: Mutex<State>,
    /// Something was resumed.
    pub(crate) resumed: Notify,
}

impl Desk {
    pub(crate) fn new(events: Events) -> Self {
        Self {
            events,
            plan: Mutex::new(None),
            state: Mutex::new(State::default()),
            resumed: Notify::new(),
        }
    }

    pub(crate) fn set_plan(&self, plan: &Arc<Plan>) {
        let mut held = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(Arc::clone(plan));
    }

    pub(crate) fn plan(&self) -> Option<Arc<Plan>> {
        let held = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    pub(crate) fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        // Plain data: a panic elsewhere leaves nothing half-done that matters.
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
