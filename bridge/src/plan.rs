//! The mapping, checked against both schemas: which rows of one side make which rows of the
//! other. Pure: schemas come in as data. Refuses a mapping that could not be reversed.
//!
//! A *group* is a legacy table, perhaps with others beside it, and the extracted tables that they
//! are made into. All of them share one key, so a change of any of them is a change of "the row with this key", and the
//! *image* of that row is one optional row per table of a side. An extracted table may take only
//! some of the legacy rows; those that none takes are no business of the link.

mod beside;
mod check;
mod cover;
mod dates;
mod filter;
mod group;
mod keys;
mod single;
mod straight;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::BTreeMap;

use outgrow_rollout::Side;

use crate::lookup::{Known, LookupName, Lookups};
use crate::preflight::Problem;
use crate::spec::{LinkSpec, TableSpec};
use crate::value::{Cell, Kind};
use beside::Legacy;
pub(crate) use filter::Filter;
pub(crate) use group::{Back, Group, Way};
use keys::KeyForm;
pub(crate) use keys::{exactly, shown};
pub(crate) use straight::Straight;

/// Key columns that the change table has room for.
pub(crate) const KEY_COLUMNS: usize = 6;

/// A table as a database declares it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableSchema {
    pub(crate) columns: Vec<ColumnSchema>,
    /// Column names of the primary key and of every full, plain unique index.
    pub(crate) unique: Vec<Vec<String>>,
    /// Of these, those that different values share, e.g. `a` and `A`: a REPLACE of SQLite removes the
    /// other row without a word, and what looks for a key finds the other row.
    pub(crate) loose: Vec<Vec<String>>,
    /// Columns with a unique index of which none can tell rows from one another, and why.
    pub(crate) unfit: Vec<(Vec<String>, Unfit)>,
    /// Tables that this one refers to.
    pub(crate) parents: Vec<String>,
    /// Whether another table's statement may write this one: by an action of a foreign key or
    /// by a trigger.
    pub(crate) written_by_others: bool,
    pub(crate) autoincrement: bool,
}

/// Why a unique index is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It covers some rows only.
    Partial,
    /// It covers the beginnings of values only.
    Prefix,
    /// Rows may share a value until their transaction ends.
    Deferrable,
    /// It was never finished.
    Invalid,
    /// Many rows may have no value.
    Nullable,
}

impl Unfit {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Partial => "partial",
            Self::Prefix => "prefix",
            Self::Deferrable => "deferrable",
            Self::Invalid => "invalid",
            Self::Nullable => "nullable",
        }
    }

    /// What is wrong, and what to do.
    pub(crate) fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Partial => (
                "is unique among some of the rows only (a partial index)",
                "add a unique index on these columns over all rows",
            ),
            Self::Prefix => (
                "is unique by the beginnings of its values only (a prefix index)",
                "add a unique index on the whole columns",
            ),
            Self::Deferrable => (
                "is unique at the end of a transaction only (DEFERRABLE)",
                "add a unique index on these columns, or declare the constraint NOT DEFERRABLE",
            ),
            Self::Invalid => (
                "has a unique index that was not finished (it is invalid)",
                "REINDEX it, or drop it and make it anew",
            ),
            Self::Nullable => (
                "may be NULL, and a row without a key cannot be told from others",
                "fill the column and declare it NOT NULL",
            ),
        }
    }
}

/// A unique index as a database declares it.
#[derive(Debug)]
pub(crate) struct UniqueIndex {
    pub(crate) columns: Vec<String>,
    pub(crate) unfit: Option<Unfit>,
    /// Whether different values share it, e.g. `a` and `A`.
    pub(crate) loose: bool,
}

impl TableSchema {
    /// Takes up the unique indexes of the table.
    pub(crate) fn with_unique(mut self, all: Vec<UniqueIndex>) -> Self {
        let fits = |columns: &[String]| {
            let mut same = all.iter().filter(|index| index.columns == columns);
            same.any(|index| index.unfit.is_none())
        };
        let unfit = all.iter().filter(|index| !fits(&index.columns));
        self.unfit = unfit
            .filter_map(|index| Some((index.columns.clone(), index.unfit?)))
            .collect();
        // Where a value is unique in part, rows with equal ones do not displace one another.
        let plain = |unfit| matches!(unfit, None | Some(Unfit::Deferrable | Unfit::Nullable));
        for index in all.into_iter().filter(|index| plain(index.unfit)) {
            if index.loose {
                self.loose.push(index.columns.clone());
            }
            self.unique.push(index.columns);
        }
        self
    }
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
    /// Columns beside those, which are not the link's. Of a legacy table there are none.
    pub(crate) others: Vec<Column>,
    /// Places of the key in `columns`.
    pub(crate) key: Vec<usize>,
    /// Per key column how it is written here, where that is not as the link knows it; or none.
    pub(crate) forms: Vec<Option<KeyForm>>,
    /// Whether the database calls keys equal that are written otherwise, so that it finds another
    /// key's row.
    pub(crate) loose: bool,
    /// Unique columns beside the key, and the key where rows with others may be in its place: a
    /// REPLACE may remove a row through them.
    pub(crate) other_unique: Vec<Vec<String>>,
    pub(crate) autoincrement: bool,
    pub(crate) written_by_others: bool,
    /// The rows that are walked and counted: those that any of these takes, or all if there is
    /// none.
    pub(crate) only: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

impl Table {
    /// The key of a row, as the link knows it.
    pub(crate) fn key_of(&self, row: &[Cell]) -> Vec<Cell> {
        self.known(self.key.iter().map(|&at| row[at].clone()).collect())
    }

    /// The table with all of its columns, those of the link first; `None` where these are all.
    pub(crate) fn whole(&self) -> Option<Self> {
        let all = || [&self.columns[..], &self.others].concat();
        (!self.others.is_empty()).then(|| Self {
            columns: all(),
            others: Vec::new(),
            ..self.clone()
        })
    }

    fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }
}

impl Plan {
    /// Whether some table of a side tells all of its rows by itself.
    pub(crate) fn tables_alone(&self, side: Side) -> bool {
        self.groups
            .iter()
            .any(|group| group.tables(side).len() == 1)
    }
}

pub(crate) type Row = Vec<Cell>;
/// One optional row per table of a side.
pub(crate) type Image = Vec<Option<Row>>;

/// Every group, and the order in which a side's tables may be filled.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) groups: Vec<Group>,
    /// As they were read for this plan.
    pub(crate) lookups: Known,
    legacy_order: Vec<(usize, usize)>,
    extracted_order: Vec<(usize, usize)>,
}

impl Plan {
    /// Checks a spec against the schemas of both sides. The plan is there when nothing is wrong.
    pub(crate) fn build(
        spec: &LinkSpec,
        legacy: &Schema,
        extracted: &Schema,
        lookups: &Lookups,
    ) -> (Option<Self>, Vec<Problem>) {
        let mut problems = check::names(spec);
        problems.extend(check::shapes(spec, legacy, extracted));
        let mut by_legacy: Vec<(&str, Vec<&TableSpec>)> = Vec::new();
        for table in &spec.tables {
            match by_legacy.iter_mut().find(|(name, _)| *name == table.legacy) {
                Some((_, parts)) => parts.push(table),
                None => by_legacy.push((&table.legacy, vec![table])),
            }
        }
        let mut groups = Vec::new();
        for (name, parts) in by_legacy {
            let build = Build {
                legacy,
                extracted,
                lookups,
            };
            groups.extend(build.group(name, &parts, &mut problems));
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
            lookups: lookups
                .iter()
                .filter_map(|(name, found)| Some((name.clone(), found.as_ref().ok()?.clone())))
                .collect(),
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

/// What a plan is made from.
struct Build<'a> {
    legacy: &'a Schema,
    extracted: &'a Schema,
    lookups: &'a Lookups,
}

impl Build<'_> {
    /// One legacy table with its entries.
    fn group(
        &self,
        name: &str,
        specs: &[&TableSpec],
        problems: &mut Vec<Problem>,
    ) -> Option<Group> {
        let legacy = Legacy::of(name, specs, self.legacy, problems);
        let filters = filters(specs, legacy.as_ref(), problems);
        let mut reverse = Vec::new();
        if let (Some(legacy), Some(filters)) = (&legacy, &filters) {
            reverse = cover::ways_back(&legacy.wide, specs, filters);
            cover::covered(&legacy.wide, specs, filters, &reverse, problems);
        }
        let mut parts = Vec::new();
        let mut forward = Vec::new();
        for spec in specs {
            let table = check::extracted_table(spec, self.extracted, problems);
            let ways = legacy.as_ref().and_then(|legacy| {
                let from = ways::From {
                    spec,
                    legacy: &legacy.wide,
                    extracted: table.as_ref(),
                    lookups: self.lookups,
                };
                from.ways(problems)
            });
            if let (Some(table), Some(ways)) = (table, ways) {
                parts.push(table);
                forward.push(ways);
            }
        }
        if parts.len() != specs.len() {
            return None;
        }
        let (mut legacy, filters) = (legacy?, filters?);
        for (part, spec) in parts.iter_mut().zip(specs) {
            let columns = Some(spec.columns.as_slice());
            keys::forms(&mut legacy.tables[0], part, columns, problems);
        }
        legacy.check(&reverse, &parts, &forward, problems);
        if filters.iter().all(Option::is_some) {
            legacy.tables[0].only = filters.iter().flatten().cloned().collect();
        }
        let columns = specs.iter().flat_map(|spec| &spec.columns);
        let lookups = columns.filter_map(|column| {
            let name = LookupName::of(&column.source)?;
            let from = legacy.wide.place(column.source.from().first()?)?;
            Some((legacy.place(from), name))
        });
        Some(Group {
            lookups: lookups.collect(),
            legacy,
            parts,
            forward,
            reverse,
            filters,
        })
    }
}

/// Per entry the rows that it takes; `None` when one of them is wrong.
fn filters(
    specs: &[&TableSpec],
    legacy: Option<&Legacy>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Option<Filter>>> {
    let before = problems.len();
    let one = |spec: &&TableSpec| {
        let legacy = legacy?;
        filter::filter(spec, &legacy.wide, legacy.tables[0].columns.len(), problems)
    };
    let filters = specs.iter().map(one).collect();
    (problems.len() == before).then_some(filters)
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
