//! Which rows of a legacy table belong to an extracted one. The same rule in Rust, for rows at
//! hand, and as data that the databases' SQL is made of; the two must agree on every value.

use super::check::{pair, problem};
use super::{Problem, Row, Table, TableSpec};
use crate::typed::Class;
use crate::value::{Affinity, Cell, Kind};

/// A [`crate::RowFilter`] that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Place of the column in the legacy table.
    pub(crate) column: usize,
    /// As the column stores them; NULL is a value like the others.
    pub(crate) values: Vec<Cell>,
    pub(crate) not: bool,
}

impl Filter {
    pub(crate) fn takes(&self, row: &Row) -> bool {
        self.values
            .iter()
            .any(|value| same(value, &row[self.column]))
            != self.not
    }

    /// A value that is in no list of any filter.
    fn takes_others(&self) -> bool {
        self.not
    }

    /// The only value that it lets through.
    pub(super) fn implied(&self) -> Option<&Cell> {
        match self.values.as_slice() {
            [one] if !self.not => Some(one),
            _ => None,
        }
    }

    /// For people: `kind is 'book' or 'cd'`.
    pub(super) fn text(&self, table: &Table) -> String {
        let values: Vec<String> = self.values.iter().map(ToString::to_string).collect();
        let not = if self.not { "not " } else { "" };
        let column = &table.columns[self.column].name;
        format!("{column} is {not}{}", values.join(" or "))
    }
}

/// As a database's `=` has it, where one column may hold both kinds of numbers.
#[allow(clippy::cast_precision_loss)] // So does the database.
fn same(value: &Cell, stored: &Cell) -> bool {
    match (value, stored) {
        (Cell::Int(i), Cell::Real(r)) => (*i as f64).total_cmp(r).is_eq(),
        _ => value == stored,
    }
}

/// Checks an entry's filter. The first `own` columns are those of the first legacy table.
pub(super) fn filter(
    spec: &TableSpec,
    legacy: &Table,
    own: usize,
    problems: &mut Vec<Problem>,
) -> Option<Filter> {
    let rows = spec.rows.as_ref()?;
    let label = pair(spec);
    let mut wrong = |what: String, fix: &str| {
        problems.push(problem(&label, Some(&rows.column), what, fix));
    };
    let Some(column) = legacy.place(&rows.column) else {
        let what = "`rows` names a column that the legacy table does not have";
        wrong(what.to_owned(), "check its name");
        return None;
    };
    if column >= own {
        let what = "`rows` tells rows apart by a column of another table".to_owned();
        wrong(what, "use a column of the first legacy table");
        return None;
    }
    if rows.values.is_empty() {
        wrong("`rows` names no value".to_owned(), "name the values");
        return None;
    }
    let kind = &legacy.columns[column].kind;
    let stored = |value: &Cell| value.clone().stored_in(kind);
    let values: Vec<Cell> = rows.values.iter().map(stored).collect();
    if let Some(value) = values.iter().find(|value| !comparable(value, kind)) {
        let what = format!("`rows` compares it with {value}, which the column cannot hold exactly");
        wrong(what, "tell rows apart by text, whole numbers or NULL");
        return None;
    }
    Some(Filter {
        column,
        values,
        not: rows.not,
    })
}

/// Whether a value is compared alike here and in the database.
fn comparable(value: &Cell, kind: &Kind) -> bool {
    let (float, number, bytes) = match kind {
        Kind::Sqlite(affinity) => (
            *affinity == Affinity::Real,
            matches!(affinity, Affinity::Integer | Affinity::Numeric),
            false,
        ),
        Kind::Postgres(kind) | Kind::Mysql(kind) => (
            matches!(kind.class, Class::Real | Class::Real4),
            matches!(kind.class, Class::Int | Class::Bool),
            kind.class == Class::Bytes,
        ),
    };
    match value {
        Cell::Null => true,
        Cell::Int(_) => !float && !bytes,
        Cell::Text(_) => !float && !bytes && !number,
        Cell::Real(_) | Cell::Blob(_) | Cell::BadText(_) => false,
    }
}

/// Every set of parts that one legacy row can be in: per part, whether it is.
pub(super) fn patterns(filters: &[Option<Filter>]) -> Vec<Vec<bool>> {
    let mut columns: Vec<usize> = filters.iter().flatten().map(|f| f.column).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut found = vec![filters.iter().map(Option::is_none).collect::<Vec<bool>>()];
    for column in columns {
        let of = |filter: &Option<Filter>| filter.clone().filter(|f| f.column == column);
        let here: Vec<Option<Filter>> = filters.iter().map(of).collect();
        let mut next = Vec::new();
        for class in classes(&here) {
            for before in &found {
                let both = before.iter().zip(&class).map(|(a, b)| *a || *b);
                next.push(both.collect());
            }
        }
        found = next;
    }
    found.retain(|pattern| pattern.contains(&true));
    found.sort_unstable();
    found.dedup();
    found
}

/// What filters of one column say to each value that they name, and to all others.
fn classes(filters: &[Option<Filter>]) -> Vec<Vec<bool>> {
    let named = filters.iter().flatten().flat_map(|f| &f.values);
    let mut classes: Vec<Vec<bool>> = named
        .map(|value| {
            let says = |f: &Filter| f.values.contains(value) != f.not;
            let all = filters.iter();
            all.map(|f| f.as_ref().is_some_and(says)).collect()
        })
        .collect();
    let others = filters.iter();
    let others = others.map(|f| f.as_ref().is_some_and(Filter::takes_others));
    classes.push(others.collect());
    classes.sort_unstable();
    classes.dedup();
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(column: usize, values: &[&str]) -> Option<Filter> {
        Some(Filter {
            column,
            values: values.iter().map(|v| Cell::from(*v)).collect(),
            not: false,
        })
    }

    fn not(column: usize, values: &[&str]) -> Option<Filter> {
        let filter = is(column, values);
        filter.map(|filter| Filter {
            not: true,
            ..filter
        })
    }

    #[test]
    fn null_is_a_value_like_the_others() {
        let some = not(0, &["x"]).unwrap();
        assert!(some.takes(&vec![Cell::Null]));
        let alive = Filter {
            column: 0,
            values: vec![Cell::Null],
            not: false,
        };
        assert!(alive.takes(&vec![Cell::Null]) && !alive.takes(&vec!["".into()]));
        let one = Filter {
            values: vec![Cell::Int(1)],
            ..alive
        };
        assert!(one.takes(&vec![Cell::Real(1.0)]) && !one.takes(&vec!["1".into()]));
    }

    #[test]
    fn patterns_are_what_one_row_can_be_in() {
        // A partition: one of the two, never both.
        let two = [is(0, &["book"]), is(0, &["cd", "lp"])];
        assert_eq!(patterns(&two), [[false, true], [true, false]]);
        // With a table of all rows beside it.
        let three = [None, is(0, &["book"]), not(0, &["book"])];
        assert_eq!(patterns(&three), [[true, false, true], [true, true, false]]);
        // Of two columns every mixture.
        let mixed = [is(0, &["a"]), is(1, &["b"])];
        assert_eq!(patterns(&mixed).len(), 3);
        assert_eq!(patterns(&[None, None]), [[true, true]]);
    }
}
