//! Pairs that match, kept for the question what other rules would say of them: of each route a
//! few, and a few of each difference that a rule hides.
//!
//! Their part of the slice's quota is bounded, so that they take little from the pairs that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hidden::Hidden;
use crate::record::{Pair, Record};
use crate::samples::reservoir;

/// Routes, and differences that rules hide, of which pairs are kept.
const GROUPS_MAX: usize = 500;
/// Of the slice's quota, a quarter.
pub(crate) const PAIRS_MAX: usize = 500;
pub(crate) const BYTES_MAX: usize = 4 << 20;

/// The matching pairs of a slice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Witnesses {
    pub(crate) pairs: BTreeMap<String, Arc<Pair>>,
    groups: BTreeMap<String, Group>,
    /// Matching pairs that a rule has hidden something of.
    pub(crate) excused: u64,
}

/// Pairs of a route that match by themselves, or by the same rule at the same place.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Group {
    seen: u64,
    examples: Vec<String>,
}

fn key(route: &str, hidden: &Hidden) -> String {
    let Hidden {
        path, kind, rule, ..
    } = hidden;
    format!("{route} {path} {kind} {rule}")
}

impl Witnesses {
    pub(crate) fn bytes(&self) -> usize {
        self.pairs.values().map(|pair| pair.size()).sum()
    }

    /// How many pairs matched because this was hidden.
    pub(crate) fn seen(&self, route: &str, hidden: &Hidden) -> u64 {
        let group = self.groups.get(&key(route, hidden));
        group.map_or(0, |group| group.seen)
    }

    /// Counts a matching pair; its name, made by `name`, where it is to be kept.
    fn draw(
        &mut self,
        route: &str,
        hidden: &[Hidden],
        most: usize,
        name: impl FnOnce() -> String,
    ) -> Option<String> {
        self.excused += u64::from(!hidden.is_empty());
        let keys: BTreeSet<String> = match hidden {
            [] => BTreeSet::from([route.to_owned()]),
            all => all.iter().map(|one| key(route, one)).collect(),
        };
        let mut places = Vec::new();
        for key in keys {
            if !self.groups.contains_key(&key) && self.groups.len() >= GROUPS_MAX {
                continue;
            }
            let group = self.groups.entry(key.clone()).or_default();
            group.seen += 1;
            let place = match group.examples.len() < most {
                true => Some(group.examples.len()),
                false => reservoir(group.seen, most),
            };
            places.extend(place.map(|place| (key, place)));
        }
        if places.is_empty() {
            return None;
        }
        let name = name();
        for (key, place) in places {
            if let Some(group) = self.groups.get_mut(&key) {
                match group.examples.get_mut(place) {
                    Some(old) => *old = name.clone(),
                    None => group.examples.push(name.clone()),
                }
            }
        }
        self.drop_unused();
        Some(name)
    }

    fn keep(&mut self, pair: Pair) {
        self.pairs.insert(pair.id.clone(), Arc::new(pair));
        while self.pairs.len() > PAIRS_MAX || self.bytes() > BYTES_MAX {
            let groups = self.groups.values_mut();
            let most = groups.max_by_key(|group| group.examples.len());
            match most.filter(|group| !group.examples.is_empty()) {
                Some(group) => group.examples.remove(0),
                None => return,
            };
            self.drop_unused();
        }
    }

    fn forget(&mut self, before: i64) {
        self.pairs.retain(|_, pair| pair.at >= before);
        let pairs = &self.pairs;
        for group in self.groups.values_mut() {
            group.examples.retain(|id| pairs.contains_key(id));
        }
    }

    fn drop_unused(&mut self) {
        let examples = self.groups.values().flat_map(|group| &group.examples);
        let named: BTreeSet<&String> = examples.collect();
        self.pairs.retain(|id, _| named.contains(id));
    }
}

impl Record {
    /// Counts a pair that matches, some of it by what rules have hidden. The name that it is to be
    /// kept under, where it is.
    pub(crate) fn draw_witness(
        &mut self,
        route: &str,
        hidden: &[Hidden],
        most: usize,
    ) -> Option<String> {
        let mut witnesses = std::mem::take(&mut self.witnesses);
        let drawn = witnesses.draw(route, hidden, most, || self.name_pair());
        self.witnesses = witnesses;
        drawn
    }

    /// Keeps a pair that was drawn, unless another one has taken its place by now.
    pub(crate) fn keep_witness(&mut self, mut pair: Pair) {
        pair.write_out();
        let groups = self.witnesses.groups.values();
        if groups
            .flat_map(|group| &group.examples)
            .any(|id| *id == pair.id)
        {
            self.witnesses.keep(pair);
            self.keep_quota();
        }
    }

    /// Drops those that were judged before this moment.
    pub(crate) fn forget_witnesses(&mut self, before: i64) {
        self.witnesses.forget(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::pair;

    fn hidden(path: &str) -> Hidden {
        Hidden {
            at: path.to_owned(),
            path: path.to_owned(),
            kind: "value".to_owned(),
            rule: "$..at".to_owned(),
        }
    }

    fn witness(record: &mut Record, at: i64, hidden: &[Hidden], size: usize) {
        if let Some(id) = record.draw_witness("GET /x", hidden, 3) {
            let mut pair = *pair();
            pair.id = id;
            pair.at = at;
            pair.legacy_body = "x".repeat(size);
            record.keep_witness(pair);
        }
    }

    #[test]
    fn of_each_hidden_difference_some_pairs_are_kept_within_a_quota() {
        let mut record = Record::default();
        for n in 0..200 {
            let all: &[Hidden] = match n % 4 {
                0 => &[],
                1 => &[hidden("$.a")],
                2 => &[hidden("$.b"), hidden("$.b")],
                _ => &[hidden("$.a"), hidden("$.b")],
            };
            witness(&mut record, n, all, 10);
        }
        let kept = &record.witnesses;
        assert_eq!(kept.excused, 150);
        assert_eq!(kept.seen("GET /x", &hidden("$.a")), 100);
        assert!((5..=9).contains(&kept.pairs.len()), "{}", kept.pairs.len());
        let late = kept.pairs.values().filter(|pair| pair.at > 20).count();
        assert!(late > 0, "not only the first ones");
        let text = serde_json::to_string(&record).unwrap();
        let again: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(again.witnesses.pairs.len(), record.witnesses.pairs.len());
        record.forget(200);
        assert!(record.witnesses.pairs.is_empty());
        for n in 0..300 {
            witness(&mut record, 200, &[hidden(&format!("$.f{n}"))], 16 << 10);
        }
        assert!(record.witnesses.bytes() <= BYTES_MAX);
        assert!(record.witnesses.pairs.len() > 200);
        record.expire();
        assert!(record.witnesses.pairs.is_empty() && record.witnesses.excused == 0);
    }
}
