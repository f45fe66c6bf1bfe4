//! What the rules have hidden of one pair: which differences, and which rule.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::diff::Change;
use crate::json::Json;
use crate::path::Place;
use crate::redact;

/// Hidden differences of one pair that are kept. What comes behind them is hidden all the same.
pub(crate) const HIDDEN_MAX: usize = 50;

/// A difference that a rule has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hidden {
    pub(crate) at: String,
    /// The same for every element of an array.
    pub(crate) path: String,
    pub(crate) kind: String,
    /// The path of the rule.
    pub(crate) rule: String,
}

/// Keeps what the rules do to one pair.
#[derive(Debug, Default)]
pub(crate) struct Log {
    hidden: Mutex<Vec<Hidden>>,
    /// Of each rule, in how many pages it has left something out.
    pages: Vec<AtomicU64>,
    /// The values are those of a stored pair: where something is hidden, only a token is there.
    stored: bool,
    /// A rule has asked for a value of which only a token is there.
    unsure: AtomicBool,
}

impl Log {
    pub(crate) fn new(rules: usize, stored: bool) -> Self {
        Self {
            pages: (0..rules).map(|_| AtomicU64::new(0)).collect(),
            stored,
            ..Self::default()
        }
    }

    pub(crate) fn hides(&self, place: &Place, kind: &str, rule: &str) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if hidden.len() < HIDDEN_MAX {
            hidden.push(Hidden {
                at: place.to_string(),
                path: place.general(),
                kind: kind.to_owned(),
                rule: rule.to_owned(),
            });
        }
    }

    /// Where a rule counts pages that it has left something out of.
    pub(crate) fn pages(&self, rule: usize) -> Option<&AtomicU64> {
        self.pages.get(rule)
    }

    /// Which rules have left something out of pages, and of how many.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let pages = self.pages.iter().map(|pages| pages.load(Relaxed));
        pages.enumerate().filter(|(_, pages)| *pages > 0)
    }

    /// Whether what a rule looks at here is not known; if so, nothing is sure of this pair.
    pub(crate) fn is_blind(&self, change: &Change<'_>) -> bool {
        self.stored && tokens(change)
    }

    pub(crate) fn doubt(&self) {
        self.unsure.store(true, Relaxed);
    }

    pub(crate) fn is_unsure(&self) -> bool {
        self.unsure.load(Relaxed)
    }

    pub(crate) fn hidden(&self) -> Vec<Hidden> {
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        hidden.clone()
    }
}

/// Whether something in these values is not kept.
fn tokens(change: &Change<'_>) -> bool {
    match change {
        Change::Value(a, b) => within(a) || within(b),
        Change::Missing(value) | Change::Extra(value) => within(value),
        Change::Duplicate(a, b) => a.iter().chain(b).any(|value| within(value)),
        Change::Order(_, a, b) => a.iter().chain(*b).any(within),
        // Of the same value twice, and what it is elsewhere is known.
        Change::Budget(..) | Change::Taken(..) => false,
    }
}

fn within(json: &Json) -> bool {
    match json {
        Json::String(text) => redact::has_token(text),
        Json::Array(all) => all.iter().any(within),
        Json::Object(members) => members.iter().any(|(_, value)| within(value)),
        _ => false,
    }
}
