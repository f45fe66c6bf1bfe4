//! `[[slices.ID.tables]]`: table pairs and their column mappings. Refuses what cannot be undone;
//! whether tables, columns and types exist is for the bridge's preflight.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::model::{Column, Source, Table};
use super::problem::{Findings, Place};
use super::scalar;
use super::section::{Node, Section};

/// A 64-bit integer of `10^-scale` holds no money beyond this.
const SCALE_MAX: u64 = 9;

/// One of the two ways to write a column mapping, for fixes.
const FORMS: &str = "write \"legacy_column\", or a table with `from` and one of `map`, `cents`, \
                     `local_time`, `forward` with `reverse`, or { const = VALUE }";

pub(super) fn read(mut section: Section<'_>, findings: &mut Findings<'_>) -> Option<Table> {
    let legacy = section
        .need(findings, "legacy", "name the legacy table")
        .and_then(|node| node.word(findings));
    let extracted = section
        .need(findings, "extracted", "name the extracted table")
        .and_then(|node| node.word(findings));
    let columns_node = section.need(
        findings,
        "columns",
        "write columns = { extracted_column = \"legacy_column\" }",
    );
    let columns_place = columns_node.as_ref().map(|node| node.place.clone());
    let columns = columns_node.and_then(|node| columns(&node, findings));
    let key_node = section.need(
        findings,
        "key",
        "write key = [\"id\"], the legacy key columns",
    );
    let key = key_node.and_then(|node| {
        let words = node.words(findings);
        if words.is_empty() && node.is_list() {
            findings.refuse(&node.place, "a table needs a key", "name its key columns");
        }
        if let Some(columns) = &columns {
            check_key(&words, columns, findings);
        }
        let key: Vec<String> = words.into_iter().map(|(_, word)| word).collect();
        (!key.is_empty()).then_some(key)
    });
    let defaults = section
        .get("defaults")
        .map(|node| defaults(&node, columns.as_deref().unwrap_or_default(), findings))
        .unwrap_or_default();
    if let (Some(columns), Some(place)) = (&columns, columns_place) {
        check_sources(columns, &place, findings);
    }
    section.finish(findings);
    Some(Table {
        legacy: legacy?,
        extracted: extracted?,
        key: key?,
        columns: columns?,
        defaults,
    })
}

fn columns(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Vec<Column>> {
    let section = node.section(findings)?;
    let entries = section.entries();
    if entries.is_empty() {
        findings.refuse(&node.place, "it maps no column", "map every column");
    }
    let mut found = Vec::with_capacity(entries.len());
    let mut whole = !entries.is_empty();
    for (extracted, _, node) in entries {
        match source(&node, findings) {
            Some(source) => found.push(Column { extracted, source }),
            None => whole = false,
        }
    }
    whole.then_some(found)
}

fn source(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    if node.is_text() {
        return node.word(findings).map(Source::Rename);
    }
    let mut section = node.section(findings)?;
    let place = section.place.clone();
    let constant = section.get("const");
    let from = section.get("from");
    let map = section.get("map");
    let cents = section.get("cents");
    let local_time = section.get("local_time");
    let forward = section.get("forward");
    let reverse = section.get("reverse");
    section.finish(findings);
    if let Some(constant) = constant {
        let others = [&from, &map, &cents, &local_time, &forward, &reverse];
        if others.iter().any(|other| other.is_some()) {
            findings.lack(&place, "`const` excludes all other keys", FORMS);
            return None;
        }
        return constant.scalar(findings).map(Source::Const);
    }
    let kinds = [&map, &cents, &local_time].into_iter().flatten().count()
        + usize::from(forward.is_some() || reverse.is_some());
    if kinds > 1 {
        findings.lack(&place, "a column has one transform", FORMS);
        return None;
    }
    let Some(from) = from else {
        findings.lack(&place, "`from`, the legacy column, is missing", FORMS);
        return None;
    };
    let from = from.word(findings);
    match (map, cents, local_time, forward, reverse) {
        (Some(node), ..) => {
            pairs(&node, findings).and_then(|pairs| Some(Source::Map { from: from?, pairs }))
        }
        (_, Some(node), ..) => {
            let scale = node.integer(findings, 0..=SCALE_MAX)?;
            let scale = u32::try_from(scale).ok()?;
            Some(Source::Cents { from: from?, scale })
        }
        (_, _, Some(node), ..) => local_time_of(&node, from, findings),
        (_, _, _, Some(forward), Some(reverse)) => {
            let (forward, reverse) = (forward.word(findings), reverse.word(findings));
            Some(Source::Expr {
                from: from?,
                forward: forward?,
                reverse: reverse?,
            })
        }
        (_, _, _, Some(_), None) => {
            one_way(&place, "reverse", findings);
            None
        }
        (_, _, _, None, Some(_)) => {
            one_way(&place, "forward", findings);
            None
        }
        (None, None, None, None, None) => from.map(Source::Rename),
    }
}

fn local_time_of(
    node: &Node<'_>,
    from: Option<String>,
    findings: &mut Findings<'_>,
) -> Option<Source> {
    let text = node.word(findings)?;
    let refused = |rule| {
        let fix = "write the offset of the legacy clock, e.g. \"+01:00\"";
        findings.refuse(&node.place, rule, fix);
    };
    let offset = scalar::offset(&text).map_err(refused).ok()?;
    Some(Source::LocalTime {
        from: from?,
        offset,
    })
}

fn one_way(place: &Place, missing: &str, findings: &mut Findings<'_>) {
    findings.lack(
        place,
        format!("the mapping cannot be inverted: `{missing}` is missing"),
        "rows flow both ways, before the cutover and after it: write both expressions",
    );
}

/// `{ A = "active" }` for text codes, `[[1, "active"]]` for others.
fn pairs(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Vec<(Value, Value)>> {
    let mut found: Vec<(Place, Value, Value)> = Vec::new();
    let mut whole = true;
    if node.is_list() {
        for item in node.list(findings) {
            let both = item.list(findings);
            let [left, right] = both.as_slice() else {
                let fix = "write [[legacy, extracted], ..]";
                findings.refuse(&item.place, "it is not a pair", fix);
                whole = false;
                continue;
            };
            match (left.scalar(findings), right.scalar(findings)) {
                (Some(l), Some(r)) => found.push((item.place.clone(), l, r)),
                _ => whole = false,
            }
        }
    } else {
        for (name, place, value) in node.section(findings)?.entries() {
            match value.scalar(findings) {
                Some(value) => found.push((place, Value::from(name), value)),
                None => whole = false,
            }
        }
    }
    if found.is_empty() && whole {
        findings.refuse(&node.place, "the map is empty", "map every code");
        return None;
    }
    for (index, (place, left, right)) in found.iter().enumerate() {
        let before = &found[..index];
        if before.iter().any(|(_, other, _)| other == left) {
            let rule = format!("the legacy value {left} is there twice");
            findings.lack(place, rule, "keep one of them");
            whole = false;
        }
        if let Some((_, twin, _)) = before.iter().find(|(_, _, other)| other == right) {
            findings.lack(
                place,
                format!("the mapping cannot be inverted: {twin} and {left} both become {right}"),
                "give each legacy value an extracted value of its own",
            );
            whole = false;
        }
    }
    whole.then(|| found.into_iter().map(|(_, l, r)| (l, r)).collect())
}

fn check_key(words: &[(Place, String)], columns: &[Column], findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (place, word) in words {
        if !seen.insert(word) {
            findings.refuse(place, "it is listed twice", "remove one of them");
        }
        let renamed = columns
            .iter()
            .any(|column| matches!(&column.source, Source::Rename(from) if from == word));
        if !renamed {
            findings.refuse(
                place,
                "a key column must be mapped by a plain rename",
                format!("add to columns: extracted_column = \"{word}\""),
            );
        }
    }
}

fn defaults(
    node: &Node<'_>,
    columns: &[Column],
    findings: &mut Findings<'_>,
) -> Vec<(String, Value)> {
    let Some(section) = node.section(findings) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, place, node) in section.entries() {
        let fed = columns
            .iter()
            .any(|column| from(&column.source) == Some(name.as_str()));
        if fed {
            let rule = "the column is mapped, so it needs no default";
            findings.lack(&place, rule, "remove the default");
        }
        if let Some(value) = node.scalar(findings) {
            found.push((name, value));
        }
    }
    found
}

/// A legacy column that feeds two extracted columns of one table would be written twice when
/// rows flow back.
fn check_sources(columns: &[Column], place: &Place, findings: &mut Findings<'_>) {
    let mut fed: BTreeMap<&str, &str> = BTreeMap::new();
    for column in columns {
        let Some(from) = from(&column.source) else {
            continue;
        };
        if let Some(other) = fed.insert(from, &column.extracted) {
            findings.lack(
                &place.below(&column.extracted, place.span.clone()),
                format!("the mapping cannot be inverted: `{from}` already feeds `{other}`"),
                "feed one column from it, and leave the other to the service",
            );
        }
    }
}

/// The legacy column that feeds a column.
fn from(source: &Source) -> Option<&str> {
    match source {
        Source::Rename(from)
        | Source::Cents { from, .. }
        | Source::Map { from, .. }
        | Source::LocalTime { from, .. }
        | Source::Expr { from, .. } => Some(from),
        Source::Const(_) => None,
    }
}

/// Tables of one slice against one another: an extracted table is fed once, and tables that
/// split one legacy table share its key and agree on who feeds what back.
pub(super) fn cross_check(tables: &[(Place, Option<Table>)], findings: &mut Findings<'_>) {
    let mut extracted: BTreeSet<&str> = BTreeSet::new();
    let mut keys: BTreeMap<&str, &[String]> = BTreeMap::new();
    for (place, table) in tables {
        let Some(table) = table else { continue };
        if !extracted.insert(&table.extracted) {
            let rule = format!("`{}` is fed twice", table.extracted);
            findings.lack(place, rule, "map all its columns in one entry");
        }
        let key = *keys.entry(&table.legacy).or_insert(&table.key);
        if key != table.key.as_slice() {
            let rule = format!("`{}` has another key in an entry above", table.legacy);
            findings.lack(
                place,
                rule,
                "a split table has one key: write the same in both",
            );
        }
    }
}
