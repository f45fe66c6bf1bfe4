//! Looks at the status again and again, for the moving line and for the sums over a whole run.
//!
//! Shadow evidence starts over with every build, so what the whole run compared is the sum over
//! the pairs of builds, each as it was last seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outgrow_rollout::{Evidence, ShadowEvidence};
use serde_json::Value;
use tokio::task::AbortHandle;

use super::admin::Admin;

/// What is gathered between the last look and the end of a build's evidence is not in the sums;
/// a fifth of a second keeps that small.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// What the shadow did in a whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ShadowTotals {
    pub(crate) eligible: u64,
    pub(crate) compared: u64,
    pub(crate) mismatched: u64,
    pub(crate) dropped: u64,
}

#[derive(Debug, Default)]
struct Seen {
    /// By slice and pair of builds.
    shadow: BTreeMap<(String, String, String), ShadowTotals>,
    slices: BTreeMap<String, Value>,
}

impl Seen {
    fn look(&mut self, status: &Value) {
        for slice in status["slices"].as_array().into_iter().flatten() {
            let Some(name) = slice["slice"].as_str() else {
                continue;
            };
            if let Some(shadow) = evidence(slice).and_then(|e| e.shadow) {
                let builds = (
                    shadow.builds.legacy.to_string(),
                    shadow.builds.extracted.to_string(),
                );
                let totals = totals(&shadow);
                let seen = self
                    .shadow
                    .entry((name.to_owned(), builds.0, builds.1))
                    .or_default();
                // The counts of one pair of builds only grow, unless somebody resets them.
                if totals.eligible >= seen.eligible {
                    *seen = totals;
                }
            }
            self.slices.insert(name.to_owned(), slice.clone());
        }
    }

    fn sum(&self) -> ShadowTotals {
        self.shadow
            .values()
            .fold(ShadowTotals::default(), |sum, one| ShadowTotals {
                eligible: sum.eligible + one.eligible,
                compared: sum.compared + one.compared,
                mismatched: sum.mismatched + one.mismatched,
                dropped: sum.dropped + one.dropped,
            })
    }
}

/// The evidence inside a slice's status.
pub(crate) fn evidence(slice: &Value) -> Option<Evidence> {
    serde_json::from_value(slice["evidence"].clone()).ok()
}

fn totals(shadow: &ShadowEvidence) -> ShadowTotals {
    ShadowTotals {
        eligible: shadow.eligible,
        compared: shadow.compared(),
        mismatched: shadow.against(),
        dropped: shadow.shed,
    }
}

/// The watching task. It ends with this value.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

impl Watch {
    /// Starts looking, over a connection of its own.
    pub(crate) fn start(admin: Admin) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                // A look that fails is made up for by the next.
                if let Ok(status) = admin.get("/v1/status").await {
                    shared
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .look(&status);
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        });
        Self {
            seen,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn shadow(&self) -> ShadowTotals {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sum()
    }

    /// Where a slice stands, in a few words.
    pub(crate) fn words(&self, slice: &str) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = seen.slices.get(slice) else {
            return slice.to_owned();
        };
        let mut words = format!("{slice} {}", status["stage"].as_str().unwrap_or("?"));
        if let Some(evidence) = evidence(status) {
            if let Some(lag) = evidence.sync.as_ref().and_then(|sync| sync.lag_ms) {
                words.push_str(&format!(", lag {lag} ms"));
            }
            if let Some(shadow) = &evidence.shadow {
                words.push_str(&format!(
                    ", {} pairs, {} differ",
                    shadow.compared(),
                    shadow.against()
                ));
            }
        }
        words
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(build: &str, matched: u64, mismatched: u64) -> Value {
        let shadow = json!({
            "builds": {"legacy": "monolith-1", "extracted": build},
            "eligible": matched + mismatched, "sampled_out": 0, "shed": 0, "ineligible": 0,
            "waiting": 0, "matched": matched, "mismatched": mismatched, "candidate_errors": 0,
            "not_comparable": 0, "classes": {}, "top": [],
        });
        let evidence = json!({
            "shadow": shadow, "sync": null, "proxy": null, "in_stage_ms": 0,
            "extracted_in_stage": 0,
        });
        json!({"slices": [{"slice": "catalog", "stage": "shadow", "evidence": evidence}]})
    }

    #[test]
    fn sums_go_over_builds_and_take_the_last_of_each() {
        let mut seen = Seen::default();
        for (build, matched, mismatched) in [
            ("catalog-1", 10, 2),
            ("catalog-1", 50, 9),
            ("catalog-2", 30, 0),
            ("catalog-2", 90, 0),
        ] {
            seen.look(&status(build, matched, mismatched));
        }
        let expected = ShadowTotals {
            eligible: 149,
            compared: 149,
            mismatched: 9,
            dropped: 0,
        };
        assert_eq!(seen.sum(), expected);
    }

    #[test]
    fn a_status_without_slices_changes_nothing() {
        let mut seen = Seen::default();
        seen.look(&json!({"version": "1"}));
        assert_eq!(seen.sum(), ShadowTotals::default());
    }
}
