//! Statements over many rows with one array a column: their text is the same for any number of
//! rows, so the server plans it once, and a value costs neither a parameter nor a cast in the text.

use std::borrow::Cow;

use crate::db::{Arg, Dialect, Tx, list, quote, rows};
use crate::plan::{Column, Row, Table};
use crate::typed::Class;
use crate::value::{Cell, Kind};

/// Rows of one statement, and bytes of their values: a message of the protocol has 1 GiB at most.
pub(super) const ROWS: usize = 2_000;
const BYTES: usize = 8 << 20;

/// A condition that is true of the rows with these keys, and its values.
pub(in crate::db) fn has_key(table: &Table, keys: &[Cow<'_, [Cell]>]) -> (String, Vec<Arg>) {
    let columns: Vec<&Column> = table.key.iter().map(|&at| &table.columns[at]).collect();
    let args = self::keys(table, keys);
    let text = match columns.as_slice() {
        [one] => {
            let name = quote(&one.name);
            match class(one) {
                Some(Class::Bytes) => format!("{name} = ANY (CAST(? AS bytea[]))"),
                _ => format!("{name} = ANY (CAST(? AS text[])::{}[])", base(one)),
            }
        }
        many => {
            let names = list(many.iter().map(|column| column.name.as_str()));
            let (values, from) = unnested(many);
            format!("({names}) IN (SELECT {values} FROM {from})")
        }
    };
    (text, args)
}

/// Keys as the values of [`has_key`].
pub(super) fn keys(table: &Table, keys: &[Cow<'_, [Cell]>]) -> Vec<Arg> {
    let of = |(at, &column): (usize, &usize)| {
        let cells = keys.iter().filter_map(|key| key.get(at));
        array(&table.columns[column], cells)
    };
    table.key.iter().enumerate().map(of).collect()
}

/// Rows as the values of [`insert_text`].
pub(super) fn columns(table: &Table, rows: &[&Row]) -> Vec<Arg> {
    let of = |(at, column): (usize, &Column)| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        array(column, cells)
    };
    table.columns.iter().enumerate().map(of).collect()
}

/// What inserts rows; `resolve` says what becomes of those that are there. Ids that the table
/// would generate come from the other side.
pub(super) fn insert_text(table: &Table, resolve: &str) -> String {
    let columns: Vec<&Column> = table.columns.iter().collect();
    let (values, from) = unnested(&columns);
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {from} {resolve}",
        Dialect::Postgres.table(&table.name),
        list(columns.iter().map(|column| column.name.as_str()))
    )
}

/// Whether these rows go into one statement.
pub(super) fn fit(rows: &[&Row]) -> bool {
    rows.is_empty() || fitting(rows) == rows.len()
}

/// Inserts rows by [`insert_text`].
pub(in crate::db) async fn insert(
    tx: &mut Tx,
    table: &Table,
    rows: &[&Row],
    resolve: &str,
) -> Result<(), sqlx::Error> {
    let text = insert_text(table, resolve);
    let mut rest = rows;
    while !rest.is_empty() {
        let (some, more) = rest.split_at(fitting(rest));
        rest = more;
        tx.execute(&text, &self::columns(table, some)).await?;
    }
    Ok(())
}

/// How many rows go into one statement; at least one.
fn fitting(rows: &[&Row]) -> usize {
    let mut bytes = 0usize;
    let fits = rows.iter().take(ROWS).take_while(|row| {
        bytes = row
            .iter()
            .fold(bytes, |sum, cell| sum.saturating_add(size(cell)));
        bytes <= BYTES
    });
    fits.count().max(1)
}

fn size(cell: &Cell) -> usize {
    match cell {
        Cell::Null => 1,
        Cell::Int(_) | Cell::Real(_) => 16,
        Cell::Text(text) => text.len(),
        Cell::Blob(bytes) | Cell::BadText(bytes) => bytes.len(),
    }
}

/// Values that a statement selects, and where from.
fn unnested(columns: &[&Column]) -> (String, String) {
    let value = |(at, column): (usize, &&Column)| match class(column) {
        Some(Class::Bytes) => format!("c{at}"),
        _ => format!("CAST(c{at} AS {})", base(column)),
    };
    let mark = |column: &&Column| match class(column) {
        Some(Class::Bytes) => "CAST(? AS bytea[])",
        _ => "CAST(? AS text[])",
    };
    let values: Vec<String> = columns.iter().enumerate().map(value).collect();
    let marks: Vec<&str> = columns.iter().map(mark).collect();
    let names: Vec<String> = (0..columns.len()).map(|at| format!("c{at}")).collect();
    let from = format!(
        "unnest({}) AS given ({})",
        marks.join(", "),
        names.join(", ")
    );
    (values.join(", "), from)
}

fn array<'a>(column: &Column, cells: impl Iterator<Item = &'a Cell>) -> Arg {
    let args = cells.map(|cell| rows::arg(&column.kind, cell));
    match class(column) {
        Some(Class::Bytes) => Arg::Blobs(
            args.map(|arg| match arg {
                Arg::Bytes(bytes) => bytes,
                _ => None,
            })
            .collect(),
        ),
        _ => Arg::Texts(
            args.map(|arg| match arg {
                Arg::Text(text) => text,
                _ => None,
            })
            .collect(),
        ),
    }
}

fn class(column: &Column) -> Option<Class> {
    match &column.kind {
        Kind::Postgres(kind) => Some(kind.class),
        Kind::Sqlite(_) | Kind::Mysql(_) => None,
    }
}

fn base(column: &Column) -> &str {
    match &column.kind {
        Kind::Postgres(kind) => &kind.base,
        Kind::Sqlite(_) | Kind::Mysql(_) => "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_no_more_than_it_can_carry() {
        let small: Row = vec![Cell::Int(1), Cell::from("a")];
        let large: Row = vec![Cell::Int(2), Cell::Blob(vec![0; BYTES])];
        assert_eq!(fitting(&vec![&small; ROWS + 5]), ROWS);
        assert_eq!(fitting(&[&small, &small, &large, &small]), 2);
        assert_eq!(fitting(&[&large, &large]), 1, "alone, however large");
    }
}
