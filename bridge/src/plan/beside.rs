//! Several legacy tables as one: rows that share a key are one wide row, of the first table's
//! columns and of those of the tables beside it, their keys left out.

use std::borrow::Cow;

use super::check::{self, problem};
use super::dates::Dates;
use super::group::{Back, Undo, Way};
use super::keys;
use super::{Image, Problem, Row, Schema, Table, TableSpec};
use crate::transform::Unmappable;
use crate::value::Cell;

/// The legacy tables of a group.
#[derive(Debug)]
pub(crate) struct Legacy {
    /// The first has the rows that count; those beside it may add to them.
    pub(super) tables: Vec<Table>,
    /// All columns; those of tables beside the first are named `table.column`.
    pub(super) wide: Table,
    /// Per table after the first.
    beside: Vec<Beside>,
    dates: Dates,
}

#[derive(Debug)]
struct Beside {
    optional: bool,
    /// Places of its columns, but the key: in its table and in the wide row.
    places: Vec<(usize, usize)>,
    /// Places in the wide row of columns that come back. All NULL means that there is no row.
    telling: Vec<usize>,
}

impl Legacy {
    /// The legacy tables of these entries.
    pub(super) fn of(
        name: &str,
        specs: &[&TableSpec],
        schema: &Schema,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let key = &specs.first()?.key;
        if specs.iter().any(|spec| spec.key != *key) {
            let what = "its entries name different keys".to_owned();
            let fix = "use one key for all parts of a split";
            problems.push(problem(name, None, what, fix));
        }
        let first = check::legacy_table(name, key, schema, problems)?;
        let mut found = Self {
            wide: first.clone(),
            tables: vec![first],
            beside: Vec::new(),
            dates: Dates::default(),
        };
        let mut named = Vec::new();
        for also in specs.iter().flat_map(|spec| &spec.also) {
            if named.iter().any(|(other, _)| *other == also.table) {
                if named.iter().all(|(_, other)| *other != also) {
                    let what = "its entries take it in two ways".to_owned();
                    let fix = "write the same `also` in all of them";
                    problems.push(problem(&also.table, None, what, fix));
                }
                continue;
            }
            named.push((also.table.clone(), also));
            let mut table = check::legacy_table(&also.table, &also.key, schema, problems)?;
            keys::forms(&mut found.tables[0], &mut table, None, problems);
            if table.key.len() != found.wide.key.len() {
                let what = format!("its key has {} columns", table.key.len());
                let fix = "name the columns that hold the first table's key";
                problems.push(problem(&also.table, None, what, fix));
                return None;
            }
            found.add(table, also.optional);
        }
        let (columns, key) = (&found.wide.columns, &found.wide.key);
        found.dates = Dates::of(specs, name, columns, key, problems);
        Some(found)
    }

    fn add(&mut self, table: Table, optional: bool) {
        let mut places = Vec::new();
        for (at, column) in table.columns.iter().enumerate() {
            if table.key.contains(&at) {
                continue;
            }
            places.push((at, self.wide.columns.len()));
            let mut column = column.clone();
            column.name = format!("{}.{}", table.name, column.name);
            self.wide.columns.push(column);
        }
        self.tables.push(table);
        self.beside.push(Beside {
            optional,
            places,
            telling: Vec::new(),
        });
    }

    /// Notes which columns tell whether an optional table has a row, and what else that needs.
    pub(super) fn check(
        &mut self,
        reverse: &[Vec<Back>],
        parts: &[Table],
        forward: &[Vec<Way>],
        problems: &mut Vec<Problem>,
    ) {
        for (beside, table) in self.beside.iter_mut().zip(&self.tables[1..]) {
            let real = |back: &Back| !matches!(back.by, Undo::Default(_));
            let places = beside.places.iter().map(|(_, wide)| *wide);
            beside.telling = places.filter(|at| reverse[*at].iter().any(real)).collect();
            if !beside.optional {
                continue;
            }
            if beside.telling.is_empty() {
                let what = "it is optional, and nothing tells whether it has a row".to_owned();
                problems.push(problem(&table.name, None, what, "map one of its columns"));
            }
            let inside = |at: &usize| beside.places.iter().any(|(_, wide)| wide == at);
            for (part, ways) in parts.iter().zip(forward) {
                let columns = part.columns.iter().zip(ways);
                let must = columns.filter(|(column, _)| column.required);
                for (column, way) in must {
                    let from = way.from();
                    if !from.is_empty() && from.iter().all(inside) {
                        let what =
                            format!("it must not be null, and `{}` may have no row", table.name);
                        let fix = "let it be null, or take `optional` away";
                        problems.push(problem(&part.name, Some(&column.name), what, fix));
                    }
                }
            }
        }
    }

    /// The table of a column of the wide row, and its place there.
    pub(crate) fn place(&self, wide: usize) -> (usize, usize) {
        for (at, beside) in self.beside.iter().enumerate() {
            if let Some((place, _)) = beside.places.iter().find(|(_, w)| *w == wide) {
                return (at + 1, *place);
            }
        }
        (0, wide)
    }

    /// The rows of an image as one; `None` when there are none.
    ///
    /// # Errors
    /// When a row is missing, or would not come back.
    pub(super) fn merge<'i>(&self, image: &'i Image) -> Result<Option<Cow<'i, Row>>, Unmappable> {
        let Some(Some(first)) = image.first() else {
            let Some(at) = image.iter().position(Option::is_some) else {
                return Ok(None);
            };
            let (name, first) = (&self.tables[at].name, &self.tables[0].name);
            let what = format!("`{name}` has a row with this key, and `{first}` has none");
            return Err(Unmappable(what));
        };
        if self.beside.is_empty() && self.dates.are_as_they_are() {
            return Ok(Some(Cow::Borrowed(first)));
        }
        let mut wide = first.clone();
        wide.resize(self.wide.columns.len(), Cell::Null);
        self.dates.read(&self.wide.columns, &mut wide)?;
        for ((beside, table), row) in self.beside.iter().zip(&self.tables[1..]).zip(&image[1..]) {
            let name = &table.name;
            let Some(row) = row else {
                if beside.optional {
                    continue;
                }
                return Err(Unmappable(format!("`{name}` has no row with this key")));
            };
            for (from, into) in &beside.places {
                wide[*into] = row[*from].clone();
            }
            self.dates.read(&self.wide.columns, &mut wide)?;
            if beside.is_absent(&wide) {
                let what = "has a row of nothing but NULL, which would not come back";
                return Err(Unmappable(format!("`{name}` {what}")));
            }
        }
        Ok(Some(Cow::Owned(wide)))
    }

    /// Whether every date is what it is on both sides.
    pub(super) fn has_plain_dates(&self) -> bool {
        self.dates.are_as_they_are()
    }

    /// Whether zero dates of a column of the wide row are NULL to the other side.
    pub(crate) fn nulls_zero(&self, wide: usize) -> bool {
        self.dates.nulls(wide)
    }

    pub(crate) fn refuses_zero(&self) -> bool {
        self.dates.refuses()
    }

    /// The rows that one wide row is made of.
    pub(super) fn unmerge(&self, mut wide: Row) -> Image {
        // NULL in all columns of a table beside the first means that it has no row, a zero date does not.
        let absent: Vec<bool> = self.beside.iter().map(|b| b.is_absent(&wide)).collect();
        self.dates.write(&self.wide.columns, &mut wide);
        let key = self.tables[0].key_of(&wide);
        let mut image: Image = Vec::with_capacity(self.tables.len());
        let tables = self.beside.iter().zip(&self.tables[1..]);
        for ((beside, table), absent) in tables.zip(absent) {
            if absent {
                image.push(None);
                continue;
            }
            let mut row = vec![Cell::Null; table.columns.len()];
            for (at, cell) in table.key.iter().zip(&key) {
                row[*at] = cell.clone().stored_in(&table.columns[*at].kind);
            }
            for (into, from) in &beside.places {
                row[*into] = std::mem::replace(&mut wide[*from], Cell::Null);
            }
            image.push(Some(row));
        }
        wide.truncate(self.tables[0].columns.len());
        image.insert(0, Some(wide));
        image
    }
}

impl Beside {
    fn is_absent(&self, wide: &Row) -> bool {
        self.optional && self.telling.iter().all(|at| wide[*at].is_null())
    }
}
