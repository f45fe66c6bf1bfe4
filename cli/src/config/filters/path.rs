//! `paths`: what the sides are asked in place of the client's path.

use outgrow_proxy::PathRule;
use outgrow_rollout::Side;

use super::Belongs;
use crate::config::problem::{Findings, Place};
use crate::config::section::Node;

const FIX: &str = "write { side = \"extracted\", from = \"/shop/{*rest}\", to = \"/v2/{*rest}\" }";

pub(super) fn read(
    node: Option<Node<'_>>,
    belongs: Belongs,
    findings: &mut Findings<'_>,
) -> (Vec<PathRule>, Vec<Place>) {
    let items = node.map(|node| node.list(findings)).unwrap_or_default();
    let items = items.into_iter();
    items
        .filter_map(|node| Some((rule(&node, belongs, findings)?, node.place)))
        .unzip()
}

/// Says which rules no route of theirs ever comes to.
pub(super) fn check(
    rules: impl Iterator<Item = (PathRule, Place)>,
    templates: &[&str],
    findings: &mut Findings<'_>,
) {
    for (rule, place) in rules {
        if !templates.iter().any(|template| rule.may_fit(template)) {
            let why = "it changes nothing: no route with these filters has such a path";
            let fix = "write `from` as `routes` has it, or remove the rule";
            findings.warn(&place, why, fix);
        }
    }
}

fn rule(node: &Node<'_>, belongs: Belongs, findings: &mut Findings<'_>) -> Option<PathRule> {
    let mut section = node.section(findings)?;
    let side = match section.get("side") {
        // What belongs to no slice has the one side.
        None => Some(Some(match belongs {
            Belongs::ToASlice => Side::Extracted,
            Belongs::ToNone => Side::Legacy,
        })),
        Some(node) => {
            let word = node.word(findings);
            match (word.as_deref()?, belongs) {
                ("legacy", _) => Some(Some(Side::Legacy)),
                ("extracted", Belongs::ToASlice) => Some(Some(Side::Extracted)),
                ("both", Belongs::ToASlice) => Some(None),
                (_, Belongs::ToASlice) => {
                    let fix = "write \"extracted\", \"legacy\" or \"both\"";
                    findings.refuse(&node.place, "it is no side", fix);
                    None
                }
                (_, Belongs::ToNone) => {
                    let rule = "what belongs to no slice is the legacy side's";
                    findings.refuse(&node.place, rule, "write \"legacy\", or leave it out");
                    None
                }
            }
        }
    };
    let mut text = |key| {
        let node = section.need(findings, key, FIX)?;
        Some(node.text(findings)?.trim().to_owned())
    };
    let (from, to) = (text("from"), text("to"));
    section.finish(findings);
    let made = PathRule::new(side?, &from?, &to?);
    made.map_err(|rule| findings.refuse(&node.place, rule, FIX))
        .ok()
}
