//! Why requests were not compared, by count, each with what it means and what to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Requests of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonRow {
    /// `shed`, `ineligible` or `not comparable`.
    pub outcome: String,
    pub reason: String,
    pub count: u64,
    /// Empty for what an earlier version has counted, and this one does not know.
    pub meaning: String,
}

pub(crate) const SHED: &str = "shed";
pub(crate) const INELIGIBLE: &str = "ineligible";
pub(crate) const NOT_COMPARABLE: &str = "not comparable";

/// What each reason means. `docs/ledger.md` says more of the same ones.
const MEANINGS: [(&str, &[(&str, &str)]); 3] = [
    (
        SHED,
        &[
            (
                "busy",
                "`waiting` requests were under way already: sample less, or raise `in_flight` or `waiting`",
            ),
            ("rate", "more than `rate` requests a second"),
            (
                "memory",
                "the copy had no room in `memory`: raise it, or sample less",
            ),
            (
                "abandoned",
                "no answer had passed that could be compared: the proxy answered itself, or the client left",
            ),
            (
                "identity",
                "the monolith could not say who calls, so the write was not copied",
            ),
            ("shutdown", "Outgrow was stopping"),
            ("restart", "still waited when Outgrow ended"),
        ],
    ),
    (
        INELIGIBLE,
        &[
            (
                "method",
                "a write, and `by_route` does not say how its route's are copied: set `posts` or `writes`",
            ),
            (
                "unknown-method",
                "a method that no route can have is never copied",
            ),
            (
                "record-only",
                "`writes = \"record\"`: goes into recordings, and nowhere else",
            ),
            (
                "dry-run-not-honoured",
                "the candidate did not take a write back: mend it, then `outgrow shadow resume`",
            ),
            (
                "write-after-flip",
                "the legacy side gets no copies of writes without `writes_reverse`",
            ),
            (
                "route-stopped",
                "the tripwire has stopped the route: see `outgrow status`, then `outgrow shadow resume`",
            ),
            (
                "long-request",
                "the request's body is longer than a copy may be",
            ),
            (
                "graphql-mutation",
                "only queries of GraphQL are taken for reads",
            ),
            (
                "graphql-subscription",
                "only queries of GraphQL are taken for reads",
            ),
            (
                "graphql-unreadable",
                "the GraphQL document could not be read",
            ),
            (
                "graphql-without-text",
                "a persisted query's hash without its text: what it does is not known",
            ),
        ],
    ),
    (
        NOT_COMPARABLE,
        &[
            (
                "cut-off",
                "the client's answer was longer than a copy may be, or broke off",
            ),
            (
                "primary-error",
                "the client was answered by 5xx, which is no measure",
            ),
            (
                "legacy-error",
                "the legacy side answered the shadow by 5xx, which is no measure",
            ),
            (
                "legacy-unreachable",
                "the legacy side gave the shadow no answer",
            ),
            (
                "memory",
                "the candidate's answer had no room in `memory`: raise it, or sample less",
            ),
            (
                "stale-build",
                "asked before a deployment, answered after it",
            ),
            (
                "lag",
                "the bridge had not passed the answer in time: see `outgrow sync status`; a dry run cannot wait for it",
            ),
            (
                "racing",
                "the rows changed each time that both sides were read again",
            ),
            (
                "recheck-failed",
                "a side failed when both were read again, with the bridge caught up",
            ),
            (
                "route-stopped",
                "the route was stopped before the candidate was asked",
            ),
            ("shutdown", "Outgrow was stopping"),
            (
                "id-not-known-yet",
                "no answer has told the other side's id: mirror the reads that do",
            ),
            (
                "id-not-in-its-path",
                "the other side's path has no place for the id: see `ids` and the rewritten paths",
            ),
            (
                "id-not-in-its-body",
                "`ids` names places of a document, and the request's body is none",
            ),
            ("encoding", "a `Content-Encoding` that is not read"),
            (
                "broken-encoding",
                "the body is not in the `Content-Encoding` that it names",
            ),
            (
                "bomb",
                "a compressed body grows beyond four times what a copy may be",
            ),
        ],
    ),
];

fn meaning(outcome: &str, reason: &str) -> Option<&'static str> {
    let (_, all) = MEANINGS.iter().find(|(name, _)| *name == outcome)?;
    let known = all.iter().find(|(name, _)| *name == reason);
    known.map(|(_, meaning)| *meaning)
}

/// All reasons of these outcomes, the most frequent first.
pub(crate) fn rows(outcomes: [(&str, &BTreeMap<String, u64>); 3]) -> Vec<ReasonRow> {
    let of_outcome = |(outcome, counts): (&str, &BTreeMap<String, u64>)| {
        let row = |(reason, count): (&String, &u64)| ReasonRow {
            outcome: outcome.to_owned(),
            reason: reason.clone(),
            count: *count,
            meaning: meaning(outcome, reason).unwrap_or_default().to_owned(),
        };
        counts.iter().map(row).collect::<Vec<_>>()
    };
    let mut rows: Vec<ReasonRow> = outcomes.into_iter().flat_map(of_outcome).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    rows
}

/// Says so where most of what could have been compared was not. Ineligible requests are not meant
/// to be.
pub(crate) fn blind(rows: &[ReasonRow], compared: u64) -> Option<String> {
    /// Fewer may be a start, or a stop.
    const LOST_MIN: u64 = 100;
    const NAMED: usize = 3;
    let lost: Vec<&ReasonRow> = rows
        .iter()
        .filter(|row| row.outcome != INELIGIBLE)
        .collect();
    let count: u64 = lost.iter().map(|row| row.count).sum();
    if count < LOST_MIN || count <= compared {
        return None;
    }
    let named = lost.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|row| format!("{} {}, {}", row.count, row.outcome, row.reason))
        .collect();
    let more = if lost.len() > NAMED { "; ..." } else { "" };
    Some(format!(
        "{count} requests were shed or not comparable, and {compared} compared ({}{more})",
        named.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_each_reason_under_its_outcome() {
        let document = include_str!("../../docs/ledger.md");
        for (outcome, reasons) in MEANINGS {
            let heading = format!("## {}{}", outcome[..1].to_uppercase(), &outcome[1..]);
            let (_, after) = document.split_once(&heading).expect(outcome);
            let section = after.split("\n## ").next().unwrap();
            let rows = section.lines().filter(|line| line.starts_with("| `"));
            assert_eq!(rows.count(), reasons.len(), "{outcome}");
            for (reason, _) in reasons {
                assert!(section.contains(&format!("\n| `{reason}` |")), "{reason}");
            }
        }
    }

    #[test]
    fn the_most_frequent_comes_first_and_the_unknown_stays() {
        let counts = |all: &[(&str, u64)]| -> BTreeMap<String, u64> {
            all.iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect()
        };
        let (shed, not_comparable) = (
            counts(&[("busy", 2), ("of-old", 90)]),
            counts(&[("lag", 70), ("memory", 2)]),
        );
        let found = rows([
            (SHED, &shed),
            (INELIGIBLE, &counts(&[("method", 1_000)])),
            (NOT_COMPARABLE, &not_comparable),
        ]);
        let names: Vec<&str> = found.iter().map(|row| &*row.reason).collect();
        assert_eq!(names, ["method", "of-old", "lag", "busy", "memory"]);
        assert!(found[1].meaning.is_empty() && found[2].meaning.contains("bridge"));
        assert_eq!(
            blind(&found, 163).unwrap(),
            "164 requests were shed or not comparable, and 163 compared (90 shed, of-old; \
             70 not comparable, lag; 2 shed, busy; ...)"
        );
        assert_eq!(blind(&found, 164), None);
        assert_eq!(blind(&found[..2], 0), None, "too few");
    }
}
