//! Groups whose rows are the same on both sides but for names: a database can hand them to the
//! other without anybody looking at them.

use super::group::Way;
use super::{Column, Group, Table};
use crate::transform::Transform;
use crate::value::Kind;

/// Two tables of PostgreSQL with the same columns under perhaps other names. Whether the types are
/// the same to the letter is for the databases to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Straight {
    pub(crate) legacy: Table,
    /// Legacy columns, in the order of the extracted ones.
    pub(crate) from: Vec<Column>,
    pub(crate) extracted: Table,
}

impl Group {
    /// The two tables, where every row of the one is a row of the other.
    pub(crate) fn straight(&self) -> Option<Straight> {
        let ([legacy], [extracted]) = (self.legacy.tables.as_slice(), self.parts.as_slice()) else {
            return None;
        };
        let ways = self.forward.first()?;
        let from: Option<Vec<Column>> = ways
            .iter()
            .map(|way| match way {
                Way::By {
                    from,
                    by: Transform::Same,
                } => legacy.columns.get(*from).cloned(),
                _ => None,
            })
            .collect();
        let postgres = |table: &Table| {
            let mut kinds = table.columns.iter().map(|column| &column.kind);
            kinds.all(|kind| matches!(kind, Kind::Postgres(_)))
        };
        // A key that may be NULL, or that the target takes for another, is for the way that parks rows.
        let keyed = legacy.key.iter().all(|&at| legacy.columns[at].required) && !extracted.loose;
        let whole = self.filters.iter().all(Option::is_none) && legacy.only.is_empty();
        let plain = postgres(legacy) && postgres(extracted) && keyed && whole;
        plain.then_some(Straight {
            legacy: legacy.clone(),
            from: from?,
            extracted: extracted.clone(),
        })
    }

    /// Per column of the one extracted table its place in a legacy row, where each value of such
    /// a row is there as it is, in a column of the very same type.
    pub(crate) fn as_it_is(&self) -> Option<Vec<usize>> {
        let ([legacy], [extracted]) = (self.legacy.tables.as_slice(), self.parts.as_slice()) else {
            return None;
        };
        let whole = self.filters.iter().all(Option::is_none)
            && self.legacy.has_plain_dates()
            && legacy.forms.is_empty();
        let ways = self.forward.first().filter(|_| whole)?.iter();
        let mut places: Vec<usize> = Vec::with_capacity(extracted.columns.len());
        for (way, column) in ways.zip(&extracted.columns) {
            let Way::By {
                from,
                by: Transform::Same,
            } = way
            else {
                return None;
            };
            if legacy.columns.get(*from)?.kind != column.kind || places.contains(from) {
                return None;
            }
            places.push(*from);
        }
        Some(places)
    }
}
