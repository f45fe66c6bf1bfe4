//! Mismatches by their cause: differences of one route that the same feature of a request brings
//! about, or that always come together.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::causes::{Cause, Trait, explain};
use crate::record::{Pair, Record};
use crate::seen::{Seen, hash};

/// Two differences are one cause where this share of the requests that show one shows the other.
const TOGETHER: f64 = 0.9;
/// Hunks of a cluster's example.
const HUNKS_MAX: usize = 8;

/// Mismatches of one cause.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRow {
    /// The same in every report, as long as its cause is.
    pub id: String,
    pub route: String,
    /// Requests that showed it.
    pub count: u64,
    /// False where the count is reckoned from a sample, because a difference has several causes.
    pub exact: bool,
    pub fields: Vec<ClusterField>,
    /// What separates its requests from passing ones, in words.
    pub cause: String,
    /// All that its requests have in common, and passing ones have not.
    pub features: Vec<String>,
    /// What separates them as well.
    pub also: Vec<String>,
    /// Its requests that were looked at; passing requests with the features, and of how many.
    pub looked_at: u32,
    pub passing_with: u32,
    pub passing: u32,
    /// The smallest stored pair that shows it (`shadow show ID`).
    pub example: Option<String>,
    /// Its request, and how the answers differ, as a unified diff.
    pub request: Option<String>,
    pub diff: String,
    pub curl: Vec<String>,
}

/// A difference of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterField {
    pub path: String,
    pub kind: String,
    pub count: u64,
}

/// One cause of one difference.
struct Part<'a> {
    key: &'a str,
    seen: &'a Seen,
    cause: Cause,
}

impl Part<'_> {
    fn members(&self) -> impl Iterator<Item = &crate::samples::Sample> {
        let all = self.seen.failing.kept.iter().enumerate();
        all.filter(|(at, _)| self.cause.members >> at & 1 == 1)
            .map(|(_, sample)| sample)
    }

    /// Whether those that show this one show the other one, too.
    fn comes_with(&self, other: &Part<'_>) -> bool {
        let symptom = hash(other.key);
        let (mut with, mut all) = (0.0, 0.0);
        for sample in self.members() {
            all += 1.0;
            with += f64::from(u8::from(sample.symptoms.contains(&symptom)));
        }
        with >= TOGETHER * all
    }

    fn count(&self) -> u64 {
        let kept = self.seen.failing.kept.len() as u64;
        let members = u64::from(self.cause.members.count_ones());
        match kept {
            0 => 0,
            kept => (self.seen.failing.seen * members + kept / 2) / kept,
        }
    }

    fn exact(&self) -> bool {
        let kept = self.seen.failing.kept.len();
        self.seen.failing.seen == kept as u64 || self.cause.members.count_ones() as usize == kept
    }
}

/// Whether two differences have one cause.
fn together(a: &Part<'_>, b: &Part<'_>) -> bool {
    a.seen.route == b.seen.route
        && !a.cause.traits.is_empty()
        && a.cause.traits == b.cause.traits
        && (a.seen.kind == b.seen.kind || a.comes_with(b) && b.comes_with(a))
}

impl Record {
    /// All clusters, the largest first.
    pub(crate) fn clusters(&self) -> Vec<ClusterRow> {
        self.clusters_and_traits()
            .into_iter()
            .map(|(row, _)| row)
            .collect()
    }

    /// The same, each with what separates its requests from passing ones.
    pub(crate) fn clusters_and_traits(&self) -> Vec<(ClusterRow, Vec<Trait>)> {
        let mut groups: Vec<Vec<Part<'_>>> = Vec::new();
        for (key, seen) in &self.differences {
            if seen.failing.kept.is_empty() {
                continue;
            }
            for cause in explain(&seen.failing.kept, &self.passing(key, seen)) {
                let part = Part { key, seen, cause };
                let mut known = groups.iter_mut();
                match known.find(|group| group.iter().any(|other| together(other, &part))) {
                    Some(group) => group.push(part),
                    None => groups.push(vec![part]),
                }
            }
        }
        let mut rows: Vec<_> = groups.iter().map(|group| self.row(group)).collect();
        rows.sort_by(|(a, _), (b, _)| b.count.cmp(&a.count).then_with(|| a.id.cmp(&b.id)));
        rows
    }

    fn row(&self, group: &[Part<'_>]) -> (ClusterRow, Vec<Trait>) {
        let mut fields: Vec<ClusterField> = group
            .iter()
            .map(|part| ClusterField {
                path: part.seen.path.clone(),
                kind: part.seen.kind.clone(),
                count: part.count(),
            })
            .collect();
        fields.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
        let largest = group.iter().max_by_key(|part| part.count());
        let route = largest.map_or_else(String::new, |part| part.seen.route.clone());
        let cause = largest.map(|part| part.cause.clone()).unwrap_or_default();
        let texts = |traits: &[crate::causes::Trait]| -> Vec<String> {
            traits.iter().map(ToString::to_string).collect()
        };
        let features = texts(&cause.traits);
        let example = self.smallest(group);
        let paths: BTreeSet<&str> = fields.iter().map(|field| field.path.as_str()).collect();
        let name = format!("{route} {paths:?} {features:?}");
        let row = ClusterRow {
            id: format!("c{:08x}", hash(&name) >> 32),
            count: fields.first().map_or(0, |field| field.count),
            exact: group.iter().all(Part::exact),
            cause: sentence(&cause, &features),
            features,
            also: texts(&cause.also),
            looked_at: cause.members.count_ones(),
            passing_with: cause.passing.0,
            passing: cause.passing.1,
            diff: example.map_or_else(String::new, |pair| hunks(pair, &paths)),
            example: example.map(|pair| pair.id.clone()),
            request: example.map(|pair| pair.request.clone()),
            curl: example.map(|pair| pair.curl.clone()).unwrap_or_default(),
            route,
            fields,
        };
        (row, cause.traits)
    }

    /// The stored pair that shows a cluster with the least beside it.
    fn smallest(&self, group: &[Part<'_>]) -> Option<&Pair> {
        let of = |part: &Part<'_>| -> Vec<&Pair> {
            let all = |own: &dyn Fn(&&Pair) -> bool, ids: Vec<&String>| {
                let pairs = ids.into_iter().filter_map(|id| self.pairs.get(id));
                pairs.map(|pair| &**pair).filter(own).collect::<Vec<_>>()
            };
            let kept = part.seen.kept.iter();
            let same = kept.filter(|kept| kept.traits == part.cause.traits);
            let own = all(&|_| true, same.flat_map(|kept| &kept.examples).collect());
            match own.is_empty() {
                // It was kept before this cause was known.
                true => all(
                    &|pair| part.cause.covers(&pair.features),
                    part.seen.examples().collect(),
                ),
                false => own,
            }
        };
        let size = |pair: &&Pair| {
            let bodies = pair.legacy_body.len() + pair.extracted_body.len();
            (pair.differences.len(), pair.request.len() + bodies)
        };
        group.iter().flat_map(of).min_by_key(size)
    }
}

/// The differences of a pair at these places.
fn hunks(pair: &Pair, paths: &BTreeSet<&str>) -> String {
    let status = |status: Option<u16>| status.map_or_else(String::new, |s| format!(" {s}"));
    let mut out = format!(
        "--- legacy{}\n+++ extracted{}\n",
        status(pair.legacy_status),
        status(pair.extracted_status)
    );
    let of = pair.differences.iter();
    for shown in of
        .filter(|shown| paths.contains(&*shown.path))
        .take(HUNKS_MAX)
    {
        out.push_str(&shown.to_string());
    }
    out
}

fn sentence(cause: &Cause, features: &[String]) -> String {
    let looked_at = cause.members.count_ones();
    let (with, passing) = cause.passing;
    if !features.is_empty() {
        let features = features.join(" and ");
        return format!("all {looked_at} have {features}, {with} of {passing} passing ones do");
    }
    match (looked_at, passing) {
        (_, 0) => "every compared request of the route shows it".to_owned(),
        (0..=2, _) => "too few to tell what separates them from passing ones".to_owned(),
        (_, 0..=9) => format!("only {passing} passing ones to tell them from"),
        _ => format!("nothing in the request separates them from {passing} passing ones"),
    }
}
