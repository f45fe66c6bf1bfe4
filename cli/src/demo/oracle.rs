//! The demo's own judgement: are the promises kept, are the rows alike.
//!
//! Pure: what was promised and what was found in, verdicts out. It shares no code with the
//! bridge or the services, so that a mistake in those cannot hide itself here.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Claims;

/// How often each token was found.
pub(crate) type Found = BTreeMap<String, u64>;

/// The promises of one kind against one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) missing: BTreeSet<String>,
    /// Found more than once, or found although nobody ever sent it.
    pub(crate) duplicated: BTreeSet<String>,
}

impl Verdict {
    /// What broke on either side broke.
    pub(crate) fn merge(&mut self, other: Verdict) {
        self.missing.extend(other.missing);
        self.duplicated.extend(other.duplicated);
    }
}

/// Every acknowledged write is there once, every doubtful one at most once.
pub(crate) fn judge(claims: &Claims, found: &Found) -> Verdict {
    let times = |token: &String| found.get(token).copied().unwrap_or(0);
    let missing = claims
        .acknowledged
        .iter()
        .filter(|token| times(token) == 0)
        .cloned();
    let known =
        |token: &String| claims.acknowledged.contains(token) || claims.in_doubt.contains(token);
    let duplicated = found
        .iter()
        .filter(|(token, times)| **times > 1 || !known(token));
    Verdict {
        missing: missing.collect(),
        duplicated: duplicated.map(|(token, _)| token.clone()).collect(),
    }
}

/// As [`judge`] for a side that is still being written: what it does not hold yet is missing
/// only if it was acknowledged in `claims`, and what it holds beyond them came later.
pub(crate) fn judge_while_writing(claims: &Claims, found: &Found) -> Verdict {
    let mut verdict = judge(claims, found);
    verdict
        .duplicated
        .retain(|token| found.get(token).copied().unwrap_or(0) > 1);
    verdict
}

/// A sum that only votes changed: (missing, duplicated) votes, when `gained` were found,
/// `sure` were acknowledged and `at_most` were sent.
pub(crate) fn judge_votes(gained: i64, sure: u64, at_most: u64) -> (u64, u64) {
    let gained = u64::try_from(gained).unwrap_or(0);
    (sure.saturating_sub(gained), gained.saturating_sub(at_most))
}

/// Rows of one side in one form for both sides: key and content.
pub(crate) type Rows = BTreeMap<i64, String>;

/// The keys at which two sides differ.
pub(crate) fn differing(legacy: &Rows, extracted: &Rows) -> BTreeSet<i64> {
    let keys: BTreeSet<i64> = legacy.keys().chain(extracted.keys()).copied().collect();
    keys.into_iter()
        .filter(|key| legacy.get(key) != extracted.get(key))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_good(verdict: &Verdict) -> bool {
        *verdict == Verdict::default()
    }

    fn claims(acknowledged: &[&str], in_doubt: &[&str]) -> Claims {
        let set = |tokens: &[&str]| tokens.iter().map(|t| (*t).to_owned()).collect();
        Claims {
            acknowledged: set(acknowledged),
            in_doubt: set(in_doubt),
        }
    }

    fn found(tokens: &[(&str, u64)]) -> Found {
        tokens
            .iter()
            .map(|(token, times)| ((*token).to_owned(), *times))
            .collect()
    }

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn an_acknowledged_write_is_found_once() {
        let promised = claims(&["a", "b"], &["c", "d"]);
        assert!(is_good(&judge(&promised, &found(&[("a", 1), ("b", 1)]))));
        assert!(is_good(&judge(
            &promised,
            &found(&[("a", 1), ("b", 1), ("c", 1)])
        )));
        assert_eq!(names(&judge(&promised, &found(&[("a", 1)])).missing), ["b"]);
        assert_eq!(
            names(&judge(&promised, &found(&[("a", 2), ("b", 1)])).duplicated),
            ["a"]
        );
    }

    #[test]
    fn a_doubtful_write_is_found_at_most_once() {
        let promised = claims(&[], &["c"]);
        assert!(is_good(&judge(&promised, &found(&[]))));
        assert_eq!(
            names(&judge(&promised, &found(&[("c", 2)])).duplicated),
            ["c"]
        );
    }

    #[test]
    fn a_write_that_nobody_sent_is_not_good() {
        let verdict = judge(&claims(&["a"], &[]), &found(&[("a", 1), ("z", 1)]));
        assert_eq!(names(&verdict.duplicated), ["z"]);
        let verdict = judge_while_writing(&claims(&["a"], &[]), &found(&[("a", 1), ("z", 1)]));
        assert!(is_good(&verdict));
        let verdict = judge_while_writing(&claims(&["a"], &[]), &found(&[("z", 2)]));
        assert_eq!(
            (names(&verdict.missing), names(&verdict.duplicated)),
            (vec!["a"], vec!["z"])
        );
    }

    #[test]
    fn what_is_missing_on_one_side_is_missing() {
        let promised = claims(&["a", "b"], &[]);
        let mut verdict = judge(&promised, &found(&[("a", 1), ("b", 1)]));
        verdict.merge(judge(&promised, &found(&[("b", 2)])));
        assert_eq!(names(&verdict.missing), ["a"]);
        assert_eq!(names(&verdict.duplicated), ["b"]);
    }

    #[test]
    fn votes_are_judged_by_their_sum() {
        assert_eq!(judge_votes(10, 10, 10), (0, 0));
        assert_eq!(judge_votes(11, 10, 12), (0, 0));
        assert_eq!(judge_votes(9, 10, 12), (1, 0));
        assert_eq!(judge_votes(13, 10, 12), (0, 1));
        assert_eq!(judge_votes(-3, 2, 2), (2, 0));
    }

    #[test]
    fn rows_differ_by_content_and_by_absence() {
        let rows = |pairs: &[(i64, &str)]| -> Rows {
            pairs
                .iter()
                .map(|(key, text)| (*key, (*text).to_owned()))
                .collect()
        };
        let legacy = rows(&[(1, "a"), (2, "b"), (3, "c")]);
        assert!(differing(&legacy, &legacy).is_empty());
        let extracted = rows(&[(1, "a"), (2, "x"), (4, "d")]);
        assert_eq!(differing(&legacy, &extracted), BTreeSet::from([2, 3, 4]));
    }
}
