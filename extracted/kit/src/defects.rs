//! Defects planted on purpose, to see whether the comparison finds them.
//!
//! Owns which defect is on, the switch that changes it while running, and the two defects that do
//! not depend on a slice (slow reads, failing reads). What the others mean, each service says
//! itself. None is on unless asked for.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clap::ValueEnum;

use crate::answer::Failure;
use crate::service::Service;

/// How long a read waits under [`Defect::Slow`].
pub const SLOW_READ: Duration = Duration::from_millis(250);

/// How many of a hundred reads fail under [`Defect::Errors`].
const ERRORS_PERCENT: u64 = 30;

/// What can be wrong with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// An amount or an average is printed one hundredth off for some rows
    PriceRounding,
    /// A key whose value is null is left out
    MissingNull,
    /// Reads take 250 ms longer
    Slow,
    /// About 30 % of the reads answer 500
    Errors,
    /// Lists come in a wrong order
    StaleSort,
}

impl Defect {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Defect; 5] = [
        Defect::PriceRounding,
        Defect::MissingNull,
        Defect::Slow,
        Defect::Errors,
        Defect::StaleSort,
    ];

    /// The name on the command line and in `PUT /_defect`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Defect::PriceRounding => "price-rounding",
            Defect::MissingNull => "missing-null",
            Defect::Slow => "slow",
            Defect::Errors => "errors",
            Defect::StaleSort => "stale-sort",
        }
    }

    fn code(self) -> u8 {
        self as u8 + 1
    }
}

/// Which defect is on. Cheap to ask on every request.
#[derive(Debug)]
pub struct DefectSwitch {
    /// 0 is none, else the defect's place in the enum plus one.
    current: AtomicU8,
    reads: AtomicU64,
    allowed: bool,
}

impl DefectSwitch {
    /// Starts with `defect`; `allowed` says whether it may be changed over HTTP.
    #[must_use]
    pub fn new(defect: Option<Defect>, allowed: bool) -> DefectSwitch {
        DefectSwitch {
            current: AtomicU8::new(defect.map_or(0, Defect::code)),
            reads: AtomicU64::new(0),
            allowed,
        }
    }

    /// The defect that is on.
    #[must_use]
    pub fn current(&self) -> Option<Defect> {
        let code = self.current.load(Ordering::Relaxed);
        Defect::ALL.into_iter().find(|defect| defect.code() == code)
    }

    /// Whether `defect` is on.
    #[must_use]
    pub fn is(&self, defect: Defect) -> bool {
        self.current.load(Ordering::Relaxed) == defect.code()
    }

    /// Whether the switch may be moved over HTTP.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.allowed
    }

    /// Turns a defect on, or all off.
    pub fn set(&self, defect: Option<Defect>) {
        self.current
            .store(defect.map_or(0, Defect::code), Ordering::Relaxed);
    }

    /// Whether the next read is one that fails.
    fn next_read_fails(&self) -> bool {
        // Multiples of the golden ratio spread evenly over any window, so that a short run has its
        // share of failures too and no route is spared by a regular pattern of requests.
        let nth = self.reads.fetch_add(1, Ordering::Relaxed);
        let spread = nth.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        (spread * 100) >> 32 < ERRORS_PERCENT
    }
}

/// The layer around a slice's routes that delays or fails reads when such a defect is on.
pub async fn afflict_reads(State(service): State<Service>, call: Request, next: Next) -> Response {
    let defects = service.defects();
    if call.method().is_safe() {
        if defects.is(Defect::Slow) {
            tokio::time::sleep(SLOW_READ).await;
        } else if defects.is(Defect::Errors) && defects.next_read_fails() {
            return Failure::planted().into_response();
        }
    }
    next.run(call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_everywhere() {
        for defect in Defect::ALL {
            assert_eq!(Defect::from_str(defect.name(), false), Ok(defect));
            assert_eq!(serde_json::to_value(defect).unwrap(), defect.name());
            let switch = DefectSwitch::new(Some(defect), false);
            assert_eq!(switch.current(), Some(defect));
            assert!(switch.is(defect));
        }
        assert_eq!(Defect::value_variants().len(), Defect::ALL.len());
        assert_eq!(DefectSwitch::new(None, false).current(), None);
    }

    #[test]
    fn about_thirty_of_a_hundred_reads_fail() {
        let switch = DefectSwitch::new(Some(Defect::Errors), false);
        for _ in 0..20 {
            let failed = (0..100).filter(|_| switch.next_read_fails()).count();
            assert!((27..=33).contains(&failed), "{failed}");
        }
    }
}
