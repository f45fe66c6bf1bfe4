//! What a row of the log says: which key has changed. Pure.

use std::sync::Arc;

use super::event::Logged;
use super::image;
use super::rows::{Changed, Value};
use super::value::{Part, part};
use crate::db::images::Texts;
use crate::plan::Table;
use crate::value::Kind;

/// A table that is followed.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) table: Table,
    /// Charset of each column of the key, where it has one.
    pub(super) charsets: Vec<Option<String>>,
    /// Those of all columns, where rows are noted.
    pub(super) noting: Option<Vec<Option<String>>>,
}

/// A change as `changes` has it.
#[derive(Debug)]
pub(super) struct Noted {
    /// `None` for a heartbeat.
    pub(super) shape: Option<Arc<Shape>>,
    pub(super) op: &'static str,
    pub(super) at: i64,
    /// None at all where the change is of every row.
    pub(super) keys: Vec<Part>,
    /// Its rows, where they are to be noted.
    pub(super) rows: Option<Texts>,
}

/// Why the log does not tell a key, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// The server logs no names of columns.
    Names,
    /// There is no such column in the log.
    Column(String),
    /// The row in the log does not have it.
    Image(String),
    /// A value that is not of its column's type.
    Value(String),
}

/// Where the key's columns are in the log's rows.
pub(super) fn places(table: &Table, columns: &[Logged]) -> Result<Vec<usize>, Untold> {
    if columns.iter().any(|column| column.name.is_none()) {
        return Err(Untold::Names);
    }
    let place = |&at: &usize| {
        let name = &table.columns[at].name;
        let same = |column: &Logged| {
            let logged = column.name.as_ref();
            logged.is_some_and(|logged| logged.to_lowercase() == name.to_lowercase())
        };
        let found = columns.iter().position(same);
        found.ok_or_else(|| Untold::Column(name.clone()))
    };
    table.key.iter().map(place).collect()
}

/// What a row changes: its key, and its former key if that was another.
pub(super) fn changes_of(
    shape: &Arc<Shape>,
    columns: &[Logged],
    places: &[usize],
    row: &Changed<'_>,
    at: i64,
) -> Result<Vec<Noted>, Untold> {
    let old = match &row.before {
        Some(values) => Some(key(shape, columns, places, values, None)?),
        None => None,
    };
    let new = match &row.after {
        // What an update did not touch may be missing after it.
        Some(values) => Some(key(shape, columns, places, values, old.as_deref())?),
        None => None,
    };
    let noted = |op, keys, rows| Noted {
        shape: Some(Arc::clone(shape)),
        op,
        at,
        keys,
        rows,
    };
    let rows = image::texts(shape, columns, places, row);
    Ok(match (old, new) {
        (Some(old), Some(new)) if old == new => vec![noted("u", new, rows)],
        (Some(old), Some(new)) => {
            let (left, arrived) = rows.map(Texts::moved).unzip();
            vec![noted("d", old, left), noted("u", new, arrived)]
        }
        (Some(old), None) => vec![noted("d", old, rows)],
        (None, Some(new)) => vec![noted("i", new, rows)],
        (None, None) => Vec::new(),
    })
}

fn key(
    shape: &Shape,
    columns: &[Logged],
    places: &[usize],
    values: &[Value<'_>],
    before: Option<&[Part]>,
) -> Result<Vec<Part>, Untold> {
    let named = |at: usize| &shape.table.columns[shape.table.key[at]];
    let one = |(at, value): (usize, &Value<'_>)| match value {
        Value::Null => Ok(Part::Null),
        Value::Absent => before
            .and_then(|before| before.get(at).cloned())
            .ok_or_else(|| Untold::Image(named(at).name.clone())),
        Value::Bytes(bytes) => {
            let found = match &named(at).kind {
                Kind::Mysql(kind) => part(kind, &columns[places[at]], bytes),
                Kind::Sqlite(_) | Kind::Postgres(_) => None,
            };
            found.ok_or_else(|| Untold::Value(named(at).name.clone()))
        }
    };
    let values = values.iter().take(shape.table.key.len());
    values.enumerate().map(one).collect()
}
