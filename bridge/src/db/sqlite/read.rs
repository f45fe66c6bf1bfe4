//! Many rows of a SQLite file, as fast as it gives them. The client library that does all else sends
//! each row between two threads, with a copy of each value; here rows come by the hundred.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Error, OpenFlags, ToSql, params_from_iter};
use tokio::sync::mpsc;

use crate::db::rows::{columns, only_of};
use crate::db::sums::Range;
use crate::db::{Arg, Dialect};
use crate::plan::{Row, Table};
use crate::value::Cell;

/// Rows that are given at once, of so many bytes at the most, or one.
const ROWS: usize = 256;
const BYTES: usize = 128 << 10;

/// Why rows could not be read.
#[derive(Debug)]
pub(crate) struct Refused {
    /// SQLite's result code.
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::SqliteFailure(failure, _) => failure.extended_code,
            _ => 0,
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

/// The rows of a range, of those that the table is about, in one snapshot. They come while they are
/// taken: no more are in memory than are on their way.
pub(crate) fn rows(
    path: &Path,
    busy: Duration,
    table: &Table,
    range: &Range,
) -> mpsc::Receiver<Result<Vec<Row>, Refused>> {
    let (only, mut args) = only_of(Dialect::Sqlite, table);
    let (place, more) = range.sql(table);
    args.extend(more);
    let text = format!(
        "SELECT {} FROM {} WHERE {only}{place}",
        columns(table),
        Dialect::Sqlite.table(&table.name)
    );
    let (into, rows) = mpsc::channel(1);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(&path, busy, &text, &args, &into) {
            // Whoever wanted them may have gone.
            let _ = into.blocking_send(Err(error.into()));
        }
    });
    rows
}

fn read(
    path: &PathBuf,
    busy: Duration,
    text: &str,
    args: &[Arg],
    into: &mpsc::Sender<Result<Vec<Row>, Refused>>,
) -> Result<(), Error> {
    // A file that was written ahead of is read with its log, which may have to be recovered first.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    connection.pragma_update(None, "query_only", true)?;
    let mut statement = connection.prepare(text)?;
    let width = statement.column_count();
    let mut found = statement.query(params_from_iter(args))?;
    let (mut some, mut bytes) = (Vec::with_capacity(ROWS), 0);
    while let Some(row) = found.next()? {
        let mut cells = Row::with_capacity(width);
        for at in 0..width {
            let value = row.get_ref(at)?;
            if let ValueRef::Text(long) | ValueRef::Blob(long) = value {
                bytes += long.len();
            }
            cells.push(cell(value));
        }
        some.push(cells);
        if some.len() >= ROWS || bytes >= BYTES {
            let full = std::mem::replace(&mut some, Vec::with_capacity(ROWS));
            if into.blocking_send(Ok(full)).is_err() {
                return Ok(());
            }
            bytes = 0;
        }
    }
    let _ = into.blocking_send(Ok(some));
    Ok(())
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(i) => Cell::Int(i),
        ValueRef::Real(r) => Cell::Real(r),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(_) => Cell::BadText(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
    }
}

impl ToSql for Arg {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Int(value) => value.map_or(ValueRef::Null, ValueRef::Integer),
            Self::Text(value) => bytes(value.as_ref(), ValueRef::Text),
            Self::Bytes(value) => bytes(value.as_ref(), ValueRef::Blob),
            // Made for PostgreSQL alone.
            Self::Array(_) | Self::Cell(Cell::Null) => return Ok(ToSqlOutput::Owned(Value::Null)),
            Self::Cell(Cell::Int(i)) => ValueRef::Integer(*i),
            Self::Cell(Cell::Real(r)) => ValueRef::Real(*r),
            Self::Cell(Cell::Text(text)) => ValueRef::Text(text.as_bytes()),
            Self::Cell(Cell::Blob(bytes) | Cell::BadText(bytes)) => ValueRef::Blob(bytes),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

fn bytes<'v, T: AsRef<[u8]>>(
    value: Option<&'v T>,
    of: fn(&'v [u8]) -> ValueRef<'v>,
) -> ValueRef<'v> {
    value.map_or(ValueRef::Null, |value| of(value.as_ref()))
}
