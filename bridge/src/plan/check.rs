//! Every rule a mapping must keep, each failing as a [`Problem`] with the way out.

use super::keys::makes_key;
use super::{Column, ColumnSchema, KEY_COLUMNS, Schema, Table, TableSchema, TableSpec};
use crate::preflight::Problem;
use crate::spec::LinkSpec;
use crate::value::Kind;

pub(super) fn problem(table: &str, column: Option<&str>, what: String, fix: &str) -> Problem {
    Problem {
        table: table.to_owned(),
        column: column.map(str::to_owned),
        what,
        fix: fix.to_owned(),
    }
}

pub(super) fn pair(spec: &TableSpec) -> String {
    format!("{} -> {}", spec.legacy, spec.extracted)
}

/// Rules that need no database.
pub(super) fn names(spec: &LinkSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if spec.tables.is_empty() {
        let what = "no table is mapped".to_owned();
        problems.push(problem("(none)", None, what, "add a [[tables]] entry"));
    }
    problems.extend(one_group_each(spec));
    for (at, table) in spec.tables.iter().enumerate() {
        let label = pair(table);
        if spec.tables[..at]
            .iter()
            .any(|t| t.extracted == table.extracted)
        {
            let what = format!("`{}` is filled by two entries", table.extracted);
            problems.push(problem(&label, None, what, "map each extracted table once"));
        }
        for (i, column) in table.columns.iter().enumerate() {
            let twice = table.columns[..i]
                .iter()
                .any(|c| c.extracted == column.extracted);
            if twice {
                let what = "it is fed twice".to_owned();
                let column = Some(column.extracted.as_str());
                problems.push(problem(&label, column, what, "keep one of them"));
            }
        }
    }
    problems
}

/// Shapes and places of MySQL, which no statement of ours reads or writes as text.
pub(super) fn shapes(spec: &LinkSpec, legacy: &Schema, extracted: &Schema) -> Vec<Problem> {
    let shape = |schema: &Schema, table: &str, name: &str| {
        let columns = &schema.get(table)?.columns;
        let found = columns.iter().find(|column| column.name == name)?;
        match &found.kind {
            Kind::Mysql(kind) if kind.is_shape() => Some(kind.base.clone()),
            _ => None,
        }
    };
    let mut problems = Vec::new();
    for table in &spec.tables {
        for column in &table.columns {
            let own = shape(extracted, &table.extracted, &column.extracted);
            let sources = column.source.from();
            let mut read = sources
                .iter()
                .filter_map(|from| shape(legacy, &table.legacy, from));
            if let Some(kind) = own.or_else(|| read.next()) {
                let what = format!("`{kind}` is not carried over");
                let name = Some(column.extracted.as_str());
                let fix = "leave it out of the mapping; its legacy column, if there is one, into `defaults`";
                problems.push(problem(&pair(table), name, what, fix));
            }
        }
    }
    problems
}

/// A legacy table leads its entries, or stands beside one other table.
fn one_group_each(spec: &LinkSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    for table in &spec.tables {
        for also in &table.also {
            let elsewhere = |other: &TableSpec| {
                let beside = other.also.iter().any(|a| a.table == also.table);
                other.legacy == also.table || (beside && other.legacy != table.legacy)
            };
            if spec.tables.iter().any(elsewhere) {
                let what = format!("`{}` is the legacy table of other entries, too", also.table);
                let fix = "let one legacy table lead, and the others be `also` of it";
                problems.push(problem(&pair(table), None, what, fix));
            }
        }
    }
    problems
}

fn table_of(
    name: &str,
    schema: &TableSchema,
    columns: Vec<Column>,
    key: Vec<usize>,
    key_names: &[String],
) -> Table {
    let other_unique = schema
        .unique
        .iter()
        .filter(|unique| !same_columns(unique, key_names) || schema.loose.contains(unique))
        .cloned()
        .collect();
    let mapped = |c: &&ColumnSchema| columns.iter().any(|own| own.name == c.name);
    let others = schema.columns.iter().filter(|c| !c.generated && !mapped(c));
    Table {
        name: name.to_owned(),
        others: others.map(column).collect(),
        columns,
        key,
        forms: Vec::new(),
        loose: schema.loose.iter().any(|of| same_columns(of, key_names)),
        other_unique,
        autoincrement: schema.autoincrement,
        written_by_others: schema.written_by_others,
        only: Vec::new(),
    }
}

fn same_columns(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|column| b.contains(column))
}

fn column(schema: &ColumnSchema) -> Column {
    Column {
        name: schema.name.clone(),
        kind: schema.kind.clone(),
        required: schema.required,
    }
}

fn unique_or_problem(
    label: &str,
    side: &str,
    schema: &TableSchema,
    key: &[String],
    problems: &mut Vec<Problem>,
) {
    let mut unfit = schema.unfit.iter();
    if let Some((_, why)) = unfit.find(|(columns, _)| same_columns(columns, key)) {
        let (what, fix) = why.told();
        let what = format!("({}) of the {side} table {what}", key.join(", "));
        problems.push(problem(label, None, what, fix));
    } else if !schema.unique.iter().any(|unique| same_columns(unique, key)) {
        let what = format!(
            "({}) is not a unique key of the {side} table",
            key.join(", ")
        );
        let fix = "name the primary key, or add a unique index on these columns";
        problems.push(problem(label, None, what, fix));
    }
}

/// A legacy table of a group.
pub(super) fn legacy_table(
    name: &str,
    key_names: &[String],
    schema: &Schema,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    let Some(found) = schema.get(name) else {
        let what = "there is no such table in the legacy database".to_owned();
        problems.push(problem(name, None, what, "check the name and the database"));
        return None;
    };
    if key_names.is_empty() || key_names.len() > KEY_COLUMNS {
        let what = format!("{} key columns", key_names.len());
        problems.push(problem(name, None, what, "name 1 to 6 key columns"));
        return None;
    }
    let columns: Vec<Column> = found
        .columns
        .iter()
        .filter(|c| !c.generated)
        .map(column)
        .collect();
    let mut key = Vec::new();
    for wanted in key_names {
        match columns.iter().position(|c| c.name == *wanted) {
            Some(at) => key.push(at),
            None => problems.push(problem(
                name,
                Some(wanted),
                "the key column does not exist".to_owned(),
                "check its name in the legacy table",
            )),
        }
    }
    if key.len() != key_names.len() {
        return None;
    }
    unique_or_problem(name, "legacy", found, key_names, problems);
    Some(table_of(name, found, columns, key, key_names))
}

/// The extracted table of one entry, with its columns in the entry's order.
pub(super) fn extracted_table(
    spec: &TableSpec,
    schema: &Schema,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    let label = pair(spec);
    let Some(found) = schema.get(&spec.extracted) else {
        let what = format!(
            "there is no table `{}` in the extracted database",
            spec.extracted
        );
        problems.push(problem(
            &label,
            None,
            what,
            "start the service once, so that it makes its tables",
        ));
        return None;
    };
    let before = problems.len();
    let mut columns = Vec::new();
    for wanted in &spec.columns {
        let name = wanted.extracted.as_str();
        match found.columns.iter().find(|c| c.name == name) {
            Some(c) if c.generated => problems.push(problem(
                &label,
                Some(name),
                "the database computes it".to_owned(),
                "leave it out of the mapping",
            )),
            Some(c) => columns.push(column(c)),
            None => problems.push(problem(
                &label,
                Some(name),
                "the extracted table has no such column".to_owned(),
                "check its name",
            )),
        }
    }
    for c in &found.columns {
        let fed = spec.columns.iter().any(|s| s.extracted == c.name);
        if c.required && !c.has_default && !c.generated && !fed {
            problems.push(problem(
                &label,
                Some(&c.name),
                "it must not be null and nothing feeds it".to_owned(),
                "map it, or give it a `const`",
            ));
        }
    }
    let key_names = extracted_key(spec, &label, problems)?;
    let key: Vec<usize> = key_names
        .iter()
        .filter_map(|name| columns.iter().position(|c| c.name == *name))
        .collect();
    if problems.len() > before || key.len() != key_names.len() {
        return None;
    }
    unique_or_problem(&label, "extracted", found, &key_names, problems);
    Some(table_of(&spec.extracted, found, columns, key, &key_names))
}

/// The extracted names of the key columns.
fn extracted_key(
    spec: &TableSpec,
    label: &str,
    problems: &mut Vec<Problem>,
) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for wanted in &spec.key {
        let mut made = spec.columns.iter();
        match made.find(|c| makes_key(&c.source, wanted)) {
            Some(c) => names.push(c.extracted.clone()),
            None => problems.push(problem(
                label,
                Some(wanted),
                "no extracted column is made from this key column alone".to_owned(),
                "map it as `column = \"key\"`, or by a transform of one column; a `lookup` may \
                 change, so it makes no key",
            )),
        }
    }
    (names.len() == spec.key.len()).then_some(names)
}
