//! The file of accepted differences: what a replay in CI knows already, with the reason.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use time::{Date, macros::format_description};

use crate::diff::Difference;
use crate::error::Error;
use crate::report::Report;
use crate::rules::today;

/// One kind of difference at one place of one route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedDifference {
    pub route: String,
    /// As a report names it: `$.items[*].price`.
    pub path: String,
    pub kind: String,
    pub reason: String,
    /// `YYYY-MM-DD`, the first day on which it counts again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    accepted: Vec<AcceptedDifference>,
}

impl AcceptedDifference {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Accepted`] for what is none.
    pub fn read(text: &str) -> Result<Vec<Self>, Error> {
        let file: File =
            serde_json::from_str(text).map_err(|error| Error::Accepted(error.to_string()))?;
        Accepting::new(file.accepted.clone())?;
        Ok(file.accepted)
    }

    /// A file that accepts every difference of a report, and what was accepted before.
    pub fn write(report: &Report, before: &[Self], reason: &str) -> String {
        let new = report.differences.iter().map(|found| Self {
            route: found.route.clone(),
            path: found.path.clone(),
            kind: found.kind.clone(),
            reason: reason.to_owned(),
            until: None,
        });
        let mut accepted: Vec<Self> = before.iter().cloned().chain(new).collect();
        accepted.sort_by(|a, b| (&a.route, &a.path, &a.kind).cmp(&(&b.route, &b.path, &b.kind)));
        // Plain data.
        serde_json::to_string_pretty(&File { accepted }).unwrap_or_default()
    }
}

/// The file at work.
#[derive(Debug)]
pub(super) struct Accepting {
    all: Vec<AcceptedDifference>,
    at_work: Vec<bool>,
    used: Mutex<HashSet<usize>>,
    hits: AtomicU64,
}

impl Accepting {
    pub(super) fn new(all: Vec<AcceptedDifference>) -> Result<Self, Error> {
        let today = today();
        let at_work = |one: &AcceptedDifference| {
            if one.reason.trim().is_empty() {
                return Err(Error::NoReason(one.path.clone()));
            }
            let Some(until) = &one.until else {
                return Ok(true);
            };
            let form = format_description!("[year]-[month]-[day]");
            let until = Date::parse(until, &form).map_err(|_| Error::Date(until.clone()))?;
            Ok(today < until)
        };
        Ok(Self {
            at_work: all.iter().map(at_work).collect::<Result<_, Error>>()?,
            all,
            used: Mutex::default(),
            hits: AtomicU64::new(0),
        })
    }

    /// Whether the file accepts this; counts it.
    pub(super) fn accepts(&self, route: &str, found: &Difference) -> bool {
        let path = found.place.general();
        let place = self
            .all
            .iter()
            .zip(&self.at_work)
            .position(|(one, at_work)| {
                *at_work && one.route == route && one.path == path && one.kind == found.kind
            });
        let Some(place) = place else {
            return false;
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(place);
        self.hits.fetch_add(1, Relaxed);
        true
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }

    /// What has accepted nothing.
    pub(super) fn unused(&self) -> Vec<AcceptedDifference> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all.iter().enumerate();
        let unused = all.filter(|(place, _)| !used.contains(place));
        unused.map(|(_, one)| one.clone()).collect()
    }
}
