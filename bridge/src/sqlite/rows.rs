//! Reads and writes rows of the slice's tables.

use sqlx::{Row as _, SqliteConnection};

use super::{bind, cell, list, quote, sql};
use crate::plan::{Row, Table};
use crate::value::{Affinity, Cell, Key};

/// Values bound in one statement: well under SQLite's least limit of 32,766, and large enough
/// that the cost of a statement is spread over many rows.
const BINDS: usize = 900;

/// The rows with these keys, in no order.
pub(crate) async fn by_keys(
    connection: &mut SqliteConnection,
    table: &Table,
    keys: &[Key],
) -> Result<Vec<Row>, sqlx::Error> {
    let mut found = Vec::with_capacity(keys.len());
    for some in keys.chunks((BINDS / table.key.len()).max(1)) {
        let text = format!(
            "SELECT {} FROM {} WHERE {}",
            columns(table),
            quote(&table.name),
            in_keys(table, some.len())
        );
        let mut query = sql(text);
        for value in some.iter().flatten() {
            query = bind(query, value);
        }
        for row in query.fetch_all(&mut *connection).await? {
            found.push(cells(&row, table.columns.len())?);
        }
    }
    Ok(found)
}

/// Rows after a key, in key order.
pub(crate) async fn after(
    connection: &mut SqliteConnection,
    table: &Table,
    after: Option<&Key>,
    limit: u32,
) -> Result<Vec<Row>, sqlx::Error> {
    let keys: Vec<String> = table.key.iter().map(|&at| ordered(table, at)).collect();
    let keys = keys.join(", ");
    let place = match after {
        Some(key) => format!("WHERE ({keys}) > ({})", marks(key.len())),
        None => String::new(),
    };
    let text = format!(
        "SELECT {} FROM {} {place} ORDER BY {keys} LIMIT {limit}",
        columns(table),
        quote(&table.name)
    );
    let mut query = sql(text);
    for value in after.into_iter().flatten() {
        query = bind(query, value);
    }
    let rows = query.fetch_all(connection).await?;
    rows.iter()
        .map(|row| cells(row, table.columns.len()))
        .collect()
}

/// The last rows in key order.
pub(crate) async fn last(
    connection: &mut SqliteConnection,
    table: &Table,
    limit: u32,
) -> Result<Vec<Row>, sqlx::Error> {
    let keys: Vec<String> = table
        .key
        .iter()
        .map(|&at| format!("{} DESC", ordered(table, at)))
        .collect();
    let text = format!(
        "SELECT {} FROM {} ORDER BY {} LIMIT {limit}",
        columns(table),
        quote(&table.name),
        keys.join(", ")
    );
    let rows = sql(text).fetch_all(connection).await?;
    rows.iter()
        .map(|row| cells(row, table.columns.len()))
        .collect()
}

pub(crate) async fn count(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<u64, sqlx::Error> {
    let text = format!("SELECT count(*) FROM {}", quote(table));
    let found: i64 = sql(text).fetch_one(connection).await?.try_get(0)?;
    Ok(u64::try_from(found).unwrap_or(0))
}

/// Writes rows by key: new ones are inserted, present ones updated in place. Never REPLACE, which
/// would delete other rows that share a unique value.
pub(crate) async fn upsert(
    connection: &mut SqliteConnection,
    table: &Table,
    rows: &[&Row],
) -> Result<(), sqlx::Error> {
    let keys = list(table.key.iter().map(|&at| table.columns[at].name.as_str()));
    let sets: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(at, _)| !table.key.contains(at))
        .map(|(_, c)| format!("{0} = excluded.{0}", quote(&c.name)))
        .collect();
    let resolve = if sets.is_empty() {
        "DO NOTHING".to_owned()
    } else {
        format!("DO UPDATE SET {}", sets.join(", "))
    };
    let width = table.columns.len();
    let one = format!("({})", marks(width));
    for some in rows.chunks((BINDS / width).max(1)) {
        let values = vec![one.as_str(); some.len()].join(", ");
        let text = format!(
            "INSERT INTO {} ({}) VALUES {values} ON CONFLICT ({keys}) {resolve}",
            quote(&table.name),
            columns(table)
        );
        let mut query = sql(text);
        for value in some.iter().flat_map(|row| row.iter()) {
            query = bind(query, value);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

pub(crate) async fn delete(
    connection: &mut SqliteConnection,
    table: &Table,
    keys: &[&Key],
) -> Result<(), sqlx::Error> {
    for some in keys.chunks((BINDS / table.key.len()).max(1)) {
        let text = format!(
            "DELETE FROM {} WHERE {}",
            quote(&table.name),
            in_keys(table, some.len())
        );
        let mut query = sql(text);
        for value in some.iter().flat_map(|key| key.iter()) {
            query = bind(query, value);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

fn cells(row: &sqlx::sqlite::SqliteRow, width: usize) -> Result<Row, sqlx::Error> {
    (0..width).map(|at| cell(row, at)).collect()
}

fn columns(table: &Table) -> String {
    list(table.columns.iter().map(|c| c.name.as_str()))
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn in_keys(table: &Table, count: usize) -> String {
    let names = list(table.key.iter().map(|&at| table.columns[at].name.as_str()));
    if table.key.len() == 1 {
        format!("{names} IN ({})", marks(count))
    } else {
        let one = format!("({})", marks(table.key.len()));
        format!("({names}) IN (VALUES {})", vec![one; count].join(", "))
    }
}

/// A key column in binary order. Both sides must be walked in one order, whatever collation each
/// declares; numbers have none, and naming one would keep their index from being used.
fn ordered(table: &Table, at: usize) -> String {
    let column = &table.columns[at];
    match column.affinity {
        Affinity::Text | Affinity::Blob => format!("{} COLLATE BINARY", quote(&column.name)),
        Affinity::Integer | Affinity::Numeric | Affinity::Real => quote(&column.name),
    }
}

/// Whether the key could be compared at all: a NULL in a key matches nothing.
pub(crate) fn usable(key: &[Cell]) -> bool {
    !key.iter().any(Cell::is_null)
}
