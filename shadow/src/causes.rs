//! Which features separate requests that show a difference from those that do not. Pure.
//!
//! One difference may have several causes, so they are taken one by one: that feature, or pair of
//! features, first that most failing requests have and the fewest passing ones. A feature has to
//! be there far more often than chance allows, so few failing requests give no cause yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::features::{Feature, Part};
use crate::samples::Sample;

/// Failing requests that are looked at; one bit each.
pub(crate) const FAILING_MAX: usize = 64;
/// Passing requests that are looked at; one bit each.
pub(crate) const PASSING_MAX: usize = 256;
/// Below, anything may separate by chance.
const PASSING_MIN: usize = 10;
const FAILING_MIN: u32 = 3;
/// Causes of one difference that are told apart.
const CAUSES_MAX: usize = 8;
/// Of the features that failing requests have, those that are also looked at in pairs.
const PAIRED_MAX: usize = 12;
/// How surprising a cause must be, in nats: one in 160,000, against a few thousand features.
const SURPRISE_MIN: f64 = 12.0;
/// A pair of features must be so much better than one.
const PAIR_WORTH: f64 = 0.8;
/// Features that separate as well as the one that is believed.
const ALSO_MAX: usize = 3;

/// What is asked of a request. Ordered: the first one is believed where several do as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Test {
    Is(String),
    Present,
    AtLeast(i64),
    AtMost(i64),
    Absent,
}

/// A question about one name in a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Trait {
    pub(crate) part: Part,
    pub(crate) name: String,
    pub(crate) test: Test,
}

impl Trait {
    pub(crate) fn holds(&self, features: &[Feature]) -> bool {
        let mut named = features
            .iter()
            .filter(|feature| feature.part == self.part && feature.name == self.name);
        let number = |feature: &Feature| feature.value.as_ref()?.parse::<i64>().ok();
        match &self.test {
            Test::Absent => named.next().is_none(),
            Test::Present => named.next().is_some(),
            Test::Is(wanted) => named.any(|feature| feature.value.as_ref() == Some(wanted)),
            Test::AtLeast(least) => named.any(|f| number(f).is_some_and(|n| n >= *least)),
            Test::AtMost(most) => named.any(|f| number(f).is_some_and(|n| n <= *most)),
        }
    }

    /// A bound no wider than these requests need; anything else as it is.
    fn within(&self, samples: &[&Sample]) -> Self {
        let all = samples.iter().flat_map(|sample| sample.features.iter());
        let numbers = all
            .filter(|feature| feature.part == self.part && feature.name == self.name)
            .filter_map(|feature| feature.value.as_ref()?.parse::<i64>().ok());
        let test = match &self.test {
            Test::AtLeast(least) => numbers
                .filter(|number| number >= least)
                .min()
                .map(Test::AtLeast),
            Test::AtMost(most) => numbers
                .filter(|number| number <= most)
                .max()
                .map(Test::AtMost),
            _ => None,
        };
        Self {
            test: test.unwrap_or_else(|| self.test.clone()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Trait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, name, test } = self;
        write!(f, "{part}")?;
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        match test {
            Test::Is(value) if name.is_empty() => write!(f, " {value}"),
            Test::Is(value) => write!(f, "={value}"),
            Test::Present => Ok(()),
            Test::AtLeast(least) => write!(f, " >= {least}"),
            Test::AtMost(most) => write!(f, " <= {most}"),
            Test::Absent => f.write_str(" absent"),
        }
    }
}

/// Failing requests that have something in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cause {
    /// All of these hold; none where nothing separates.
    pub(crate) traits: Vec<Trait>,
    /// Others that separate as well.
    pub(crate) also: Vec<Trait>,
    /// Which of the failing requests.
    pub(crate) members: u64,
    /// How many of the failing requests that were looked at had the traits, and of how many.
    pub(crate) failing: (u32, u32),
    /// The same of the passing ones.
    pub(crate) passing: (u32, u32),
}

impl Cause {
    pub(crate) fn covers(&self, features: &[Feature]) -> bool {
        self.traits.iter().all(|one| one.holds(features))
    }
}

type Passing = [u64; PASSING_MAX / 64];

#[derive(Debug, Clone)]
struct Candidate {
    traits: Vec<Trait>,
    failing: u64,
    passing: Passing,
}

fn ones(passing: &Passing) -> u32 {
    passing.iter().map(|bits| bits.count_ones()).sum()
}

/// The causes of one difference, the largest first; the last one may be of no known cause.
pub(crate) fn explain(failing: &[Sample], passing: &[&Sample]) -> Vec<Cause> {
    let failing = &failing[..failing.len().min(FAILING_MAX)];
    let passing = &passing[..passing.len().min(PASSING_MAX)];
    let mut left = (0..failing.len()).fold(0u64, |bits, at| bits | 1 << at);
    let candidates = match passing.len() < PASSING_MIN || left.count_ones() < FAILING_MIN {
        true => Vec::new(),
        false => candidates(failing, passing),
    };
    let all = u32::try_from(passing.len()).unwrap_or(u32::MAX);
    let chosen = chosen(&candidates, left, all);
    let mut found = Vec::new();
    for best in tightened(&chosen, failing, passing) {
        let members = left & best.failing;
        let as_well = |other: &&Candidate| {
            other.traits.len() == 1
                && other.traits != best.traits
                && other.failing & left == members
                && other.passing == best.passing
        };
        let also = candidates.iter().filter(as_well).take(ALSO_MAX);
        found.push(Cause {
            traits: best.traits.clone(),
            also: also.flat_map(|other| other.traits.clone()).collect(),
            members,
            failing: (members.count_ones(), left.count_ones()),
            passing: (ones(&best.passing), all),
        });
        left &= !members;
    }
    if left != 0 {
        found.push(Cause {
            members: left,
            failing: (left.count_ones(), left.count_ones()),
            passing: (all, all),
            ..Cause::default()
        });
    }
    // Where one cause is all there is, its share is that of all failing requests.
    found.sort_by_key(|cause| std::cmp::Reverse(cause.members.count_ones()));
    found
}

/// One by one, the one that explains most of what those before it have left.
fn chosen(candidates: &[Candidate], mut left: u64, passing: u32) -> Vec<&Candidate> {
    let mut found = Vec::new();
    while left.count_ones() >= FAILING_MIN && found.len() < CAUSES_MAX {
        let Some(best) = best(candidates, left, passing) else {
            break;
        };
        left &= !best.failing;
        found.push(best);
    }
    found
}

/// The same with bounds that are those of the requests which nothing else explains. One that fails
/// for another reason may by chance lie beyond all passing ones that were sampled, and would
/// draw the bound to itself.
fn tightened(chosen: &[&Candidate], failing: &[Sample], passing: &[&Sample]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (at, one) in chosen.iter().enumerate() {
        let others = chosen.iter().enumerate().filter(|(other, _)| *other != at);
        let own = others.fold(one.failing, |own, (_, other)| own & !other.failing);
        let own: Vec<&Sample> = failing
            .iter()
            .enumerate()
            .filter(|(at, _)| own >> at & 1 == 1)
            .map(|(_, sample)| sample)
            .collect();
        let traits = one.traits.iter().map(|one| match own.is_empty() {
            true => one.clone(),
            false => one.within(&own),
        });
        let traits: Vec<Trait> = traits.collect();
        found.push(match traits == one.traits {
            true => (*one).clone(),
            false => candidate(traits, failing, passing),
        });
    }
    found
}

/// Every single trait that a failing request has, or lacks and a passing one has; and pairs of the
/// most frequent ones.
fn candidates(failing: &[Sample], passing: &[&Sample]) -> Vec<Candidate> {
    let mut all = BTreeSet::new();
    for sample in failing {
        for Feature { part, name, value } in sample.features.iter() {
            let one = |test| Trait {
                part: *part,
                name: name.clone(),
                test,
            };
            if let Some(value) = value {
                all.insert(one(Test::Is(value.clone())));
            }
            if !name.is_empty() {
                all.insert(one(Test::Present));
            }
        }
    }
    let named = passing.iter().flat_map(|sample| sample.features.iter());
    for feature in named.filter(|feature| !feature.name.is_empty()) {
        all.insert(Trait {
            part: feature.part,
            name: feature.name.clone(),
            test: Test::Absent,
        });
    }
    all.extend(thresholds(failing, passing));
    let mut singles: Vec<Candidate> = all
        .into_iter()
        .map(|one| candidate(vec![one], failing, passing))
        .filter(|one| one.failing.count_ones() >= FAILING_MIN)
        .collect();
    let mut often: Vec<usize> = (0..singles.len()).collect();
    // What all requests have makes no pair better.
    often.retain(|at| ones(&singles[*at].passing) as usize != passing.len());
    often.sort_by_key(|at| std::cmp::Reverse(singles[*at].failing.count_ones()));
    often.truncate(PAIRED_MAX);
    let mut pairs = Vec::new();
    for (at, first) in often.iter().enumerate() {
        for second in &often[at + 1..] {
            let (a, b) = (&singles[*first.min(second)], &singles[*first.max(second)]);
            let mut passing = a.passing;
            for (bits, other) in passing.iter_mut().zip(b.passing) {
                *bits &= other;
            }
            pairs.push(Candidate {
                traits: [a.traits.clone(), b.traits.clone()].concat(),
                failing: a.failing & b.failing,
                passing,
            });
        }
    }
    singles.extend(pairs);
    singles
}

fn candidate(traits: Vec<Trait>, failing: &[Sample], passing: &[&Sample]) -> Candidate {
    let mut found = Candidate {
        failing: 0,
        passing: Passing::default(),
        traits,
    };
    let holds = |sample: &Sample, traits: &[Trait]| {
        u64::from(traits.iter().all(|one| one.holds(&sample.features)))
    };
    for (at, sample) in failing.iter().enumerate() {
        found.failing |= holds(sample, &found.traits) << at;
    }
    for (at, sample) in passing.iter().enumerate() {
        found.passing[at / 64] |= holds(sample, &found.traits) << (at % 64);
    }
    found
}

/// Numbers beyond all those of passing requests.
fn thresholds(failing: &[Sample], passing: &[&Sample]) -> Vec<Trait> {
    let numbers = |features: &[Feature]| -> Vec<((Part, String), i64)> {
        let number = |feature: &Feature| {
            let number = feature.value.as_ref()?.parse().ok()?;
            Some(((feature.part, feature.name.clone()), number))
        };
        features.iter().filter_map(number).collect()
    };
    let mut fails: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for (name, number) in failing.iter().flat_map(|sample| numbers(&sample.features)) {
        fails.entry(name).or_default().push(number);
    }
    let mut passes: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for (name, number) in passing.iter().flat_map(|sample| numbers(&sample.features)) {
        passes.entry(name).or_default().push(number);
    }
    let mut found = Vec::new();
    for ((part, name), all) in &fails {
        let Some(others) = passes.get(&(*part, name.clone())) else {
            continue;
        };
        let (Some(low), Some(high)) = (others.iter().min(), others.iter().max()) else {
            continue;
        };
        let above = all.iter().filter(|number| *number > high);
        let below = all.iter().filter(|number| *number < low);
        let tests = [
            (above.clone().min().map(|n| Test::AtLeast(*n)), above.max()),
            (below.clone().max().map(|n| Test::AtMost(*n)), below.min()),
        ];
        for (test, end) in tests {
            // One value alone says more by itself.
            if let (Some(test), Some(end)) = (test, end)
                && !matches!(test, Test::AtLeast(n) | Test::AtMost(n) if n == *end)
            {
                found.push(Trait {
                    part: *part,
                    name: name.clone(),
                    test,
                });
            }
        }
    }
    found
}

/// The one that most of what is left has, and the fewest passing requests.
fn best(candidates: &[Candidate], left: u64, passing: u32) -> Option<&Candidate> {
    let mut best: Option<(f64, &Candidate)> = None;
    for candidate in candidates {
        let has = (candidate.failing & left).count_ones();
        let of = left.count_ones();
        let passes = ones(&candidate.passing);
        if has < FAILING_MIN || surprise(has, of, passes, passing) < SURPRISE_MIN {
            continue;
        }
        let share = f64::from(passes) / f64::from(passing.max(1));
        // Sharply down with passing requests: two exact causes are better than a vague one.
        let mut score = f64::from(has) / f64::from(of) * (1.0 - share).powi(8);
        if candidate.traits.len() > 1 {
            score *= PAIR_WORTH;
        }
        if best.is_none_or(|(known, _)| score > known) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// How surprising it is that so many failing requests have what so few passing ones have: the
/// log-likelihood ratio, in nats.
fn surprise(has: u32, of: u32, passes: u32, passing: u32) -> f64 {
    let by_chance = (f64::from(passes) + 0.5) / (f64::from(passing) + 1.0);
    let share = f64::from(has) / f64::from(of);
    if share <= by_chance {
        return 0.0;
    }
    let rest = match share < 1.0 {
        true => (1.0 - share) * ((1.0 - share) / (1.0 - by_chance)).ln(),
        false => 0.0,
    };
    f64::from(of) * (share * (share / by_chance).ln() + rest)
}

#[cfg(test)]
mod tests;
