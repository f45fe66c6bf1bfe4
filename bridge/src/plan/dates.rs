//! Dates of MySQL that are none: `0000-00-00`. What becomes of them is a choice of the mapping, and
//! it is made between the legacy row and all that is made of it.

use super::check::problem;
use super::{Column, Problem, Row, TableSpec};
use crate::spec::ZeroDates;
use crate::transform::Unmappable;
use crate::typed::Class;
use crate::value::{Cell, Kind};

const ZERO: &str = "0000-00-00";

/// The columns of a wide legacy row that may have such dates, and what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dates {
    policy: ZeroDates,
    /// Places, and what the column writes for such a date.
    columns: Vec<(usize, &'static str)>,
}

/// What a column writes for a date that is none; `None` where it has no such dates.
fn zero(column: &Column) -> Option<&'static str> {
    let Kind::Mysql(kind) = &column.kind else {
        return None;
    };
    match (kind.class, kind.base.as_str()) {
        (Class::Timestamp, _) => Some("0000-00-00 00:00:00"),
        (Class::Instant, _) => Some("0000-00-00T00:00:00Z"),
        (Class::AsWritten, "date") => Some(ZERO),
        _ => None,
    }
}

impl Dates {
    /// What the entries of a legacy table say. `key` are the places of its key, which stays as it
    /// is.
    pub(super) fn of(
        specs: &[&TableSpec],
        name: &str,
        columns: &[Column],
        key: &[usize],
        problems: &mut Vec<Problem>,
    ) -> Self {
        let policy = specs
            .first()
            .map_or_else(ZeroDates::default, |s| s.zero_dates);
        if specs.iter().any(|spec| spec.zero_dates != policy) {
            let what = "its entries say different things of zero dates".to_owned();
            let fix = "write the same `zero_dates` in all of them";
            problems.push(problem(name, None, what, fix));
        }
        if policy == ZeroDates::Keep {
            return Self::default();
        }
        let found = columns.iter().enumerate();
        let columns: Vec<_> = found
            .filter(|(at, _)| !key.contains(at))
            .filter_map(|(at, column)| Some((at, zero(column)?)))
            .collect();
        if columns.is_empty() {
            let what = "no column of it is a date of MySQL that could be zero".to_owned();
            problems.push(problem(name, None, what, "remove `zero_dates`"));
        }
        Self { policy, columns }
    }

    /// Whether no column has such dates.
    pub(super) fn are_as_they_are(&self) -> bool {
        self.columns.is_empty()
    }

    /// A legacy row without such dates.
    ///
    /// # Errors
    /// Names the column of one that is to be refused.
    pub(super) fn read(&self, columns: &[Column], row: &mut Row) -> Result<(), Unmappable> {
        for (at, zero) in &self.columns {
            let Cell::Text(text) = &row[*at] else {
                continue;
            };
            if !has_zero(text) {
                continue;
            }
            if self.policy == ZeroDates::Null && text == zero {
                row[*at] = Cell::Null;
                continue;
            }
            let name = &columns[*at].name;
            return Err(Unmappable(format!("{name}: '{text}' is no date")));
        }
        Ok(())
    }

    /// A row as the legacy table has it: where a column cannot be NULL, that was such a date.
    pub(super) fn write(&self, columns: &[Column], row: &mut Row) {
        if self.policy != ZeroDates::Null {
            return;
        }
        for (at, zero) in &self.columns {
            if row[*at].is_null() && columns[*at].required {
                row[*at] = Cell::from(*zero);
            }
        }
    }

    /// Whether a column's zero dates are NULL to the other side.
    pub(super) fn nulls(&self, column: usize) -> bool {
        self.policy == ZeroDates::Null && self.columns.iter().any(|(at, _)| *at == column)
    }

    /// Whether rows must be looked at.
    pub(super) fn refuses(&self) -> bool {
        self.policy == ZeroDates::Refuse
    }
}

/// Whether a date has no year, month or day.
fn has_zero(text: &str) -> bool {
    let part = |range| text.get(range);
    part(0..4) == Some("0000") || part(5..7) == Some("00") || part(8..10) == Some("00")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::Typed;

    fn column(bare: &str, required: bool) -> Column {
        Column {
            name: bare.to_owned(),
            kind: Kind::Mysql(Typed::mysql(bare, bare, None)),
            required,
        }
    }

    fn dates(policy: ZeroDates, columns: &[Column]) -> Dates {
        let spec = TableSpec {
            zero_dates: policy,
            ..TableSpec::default()
        };
        let mut problems = Vec::new();
        let dates = Dates::of(&[&spec], "t", columns, &[], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        dates
    }

    #[test]
    fn zero_dates_become_null_and_come_back_where_null_cannot_be() {
        let columns = [
            column("date", true),
            column("datetime", true),
            column("timestamp", false),
        ];
        let null = dates(ZeroDates::Null, &columns);
        let zeros: Row = [ZERO, "0000-00-00 00:00:00", "0000-00-00T00:00:00Z"]
            .map(Cell::from)
            .into();
        let mut row = zeros.clone();
        null.read(&columns, &mut row).unwrap();
        assert_eq!(row, vec![Cell::Null; 3]);
        null.write(&columns, &mut row);
        assert_eq!(row[..2], zeros[..2]);
        assert_eq!(row[2], Cell::Null, "it may be NULL, so nobody knows");
        let refuse = dates(ZeroDates::Refuse, &columns);
        assert!(refuse.read(&columns, &mut zeros.clone()).is_err());
        for date in ["2026-00-07", "2026-07-00", "0000-07-07"] {
            let mut row = vec![date.into(), Cell::Null, Cell::Null];
            assert!(
                null.read(&columns, &mut row).is_err(),
                "{date} is no zero date"
            );
        }
        let mut row = vec![
            "2026-10-10".into(),
            "2026-10-10 00:00:00".into(),
            Cell::Null,
        ];
        let before = row.clone();
        refuse.read(&columns, &mut row).unwrap();
        assert_eq!(row, before);
    }

    #[test]
    fn a_choice_about_nothing_is_refused() {
        let spec = TableSpec {
            zero_dates: ZeroDates::Null,
            ..TableSpec::default()
        };
        let (mut problems, time) = (Vec::new(), [column("time", true)]);
        Dates::of(&[&spec], "t", &time, &[], &mut problems);
        Dates::of(
            &[&spec, &TableSpec::default()],
            "t",
            &[column("date", true)],
            &[],
            &mut problems,
        );
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
