//! How each extracted column is made, checked column by column.

use super::check::{pair, problem};
use super::group::Way;
use super::{Column, Problem, Table, TableSpec};
use crate::bits;
use crate::lookup::{LookupName, Lookups, Wrong};
use crate::pieces::Pieces;
use crate::spec::{ColumnSpec, Source};
use crate::transform::Transform;
use crate::value::{Cell, Kind};

/// What the ways of an entry are made from.
pub(super) struct From<'a> {
    pub(super) spec: &'a TableSpec,
    pub(super) legacy: &'a Table,
    /// `None` when something is wrong with it.
    pub(super) extracted: Option<&'a Table>,
    pub(super) lookups: &'a Lookups,
}

impl From<'_> {
    /// How each column of an entry is made.
    pub(super) fn ways(&self, problems: &mut Vec<Problem>) -> Option<Vec<Way>> {
        let label = pair(self.spec);
        let before = problems.len();
        let mut ways = Vec::new();
        for wanted in &self.spec.columns {
            let from = wanted.source.from();
            let column = Some(wanted.extracted.as_str());
            let place = |name: &&str| self.legacy.place(name);
            for name in from.iter().filter(|name| place(name).is_none()) {
                let what = format!("the legacy table has no column `{name}` to make it from");
                let fix = "check its name; what a database computes itself is not carried over, each side has its own";
                problems.push(problem(&label, column, what, fix));
            }
            let places: Vec<usize> = from.iter().filter_map(place).collect();
            match self.way(wanted, &places) {
                Ok(Some(way)) => ways.push(way),
                // Its legacy column is not there, which was said.
                Ok(None) => {}
                Err((what, fix)) => problems.push(problem(&label, column, what, &fix)),
            }
        }
        (problems.len() == before).then_some(ways)
    }

    /// The way of one column, from legacy columns at these places.
    fn way(&self, wanted: &ColumnSpec, places: &[usize]) -> Result<Option<Way>, Wrong> {
        let first = places.first().copied();
        match &wanted.source {
            Source::Const(value) => Ok(Some(Way::Const(value.clone()))),
            Source::Join {
                from,
                literals,
                empty_is_null,
            } => joined(from, literals, *empty_is_null, places).map(Some),
            Source::Part {
                of,
                part,
                at,
                empty_is_null,
            } => {
                let columns = pieces_of(self.spec, of, at, *empty_is_null)?;
                let text = Pieces::at(at, columns.len(), *empty_is_null)?;
                let at = part.saturating_sub(1);
                Ok(first.map(|of| Way::Piece {
                    of,
                    at,
                    text,
                    columns,
                }))
            }
            one => {
                if let Source::Expr { .. } = one {
                    self.no_amount(wanted, first)?;
                }
                let by = match LookupName::of(one) {
                    Some(name) => self.translation(&name, wanted, first)?,
                    None => self.transform(wanted, first)?,
                };
                Ok(first.map(|from| Way::By { from, by }))
            }
        }
    }

    /// What makes one column of another; bit fields are more than renamed, and codes of them are
    /// written as they are.
    fn transform(&self, wanted: &ColumnSpec, from: Option<usize>) -> Result<Transform, Wrong> {
        let by = Transform::compile(&wanted.source)?;
        let into = self.extracted.and_then(|table| {
            let place = table.place(&wanted.extracted)?;
            Some(&table.columns[place].kind)
        });
        let (Some(from), Some(into)) = (from, into) else {
            return Ok(by);
        };
        let from = &self.legacy.columns[from].kind;
        match (&wanted.source, by) {
            (Source::Map { pairs, .. }, _) => {
                let pairs = pairs
                    .iter()
                    .map(|(code, meaning)| (bits::code(code, from), bits::code(meaning, into)));
                Transform::one_to_one("the map", &pairs.collect::<Vec<_>>())
            }
            (_, Transform::Same) => {
                of_one_sort(from, into)?;
                bits::between(from, into)
            }
            (_, by) => Ok(by),
        }
    }

    /// Refuses an expression over an amount: it would compute in floats.
    fn no_amount(&self, wanted: &ColumnSpec, from: Option<usize>) -> Result<(), Wrong> {
        let legacy = from.map(|from| &self.legacy.columns[from]);
        let into = self.extracted.and_then(|table| {
            let place = table.place(&wanted.extracted)?;
            Some(&table.columns[place])
        });
        let said = |column: &Column, fix: String| {
            let what = format!(
                "`{}` is a decimal, and expressions compute in floats, which lose cents",
                column.name
            );
            Err((what, fix))
        };
        let amount = |column: &&Column| column.kind.is_amount();
        match (legacy.filter(amount), into.filter(amount)) {
            (Some(from), _) => said(
                from,
                format!(
                    "write `cents` instead (`{{ from = \"{0}\", cents = 2 }}`), or `\"{0}\"` alone where \
                     both are decimals",
                    from.name
                ),
            ),
            (None, Some(into)) => said(
                into,
                "have the extracted column keep whole cents, or the legacy one a decimal, and map \
                 it without an expression"
                    .to_owned(),
            ),
            (None, None) => Ok(()),
        }
    }

    /// A lookup's pairs, as the two columns store them.
    fn translation(
        &self,
        name: &LookupName,
        wanted: &ColumnSpec,
        from: Option<usize>,
    ) -> Result<Transform, Wrong> {
        let table = &name.table;
        let lookup = match self.lookups.get(name) {
            Some(Ok(lookup)) => lookup,
            Some(Err(wrong)) => return Err(wrong.clone()),
            None => return Err((format!("`{table}` was not read"), "try again".to_owned())),
        };
        let into = self.extracted.and_then(|table| {
            let place = table.place(&wanted.extracted)?;
            Some(&table.columns[place].kind)
        });
        let from = from.map(|from| &self.legacy.columns[from].kind);
        let stored = |cell: &Cell, kind: Option<&Kind>| match kind {
            Some(kind) => cell.clone().stored_in(kind),
            None => cell.clone(),
        };
        let plain = |cell: &Cell| matches!(cell, Cell::Int(_) | Cell::Text(_));
        let mut pairs = Vec::with_capacity(lookup.pairs.len());
        for (code, value) in &lookup.pairs {
            let pair = (stored(code, from), stored(value, into));
            if !plain(&pair.0) || !plain(&pair.1) {
                return Err((
                    format!("the lookup table `{table}` has {code} for {value}"),
                    "have text or whole numbers in both columns, and no NULL".to_owned(),
                ));
            }
            pairs.push(pair);
        }
        Transform::one_to_one(&format!("the lookup table `{table}`"), &pairs)
    }
}

/// Refuses a column whose values are never those of the other, e.g. a date of a number.
fn of_one_sort(from: &Kind, into: &Kind) -> Result<(), Wrong> {
    let typed = |kind: &Kind| match kind {
        Kind::Postgres(typed) | Kind::Mysql(typed) => {
            Some((typed.of_one_sort()?, typed.base.clone()))
        }
        Kind::Sqlite(_) => None,
    };
    match (typed(from), typed(into)) {
        (Some((was, from)), Some((is, into))) if was != is => Err((
            format!("{was} ({from}) are no {is} ({into})"),
            "give both columns types that fit, or map it by an expression".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn joined(
    from: &[String],
    literals: &[String],
    empty_is_null: bool,
    places: &[usize],
) -> Result<Way, Wrong> {
    let twice = |at: usize| from[..at].contains(&from[at]);
    if let Some(at) = (0..from.len()).find(|at| twice(*at)) {
        return Err((
            format!("`{}` is joined twice", from[at]),
            "name every column once".to_owned(),
        ));
    }
    if literals.len() != from.len() + 1 {
        return Err((
            format!("{} texts around {} columns", literals.len(), from.len()),
            "give one text before, between and after them".to_owned(),
        ));
    }
    Ok(Way::Joined {
        from: places.to_vec(),
        text: Pieces::new(literals, empty_is_null)?,
    })
}

/// The columns of an entry that hold the pieces of a legacy column, in the pieces' order.
fn pieces_of(
    spec: &TableSpec,
    of: &str,
    at: &str,
    empty_is_null: bool,
) -> Result<Vec<usize>, Wrong> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (column, wanted) in spec.columns.iter().enumerate() {
        let Source::Part {
            of: other,
            part,
            at: between,
            empty_is_null: empty,
        } = &wanted.source
        else {
            continue;
        };
        if other != of {
            continue;
        }
        if between != at || *empty != empty_is_null {
            return Err((
                format!("the pieces of `{of}` are not taken apart alike"),
                "write the same `at` and `empty` for all of them".to_owned(),
            ));
        }
        found.push((*part, column));
    }
    found.sort_unstable();
    let whole = found
        .iter()
        .enumerate()
        .all(|(n, (part, _))| *part == n + 1);
    if !whole || found.len() < 2 {
        let numbers: Vec<String> = found.iter().map(|(part, _)| part.to_string()).collect();
        return Err((
            format!(
                "`{of}` is split into the pieces {}, so it cannot be put together again",
                numbers.join(", ")
            ),
            "map every piece once, in one entry, numbered from 1, two at the least".to_owned(),
        ));
    }
    Ok(found.into_iter().map(|(_, column)| column).collect())
}
