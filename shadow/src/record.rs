//! What is known of a slice: the ledger of every eligible request, and what differed.
//!
//! `eligible = sampled_out + shed + ineligible + waiting + sent`, and
//! `sent = matched + mismatched + candidate_errors + not_comparable`, at every instant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::paired::Paired;
use outgrow_rollout::{BuildId, Builds, ClassEvidence, ShadowEvidence, SliceId};
use serde::{Deserialize, Serialize};

use crate::bodies::Bodies;
use crate::diff::Difference;
use crate::door::Door;
use crate::features::Feature;
use crate::hidden::Hidden;
use crate::history::History;
use crate::latency::Latencies;
use crate::renaming::Book;
use crate::samples::Samples;
use crate::seen::{Seen, Shown};
use crate::stored::Head;
use crate::tap::Exchange;
use crate::witnesses::Witnesses;

/// Old builds that are remembered in summary.
const EXPIRED_MAX: usize = 20;
/// Times of each side that are kept for the medians, the latest.
const TIMES_MAX: usize = 2_000;

/// What a pair is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    /// As the config has it.
    pub(crate) route: &'a str,
    /// Of the status that the client got.
    pub(crate) class: &'a str,
    /// The route, or more closely what of it was asked.
    pub(crate) endpoint: &'a str,
}

impl<'a> Of<'a> {
    pub(crate) fn new(exchange: &'a Exchange, class: &'a str) -> Self {
        Self {
            route: &exchange.route,
            class,
            endpoint: &exchange.endpoint,
        }
    }
}

/// How one pair ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Matched {
        aligned: bool,
        /// It differs in noisy fields only.
        excused: bool,
        /// The pair itself, where it is to be kept.
        witness: Option<Box<Pair>>,
    },
    Mismatched(Vec<Difference>, Box<Pair>),
    CandidateError(String, Box<Pair>),
    NotComparable(&'static str),
}

/// A pair of answers that is kept. No cookie, authorization or identity is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) id: String,
    /// When it was judged, in Unix seconds.
    #[serde(default)]
    pub(crate) at: i64,
    pub(crate) route: String,
    pub(crate) request: String,
    pub(crate) primary: String,
    /// Whose answers these are.
    #[serde(default)]
    pub(crate) book: Book,
    pub(crate) legacy_status: Option<u16>,
    pub(crate) extracted_status: Option<u16>,
    pub(crate) legacy_body: String,
    pub(crate) extracted_body: String,
    /// What both bodies are made of, if the pair is kept.
    #[serde(skip)]
    pub(crate) bodies: Option<Box<Bodies>>,
    /// Of versions before these there are none.
    #[serde(default)]
    pub(crate) legacy_head: Option<Head>,
    #[serde(default)]
    pub(crate) extracted_head: Option<Head>,
    pub(crate) differences: Vec<Shown>,
    /// What rules have hidden of it, the first ones.
    #[serde(default)]
    pub(crate) hidden: Vec<Hidden>,
    /// Fields that differed and were excused as noise.
    #[serde(default)]
    pub(crate) noisy: Vec<String>,
    /// What the request is told apart by.
    #[serde(default)]
    pub(crate) features: Vec<Feature>,
    /// Lines for a shell that ask both sides again.
    #[serde(default)]
    pub(crate) curl: Vec<String>,
}

impl Pair {
    /// Makes what is kept of both answers.
    pub(crate) fn write_out(&mut self) {
        if let Some(bodies) = self.bodies.take() {
            let [legacy, extracted] = bodies.kept();
            (self.legacy_body, self.legacy_head) = legacy;
            (self.extracted_body, self.extracted_head) = extracted;
        }
    }

    /// Bytes of what was answered.
    pub(crate) fn size(&self) -> usize {
        let heads = self.legacy_head.iter().chain(&self.extracted_head);
        let heads: usize = heads.map(Head::size).sum();
        self.legacy_body.len() + self.extracted_body.len() + heads
    }
}

/// What the rules have caught of seeded faults: see [`crate::mutants`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Seeded {
    pub(crate) answers: u64,
    pub(crate) faults: u64,
    pub(crate) caught: u64,
}

/// Evidence of builds that run no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Expired {
    pub(crate) legacy: String,
    pub(crate) extracted: String,
    pub(crate) compared: u64,
    pub(crate) against: u64,
}

/// The record of one slice, of the builds that run now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The slice's name, in the ids of its pairs.
    #[serde(default)]
    slice: String,
    /// Counts how often the evidence was begun anew.
    #[serde(default)]
    pub(crate) generation: u64,
    pub(crate) legacy_build: Option<String>,
    pub(crate) extracted_build: Option<String>,
    pub(crate) eligible: u64,
    pub(crate) sampled_out: u64,
    pub(crate) shed: BTreeMap<String, u64>,
    pub(crate) ineligible: BTreeMap<String, u64>,
    pub(crate) waiting: u64,
    pub(crate) matched: u64,
    /// Of the matched, those that differed until the bridge had caught up.
    pub(crate) aligned: u64,
    /// Of the matched, those that differ in noisy fields only.
    #[serde(default)]
    pub(crate) excused: u64,
    pub(crate) mismatched: u64,
    pub(crate) candidate_errors: u64,
    pub(crate) not_comparable: BTreeMap<String, u64>,
    pub(crate) classes: BTreeMap<String, ClassEvidence>,
    /// The same by endpoint, of routes that serve several.
    #[serde(default)]
    pub(crate) endpoints: BTreeMap<String, ClassEvidence>,
    pub(crate) differences: BTreeMap<String, Seen>,
    /// Shared, so that a copy of the record for the store is quickly made.
    pub(crate) pairs: BTreeMap<String, Arc<Pair>>,
    pub(crate) next_pair: u64,
    /// Pairs that match.
    #[serde(default)]
    pub(crate) witnesses: Witnesses,
    /// Of each route, some of the compared requests, for what separates those that differ.
    #[serde(default)]
    pub(crate) traffic: BTreeMap<String, Samples>,
    /// Pairs of the legacy side with itself, by route; and how often a field differed in them.
    pub(crate) noise_pairs: BTreeMap<String, u64>,
    pub(crate) noise: BTreeMap<String, u64>,
    /// Of each field that is looked at for noise: who differed alone, of this candidate.
    #[serde(default)]
    pub(crate) paired: BTreeMap<String, Paired>,
    /// Of each noisy field: in how many pairs it differed, of how many since it is known.
    #[serde(default)]
    pub(crate) noisy: BTreeMap<String, (u64, u64)>,
    /// By route: answers that faults were seeded in.
    #[serde(default)]
    pub(crate) seeded: BTreeMap<String, Seeded>,
    pub(crate) expired: Vec<Expired>,
    /// Of all builds.
    #[serde(default)]
    pub(crate) history: History,
    /// Of requests that the shadow has sent to both sides.
    #[serde(default)]
    pub(crate) latencies: Latencies,
    pub(crate) legacy_us: Vec<u64>,
    pub(crate) extracted_us: Vec<u64>,
}

pub(crate) fn add(counts: &mut BTreeMap<String, u64>, reason: &str, more: u64) {
    *counts.entry(reason.to_owned()).or_default() += more;
}

impl Record {
    pub(crate) fn of(slice: &SliceId) -> Self {
        Self {
            slice: slice.to_string(),
            ..Self::default()
        }
    }

    /// Takes over what the door has counted.
    pub(crate) fn take_in(&mut self, came: &Door) {
        self.eligible += came.eligible;
        self.sampled_out += came.sampled_out;
        self.waiting += came.admitted;
        let lost: u64 = came.lost.values().chain(came.refused.values()).sum();
        self.waiting = self.waiting.saturating_sub(lost);
        for (reason, count) in came.shed.iter().chain(&came.lost) {
            add(&mut self.shed, reason, *count);
        }
        for (reason, count) in came.ineligible.iter().chain(&came.refused) {
            add(&mut self.ineligible, reason, *count);
        }
    }

    /// After a restart nothing waits any more.
    pub(crate) fn restarted(&mut self, slice: &SliceId, now: i64) {
        self.slice = slice.to_string();
        // Of a version that did not say when: from now on.
        for pair in self.pairs.values_mut().filter(|pair| pair.at == 0) {
            Arc::make_mut(pair).at = now;
        }
        for seen in self.differences.values_mut().filter(|seen| seen.last == 0) {
            seen.last = now;
        }
        let waited = std::mem::take(&mut self.waiting);
        if waited > 0 {
            add(&mut self.shed, "restart", waited);
        }
    }

    /// The generation, if these are the builds that run now.
    pub(crate) fn knows(&self, legacy: Option<&str>, extracted: Option<&str>) -> Option<u64> {
        let same =
            |known: &Option<String>, seen: Option<&str>| seen.is_none() || known.as_deref() == seen;
        let are_known = same(&self.legacy_build, legacy) && same(&self.extracted_build, extracted);
        are_known.then_some(self.generation)
    }

    /// Starts over when one side was deployed; what still waits goes over to the new builds. The
    /// generation that a pair with these builds belongs to, if it began in generation `since`.
    /// `None` when another build answers now, and this pair is a straggler of the one before.
    pub(crate) fn builds(
        &mut self,
        legacy: Option<&str>,
        extracted: Option<&str>,
        since: u64,
    ) -> Option<u64> {
        let changed = |known: &Option<String>, seen: Option<&str>| matches!((known, seen), (Some(known), Some(seen)) if known != seen);
        if changed(&self.legacy_build, legacy) || changed(&self.extracted_build, extracted) {
            if since < self.generation {
                return None;
            }
            self.expire();
        }
        for (known, seen) in [
            (&mut self.legacy_build, legacy),
            (&mut self.extracted_build, extracted),
        ] {
            if let Some(seen) = seen {
                *known = Some(seen.to_owned());
            }
        }
        Some(self.generation)
    }

    /// Keeps a summary of the evidence and drops it.
    pub(crate) fn expire(&mut self) {
        let mut fresh = Self {
            slice: std::mem::take(&mut self.slice),
            generation: self.generation + 1,
            legacy_build: self.legacy_build.take(),
            extracted_build: self.extracted_build.take(),
            eligible: self.waiting,
            waiting: self.waiting,
            next_pair: self.next_pair,
            noise_pairs: std::mem::take(&mut self.noise_pairs),
            noise: std::mem::take(&mut self.noise),
            expired: std::mem::take(&mut self.expired),
            history: std::mem::take(&mut self.history),
            ..Self::default()
        };
        let named = |build: &Option<String>| build.clone().unwrap_or_else(|| "unknown".to_owned());
        fresh.expired.push(Expired {
            legacy: named(&fresh.legacy_build),
            extracted: named(&fresh.extracted_build),
            compared: self.compared(),
            against: self.mismatched + self.candidate_errors,
        });
        if fresh.expired.len() > EXPIRED_MAX {
            fresh.expired.remove(0);
        }
        *self = fresh;
    }

    pub(crate) fn name_pair(&mut self) -> String {
        let name = format!("{}:p{}", self.slice, self.next_pair);
        self.next_pair += 1;
        name
    }

    pub(crate) fn compared(&self) -> u64 {
        self.matched + self.mismatched + self.candidate_errors
    }

    /// Books how a waiting pair ended. A pair of another generation says nothing of the builds
    /// that run now. `request` says what it was told apart by, where that is wanted. Whether it
    /// speaks against the candidate; `None` where it says nothing.
    pub(crate) fn settle(
        &mut self,
        of: Of<'_>,
        outcome: Outcome,
        generation: u64,
        examples: usize,
        request: impl FnOnce() -> Vec<Feature>,
    ) -> Option<bool> {
        self.waiting = self.waiting.saturating_sub(1);
        let outcome = match outcome {
            Outcome::NotComparable(reason) => Outcome::NotComparable(reason),
            _ if generation != self.generation => Outcome::NotComparable("stale-build"),
            of_now => of_now,
        };
        let against = match &outcome {
            Outcome::Matched { .. } => Some(0),
            Outcome::Mismatched(..) | Outcome::CandidateError(..) => Some(1),
            Outcome::NotComparable(_) => None,
        };
        if let Some(against) = against {
            self.count(&of, against);
        }
        let route = of.endpoint;
        match outcome {
            Outcome::Matched {
                aligned,
                excused,
                witness,
            } => {
                if let Some(pair) = witness {
                    self.keep_witness(*pair);
                }
                self.matched += 1;
                self.excused += u64::from(excused);
                self.aligned += u64::from(aligned);
                self.met(route, &[], request);
            }
            Outcome::Mismatched(differences, pair) => {
                self.mismatched += 1;
                self.differ(route, &differences, *pair, examples);
            }
            Outcome::CandidateError(text, mut pair) => {
                self.candidate_errors += 1;
                let difference = Difference {
                    place: crate::path::Place::Status,
                    kind: "error",
                    legacy: pair
                        .legacy_status
                        .map_or_else(String::new, |s| s.to_string()),
                    extracted: text,
                };
                pair.differences = vec![Shown::of(&difference)];
                self.differ(route, &[difference], *pair, examples);
            }
            Outcome::NotComparable(reason) => add(&mut self.not_comparable, reason, 1),
        }
        Some(against? > 0)
    }

    fn count(&mut self, of: &Of<'_>, against: u64) {
        let class = self.classes.entry(format!("{} {}", of.route, of.class));
        let mut rows = vec![class.or_default()];
        if of.endpoint != of.route {
            let endpoint = format!("{} {}", of.endpoint, of.class);
            rows.push(self.endpoints.entry(endpoint).or_default());
        }
        for row in rows {
            row.compared += 1;
            row.against += against;
        }
    }

    /// Asks for evidence of what was sent, whether or not it could be compared.
    pub(crate) fn wants(&mut self, of: &Of<'_>) {
        let class = format!("{} {}", of.route, of.class);
        self.classes.entry(class).or_default();
    }

    pub(crate) fn times(&mut self, legacy: Option<Duration>, extracted: Option<Duration>) {
        for (kept, seen) in [
            (&mut self.legacy_us, legacy),
            (&mut self.extracted_us, extracted),
        ] {
            if let Some(seen) = seen {
                if kept.len() >= TIMES_MAX {
                    // Many at once, so that the rest is not moved for each one.
                    kept.drain(..TIMES_MAX / 4);
                }
                kept.push(u64::try_from(seen.as_micros()).unwrap_or(u64::MAX));
            }
        }
    }

    pub(crate) fn evidence(&self) -> ShadowEvidence {
        let build = |id: &Option<String>| id.clone().map_or_else(BuildId::unknown, BuildId);
        ShadowEvidence {
            builds: Builds {
                legacy: build(&self.legacy_build),
                extracted: build(&self.extracted_build),
            },
            eligible: self.eligible,
            sampled_out: self.sampled_out,
            shed: self.shed.values().sum(),
            ineligible: self.ineligible.values().sum(),
            waiting: self.waiting,
            matched: self.matched,
            mismatched: self.mismatched,
            candidate_errors: self.candidate_errors,
            not_comparable: self.not_comparable.values().sum(),
            classes: self.classes.clone(),
            top: self.top(),
            excused: self.excused,
            faults: self.faults(),
            seeded: self.seeded.values().map(|seeded| seeded.faults).sum(),
            caught: self.seeded.values().map(|seeded| seeded.caught).sum(),
            stopped: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::settings::Flow;

    pub(crate) fn pair() -> Box<Pair> {
        Box::new(Pair {
            id: String::new(),
            at: 0,
            route: "GET /x".to_owned(),
            request: "/x".to_owned(),
            primary: "legacy".to_owned(),
            book: Book::Sides,
            legacy_status: Some(200),
            extracted_status: None,
            legacy_body: String::new(),
            extracted_body: String::new(),
            bodies: None,
            legacy_head: None,
            extracted_head: None,
            differences: Vec::new(),
            hidden: Vec::new(),
            noisy: Vec::new(),
            features: Vec::new(),
            curl: Vec::new(),
        })
    }

    const OF_X: Of<'_> = Of {
        route: "GET /x",
        class: "2xx",
        endpoint: "GET /x",
    };

    fn balanced(record: &Record) -> bool {
        let seen = record.evidence();
        let sent = seen.matched + seen.mismatched + seen.candidate_errors + seen.not_comparable;
        seen.eligible == seen.sampled_out + seen.shed + seen.ineligible + seen.waiting + sent
    }

    proptest! {
        #[test]
        fn every_eligible_request_is_accounted_for(acts in prop::collection::vec(0u8..11, 0..200)) {
            let flow = Flow { waiting: 50, ..Flow::default() };
            let (mut record, mut door) = (Record::default(), Door::new(&flow));
            for act in acts {
                match act {
                    0 => { record.eligible += 1; record.sampled_out += 1; }
                    1 => { door.eligible += 1; door.shed("busy"); }
                    2 => { door.eligible += 1; door.ineligible("method"); }
                    3 | 4 => { door.eligible += 1; door.admit("GET /x", Instant::now); }
                    5 if record.waiting > 0 => door.lose("GET /x", crate::tap::Lost::Ineligible("mutation")),
                    6 => {
                        let build = if record.matched % 2 == 0 { "b" } else { "c" };
                        record.builds(Some("a"), Some(build), record.generation);
                    }
                    10 => { record.builds(Some("a"), Some("old"), record.generation.saturating_sub(1)); }
                    7 if record.waiting > 0 => {
                        record.settle(OF_X, Outcome::Matched { aligned: false, excused: false, witness: None }, record.generation, 3, Vec::new);
                    }
                    8 if record.waiting > 0 => {
                        record.settle(OF_X, Outcome::CandidateError("dead".to_owned(), pair()), record.generation, 3, Vec::new);
                    }
                    9 if record.waiting > 0 => {
                        record.settle(OF_X, Outcome::NotComparable("lag"), record.generation, 3, Vec::new);
                    }
                    _ => {}
                }
                record.take_in(&door.take());
                prop_assert!(balanced(&record));
            }
            record.restarted(&SliceId::new("x").unwrap(), 7);
            prop_assert!(balanced(&record) && record.waiting == 0);
        }
    }

    #[test]
    fn a_deployment_of_either_side_expires_the_evidence() {
        let mut record = Record::default();
        let since = record.builds(Some("m-1"), Some("c-1"), 0).unwrap();
        (record.eligible, record.waiting) = (2, 2);
        record.settle(
            OF_X,
            Outcome::Matched {
                aligned: false,
                excused: false,
                witness: None,
            },
            record.generation,
            3,
            Vec::new,
        );
        record.builds(Some("m-1"), None, since);
        assert_eq!(record.compared(), 1, "a dead candidate names no build");
        let now = record.builds(Some("m-1"), Some("c-2"), since).unwrap();
        assert_eq!(
            (record.compared(), record.waiting, record.expired.len()),
            (0, 1, 1)
        );
        assert_eq!(
            record.evidence().builds.extracted,
            BuildId("c-2".to_owned())
        );
        let straggler = record.builds(Some("m-1"), Some("c-1"), since);
        assert_eq!(straggler, None, "c-1 answers no more");
        record.settle(
            OF_X,
            Outcome::Matched {
                aligned: false,
                excused: false,
                witness: None,
            },
            since,
            3,
            Vec::new,
        );
        assert_eq!(
            (record.compared(), record.not_comparable["stale-build"]),
            (0, 1)
        );
        assert_eq!(
            record.builds(Some("m-1"), Some("c-1"), now),
            Some(now + 1),
            "taken back"
        );
    }
}
