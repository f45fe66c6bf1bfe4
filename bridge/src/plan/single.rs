//! Single values of a part's row, for those who need no whole image.

use outgrow_rollout::Side;

use super::Row;
use super::group::{Back, Group, Undo, Way, stored};
use crate::transform::{Transform, Unmappable};
use crate::value::Cell;

impl Group {
    /// The value of a part's column, of the row of the only legacy table.
    pub(crate) fn made(&self, part: usize, at: usize, row: &Row) -> Result<Cell, Unmappable> {
        let (table, way) = (&self.parts[part], &self.forward[part][at]);
        let column = &table.columns[at];
        stored(self.make(way, table, column, row)?, &table.name, column)
    }

    /// Whether a part's column is what a legacy row makes it.
    pub(crate) fn comes_of(&self, part: usize, at: usize, legacy: &Row, row: &Row) -> bool {
        let made = self.made(part, at, legacy);
        made.is_ok_and(|made| made == row[at])
    }

    /// How a legacy column is had back of this part alone, if it is.
    pub(crate) fn back_from(&self, part: usize, column: usize) -> Option<&Back> {
        let mut ways = self.reverse[column].iter();
        ways.find(|back| back.part == part && !matches!(back.by, Undo::Default(_)))
    }

    /// The value of a legacy column, of a part's row.
    pub(crate) fn undone(&self, back: &Back, column: usize, row: &Row) -> Result<Cell, Unmappable> {
        let made = self.unmake(back, column, row)?;
        stored(made, self.name(), &self.legacy.wide.columns[column])
    }

    /// Columns of a legacy row.
    pub(crate) fn width(&self) -> usize {
        self.legacy.wide.columns.len()
    }

    /// Whether some table writes the keys otherwise than the link knows them.
    pub(crate) fn has_key_forms(&self) -> bool {
        let sides = [Side::Legacy, Side::Extracted];
        let mut tables = sides.iter().flat_map(|side| self.tables(*side));
        tables.any(|table| !table.forms.is_empty())
    }

    /// Whether a part knows a legacy row by the key that the legacy table knows it by.
    pub(crate) fn is_known_as(&self, part: usize, row: &Row) -> bool {
        if !self.has_key_forms() {
            return true;
        }
        let table = &self.parts[part];
        let key = table.key.iter().map(|&at| self.made(part, at, row));
        let key = key.collect::<Result<Vec<_>, _>>();
        key.is_ok_and(|key| table.known(key) == self.legacy.tables[0].key_of(row))
    }
}

impl Way {
    /// The legacy column whose value it is as it is.
    pub(crate) fn same(&self) -> Option<usize> {
        match self {
            Self::By {
                from,
                by: Transform::Same,
            } => Some(*from),
            _ => None,
        }
    }
}
