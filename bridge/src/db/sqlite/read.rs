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

/// The room of a value up to so many bytes is used again for the next one that comes there.
const KEPT: usize = 256;

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

type Found = Result<Vec<Row>, Refused>;

/// Rows on their way from the thread that reads them.
pub(crate) struct Rows {
    found: mpsc::Receiver<Found>,
    spare: mpsc::Sender<Vec<Row>>,
}

impl Rows {
    /// The next ones; `None` behind the last. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Found> {
        self.found.recv().await
    }

    /// Rows that are done with: the next ones are read into their room, which costs less than to give it
    /// back on one thread and to ask for it anew on the other.
    pub(crate) fn give_back(&self, some: Vec<Row>) {
        // There may be enough of it.
        let _ = self.spare.try_send(some);
    }
}

/// The rows of a range, of those that the table is about, in one snapshot. They come while they are
/// taken: no more are in memory than are on their way.
pub(crate) fn rows(path: &Path, busy: Duration, table: &Table, range: &Range) -> Rows {
    let (only, mut args) = only_of(Dialect::Sqlite, table);
    let (place, more) = range.sql(table);
    args.extend(more);
    let text = format!(
        "SELECT {} FROM {} WHERE {only}{place}",
        columns(table),
        Dialect::Sqlite.table(&table.name)
    );
    let (into, found) = mpsc::channel(1);
    let (spare, mut room) = mpsc::channel(2);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(&path, busy, (&text, &args), (&into, &mut room)) {
            // Whoever wanted them may have gone.
            let _ = into.blocking_send(Err(error.into()));
        }
    });
    Rows { found, spare }
}

fn read(
    path: &PathBuf,
    busy: Duration,
    (text, args): (&str, &[Arg]),
    (into, room): (&mpsc::Sender<Found>, &mut mpsc::Receiver<Vec<Row>>),
) -> Result<(), Error> {
    // A file that was written ahead of is read with its log, which may have to be recovered first.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    connection.pragma_update(None, "query_only", true)?;
    let mut statement = connection.prepare(text)?;
    let width = statement.column_count();
    let mut found = statement.query(params_from_iter(args))?;
    let (mut some, mut used, mut bytes) = (Vec::with_capacity(ROWS), 0, 0);
    while let Some(row) = found.next()? {
        if used == some.len() {
            some.push(vec![Cell::Null; width]);
        }
        for (at, into) in some[used].iter_mut().enumerate() {
            let value = row.get_ref(at)?;
            if let ValueRef::Text(long) | ValueRef::Blob(long) = value {
                bytes += long.len();
            }
            put(value, into);
        }
        used += 1;
        if used >= ROWS || bytes >= BYTES {
            some.truncate(used);
            let next = room.try_recv().unwrap_or_default();
            let full = std::mem::replace(&mut some, next);
            if into.blocking_send(Ok(full)).is_err() {
                return Ok(());
            }
            (used, bytes) = (0, 0);
        }
    }
    some.truncate(used);
    let _ = into.blocking_send(Ok(some));
    Ok(())
}

/// As [`cell`], in the place of another one.
fn put(value: ValueRef<'_>, into: &mut Cell) {
    match (value, into) {
        (ValueRef::Text(bytes), into @ Cell::Text(_)) => match (std::str::from_utf8(bytes), into) {
            (Ok(text), Cell::Text(old)) if old.capacity() <= KEPT => {
                old.clear();
                old.push_str(text);
            }
            (_, into) => *into = cell(value),
        },
        (ValueRef::Blob(bytes), Cell::Blob(old)) if old.capacity() <= KEPT => {
            old.clear();
            old.extend_from_slice(bytes);
        }
        (value, into) => *into = cell(value),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of all kinds and lengths after one another, in rows whose room is used again.
    #[tokio::test]
    async fn nothing_of_a_row_is_left_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE a (id INTEGER PRIMARY KEY, v);
                 WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2999)
                 INSERT INTO a SELECT i, CASE (i * 7 + i / 256) % 8 WHEN 0 THEN NULL WHEN 1 THEN i WHEN 2 THEN i / 4.0
                 WHEN 3 THEN 'text ' || i WHEN 4 THEN '' WHEN 5 THEN substr(hex(zeroblob(1000)), 1, i)
                 WHEN 6 THEN CAST('blob ' || i AS blob) ELSE CAST(x'ff' AS text) END FROM n",
            )
            .unwrap();
        let mut all = connection.prepare("SELECT v FROM a ORDER BY id").unwrap();
        let expected: Vec<String> = all
            .query_map([], |row| Ok(format!("{:?}", cell(row.get_ref(0)?))))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let (into, found) = mpsc::channel(1);
        let (spare, mut room) = mpsc::channel(2);
        let reading = tokio::task::spawn_blocking(move || {
            let asked = ("SELECT id, v FROM a ORDER BY id", &[][..]);
            read(&path, Duration::ZERO, asked, (&into, &mut room)).unwrap();
        });
        let mut rows = Rows { found, spare };
        let mut seen = Vec::new();
        while let Some(some) = rows.next().await {
            let some = some.unwrap();
            seen.extend(some.iter().map(|row| format!("{:?}", row[1])));
            rows.give_back(some);
        }
        reading.await.unwrap();
        assert_eq!(seen, expected);
    }
}
