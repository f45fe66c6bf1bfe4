//! SQLite: triggers that note keys in a change table, one writer at a time.

pub(crate) mod capture;
mod images;
pub(crate) mod introspect;
pub(crate) mod joined;
pub(crate) mod read;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{
    Connection as _, Decode, Row as _, Sqlite, SqlitePool, Transaction, TypeInfo, ValueRef,
};

use super::tx::Fetched;
use super::{Arg, CONNECTIONS, References, Tx};
use crate::value::Cell;

fn options(path: &Path, busy: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        // A position must never survive a power cut that its rows, or the changes that
        // it stands for, did not.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(busy)
}

pub(super) fn pool(path: &Path, busy: Duration) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        // A local file does not go away between two uses; asking first would cost as much
        // as the poll itself.
        .test_before_acquire(false)
        // A full disk ends a transaction by itself; the client library counts it still, and begins no
        // other on that connection.
        .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        .acquire_timeout(busy.saturating_mul(4))
        .connect_lazy_with(options(path, busy))
}

/// The one writer of this database, from now on. A deferred transaction that turns into a writer
/// later fails at once when somebody else wrote meanwhile; this one waits.
pub(super) async fn write(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
    pool.begin_with("BEGIN IMMEDIATE").await
}

pub(super) async fn write_rows(
    pool: &SqlitePool,
    references: References,
) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let switch = match references {
        References::Unchecked => "PRAGMA foreign_keys = OFF",
        References::AtCommit | References::AtOnce => "PRAGMA foreign_keys = ON",
    };
    sqlx::query(switch).execute(&mut *connection).await?;
    let begin = sqlx::SqlStr::from_static("BEGIN IMMEDIATE");
    let mut tx = Transaction::begin(connection, Some(begin)).await?;
    if references == References::AtCommit {
        sqlx::query("PRAGMA defer_foreign_keys = ON")
            .execute(&mut *tx)
            .await?;
    }
    Ok(tx)
}

pub(super) fn cells(row: &SqliteRow) -> Result<Fetched, sqlx::Error> {
    let all = (0..row.len()).map(|at| cell(row, at));
    all.collect::<Result<_, _>>().map(Fetched)
}

/// The value in one column, as it is stored, whatever the column was declared as.
fn cell(row: &SqliteRow, at: usize) -> Result<Cell, sqlx::Error> {
    let decode = |source| sqlx::Error::ColumnDecode {
        index: at.to_string(),
        source,
    };
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let stored = value.type_info().name().to_owned();
    match stored.as_str() {
        "INTEGER" => <i64 as Decode<Sqlite>>::decode(value)
            .map(Cell::Int)
            .map_err(decode),
        "REAL" => <f64 as Decode<Sqlite>>::decode(value)
            .map(Cell::Real)
            .map_err(decode),
        "TEXT" => <Vec<u8> as Decode<Sqlite>>::decode(value)
            .map(|bytes| match String::from_utf8(bytes) {
                Ok(text) => Cell::Text(text),
                Err(e) => Cell::BadText(e.into_bytes()),
            })
            .map_err(decode),
        _ => <Vec<u8> as Decode<Sqlite>>::decode(value)
            .map(Cell::Blob)
            .map_err(decode),
    }
}

/// Advances the next AUTOINCREMENT value to at least this.
pub(super) async fn raise_sequence(
    tx: &mut Tx,
    table: &str,
    value: i64,
) -> Result<(), sqlx::Error> {
    let raise = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?";
    let args = [Arg::from(value), Arg::from(table)];
    if tx.execute(raise, &args).await? == 0 {
        let add = "INSERT INTO sqlite_sequence (seq, name) VALUES (?, ?)";
        tx.execute(add, &args).await?;
    }
    Ok(())
}
