//! Statements over many rows with one array a column: their text is the same for any number of
//! rows, so the server plans it once, and a value costs neither a parameter nor, mostly, a cast.

use std::borrow::Cow;

use super::binary::{Array, Element};
use crate::db::{Arg, Dialect, Packed, Tx, list, quote};
use crate::plan::{Column, Row, Table};
use crate::value::{Cell, Kind};

/// Rows of one statement, and bytes of their values: a message of the protocol has 1 GiB at most.
pub(super) const ROWS: usize = 2_000;
const BYTES: usize = 8 << 20;

/// A condition that is true of the rows with these keys, and its values.
pub(in crate::db) fn has_key(table: &Table, keys: &[Cow<'_, [Cell]>]) -> (String, Vec<Arg>) {
    let arrays = self::keys(table, keys);
    let elements: Vec<Element> = arrays.iter().map(Array::element).collect();
    let text = condition(table, &elements);
    (text, arrays.into_iter().map(Arg::Array).collect())
}

/// The text of [`has_key`], with arrays of these.
pub(super) fn condition(table: &Table, elements: &[Element]) -> String {
    let columns: Vec<&Column> = table.key.iter().map(|&at| &table.columns[at]).collect();
    match (columns.as_slice(), elements) {
        ([one], [element]) => {
            let name = quote(&one.name);
            match element.name() == base(one) {
                true => format!("{name} = ANY (CAST(? AS {}[]))", element.name()),
                false => format!(
                    "{name} = ANY (CAST(? AS {}[])::{}[])",
                    element.name(),
                    base(one)
                ),
            }
        }
        (many, _) => {
            let names = list(many.iter().map(|column| column.name.as_str()));
            let (values, from) = unnested(many, elements);
            format!("({names}) IN (SELECT {values} FROM {from})")
        }
    }
}

/// Keys as the values of [`has_key`].
pub(super) fn keys(table: &Table, keys: &[Cow<'_, [Cell]>]) -> Vec<Array> {
    let of = |(at, &column): (usize, &usize)| {
        let cells = || keys.iter().filter_map(|key| key.get(at));
        array(&table.columns[column], cells)
    };
    table.key.iter().enumerate().map(of).collect()
}

/// Rows as the values of [`insert_text`].
pub(super) fn columns(table: &Table, rows: &[&Row]) -> Vec<Array> {
    let of = |(at, column): (usize, &Column)| {
        let cells = || rows.iter().filter_map(|row| row.get(at));
        array(column, cells)
    };
    table.columns.iter().enumerate().map(of).collect()
}

/// What inserts rows; `resolve` says what becomes of those that are there. Ids that the table
/// would generate come from the other side.
pub(super) fn insert_text(table: &Table, elements: &[Element], resolve: &str) -> String {
    let columns: Vec<&Column> = table.columns.iter().collect();
    let (values, from) = unnested(&columns, elements);
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {from} {resolve}",
        Dialect::Postgres.table(&table.name),
        list(columns.iter().map(|column| column.name.as_str()))
    )
}

/// What updates rows that are there, and a condition that is true of those that are not; `None`
/// for a table that has nothing but its key. An update need not lock a row before it writes it, as
/// an insert must that finds it there.
pub(super) fn update_text(table: &Table, elements: &[Element]) -> Option<(String, String)> {
    let columns: Vec<&Column> = table.columns.iter().collect();
    let (_, from) = unnested(&columns, elements);
    let all = || table.columns.iter().zip(elements).enumerate();
    let sets: Vec<String> = all()
        .filter(|(at, _)| !table.key.contains(at))
        .map(|(at, (column, element))| {
            format!("{} = {}", quote(&column.name), given(at, column, *element))
        })
        .collect();
    let same: Vec<String> = all()
        .filter(|(at, _)| table.key.contains(at))
        .map(|(at, (column, element))| {
            format!(
                "there.{} = {}",
                quote(&column.name),
                given(at, column, *element)
            )
        })
        .collect();
    let (on, same) = (Dialect::Postgres.table(&table.name), same.join(" AND "));
    let update = format!(
        "UPDATE {on} AS there SET {} FROM {from} WHERE {same}",
        sets.join(", ")
    );
    let missing = format!("WHERE NOT EXISTS (SELECT 1 FROM {on} AS there WHERE {same})");
    (!sets.is_empty()).then_some((update, missing))
}

/// Whether these rows go into one statement.
pub(super) fn fit(rows: &[&Row]) -> bool {
    rows.is_empty() || fitting(rows) == rows.len()
}

/// As [`fit`], of rows as a log has them.
pub(super) fn fit_packed(rows: &[&Packed]) -> bool {
    rows.len() <= ROWS && rows.iter().map(|row| row.size()).sum::<usize>() <= BYTES
}

/// Inserts rows by [`insert_text`].
pub(in crate::db) async fn insert(
    tx: &mut Tx,
    table: &Table,
    rows: &[&Row],
    resolve: &str,
) -> Result<(), sqlx::Error> {
    let mut rest = rows;
    while !rest.is_empty() {
        let (some, more) = rest.split_at(fitting(rest));
        rest = more;
        let arrays = self::columns(table, some);
        let elements: Vec<Element> = arrays.iter().map(Array::element).collect();
        let text = insert_text(table, &elements, resolve);
        let args: Vec<Arg> = arrays.into_iter().map(Arg::Array).collect();
        tx.execute(&text, &args).await?;
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
fn unnested(columns: &[&Column], elements: &[Element]) -> (String, String) {
    let all = columns.iter().zip(elements).enumerate();
    let value = |(at, (column, element)): (usize, (&&Column, &Element))| match element.name()
        == base(column)
    {
        true => format!("c{at}"),
        false => format!("CAST(c{at} AS {})", base(column)),
    };
    let mark = |element: &Element| format!("CAST(? AS {}[])", element.name());
    let values: Vec<String> = all.map(value).collect();
    let marks: Vec<String> = elements.iter().map(mark).collect();
    let names: Vec<String> = (0..columns.len()).map(|at| format!("c{at}")).collect();
    let from = format!(
        "unnest({}) AS given ({})",
        marks.join(", "),
        names.join(", ")
    );
    (values.join(", "), from)
}

/// The value of one row of the arrays.
fn given(at: usize, column: &Column, element: Element) -> String {
    match element.name() == base(column) {
        true => format!("given.c{at}"),
        false => format!("CAST(given.c{at} AS {})", base(column)),
    }
}

/// What carries a column's values where all of them are of its class.
pub(super) fn element(column: &Column) -> Element {
    match &column.kind {
        Kind::Postgres(kind) => Element::of(kind.class),
        Kind::Sqlite(_) | Kind::Mysql(_) => Element::Text,
    }
}

fn array<'a, I: Iterator<Item = &'a Cell>>(column: &Column, cells: impl Fn() -> I) -> Array {
    Array::of(element(column), cells()).unwrap_or_else(|| Array::texts(cells()))
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
