//! The mapping, checked against both schemas: which rows of one side make which rows of the
//! other. Pure: schemas come in as data. Refuses a mapping that could not be reversed.
//!
//! A *group* is one legacy table with the extracted tables that it is split into. All of them
//! share one key, so a change of any of them is a change of "the row with this key", and the
//! *image* of that row is one optional row per table of a side.

mod check;

use std::collections::BTreeMap;

use outgrow_rollout::Side;

use crate::preflight::Problem;
use crate::spec::{LinkSpec, TableSpec};
use crate::transform::{Transform, Unmappable};
use crate::value::{Cell, Kind};

/// Key columns that the change table has room for.
pub(crate) const KEY_COLUMNS: usize = 6;

/// A table as a database declares it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableSchema {
    pub(crate) columns: Vec<ColumnSchema>,
    /// Column names of the primary key and of every full, plain unique index.
    pub(crate) unique: Vec<Vec<String>>,
    /// Tables that this one refers to.
    pub(crate) parents: Vec<String>,
    /// Whether another table's statement may write this one: by an action of a foreign key or
    /// by a trigger.
    pub(crate) written_by_others: bool,
    pub(crate) autoincrement: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnSchema {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) has_default: bool,
    /// Computed by the database; cannot be written.
    pub(crate) generated: bool,
}

/// Tables by name.
pub(crate) type Schema = BTreeMap<String, TableSchema>;

/// A table as the bridge reads and writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    /// Places of the key in `columns`.
    pub(crate) key: Vec<usize>,
    /// Unique columns beside the key: a REPLACE may remove a row through them.
    pub(crate) other_unique: Vec<Vec<String>>,
    pub(crate) autoincrement: bool,
    pub(crate) written_by_others: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

impl Table {
    pub(crate) fn key_of(&self, row: &[Cell]) -> Vec<Cell> {
        self.key.iter().map(|&at| row[at].clone()).collect()
    }

    fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }
}

pub(crate) type Row = Vec<Cell>;
/// One optional row per table of a side.
pub(crate) type Image = Vec<Option<Row>>;

/// One legacy table and what it is split into.
#[derive(Debug)]
pub(crate) struct Group {
    legacy: [Table; 1],
    parts: Vec<Table>,
    /// Per part and part column: the legacy column's place and the way there.
    forward: Vec<Vec<(Option<usize>, Transform)>>,
    /// Per legacy column: part and column to have it back from, or a constant.
    reverse: Vec<Back>,
}

#[derive(Debug)]
enum Back {
    From { part: usize, column: usize },
    Constant(Cell),
}

/// Every group, and the order in which a side's tables may be filled.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) groups: Vec<Group>,
    legacy_order: Vec<(usize, usize)>,
    extracted_order: Vec<(usize, usize)>,
}

impl Plan {
    /// Checks a spec against the schemas of both sides. The plan is there when nothing is wrong.
    pub(crate) fn build(
        spec: &LinkSpec,
        legacy: &Schema,
        extracted: &Schema,
    ) -> (Option<Self>, Vec<Problem>) {
        let mut problems = check::names(spec);
        let mut by_legacy: Vec<(&str, Vec<&TableSpec>)> = Vec::new();
        for table in &spec.tables {
            match by_legacy.iter_mut().find(|(name, _)| *name == table.legacy) {
                Some((_, parts)) => parts.push(table),
                None => by_legacy.push((&table.legacy, vec![table])),
            }
        }
        let mut groups = Vec::new();
        for (name, parts) in by_legacy {
            groups.extend(build_group(name, &parts, legacy, extracted, &mut problems));
        }
        if !problems.is_empty() {
            return (None, problems);
        }
        // Backfill goes through the groups in order, so that parents are there first.
        let order = parents_first(&groups, Side::Legacy, legacy);
        let mut sorted: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
        let groups: Vec<Group> = order
            .iter()
            .filter_map(|(group, _)| sorted.get_mut(*group).and_then(Option::take))
            .collect();
        let plan = Self {
            legacy_order: parents_first(&groups, Side::Legacy, legacy),
            extracted_order: parents_first(&groups, Side::Extracted, extracted),
            groups,
        };
        (Some(plan), problems)
    }

    /// (group, table) of a side, parents before children.
    pub(crate) fn order(&self, side: Side) -> &[(usize, usize)] {
        match side {
            Side::Legacy => &self.legacy_order,
            Side::Extracted => &self.extracted_order,
        }
    }

    pub(crate) fn tables(&self, side: Side) -> impl Iterator<Item = &Table> {
        self.groups.iter().flat_map(move |g| g.tables(side))
    }

    /// The group that a side's table belongs to.
    pub(crate) fn group_of(&self, side: Side, table: &str) -> Option<usize> {
        self.groups
            .iter()
            .position(|g| g.tables(side).iter().any(|t| t.name == table))
    }
}

impl Group {
    pub(crate) fn name(&self) -> &str {
        &self.legacy[0].name
    }

    pub(crate) fn tables(&self, side: Side) -> &[Table] {
        match side {
            Side::Legacy => &self.legacy,
            Side::Extracted => &self.parts,
        }
    }

    /// What a row with this image on `from` is on the other side.
    ///
    /// # Errors
    /// Names the table, the column and the value that cannot be carried over.
    pub(crate) fn map(&self, from: Side, image: &Image) -> Result<Image, Unmappable> {
        match from {
            Side::Legacy => self.split(image),
            Side::Extracted => self.join(image),
        }
    }

    fn split(&self, image: &Image) -> Result<Image, Unmappable> {
        let Some(Some(row)) = image.first() else {
            return Ok(vec![None; self.parts.len()]);
        };
        let part = |(table, ways): (&Table, &Vec<(Option<usize>, Transform)>)| {
            let cells = ways
                .iter()
                .zip(&table.columns)
                .map(|((from, way), column)| {
                    let value = from.map_or(&Cell::Null, |at| &row[at]);
                    let mapped = way.forward(value).map_err(|e| {
                        let from = from.map_or("", |at| &self.legacy[0].columns[at].name);
                        Unmappable(format!("{}.{from}: {e}", self.name()))
                    })?;
                    stored(mapped, &table.name, column)
                });
            cells.collect::<Result<Row, Unmappable>>().map(Some)
        };
        self.parts.iter().zip(&self.forward).map(part).collect()
    }

    fn join(&self, image: &Image) -> Result<Image, Unmappable> {
        if image.iter().all(Option::is_none) {
            return Ok(vec![None]);
        }
        if let Some(missing) = image.iter().position(Option::is_none) {
            return Err(Unmappable(format!(
                "the row is in only {} of {} tables: `{}` has no part of it",
                image.iter().flatten().count(),
                self.parts.len(),
                self.parts[missing].name
            )));
        }
        let cells = self.reverse.iter().zip(&self.legacy[0].columns);
        let row = cells.map(|(back, target)| {
            let value = match back {
                Back::Constant(value) => value.clone(),
                Back::From { part, column } => {
                    let value = image[*part].as_ref().map_or(&Cell::Null, |r| &r[*column]);
                    self.forward[*part][*column].1.reverse(value).map_err(|e| {
                        let table = &self.parts[*part];
                        let column = &table.columns[*column].name;
                        Unmappable(format!("{}.{column}: {e}", table.name))
                    })?
                }
            };
            stored(value, self.name(), target)
        });
        Ok(vec![Some(row.collect::<Result<Row, Unmappable>>()?)])
    }

    /// Columns of a part that hold a constant: rows flowing back cannot keep them.
    pub(crate) fn is_constant(&self, part: usize, column: usize) -> bool {
        !self.forward[part][column].1.invertible()
    }

    /// Columns of a legacy row that do not come back the same: (column, before, after).
    ///
    /// # Errors
    /// Says which value cannot be mapped at all.
    pub(crate) fn round_trip(&self, row: &Row) -> Result<Vec<(String, Cell, Cell)>, Unmappable> {
        let there = self.split(&vec![Some(row.clone())])?;
        let back = self.join(&there)?;
        let Some(Some(back)) = back.into_iter().next() else {
            return Err(Unmappable("the row does not come back".to_owned()));
        };
        let columns = self.legacy[0].columns.iter().zip(&self.reverse);
        Ok(columns
            .zip(row.iter().zip(back))
            // What a default feeds was declared not to come back.
            .filter(|((_, way), (a, b))| matches!(way, Back::From { .. }) && *a != b)
            .map(|((column, _), (a, b))| (column.name.clone(), a.clone(), b))
            .collect())
    }
}

/// The value as its column stores it.
fn stored(value: Cell, table: &str, column: &Column) -> Result<Cell, Unmappable> {
    match value.stored_in(&column.kind) {
        Cell::BadText(text) => Err(Unmappable(format!(
            "{table}.{}: `{}` does not fit the column without loss",
            column.name,
            String::from_utf8_lossy(&text)
        ))),
        fits => Ok(fits),
    }
}

fn build_group(
    name: &str,
    specs: &[&TableSpec],
    legacy: &Schema,
    extracted: &Schema,
    problems: &mut Vec<Problem>,
) -> Option<Group> {
    let source = check::legacy_table(name, specs, legacy, problems);
    if let Some(source) = &source {
        check::covered(source, specs, problems);
    }
    let mut parts = Vec::new();
    let mut forward = Vec::new();
    for spec in specs {
        let table = check::extracted_table(spec, extracted, problems);
        let ways = source
            .as_ref()
            .and_then(|source| check::ways(spec, source, problems));
        if let (Some(table), Some(ways)) = (table, ways) {
            parts.push(table);
            forward.push(ways);
        }
    }
    if parts.len() != specs.len() {
        return None;
    }
    let source = source?;
    check::keys_alike(&source, &parts, problems);
    let reverse = check::reverse(&source, specs, &forward)?;
    Some(Group {
        legacy: [source],
        parts,
        forward,
        reverse,
    })
}

/// Tables of a side so that each comes after those it refers to. A circle stays in the order of
/// the spec: the applying transaction checks references only when it ends.
fn parents_first(groups: &[Group], side: Side, schema: &Schema) -> Vec<(usize, usize)> {
    let mut waiting: Vec<(usize, usize, &str)> = groups
        .iter()
        .enumerate()
        .flat_map(|(g, group)| {
            let tables = group.tables(side).iter().enumerate();
            tables.map(move |(t, table)| (g, t, table.name.as_str()))
        })
        .collect();
    let mut sorted = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = |name: &str| {
            let parents = schema.get(name).map(|t| t.parents.as_slice());
            parents.unwrap_or_default().iter().all(|parent| {
                parent.eq_ignore_ascii_case(name)
                    || !waiting
                        .iter()
                        .any(|(_, _, other)| other.eq_ignore_ascii_case(parent))
            })
        };
        let next = waiting.iter().position(|w| free(w.2)).unwrap_or(0);
        let (group, table, _) = waiting.remove(next);
        sorted.push((group, table));
    }
    sorted
}
