//! What other rules would have said of the pairs that are stored.
//!
//! Stored answers are compared by the code that compares live ones. Each pair is first judged as
//! it was: where that does not give what it gave then, its stored form is not enough (a body was
//! cut, a secret decides), and it is counted as such instead of being guessed at.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime};

use crate::align::SHOWN_MAX;
use crate::causes::Trait;
use crate::clusters::{ClusterField, ClusterRow};
use crate::compare::{self, Answer, By, compare, document};
use crate::diff::{Difference, diff};
use crate::error::Error;
use crate::hidden::Hidden;
use crate::mutants::mutants;
use crate::path::Root;
use crate::record::{Pair, Record};
use crate::renaming::Book;
use crate::rules::Rules;
use crate::settings::{ArrayRule, Rule, SliceShadow};
use crate::slice::SEEDED_ANSWERS;
use crate::stored::{BODY_KEPT, back};

/// Fields that are listed of one group.
const FIELDS_MAX: usize = 5;

/// Rules to be tried in place of those at work.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// In place of those of the config; rules that were added while it ran stay.
    #[serde(default)]
    pub config: Option<Comparing>,
    #[serde(default)]
    pub add: Vec<Rule>,
    /// Paths of rules.
    #[serde(default)]
    pub drop: Vec<String>,
}

/// What a config says of how answers are compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparing {
    pub rules: Vec<Rule>,
    pub arrays: Vec<ArrayRule>,
    /// `None` for the usual ones.
    pub headers: Option<Vec<String>>,
}

/// What would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WhatIf {
    pub slice: String,
    pub rules_today: usize,
    pub rules_then: usize,
    pub judged: Judged,
    /// Differing today, and would match.
    pub would_match: Vec<Hides>,
    /// Matching today, and would differ.
    pub would_differ: Vec<Excused>,
    /// Rules that would hide nothing in these pairs.
    pub idle: Vec<String>,
    pub score_today: Score,
    pub score_then: Score,
    /// What this cannot know.
    pub unknown: Vec<String>,
}

impl WhatIf {
    /// Whether a pair would be judged otherwise.
    pub fn changes(&self) -> bool {
        !self.would_match.is_empty() || !self.would_differ.is_empty()
    }
}

/// Which pairs were judged.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Judged {
    pub pairs: u64,
    /// Of these, those of which both rule sets say the same.
    pub as_today: u64,
    /// Stored, and of how many, that differ, that match by a rule, and that match without.
    pub mismatched: (u64, u64),
    pub excused: (u64, u64),
    pub matched: (u64, u64),
    /// The extracted side has failed: no rule changes that.
    pub failed: u64,
    /// Pairs that cannot be judged by what is stored of them, and why.
    pub unjudged: BTreeMap<String, u64>,
}

/// Pairs of one cause that would match.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hides {
    /// As in the report; none where no cause is known.
    pub cluster: Option<String>,
    pub route: String,
    pub cause: String,
    pub fields: Vec<ClusterField>,
    /// Stored pairs.
    pub pairs: u64,
    /// About so many requests have shown it.
    pub of: u64,
    /// The rules that would hide it.
    pub rules: BTreeSet<String>,
    pub example: String,
}

/// Pairs of one route that match by a rule, and would differ.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Excused {
    pub route: String,
    pub fields: Vec<ClusterField>,
    pub pairs: u64,
    /// So many requests were excused so; `None` where no rule has been counted.
    pub of: Option<u64>,
    /// The rules that hide it today.
    pub rules: BTreeSet<String>,
    pub example: String,
}

/// Faults that were seeded in stored answers, and those that the rules catch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    pub answers: u64,
    pub faults: u64,
    pub caught: u64,
}

/// A rule set, and the headers that it is about.
struct Set<'a> {
    rules: Rules,
    headers: Option<&'a [String]>,
}

/// What a set says of a pair.
struct Verdict {
    /// Without those that were excused as noise.
    differences: Vec<Difference>,
    hidden: Vec<Hidden>,
}

/// Asks what the changed rules would say.
pub(crate) fn ask(
    settings: &SliceShadow,
    at_work: &Rules,
    record: &Record,
    changed: Changed,
    today: Date,
) -> Result<WhatIf, Error> {
    let mut unknown = Vec::new();
    let (wanted, arrays, headers) = wanted(settings, at_work, changed)?;
    let kept = compare::names(settings.headers.as_deref());
    let headers: Option<Vec<String>> = headers.map(|names| {
        let (known, other): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| kept.contains(&name.to_ascii_lowercase()));
        for name in other {
            unknown.push(format!(
                "the header `{name}` is not kept with stored pairs, because it is not compared \
                 today: whether it differs is not known"
            ));
        }
        known
    });
    let mut then = Rules::new(&wanted, &arrays)?;
    then.know_ids_of(at_work);
    let then = Set {
        rules: then,
        headers: headers.as_deref(),
    };
    let now = Set {
        rules: at_work.aside(),
        headers: settings.headers.as_deref(),
    };
    let mut found = WhatIf {
        slice: settings.id.to_string(),
        rules_today: at_work.accepted.len(),
        rules_then: wanted.len(),
        judged: coverage(record),
        would_match: Vec::new(),
        would_differ: Vec::new(),
        idle: Vec::new(),
        score_today: Score::default(),
        score_then: Score::default(),
        unknown: Vec::new(),
    };
    judge_all(record, &now, &then, today, &mut found);
    let idle = then.rules.accepted.iter().filter(|one| one.hits() == 0);
    found.idle = idle.map(|one| one.rule.path.clone()).collect();
    found.score_today = score(record, &now.rules, today);
    found.score_then = score(record, &then.rules, today);
    found.unknown = caveats(&found, record, &then.rules, at_work);
    found.unknown.extend(unknown);
    Ok(found)
}

type Wanted = (Vec<Rule>, Vec<ArrayRule>, Option<Vec<String>>);

/// The rules to be tried.
fn wanted(settings: &SliceShadow, at_work: &Rules, changed: Changed) -> Result<Wanted, Error> {
    let all = at_work.accepted.iter().map(|one| one.rule.clone());
    let (mut rules, arrays, headers) = match changed.config {
        Some(config) => {
            let added = at_work.added().into_iter();
            let all = config.rules.into_iter().chain(added).collect::<Vec<_>>();
            (all, config.arrays, config.headers)
        }
        None => (
            all.collect(),
            settings.arrays.clone(),
            settings.headers.clone(),
        ),
    };
    for path in changed.drop {
        let before = rules.len();
        let known: BTreeSet<String> = rules.iter().map(|rule| rule.path.clone()).collect();
        rules.retain(|rule| rule.path != path);
        if rules.len() == before {
            let known: Vec<String> = known.into_iter().collect();
            return Err(Error::NoSuchRule {
                path,
                known: match known.is_empty() {
                    true => "nothing".to_owned(),
                    false => known.join(", "),
                },
            });
        }
    }
    rules.extend(changed.add);
    Ok((rules, arrays, headers))
}

fn coverage(record: &Record) -> Judged {
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let witnesses = record.witnesses.pairs.values();
    let (excused, matched): (Vec<_>, Vec<_>) = witnesses.partition(|pair| !pair.hidden.is_empty());
    let by_rule = record.witnesses.excused;
    Judged {
        mismatched: (
            count(record.pairs.len()),
            record.mismatched + record.candidate_errors,
        ),
        excused: (count(excused.len()), by_rule),
        matched: (count(matched.len()), record.matched.saturating_sub(by_rule)),
        ..Judged::default()
    }
}

/// In the order in which they came, so that ids are learnt as they were.
fn in_order(record: &Record) -> Vec<&Pair> {
    let all = record.pairs.values().chain(record.witnesses.pairs.values());
    let mut all: Vec<&Pair> = all.map(|pair| &**pair).collect();
    let number = |pair: &&Pair| {
        let number = pair.id.rsplit_once(":p").map(|(_, number)| number.parse());
        number.and_then(Result::ok).unwrap_or(u64::MAX)
    };
    all.sort_by_key(number);
    all
}

fn judge_all(record: &Record, now: &Set<'_>, then: &Set<'_>, today: Date, found: &mut WhatIf) {
    let clusters = record.clusters_and_traits();
    for pair in in_order(record) {
        if pair.extracted_status.is_none() || pair.differences.iter().any(|d| d.kind == "error") {
            found.judged.failed += 1;
            continue;
        }
        let (before, after) = match both(record, pair, now, then, today) {
            Ok(both) => both,
            Err(reason) => {
                *found.judged.unjudged.entry(reason.to_owned()).or_default() += 1;
                continue;
            }
        };
        found.judged.pairs += 1;
        match (before.differences.is_empty(), after.differences.is_empty()) {
            (false, true) => hides(&clusters, pair, &before, &after, found),
            (true, false) => shows(record, pair, &before, &after, found),
            _ => found.judged.as_today += 1,
        }
    }
    let most = |one: &u64| std::cmp::Reverse(*one);
    found.would_match.sort_by_key(|group| most(&group.of));
    found
        .would_differ
        .sort_by_key(|group| most(&group.of.unwrap_or(group.pairs)));
}

/// What both sets say of a pair.
///
/// # Errors
/// Why it cannot be said.
fn both(
    record: &Record,
    pair: &Pair,
    now: &Set<'_>,
    then: &Set<'_>,
    today: Date,
) -> Result<(Verdict, Verdict), &'static str> {
    let legacy = back(
        pair.legacy_status,
        pair.legacy_head.as_ref(),
        &pair.legacy_body,
    )?;
    let extracted = back(
        pair.extracted_status,
        pair.extracted_head.as_ref(),
        &pair.extracted_body,
    )?;
    let answers = (&legacy, &extracted);
    let day = OffsetDateTime::from_unix_timestamp(pair.at).map_or(today, OffsetDateTime::date);
    let known = |path: &str| pair.noisy.iter().any(|noisy| noisy == path);
    let first = verdict(answers, (now, pair.book), day, &known)?;
    if !is_as_it_was(pair, &first) {
        return Err("not the same as what was compared");
    }
    // Noise that is known by now excuses what was not compared then.
    let noisy = |path: &str| {
        let seen = pair.differences.iter().any(|shown| shown.path == path);
        known(path) || !seen && record.is_noise(&pair.route, path)
    };
    let before = match day == today {
        true => first,
        false => verdict(answers, (now, pair.book), today, &noisy)?,
    };
    let after = verdict(answers, (then, pair.book), today, &noisy)?;
    Ok((before, after))
}

fn verdict(
    (legacy, extracted): (&Answer, &Answer),
    (set, book): (&Set<'_>, Book),
    today: Date,
    noisy: &dyn Fn(&str) -> bool,
) -> Result<Verdict, &'static str> {
    let rules = set.rules.of(book).watched(true);
    let by = By {
        headers: set.headers,
        rules: &rules,
        body_cap: BODY_KEPT,
        today,
    };
    let mut differences = compare(legacy, extracted, by)?;
    differences.retain(|one| !noisy(&one.place.general()));
    // What differs for sure differs, whatever a rule could not see.
    if differences.is_empty() && rules.is_unsure() {
        return Err("a rule asks for a value that is kept as a token only");
    }
    Ok(Verdict {
        differences,
        hidden: rules.hidden(),
    })
}

/// Whether the stored pair shows what the live one has shown.
fn is_as_it_was(pair: &Pair, verdict: &Verdict) -> bool {
    let found = verdict.differences.iter().take(SHOWN_MAX);
    let found = found.map(|one| (one.place.to_string(), one.kind));
    let was = pair.differences.iter();
    found.eq(was.map(|one| (one.at.clone(), one.kind.as_str()))) && verdict.hidden == pair.hidden
}

fn fields(differences: &[Difference]) -> Vec<ClusterField> {
    let mut seen = BTreeSet::new();
    let all = differences
        .iter()
        .map(|one| (one.place.general(), one.kind));
    let all = all.filter(|field| seen.insert(field.clone()));
    let field = |(path, kind): (String, &str)| ClusterField {
        path,
        kind: kind.to_owned(),
        count: 1,
    };
    all.map(field).take(FIELDS_MAX).collect()
}

fn hides(
    clusters: &[(ClusterRow, Vec<Trait>)],
    pair: &Pair,
    before: &Verdict,
    after: &Verdict,
    found: &mut WhatIf,
) {
    let of = |(row, traits): &&(ClusterRow, Vec<Trait>)| {
        let shows = |field: &ClusterField| {
            let mut shown = pair.differences.iter();
            shown.any(|shown| shown.path == field.path && shown.kind == field.kind)
        };
        row.route == pair.route
            && traits.iter().all(|one| one.holds(&pair.features))
            && row.fields.iter().any(shows)
    };
    let cluster = clusters.iter().find(of).map(|(row, _)| row);
    let id = cluster.map(|row| row.id.clone());
    let counts_today = |hidden: &&Hidden| {
        let mut today = before.differences.iter();
        today.any(|one| one.place.to_string() == hidden.at)
    };
    let rules = after.hidden.iter().filter(counts_today);
    let rules = rules.map(|hidden| hidden.rule.clone());
    let mut groups = found.would_match.iter_mut();
    match groups.find(|group| group.cluster == id && group.route == pair.route) {
        Some(group) => {
            group.pairs += 1;
            group.rules.extend(rules);
        }
        None => found.would_match.push(Hides {
            cluster: id,
            route: pair.route.clone(),
            cause: cluster.map_or_else(|| "no cause is known".to_owned(), |row| row.cause.clone()),
            fields: cluster.map_or_else(|| fields(&before.differences), |row| row.fields.clone()),
            pairs: 1,
            of: cluster.map_or(1, |row| row.count),
            rules: rules.collect(),
            example: pair.id.clone(),
        }),
    }
}

fn shows(record: &Record, pair: &Pair, before: &Verdict, after: &Verdict, found: &mut WhatIf) {
    let fields = fields(&after.differences);
    let is_new = |hidden: &&Hidden| {
        let mut left = after.differences.iter();
        left.any(|one| one.place.general().starts_with(&hidden.path))
    };
    let hidden: Vec<&Hidden> = before.hidden.iter().filter(is_new).collect();
    let seen = hidden
        .iter()
        .map(|one| record.witnesses.seen(&pair.route, one));
    let of = seen.max();
    let rules = hidden.iter().map(|hidden| hidden.rule.clone());
    let mut groups = found.would_differ.iter_mut();
    match groups.find(|group| group.route == pair.route && group.fields == fields) {
        Some(group) => {
            group.pairs += 1;
            group.of = group.of.max(of);
            group.rules.extend(rules);
        }
        None => found.would_differ.push(Excused {
            route: pair.route.clone(),
            fields,
            pairs: 1,
            of,
            rules: rules.collect(),
            example: pair.id.clone(),
        }),
    }
}

/// Seeds faults in stored answers of matching pairs, as is done in live ones.
fn score(record: &Record, rules: &Rules, today: Date) -> Score {
    let mut score = Score::default();
    let mut routes: BTreeMap<&str, u64> = BTreeMap::new();
    for pair in record.witnesses.pairs.values() {
        let seeded = routes.entry(&pair.route).or_default();
        let head = pair.extracted_head.as_ref();
        let answer = back(pair.extracted_status, head, &pair.extracted_body);
        let json = answer
            .ok()
            .and_then(|answer| document(&answer, BODY_KEPT))
            .filter(|_| *seeded < SEEDED_ANSWERS);
        let Some(json) = json else {
            continue;
        };
        *seeded += 1;
        score.answers += 1;
        let rules = rules.of_one_side();
        diff(&json, &json, &Root::Body, &rules, today);
        for spoilt in mutants(&json) {
            let rules = rules.watched(true);
            let mut found = diff(&json, &spoilt, &Root::Body, &rules, today);
            found.retain(|one| !record.is_noise(&pair.route, &one.place.general()));
            if found.is_empty() && rules.is_unsure() {
                continue;
            }
            score.faults += 1;
            score.caught += u64::from(!found.is_empty());
        }
    }
    score
}

fn caveats(found: &WhatIf, record: &Record, then: &Rules, now: &Rules) -> Vec<String> {
    let Judged {
        mismatched,
        excused,
        matched,
        ..
    } = found.judged;
    let mut all = vec![format!(
        "only stored pairs are judged: {} of {} that differ, {} of {} that a rule excuses, {} of \
         {} other matching ones",
        mismatched.0, mismatched.1, excused.0, excused.1, matched.0, matched.1
    )];
    let noise = record.noise_pairs.values().sum::<u64>();
    if !found.would_differ.is_empty() && noise > 0 {
        all.push(
            "noise is learnt of what rules leave to be seen: what would differ may be noise"
                .to_owned(),
        );
    }
    if then.learn_beyond(now) {
        all.push("ids of a new `renamed` rule are learnt from the stored pairs alone".to_owned());
    }
    all
}

#[cfg(test)]
mod tests;
