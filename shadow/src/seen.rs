//! Differences by place and kind, the requests that show them, and the pairs that are kept of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use outgrow_rollout::FieldDifference;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::causes::{FAILING_MAX, PASSING_MAX, Trait, explain};
use crate::diff::Difference;
use crate::features::{Feature, Part};
use crate::path::Place;
use crate::record::{Pair, Record};
use crate::samples::{Sample, Samples, reservoir};

/// Kinds of difference that are kept apart; a candidate that invents names cannot grow it.
const DIFFERENCES_MAX: usize = 500;
/// Differences listed in the evidence.
const TOP: usize = 10;
/// Pairs that are kept of a slice, those that match included, and bytes of their answers.
const PAIRS_MAX: usize = 2_000;
const BYTES_MAX: usize = 16 << 20;
/// Routes of which requests are sampled.
const ROUTES_MAX: usize = 200;

/// One kind of difference at one place of one route.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) route: String,
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) count: u64,
    /// When it came last, in Unix seconds.
    #[serde(default)]
    pub(crate) last: i64,
    pub(crate) legacy: String,
    pub(crate) extracted: String,
    /// Some of the requests that show it.
    pub(crate) failing: Samples,
    /// Its pairs, by what separates their requests from passing ones.
    pub(crate) kept: Vec<Kept>,
}

/// Pairs of one cause. Without traits: of what is left, or of all. The first of them stays, for
/// gates and reports have named it; the others are a sample.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) traits: Vec<Trait>,
    pub(crate) count: u64,
    pub(crate) examples: Vec<String>,
}

/// A difference as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) at: String,
    /// The same for every element of an array.
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) legacy: String,
    pub(crate) extracted: String,
}

impl Shown {
    pub(crate) fn of(difference: &Difference) -> Self {
        Self {
            at: difference.place.to_string(),
            path: difference.place.general(),
            kind: difference.kind.to_owned(),
            legacy: difference.legacy.clone(),
            extracted: difference.extracted.clone(),
        }
    }
}

/// As a hunk of a unified diff.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "@@ {} ({}) @@", self.at, self.kind)?;
        for (sign, text, gone) in [
            ('-', &self.legacy, "extra"),
            ('+', &self.extracted, "missing"),
        ] {
            if self.kind != gone {
                for line in text.lines() {
                    writeln!(f, "{sign}{line}")?;
                }
            }
        }
        Ok(())
    }
}

/// The name of a difference.
pub(crate) fn key(route: &str, path: &str, kind: &str) -> String {
    format!("{route} {path} {kind}")
}

pub(crate) fn hash(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

/// By which names of pairs are in the order in which they were given.
fn age(id: &String) -> (usize, &String) {
    (id.len(), id)
}

impl Seen {
    /// The first pair that showed it, of those that are kept.
    fn first(&self) -> Option<&String> {
        self.examples().min_by_key(|id| age(id))
    }

    pub(crate) fn examples(&self) -> impl Iterator<Item = &String> {
        self.kept.iter().flat_map(|kept| &kept.examples)
    }

    /// Whether this pair is to be kept; `gone` takes those that it drives out.
    fn keep(&mut self, pair: &Pair, most: usize, gone: &mut Vec<String>) -> bool {
        let covers = |kept: &&mut Kept| kept.traits.iter().all(|one| one.holds(&pair.features));
        let Some(kept) = self.kept.iter_mut().find(covers) else {
            let kept = Kept::default();
            self.kept.push(kept);
            return self.keep(pair, most, gone);
        };
        kept.count += 1;
        if kept.examples.len() < most {
            kept.examples.push(pair.id.clone());
            return true;
        }
        let place = reservoir(kept.count - 1, most.saturating_sub(1)).map(|place| place + 1);
        let Some(old) = place.and_then(|place| kept.examples.get_mut(place)) else {
            return false;
        };
        gone.push(std::mem::replace(old, pair.id.clone()));
        true
    }
}

impl Record {
    /// Offers a compared request to the sample of its route.
    pub(crate) fn met(
        &mut self,
        route: &str,
        symptoms: &[u64],
        features: impl FnOnce() -> Vec<Feature>,
    ) {
        if !self.traffic.contains_key(route) {
            if self.traffic.len() >= ROUTES_MAX {
                return;
            }
            self.traffic.insert(route.to_owned(), Samples::default());
        }
        if let Some(samples) = self.traffic.get_mut(route) {
            samples.offer(PASSING_MAX, || Sample {
                features: features().into(),
                symptoms: symptoms.to_vec(),
            });
        }
    }

    /// Books the differences of a pair, and keeps it where it is among the examples of one.
    pub(crate) fn differ(
        &mut self,
        route: &str,
        differences: &[Difference],
        mut pair: Pair,
        most: usize,
    ) {
        pair.id = self.name_pair();
        let mut keys = BTreeSet::new();
        // Bodies of two statuses are two things; that they differ has no cause of its own.
        let of_status = differences.iter().any(|one| one.place == Place::Status);
        let mut symptoms = Vec::new();
        for difference in differences {
            let key = key(route, &difference.place.general(), difference.kind);
            let counts = !of_status || difference.place == Place::Status;
            if keys.insert(key.clone()) && counts {
                symptoms.push(hash(&key));
            }
        }
        let sample = Sample {
            features: pair.features.as_slice().into(),
            symptoms,
        };
        self.met(route, &sample.symptoms, || pair.features.clone());
        let mut keep = false;
        let mut gone = Vec::new();
        for difference in differences {
            let path = difference.place.general();
            let key = key(route, &path, difference.kind);
            let is_full = self.differences.len() >= DIFFERENCES_MAX;
            if !keys.remove(&key) || is_full && !self.differences.contains_key(&key) {
                continue;
            }
            let seen = self.differences.entry(key.clone()).or_insert_with(|| Seen {
                route: route.to_owned(),
                path,
                kind: difference.kind.to_owned(),
                legacy: difference.legacy.clone(),
                extracted: difference.extracted.clone(),
                ..Seen::default()
            });
            seen.count += 1;
            seen.last = seen.last.max(pair.at);
            if sample.symptoms.contains(&hash(&key)) {
                seen.failing.offer(FAILING_MAX, || sample.clone());
            }
            keep |= seen.keep(&pair, most, &mut gone);
            // Causes become clearer with more requests; a look at each doubling is cheap.
            if seen.count.is_power_of_two() {
                self.look_for_causes(&key, &pair, most, &mut gone);
            }
        }
        if keep {
            pair.write_out();
            self.pairs.insert(pair.id.clone(), Arc::new(pair));
        }
        self.drop_unused(&gone);
        if keep {
            self.keep_quota();
        }
    }

    /// Drops pairs that the slice's quota has no room for.
    pub(crate) fn keep_quota(&mut self) {
        let (pairs, bytes) = (self.witnesses.pairs.len(), self.witnesses.bytes());
        self.keep_within(
            PAIRS_MAX.saturating_sub(pairs),
            BYTES_MAX.saturating_sub(bytes),
        );
    }

    /// Drops pairs that were judged before this moment, and differences that have not come since.
    /// What was counted stays counted.
    pub(crate) fn forget(&mut self, before: i64) {
        self.differences.retain(|_, seen| seen.last >= before);
        self.pairs.retain(|_, pair| pair.at >= before);
        self.forget_witnesses(before);
        let pairs = &self.pairs;
        let kept = self
            .differences
            .values_mut()
            .flat_map(|seen| &mut seen.kept);
        for kept in kept {
            kept.examples.retain(|id| pairs.contains_key(id));
        }
    }

    /// Drops pairs until they are so few and small, first where most are kept of one cause.
    fn keep_within(&mut self, pairs_max: usize, bytes_max: usize) {
        while self.pairs.len() > pairs_max
            || self.pairs.values().map(|pair| pair.size()).sum::<usize>() > bytes_max
        {
            let kept = self
                .differences
                .values_mut()
                .flat_map(|seen| &mut seen.kept);
            let Some(most) = kept.max_by_key(|kept| kept.examples.len()) else {
                return;
            };
            if most.examples.is_empty() {
                return;
            }
            let dropped = most.examples.pop();
            self.drop_unused(dropped.as_slice());
        }
    }

    /// The requests of a route that could have shown this difference, and have not: where the
    /// statuses differed nothing else could show, and the answer to a HEAD has no body.
    pub(crate) fn passing(&self, key: &str, seen: &Seen) -> Vec<&Sample> {
        let symptom = hash(key);
        let of_status = |kind| hash(&self::key(&seen.route, "status", kind));
        let hides = match seen.path.as_str() {
            "status" => [symptom; 2],
            _ => ["value", "error"].map(of_status),
        };
        let shows = |one: &u64| *one == symptom || hides.contains(one);
        let head = Feature::new(Part::Method, "", Some("HEAD".to_owned()));
        let in_body = seen.path.starts_with('$');
        let samples = self.traffic.get(&seen.route).map(|samples| &samples.kept);
        let all = samples.into_iter().flatten();
        all.filter(|sample| !sample.symptoms.iter().any(shows))
            .filter(|sample| !in_body || !sample.features.contains(&head))
            .collect()
    }

    /// Sorts the kept pairs of a difference by its causes as they look now.
    fn look_for_causes(&mut self, key: &str, newest: &Pair, most: usize, gone: &mut Vec<String>) {
        let Some(seen) = self.differences.get(key) else {
            return;
        };
        let passing = self.passing(key, seen);
        let causes = explain(&seen.failing.kept, &passing);
        let mut sorted: Vec<Kept> = causes
            .into_iter()
            .filter(|cause| !cause.traits.is_empty())
            .map(|cause| Kept {
                traits: cause.traits,
                ..Kept::default()
            })
            .collect();
        sorted.push(Kept::default());
        let mut kept: Vec<&String> = seen.examples().collect();
        kept.sort_by_key(|id| age(id));
        for id in kept {
            let features = match self.pairs.get(id) {
                Some(pair) => &pair.features,
                None if *id == newest.id => &newest.features,
                None => continue,
            };
            let mut of = sorted.iter_mut();
            let covers = |kept: &&mut Kept| kept.traits.iter().all(|one| one.holds(features));
            if let Some(kept) = of.find(covers) {
                kept.count += 1;
                match kept.examples.len() < most {
                    true => kept.examples.push(id.clone()),
                    false => gone.push(id.clone()),
                }
            }
        }
        if let Some(seen) = self.differences.get_mut(key) {
            seen.kept = sorted;
        }
    }

    fn drop_unused(&mut self, gone: &[String]) {
        for id in gone {
            let mut all = self.differences.values().flat_map(Seen::examples);
            if !all.any(|example| example == id) {
                self.pairs.remove(id);
            }
        }
    }

    /// The worst differences. An `ETag` that differs as its body does says nothing of its own, so it comes last.
    pub(crate) fn top(&self) -> Vec<FieldDifference> {
        let mut all = self.fields();
        let mut bodies: BTreeMap<String, u64> = BTreeMap::new();
        for one in all.iter().filter(|one| one.path.starts_with('$')) {
            *bodies.entry(one.route.clone()).or_default() += one.count;
        }
        let follows = |one: &FieldDifference| {
            let body = bodies.get(&one.route).copied().unwrap_or_default();
            one.path == "header:etag" && body.saturating_mul(2) >= one.count
        };
        all.sort_by_key(follows);
        all.truncate(TOP);
        all
    }

    /// All differences, the most frequent first. Not one is left out: where nothing differs by
    /// itself, one is a counterexample.
    pub(crate) fn fields(&self) -> Vec<FieldDifference> {
        let mut all: Vec<&Seen> = self.differences.values().collect();
        all.sort_by_key(|seen| std::cmp::Reverse(seen.count));
        let field = |seen: &Seen| FieldDifference {
            route: seen.route.clone(),
            path: seen.path.clone(),
            kind: seen.kind.clone(),
            count: seen.count,
            example: seen.first().cloned(),
            legacy: seen.legacy.clone(),
            extracted: seen.extracted.clone(),
        };
        all.into_iter().map(field).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Step;

    #[test]
    fn pairs_keep_to_their_quota_and_each_cause_keeps_one() {
        let mut record = Record::default();
        for n in 0..400 {
            let field = format!("f{}", n % 50);
            let difference = Difference {
                place: Place::Body(vec![Step::Name(field)]),
                kind: "value",
                legacy: "1".to_owned(),
                extracted: "2".to_owned(),
            };
            let pair = Pair {
                at: n,
                legacy_body: "x".repeat(1_000),
                extracted_body: "y".repeat(1_000),
                bodies: None,
                differences: vec![Shown::of(&difference)],
                ..*crate::record::tests::pair()
            };
            record.differ("GET /x", &[difference], pair, 3);
        }
        assert_eq!(record.pairs.len(), 150);
        let mut later = record.clone();
        // The last of each of 50 differences came at 350 and after.
        later.forget(375);
        assert_eq!(later.differences.len(), 25);
        assert!(later.pairs.values().all(|pair| pair.at >= 375));
        let named = later.differences.values().flat_map(Seen::examples);
        assert!(named.into_iter().all(|id| later.pairs.contains_key(id)));
        later.forget(400);
        assert!(later.differences.is_empty() && later.pairs.is_empty());
        let firsts = |record: &Record| -> Vec<Option<String>> {
            let fields = record.fields().into_iter();
            fields.map(|field| field.example).collect()
        };
        let before = firsts(&record);
        record.keep_within(2_000, 120_000);
        assert_eq!((record.pairs.len(), firsts(&record)), (60, before));
        let has_one = |seen: &Seen| seen.examples().any(|id| record.pairs.contains_key(id));
        assert!(record.differences.values().all(has_one));
        record.keep_within(10, 120_000);
        assert_eq!(record.pairs.len(), 10);
        let known = record.differences.values().flat_map(Seen::examples);
        assert!(known.into_iter().all(|id| record.pairs.contains_key(id)));
    }

    #[test]
    fn a_pair_that_was_named_stays_whatever_comes_behind_it() {
        for most in [1, 3] {
            let mut record = Record::default();
            let mut named = None;
            for n in 0..300 {
                let difference = Difference {
                    place: Place::Body(vec![Step::Name("price".to_owned())]),
                    kind: "value",
                    legacy: "1".to_owned(),
                    extracted: "2".to_owned(),
                };
                // What separates them from those that match changes as they come.
                let client = if n < 20 { "a" } else { "b" };
                let feature = Feature::new(Part::Query, "client", Some(client.to_owned()));
                let pair = Pair {
                    at: n,
                    features: vec![feature.clone()],
                    differences: vec![Shown::of(&difference)],
                    ..*crate::record::tests::pair()
                };
                record.differ("GET /x", &[difference], pair, most);
                record.met("GET /x", &[], || {
                    vec![Feature::new(Part::Query, "client", Some("c".to_owned()))]
                });
                let example = record.fields()[0].example.clone().unwrap();
                assert!(record.pairs.contains_key(&example), "{n}");
                assert_eq!(*named.get_or_insert(example.clone()), example, "{n}");
            }
            assert!(record.pairs.len() > 1 || most == 1, "others are kept, too");
        }
    }

    #[test]
    fn an_etag_that_differs_as_its_body_does_is_not_the_worst() {
        let tag = || Place::Header("etag".to_owned(), Vec::new());
        let price = || Place::Body(vec![Step::Name("price".to_owned())]);
        let top_of = |bodies: usize| -> String {
            let mut record = Record::default();
            for n in 0..10 {
                let places = [Some(tag()), (n < bodies).then(price)];
                let of = |place| Difference {
                    place,
                    kind: "value",
                    legacy: "1".to_owned(),
                    extracted: "2".to_owned(),
                };
                let all: Vec<Difference> = places.into_iter().flatten().map(of).collect();
                record.differ("GET /x", &all, *crate::record::tests::pair(), 3);
            }
            record.top()[0].path.clone()
        };
        assert_eq!(top_of(6), "$.price");
        assert_eq!(top_of(4), "header:etag", "it differs by itself, too");
        assert_eq!(top_of(0), "header:etag");
    }
}
