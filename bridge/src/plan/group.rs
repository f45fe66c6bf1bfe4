//! The rows of one group: what an image of one side is on the other.

use outgrow_rollout::Side;

use super::{Column, Filter, Image, Legacy, Row, Table};
use crate::lookup::LookupName;
use crate::pieces::Pieces;
use crate::transform::{Transform, Unmappable};
use crate::value::{Cell, Kind};

/// Legacy tables of one key and what they are made into. Places of legacy columns are those in
/// the wide row.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) legacy: Legacy,
    pub(super) parts: Vec<Table>,
    /// Per part and part column: how it is made.
    pub(super) forward: Vec<Vec<Way>>,
    /// Per legacy column: how to have it back, the best way first.
    pub(super) reverse: Vec<Vec<Back>>,
    /// Per part: the legacy rows that it takes.
    pub(super) filters: Vec<Option<Filter>>,
    /// Legacy columns of codes, as table and place, with the lookups that say what they mean.
    pub(super) lookups: Vec<((usize, usize), LookupName)>,
}

/// How one extracted column is made. Places are those of columns in their table.
#[derive(Debug)]
pub(crate) enum Way {
    Const(Cell),
    By {
        from: usize,
        by: Transform,
    },
    /// A text of several legacy columns.
    Joined {
        from: Vec<usize>,
        text: Pieces,
    },
    /// One piece of a legacy text.
    Piece {
        of: usize,
        at: usize,
        text: Pieces,
        /// The extracted columns of all its pieces.
        columns: Vec<usize>,
    },
}

/// How one legacy column is had back from a part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Back {
    pub(super) part: usize,
    pub(super) by: Undo,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Undo {
    /// What the column's way came from.
    Column(usize),
    /// A piece of what is joined in the column.
    PieceOf { column: usize, at: usize },
    /// All pieces, of which this column is the first.
    Pieces { first: usize },
    /// The part takes no rows but those with this value.
    Implied(Cell),
    /// Declared not to come back.
    Default(Cell),
}

impl Group {
    pub(crate) fn name(&self) -> &str {
        &self.legacy.tables[0].name
    }

    pub(crate) fn tables(&self, side: Side) -> &[Table] {
        match side {
            Side::Legacy => &self.legacy.tables,
            Side::Extracted => &self.parts,
        }
    }

    /// A legacy column by its place in the group's row: its table, and itself.
    pub(crate) fn legacy_column(&self, at: usize) -> (&str, &Column) {
        let (table, place) = self.legacy.place(at);
        let table = &self.legacy.tables[table];
        (&table.name, &table.columns[place])
    }

    /// How each column of a part is made, in their order.
    pub(crate) fn ways(&self, part: usize) -> &[Way] {
        &self.forward[part]
    }

    /// Whether a legacy column's zero dates are NULL to the other side.
    pub(crate) fn nulls_zero(&self, column: usize) -> bool {
        self.legacy.nulls_zero(column)
    }

    /// Whether rows with zero dates are refused.
    pub(crate) fn refuses_zero(&self) -> bool {
        self.legacy.refuses_zero()
    }

    pub(crate) fn lookups(&self) -> &[((usize, usize), LookupName)] {
        &self.lookups
    }

    /// What a row with this image on `from` is on the other side.
    ///
    /// # Errors
    /// Names the table, the column and the value that cannot be carried over.
    pub(crate) fn map(&self, from: Side, image: &Image) -> Result<Image, Unmappable> {
        let mapped = match from {
            Side::Legacy => self.split(image)?,
            Side::Extracted => self.join(image)?,
        };
        let (from, into) = (self.tables(from), self.tables(from.other()));
        self.keeps_key((from, image), (into, &mapped))?;
        Ok(mapped)
    }

    fn split(&self, image: &Image) -> Result<Image, Unmappable> {
        match self.legacy.merge(image)? {
            Some(row) => self.split_row(&row),
            None => Ok(vec![None; self.parts.len()]),
        }
    }

    fn split_row(&self, row: &Row) -> Result<Image, Unmappable> {
        let part = |(at, (table, ways)): (usize, (&Table, &Vec<Way>))| {
            if !self.takes(at, row) {
                return Ok(None);
            }
            let cells = ways.iter().zip(&table.columns).map(|(way, column)| {
                let mapped = self.make(way, table, column, row).map_err(|e| {
                    let from = names(&self.legacy.wide, &way.from());
                    Unmappable(format!("{}.{from}: {e}", self.name()))
                })?;
                stored(mapped, &table.name, column)
            });
            cells.collect::<Result<Row, Unmappable>>().map(Some)
        };
        let parts = self.parts.iter().zip(&self.forward);
        parts.enumerate().map(part).collect()
    }

    /// Whether a part takes this row of the first legacy table.
    pub(crate) fn takes(&self, part: usize, row: &Row) -> bool {
        let filter = self.filters[part].as_ref();
        filter.is_none_or(|filter| filter.takes(row))
    }

    /// Per part whether it takes what is on the legacy side.
    pub(crate) fn taken(&self, legacy: &Image) -> Vec<bool> {
        let first = legacy.first().and_then(Option::as_ref);
        let taken = |part| first.is_some_and(|row| self.takes(part, row));
        (0..self.parts.len()).map(taken).collect()
    }

    /// The legacy table with no rows but those that a part takes.
    pub(crate) fn legacy_of(&self, part: usize) -> Table {
        Table {
            only: self.filters[part].iter().cloned().collect(),
            ..self.legacy.tables[0].clone()
        }
    }

    /// Whether there may be legacy rows that no part takes.
    pub(crate) fn is_partial(&self) -> bool {
        self.filters.iter().all(Option::is_some)
    }

    /// Whether any part takes this row of the first legacy table. The others are no business of the link.
    pub(crate) fn belongs(&self, row: &Row) -> bool {
        (0..self.parts.len()).any(|part| self.takes(part, row))
    }

    /// The value of an extracted column.
    pub(super) fn make(
        &self,
        way: &Way,
        table: &Table,
        column: &Column,
        row: &Row,
    ) -> Result<Cell, Unmappable> {
        let legacy = &self.legacy.wide;
        match way {
            Way::Const(value) => Ok(value.clone()),
            Way::By { from, by } => by.forward(&row[*from]),
            Way::Joined { from, text } => text.join(&cells(legacy, row, from), &column.kind),
            Way::Piece {
                of,
                at,
                text,
                columns,
            } => {
                let whole = (&row[*of], &legacy.columns[*of].kind);
                let mut pieces = text.split(whole, &kinds(table, columns))?;
                Ok(pieces.swap_remove(*at))
            }
        }
    }

    fn join(&self, image: &Image) -> Result<Image, Unmappable> {
        Ok(match self.join_row(image)? {
            Some(row) => self.legacy.unmerge(row),
            None => vec![None; self.legacy.tables.len()],
        })
    }

    fn join_row(&self, image: &Image) -> Result<Option<Row>, Unmappable> {
        if image.iter().all(Option::is_none) {
            return Ok(None);
        }
        let lacks = |part: &usize| self.filters[*part].is_none() && image[*part].is_none();
        if let Some(missing) = (0..self.parts.len()).find(lacks) {
            return Err(Unmappable(format!(
                "the row is in only {} of {} tables: `{}` has no part of it",
                image.iter().flatten().count(),
                self.parts.len(),
                self.parts[missing].name
            )));
        }
        let columns = self.legacy.wide.columns.iter().enumerate();
        let row = columns.map(|(at, column)| {
            let Some((back, row)) = self.back(at, image) else {
                let what = format!("{}: nothing in these tables has it", column.name);
                return Err(Unmappable(what));
            };
            stored(self.unmake(back, at, row)?, self.name(), column)
        });
        let row = row.collect::<Result<Row, Unmappable>>()?;
        self.keeps_to_filters(&row, image)?;
        Ok(Some(row))
    }

    /// A row that is had back must be of the parts that it is in, and of no others.
    fn keeps_to_filters(&self, row: &Row, image: &Image) -> Result<(), Unmappable> {
        for (part, (filter, there)) in self.filters.iter().zip(image).enumerate() {
            let Some(filter) = filter.as_ref().filter(|f| f.takes(row) != there.is_some()) else {
                continue;
            };
            let table = &self.parts[part].name;
            let value = &row[filter.column];
            let rule = filter.text(&self.legacy.wide);
            return Err(Unmappable(if there.is_some() {
                format!("`{table}` has it, and takes only rows whose {rule}: here it is {value}")
            } else {
                format!("`{table}` has no part of it, and takes every row whose {rule}")
            }));
        }
        Ok(())
    }

    /// The best way to have a legacy column back from the parts that are there.
    fn back<'a>(&'a self, column: usize, image: &'a Image) -> Option<(&'a Back, &'a Row)> {
        let ways = self.reverse[column].iter();
        ways.filter_map(|back| Some((back, image.get(back.part)?.as_ref()?)))
            .next()
    }

    /// Whether any legacy column may have nothing but a default on the way back.
    pub(crate) fn has_defaults(&self) -> bool {
        let default = |back: &Back| matches!(back.by, Undo::Default(_));
        self.reverse.iter().flatten().any(default)
    }

    /// Legacy columns, as table and place, that an extracted image has only a default for.
    pub(crate) fn defaulted(&self, image: &Image) -> Vec<(usize, usize)> {
        let default = |at: &usize| {
            let way = self.back(*at, image);
            way.is_some_and(|(back, _)| matches!(back.by, Undo::Default(_)))
        };
        let columns = (0..self.reverse.len()).filter(default);
        columns.map(|at| self.legacy.place(at)).collect()
    }

    /// The value of a legacy column.
    pub(super) fn unmake(&self, back: &Back, column: usize, row: &Row) -> Result<Cell, Unmappable> {
        let (part, ways) = (&self.parts[back.part], &self.forward[back.part]);
        let made = match &back.by {
            Undo::Default(value) | Undo::Implied(value) => return Ok(value.clone()),
            Undo::Column(made) | Undo::PieceOf { column: made, .. } => *made,
            Undo::Pieces { first } => *first,
        };
        let value = &row[made];
        let undone = match (&back.by, &ways[made]) {
            (Undo::PieceOf { at, .. }, Way::Joined { from, text }) => {
                let whole = (value, &part.columns[made].kind);
                let pieces = text.split(whole, &kinds(&self.legacy.wide, from));
                pieces.map(|mut pieces| pieces.swap_remove(*at))
            }
            (_, Way::Piece { text, columns, .. }) => {
                let whole = &self.legacy.wide.columns[column].kind;
                text.join(&cells(part, row, columns), whole)
            }
            (_, Way::By { by, .. }) => by.reverse(value),
            (_, Way::Const(_) | Way::Joined { .. }) => Ok(value.clone()),
        };
        undone.map_err(|e| {
            let columns = match &ways[made] {
                Way::Piece { columns, .. } => names(part, columns),
                _ => names(part, &[made]),
            };
            Unmappable(format!("{}.{columns}: {e}", part.name))
        })
    }

    /// Columns of a part that hold a constant: rows flowing back cannot keep them.
    pub(crate) fn is_constant(&self, part: usize, column: usize) -> bool {
        matches!(self.forward[part][column], Way::Const(_))
    }

    /// Columns of legacy rows that do not come back the same: (column, before, after).
    ///
    /// # Errors
    /// Says which value cannot be mapped at all.
    pub(crate) fn round_trip(
        &self,
        image: &Image,
    ) -> Result<Vec<(String, Cell, Cell)>, Unmappable> {
        let Some(row) = self.legacy.merge(image)? else {
            return Ok(Vec::new());
        };
        let there = self.split_row(&row)?;
        let Some(back) = self.join_row(&there)? else {
            // No table takes it.
            return Ok(Vec::new());
        };
        // What a default feeds was declared not to come back.
        let comes_back = |at: usize| {
            let way = self.back(at, &there);
            way.is_some_and(|(back, _)| !matches!(back.by, Undo::Default(_)))
        };
        let columns = self.legacy.wide.columns.iter().enumerate();
        Ok(columns
            .zip(row.into_owned().into_iter().zip(back))
            .filter(|((at, _), (a, b))| a != b && comes_back(*at))
            .map(|((_, column), (a, b))| (column.name.clone(), a, b))
            .collect())
    }
}

impl Way {
    /// The legacy columns that it needs.
    pub(crate) fn from(&self) -> Vec<usize> {
        match self {
            Self::Const(_) => Vec::new(),
            Self::By { from, .. } | Self::Piece { of: from, .. } => vec![*from],
            Self::Joined { from, .. } => from.clone(),
        }
    }
}

fn cells<'a>(table: &'a Table, row: &'a Row, at: &[usize]) -> Vec<(&'a Cell, &'a Kind)> {
    let one = |&at: &usize| (&row[at], &table.columns[at].kind);
    at.iter().map(one).collect()
}

fn kinds<'a>(table: &'a Table, at: &[usize]) -> Vec<&'a Kind> {
    at.iter().map(|&at| &table.columns[at].kind).collect()
}

fn names(table: &Table, at: &[usize]) -> String {
    let names: Vec<&str> = at
        .iter()
        .map(|&at| table.columns[at].name.as_str())
        .collect();
    names.join("+")
}

/// The value as its column stores it.
pub(super) fn stored(value: Cell, table: &str, column: &Column) -> Result<Cell, Unmappable> {
    let unfit = |value: &dyn std::fmt::Display, why| {
        Unmappable(format!("{table}.{}: `{value}` {why}", column.name))
    };
    match (value.stored_in(&column.kind), &column.kind) {
        (Cell::BadText(text), _) => Err(unfit(
            &String::from_utf8_lossy(&text),
            "does not fit the column without loss",
        )),
        (Cell::Real(r), Kind::Sqlite(_)) if r.is_nan() => {
            Err(unfit(&r, "is NULL where SQLite is to keep it"))
        }
        // MySQL takes 24 for 2024.
        (year, Kind::Mysql(kind)) if !kind.has_year(&year) => Err(unfit(
            &year,
            "is none of the years that MySQL keeps, 0 and 1901 to 2155",
        )),
        (fits, _) => Ok(fits),
    }
}
