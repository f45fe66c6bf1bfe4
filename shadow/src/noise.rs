//! What of a slice differs by itself, and whether the candidate hides behind that.
//!
//! A share of the requests is asked twice of the legacy side and once of the extracted side. Three
//! things decide on a field: that it differs between two legacy answers at all; the paired test;
//! and its share among all compared pairs, against that between legacy answers.

use std::collections::BTreeSet;

use outgrow_rollout::paired::{FALSE_ALARMS, Paired};
use outgrow_rollout::{FieldFault, samples};

use crate::diff::Difference;
use crate::record::{Record, add};
use crate::report::NoiseRow;

/// Fields whose noise is counted.
const NOISY_MAX: usize = 500;
/// Pairs of the legacy side with itself before a field may be called noise.
const NOISE_PAIRS_MIN: u64 = 5;
/// Of these, how many must differ: one may be a write that came between.
const NOISE_SEEN_MIN: u64 = 2;

fn key(route: &str, path: &str) -> String {
    format!("{route} {path}")
}

impl Record {
    /// Books two answers of the legacy side and one of the extracted side to the same request: in
    /// which fields the legacy side differs from itself, and in which the other from its first.
    pub(crate) fn noise(&mut self, route: &str, own: &[Difference], theirs: &[Difference]) {
        add(&mut self.noise_pairs, route, 1);
        let fields = |all: &[Difference]| -> BTreeSet<String> {
            let paths = all.iter().map(|difference| difference.place.general());
            paths.map(|path| key(route, &path)).collect()
        };
        let (own, theirs) = (fields(own), fields(theirs));
        for field in &own {
            if self.noise.contains_key(field) || self.noise.len() < NOISY_MAX {
                *self.noise.entry(field.clone()).or_default() += 1;
            }
        }
        for field in own.union(&theirs) {
            if self.paired.contains_key(field) || self.paired.len() < NOISY_MAX {
                let counts = self.paired.entry(field.clone()).or_default();
                counts.add(theirs.contains(field), own.contains(field));
            }
        }
    }

    /// Counts a judged pair for the noisy fields of its route.
    pub(crate) fn judged(&mut self, route: &str, found: &[Difference]) {
        let pairs = self.noise_pairs.get(route).copied().unwrap_or(0);
        let differ = |field: &String| {
            let is = |difference: &Difference| key(route, &difference.place.general()) == *field;
            found.iter().any(is)
        };
        let begins = format!("{route} ");
        for (field, seen) in self.noise.range(begins.clone()..) {
            if !field.starts_with(&begins) {
                break;
            }
            if pairs >= NOISE_PAIRS_MIN && *seen >= NOISE_SEEN_MIN {
                let counts = self.noisy.entry(field.clone()).or_default();
                counts.0 += u64::from(differ(field));
                counts.1 += 1;
            }
        }
    }

    /// A field in which the legacy side differs from itself says nothing about the other side,
    /// as long as the other differs no more often: not in the paired test, which is right however
    /// large the noise, and not in its share of all pairs, which is soon right where it is small.
    pub(crate) fn is_noise(&self, route: &str, path: &str) -> bool {
        self.excuses(route, &key(route, path))
    }

    fn excuses(&self, route: &str, field: &str) -> bool {
        let pairs = self.noise_pairs.get(route).copied().unwrap_or(0);
        let differed = self.noise.get(field).copied().unwrap_or(0);
        if pairs < NOISE_PAIRS_MIN || differed < NOISE_SEEN_MIN {
            return false;
        }
        let counts = self.paired.get(field).copied().unwrap_or_default();
        !counts.at_fault() && !self.beyond_noise(field, pairs, differed)
    }

    /// Whether the share of pairs that differ here is surely larger than that of the noise.
    fn beyond_noise(&self, field: &str, pairs: u64, differed: u64) -> bool {
        /// Two bounds share what one verdict may be wrong by.
        const HALF: f64 = FALSE_ALARMS / 2.0;
        let (seen, of) = self.noisy.get(field).copied().unwrap_or_default();
        // One minus the bound of the pairs that agree is a bound of the share from below.
        let agreed = of.saturating_sub(seen);
        let least = samples::upper_bound_at(of, agreed, HALF).map_or(0.0, |bound| 1.0 - bound);
        samples::upper_bound_at(pairs, differed, HALF).is_some_and(|most| least > most)
    }

    /// What is known of each noisy field.
    pub(crate) fn noise_rows(&self) -> Vec<NoiseRow> {
        let row = |(field, differed): (&String, &u64)| {
            let route = self.noise_pairs.keys().find(|route| {
                let rest = field.strip_prefix(route.as_str());
                rest.is_some_and(|rest| rest.starts_with(' '))
            });
            let route = route.cloned().unwrap_or_default();
            let pairs = self.noise_pairs.get(&route).copied().unwrap_or(0);
            let counts = self.paired.get(field).copied().unwrap_or_default();
            let state = match () {
                () if counts.at_fault() => "at fault",
                () if self.beyond_noise(field, pairs, *differed) => "more than noise",
                () if self.excuses(&route, field) => "noise",
                () => "too few pairs",
            };
            NoiseRow {
                field: field.clone(),
                differed: *differed,
                pairs,
                worse: counts.worse,
                better: counts.better,
                state,
            }
        };
        self.noise.iter().map(row).collect()
    }

    pub(crate) fn faults(&self) -> Vec<FieldFault> {
        let at_fault = self
            .paired
            .iter()
            .filter(|(field, counts)| self.noise.contains_key(*field) && counts.at_fault());
        let fault = |(field, counts): (&String, &Paired)| FieldFault {
            field: field.clone(),
            counts: *counts,
        };
        at_fault.map(fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{Place, Step};

    const ROUTE: &str = "GET /x";

    fn differs(name: &str) -> Vec<Difference> {
        vec![Difference {
            place: Place::Body(vec![Step::Name(name.to_owned())]),
            kind: "value",
            legacy: String::new(),
            extracted: String::new(),
        }]
    }

    #[test]
    fn what_never_differs_by_itself_is_never_excused() {
        let mut record = Record::default();
        for _ in 0..1_000 {
            record.noise(ROUTE, &[], &differs("a"));
        }
        assert!(!record.is_noise(ROUTE, "$.a"));
        assert!(
            record.faults().is_empty(),
            "its differences count one by one"
        );
    }

    #[test]
    fn noise_is_excused_until_the_candidate_differs_more() {
        let mut record = Record::default();
        for n in 0..200 {
            // Both differ from the first answer, now one and now the other.
            let (own, theirs) = (n % 5 == 0, n % 5 == 1);
            let found = |is: bool| if is { differs("a") } else { Vec::new() };
            record.noise(ROUTE, &found(own), &found(theirs));
        }
        assert!(record.is_noise(ROUTE, "$.a") && record.faults().is_empty());
        assert!(!record.is_noise(ROUTE, "$.b"));
        for _ in 0..60 {
            record.noise(ROUTE, &[], &differs("a"));
        }
        assert!(!record.is_noise(ROUTE, "$.a"));
        assert_eq!(record.faults()[0].field, "GET /x $.a");
        assert_eq!(record.noise_rows()[0].state, "at fault");
        record.expire();
        assert!(
            record.is_noise(ROUTE, "$.a"),
            "another candidate, the same noise"
        );
    }

    #[test]
    fn rare_noise_does_not_hide_a_frequent_fault() {
        let mut record = Record::default();
        for n in 0..300 {
            let found = if n % 100 == 0 {
                differs("a")
            } else {
                Vec::new()
            };
            record.noise(ROUTE, &found, &[]);
        }
        for n in 0..2_000 {
            let found = if n % 100 == 1 {
                differs("a")
            } else {
                Vec::new()
            };
            record.judged(ROUTE, &found);
        }
        assert!(record.is_noise(ROUTE, "$.a"), "as often as by itself");
        for n in 0..2_000 {
            let found = if n % 5 == 1 { differs("a") } else { Vec::new() };
            record.judged(ROUTE, &found);
        }
        assert!(!record.is_noise(ROUTE, "$.a"));
        assert_eq!(record.noise_rows()[0].state, "more than noise");
    }
}
