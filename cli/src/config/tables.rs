//! `[[slices.ID.tables]]`: table pairs and their column mappings. Refuses what cannot be undone;
//! whether tables, columns and types exist is for the bridge's preflight.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::columns::source;
use super::model::{Also, Column, Rows, Source, Table, ZeroDates};
use super::problem::{Findings, Place};
use super::section::{Node, Section};

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
    let key_len = key.as_ref().map(Vec::len);
    let defaults = section
        .get("defaults")
        .map(|node| defaults(&node, columns.as_deref().unwrap_or_default(), findings))
        .unwrap_or_default();
    if let (Some(columns), Some(place)) = (&columns, columns_place) {
        check_sources(columns, &place, findings);
        check_pieces(columns, &place, findings);
    }
    let rows_node = section.get("rows");
    let has_rows = rows_node.is_some();
    let rows = rows_node.and_then(|node| rows(&node, findings));
    let also_node = section.get("also");
    let also = also_node.map_or(Some(Vec::new()), |node| also(&node, key_len, findings));
    let zero_node = section.get("zero_dates");
    let zero_dates = zero_node.map_or(Some(ZeroDates::default()), |n| zero_dates(&n, findings));
    section.finish(findings);
    if has_rows && rows.is_none() {
        return None;
    }
    Some(Table {
        legacy: legacy?,
        extracted: extracted?,
        key: key?,
        columns: columns?,
        defaults,
        rows,
        also: also?,
        zero_dates: zero_dates?,
    })
}

fn zero_dates(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<ZeroDates> {
    match node.text(findings)? {
        "keep" => Some(ZeroDates::Keep),
        "refuse" => Some(ZeroDates::Refuse),
        "null" => Some(ZeroDates::Null),
        _ => {
            let fix = "write \"keep\", \"refuse\" or \"null\"";
            findings.refuse(&node.place, "there is no such choice", fix);
            None
        }
    }
}

/// `[{ table = "profiles", key = ["user_id"], optional = true }]`.
fn also(node: &Node<'_>, key_len: Option<usize>, findings: &mut Findings<'_>) -> Option<Vec<Also>> {
    let one = |node: &Node<'_>, findings: &mut Findings<'_>| {
        let mut section = node.section(findings)?;
        let table = section.need(findings, "table", "name the legacy table");
        let table = table.and_then(|node| node.word(findings));
        let fix = "name its columns that hold the first table's key";
        let key_node = section.need(findings, "key", fix);
        let optional = section.get("optional");
        let optional = optional.map_or(Some(false), |node| node.boolean(findings));
        section.finish(findings);
        let key_node = key_node?;
        let words = key_node.words(findings);
        if key_len.is_some_and(|len| len != words.len()) {
            let rule = "it must have as many columns as the entry's `key`";
            findings.refuse(&key_node.place, rule, fix);
            return None;
        }
        Some(Also {
            table: table?,
            key: words.into_iter().map(|(_, word)| word).collect(),
            optional: optional?,
        })
    };
    let found: Vec<Option<Also>> = node
        .list(findings)
        .iter()
        .map(|node| one(node, findings))
        .collect();
    found.into_iter().collect()
}

/// `{ column = "kind", is = ["book", "cd"] }`, or with `not` or `null` in the place of `is`.
fn rows(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Rows> {
    let mut section = node.section(findings)?;
    let place = section.place.clone();
    let column = section.need(findings, "column", "name the legacy column");
    let column = column.and_then(|node| node.word(findings));
    let tests = [section.get("is"), section.get("not"), section.get("null")];
    section.finish(findings);
    if tests.iter().flatten().count() != 1 {
        let fix = "write is = [..], not = [..], or null = true or false";
        findings.lack(&place, "rows are told apart by one test", fix);
        return None;
    }
    let (values, not) = match tests {
        [Some(is), ..] => (values(&is, findings)?, false),
        [_, Some(not), _] => (values(&not, findings)?, true),
        [_, _, null] => (vec![Value::Null], !null?.boolean(findings)?),
    };
    Some(Rows {
        column: column?,
        values,
        not,
    })
}

/// One value, or a list of them.
fn values(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Vec<Value>> {
    if !node.is_list() {
        return Some(vec![node.scalar(findings)?]);
    }
    let list = node.list(findings);
    if list.is_empty() {
        findings.refuse(&node.place, "it names no value", "name the values");
        return None;
    }
    list.iter().map(|node| node.scalar(findings)).collect()
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

fn check_key(words: &[(Place, String)], columns: &[Column], findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (place, word) in words {
        if !seen.insert(word) {
            findings.refuse(place, "it is listed twice", "remove one of them");
        }
        // A lookup's words may change, and a key must not.
        let makes_key = |source: &Source| {
            !matches!(source, Source::Lookup { .. } | Source::Part { .. }) && from(source) == [word]
        };
        if !columns.iter().any(|column| makes_key(&column.source)) {
            findings.refuse(
                place,
                "a key column needs an extracted column that is made from it alone",
                format!(
                    "add to columns: extracted_column = \"{word}\", or make it by a template of \
                     this column, `map`, `cents`, `local_time`, or `forward` with `reverse`"
                ),
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
            .any(|column| from(&column.source).contains(&name.as_str()));
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
    let mut fed: BTreeMap<&str, &Column> = BTreeMap::new();
    for column in columns {
        for from in from(&column.source) {
            let Some(other) = fed.insert(from, column) else {
                continue;
            };
            let piece = |column: &Column| matches!(column.source, Source::Part { .. });
            if !(piece(column) && piece(other)) {
                findings.lack(
                    &place.below(&column.extracted, place.span.clone()),
                    format!(
                        "the mapping cannot be inverted: `{from}` already feeds `{}`",
                        other.extracted
                    ),
                    "feed one column from it, and leave the other to the service",
                );
            }
        }
    }
}

/// All pieces of a legacy column must be there, each once, or it could not be put together.
fn check_pieces(columns: &[Column], place: &Place, findings: &mut Findings<'_>) {
    let mut pieces: BTreeMap<&str, Vec<(usize, &str, bool, &str)>> = BTreeMap::new();
    for column in columns {
        if let Source::Part {
            of,
            part,
            at,
            empty_is_null,
        } = &column.source
        {
            let piece = (
                *part,
                at.as_str(),
                *empty_is_null,
                column.extracted.as_str(),
            );
            pieces.entry(of).or_default().push(piece);
        }
    }
    for (of, mut found) in pieces {
        found.sort_unstable();
        let last = found.last().map_or("", |piece| piece.3);
        let place = place.below(last, place.span.clone());
        let alike = found
            .windows(2)
            .all(|two| (two[0].1, two[0].2) == (two[1].1, two[1].2));
        let numbered = found.iter().enumerate().all(|(n, piece)| piece.0 == n + 1);
        if !numbered || found.len() < 2 {
            let numbers: Vec<String> = found.iter().map(|piece| piece.0.to_string()).collect();
            findings.lack(
                &place,
                format!(
                    "the mapping cannot be inverted: of `{of}` there are the pieces {}",
                    numbers.join(", ")
                ),
                "map every piece once, numbered from 1, two at the least",
            );
        } else if !alike {
            let rule = format!("the mapping cannot be inverted: `{of}` is taken apart in two ways");
            findings.lack(
                &place,
                rule,
                "write the same `at` and `empty` for all pieces",
            );
        }
    }
}

/// The legacy columns that feed a column.
fn from(source: &Source) -> Vec<&str> {
    match source {
        Source::Rename(from)
        | Source::Cents { from, .. }
        | Source::Map { from, .. }
        | Source::LocalTime { from, .. }
        | Source::ZonedTime { from, .. }
        | Source::Lookup { from, .. }
        | Source::Part { of: from, .. }
        | Source::Expr { from, .. } => vec![from],
        Source::Join { from, .. } => from.iter().map(String::as_str).collect(),
        Source::Const(_) => Vec::new(),
    }
}

/// Tables of one slice against one another: an extracted table is fed once, and tables that
/// split one legacy table share its key and agree on who feeds what back.
pub(super) fn cross_check(tables: &[(Place, Option<Table>)], findings: &mut Findings<'_>) {
    let mut extracted: BTreeSet<&str> = BTreeSet::new();
    let mut keys: BTreeMap<&str, &[String]> = BTreeMap::new();
    let mut beside: BTreeMap<&str, (&str, &Also)> = BTreeMap::new();
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
        for also in &table.also {
            let (leader, first) = *beside
                .entry(&also.table)
                .or_insert((table.legacy.as_str(), also));
            if leader != table.legacy || first != also {
                let rule = format!("`{}` is taken otherwise in an entry above", also.table);
                let fix = "let one legacy table lead, and write the same `also` in its entries";
                findings.lack(place, rule, fix);
            }
        }
    }
    for (place, table) in tables {
        let led = table.iter().flat_map(|table| &table.also);
        for also in led.filter(|also| keys.contains_key(also.table.as_str())) {
            let rule = format!("`{}` leads entries of its own", also.table);
            let fix = "let one legacy table lead, and the others be `also` of it";
            findings.lack(place, rule, fix);
        }
    }
}
