//! The way back: from what every legacy column is had again, and whether nothing is lost.

use super::check::problem;
use super::filter::{Filter, patterns};
use super::group::{Back, Undo};
use super::{Problem, Table, TableSpec};
use crate::spec::Source;

/// Per legacy column every way to have it back, the best first: a plain rename cannot fail.
pub(super) fn ways_back(
    legacy: &Table,
    specs: &[&TableSpec],
    filters: &[Option<Filter>],
) -> Vec<Vec<Back>> {
    let one = |at: usize| {
        let mut found: Vec<(u8, Back)> = specs
            .iter()
            .enumerate()
            .flat_map(|(part, spec)| ways_of(part, spec, &legacy.columns[at].name))
            .collect();
        for (part, filter) in filters.iter().enumerate() {
            let filter = filter.as_ref().filter(|f| f.column == at);
            if let Some(value) = filter.and_then(Filter::implied) {
                let by = Undo::Implied(value.clone());
                found.push((3, Back { part, by }));
            }
        }
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, back)| back).collect()
    };
    (0..legacy.columns.len()).map(one).collect()
}

fn ways_of(part: usize, spec: &TableSpec, name: &str) -> Vec<(u8, Back)> {
    let mut found = Vec::new();
    let mut add = |rank, by| found.push((rank, Back { part, by }));
    for (column, wanted) in spec.columns.iter().enumerate() {
        match &wanted.source {
            Source::Const(_) => {}
            Source::Rename(from) if from == name => add(0, Undo::Column(column)),
            Source::Join { from, .. } => {
                if let Some(at) = from.iter().position(|from| from == name) {
                    add(2, Undo::PieceOf { column, at });
                }
            }
            Source::Part { of, part: 1, .. } if of == name => {
                add(2, Undo::Pieces { first: column });
            }
            Source::Part { .. } | Source::Rename(_) => {}
            other if other.from().contains(&name) => add(1, Undo::Column(column)),
            _ => {}
        }
    }
    for (_, value) in spec.defaults.iter().filter(|(column, _)| column == name) {
        add(4, Undo::Default(value.clone()));
    }
    found
}

/// Every legacy column must come back from somewhere, in whichever tables a row is.
pub(super) fn covered(
    legacy: &Table,
    specs: &[&TableSpec],
    filters: &[Option<Filter>],
    back: &[Vec<Back>],
    problems: &mut Vec<Problem>,
) {
    let patterns = patterns(filters);
    for (at, (column, ways)) in legacy.columns.iter().zip(back).enumerate() {
        let mut wrong = |what: String, fix| {
            problems.push(problem(&legacy.name, Some(&column.name), what, fix));
        };
        if ways.is_empty() {
            let what = "no extracted column is made from it, so it would be lost on the way back";
            wrong(what.to_owned(), "map it, or name it in `defaults`");
            continue;
        }
        for pattern in &patterns {
            let tables = || {
                let present = specs.iter().zip(pattern).filter(|(_, there)| **there);
                let names: Vec<&str> = present.map(|(s, _)| s.extracted.as_str()).collect();
                names.join(", ")
            };
            let tells = filters.iter().flatten().any(|filter| filter.column == at);
            match ways.iter().find(|way| pattern[way.part]).map(|w| &w.by) {
                None => wrong(
                    format!("nothing in `{}` has it for the way back", tables()),
                    "map it there, or name it in that entry's `defaults`",
                ),
                Some(Undo::Default(_)) if tells => wrong(
                    format!(
                        "`rows` tells rows apart by it, and `{}` has only a default for it",
                        tables()
                    ),
                    "map it, so that a row goes back where it came from",
                ),
                Some(_) => continue,
            }
            break;
        }
    }
    for (column, _) in specs.iter().flat_map(|s| &s.defaults) {
        if legacy.place(column).is_none() {
            let what = "`defaults` names a column that the legacy table does not have".to_owned();
            let name = &legacy.name;
            problems.push(problem(name, Some(column), what, "check its name"));
        }
    }
}
