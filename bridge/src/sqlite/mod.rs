//! Everything that is particular to SQLite: triggers and a change table for capture, the shape of
//! statements, transactions. The rest of the crate speaks of sides, tables, keys and cells only,
//! so that another engine is another module like this one.

pub(crate) mod books;
pub(crate) mod capture;
pub(crate) mod introspect;
pub(crate) mod rows;
pub(crate) mod stream;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outgrow_rollout::{Side, SliceId};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Decode, Row as _, Sqlite, SqlitePool, Transaction, TypeInfo, ValueRef};

use crate::error::{Error, OnSide};
use crate::spec::DatabaseUrl;
use crate::value::Cell;

/// Per side: the worker's two, one for calls, one to spare for reading while both wait.
const CONNECTIONS: u32 = 4;

/// One side's database, as one slice's link sees it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) side: Side,
    pub(crate) slice: SliceId,
    pool: SqlitePool,
}

impl Database {
    /// Connects when first asked something, so that a preflight can report a missing file.
    pub(crate) fn new(side: Side, slice: SliceId, url: &DatabaseUrl, busy: Duration) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(url.path())
            .create_if_missing(false)
            // A position must never survive a power cut that its rows, or the changes that
            // it stands for, did not.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(busy);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            // A local file does not go away between two uses; asking first would cost as much
            // as the poll itself.
            .test_before_acquire(false)
            .acquire_timeout(busy.saturating_mul(4))
            .connect_lazy_with(options);
        Self { side, slice, pool }
    }

    /// A snapshot: everything read through it is of one moment.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Sqlite>, Error> {
        self.pool.begin().await.on(self.side)
    }

    /// The one writer of this database, from now on. A deferred transaction that turns into a
    /// writer later fails at once when somebody else wrote meanwhile; this one waits.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.on(self.side)
    }

    /// As [`Self::write`], with references between tables checked at the commit, or not at all.
    pub(crate) async fn write_rows(
        &self,
        references: References,
    ) -> Result<Transaction<'static, Sqlite>, Error> {
        let mut connection = self.pool.acquire().await.on(self.side)?;
        let switch = match references {
            References::Unchecked => "PRAGMA foreign_keys = OFF",
            References::AtCommit | References::AtOnce => "PRAGMA foreign_keys = ON",
        };
        sqlx::query(switch)
            .execute(&mut *connection)
            .await
            .on(self.side)?;
        let mut tx = Transaction::begin(
            connection,
            Some(sqlx::SqlStr::from_static("BEGIN IMMEDIATE")),
        )
        .await
        .on(self.side)?;
        if references == References::AtCommit {
            sqlx::query("PRAGMA defer_foreign_keys = ON")
                .execute(&mut *tx)
                .await
                .on(self.side)?;
        }
        Ok(tx)
    }

    /// Readers must never wait for writers, nor the other way round. The mode stays in the file.
    pub(crate) async fn use_wal(&self) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await.on(self.side)?;
        sqlx::query("PRAGMA journal_mode = WAL")
            .execute(&mut *connection)
            .await
            .on(self.side)?;
        Ok(())
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// The quoted name of one of this slice's own tables.
    pub(crate) fn own(&self, what: &str) -> String {
        quote(&self.own_bare(what))
    }

    pub(crate) fn own_bare(&self, what: &str) -> String {
        format!("_outgrow_{}_{what}", self.slice)
    }
}

/// When references between tables must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum References {
    /// While not every table is filled, and when rows swap their unique values.
    Unchecked,
    AtCommit,
    /// Row by row, so that the row that breaks one is known.
    AtOnce,
}

/// An identifier as SQL text. The only place where names become SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(quote).collect();
    quoted.join(", ")
}

/// A statement whose text was put together here, from quoted names only.
pub(crate) fn sql(text: String) -> Query<'static, Sqlite, SqliteArguments> {
    sqlx::query(AssertSqlSafe(text))
}

pub(crate) fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    cell: &Cell,
) -> Query<'q, Sqlite, SqliteArguments> {
    match cell {
        Cell::Null => query.bind(None::<i64>),
        Cell::Int(i) => query.bind(*i),
        Cell::Real(r) => query.bind(*r),
        Cell::Text(s) => query.bind(s.clone()),
        Cell::Blob(b) | Cell::BadText(b) => query.bind(b.clone()),
    }
}

/// The value in one column, as it is stored, whatever the column was declared as.
pub(crate) fn cell(row: &SqliteRow, at: usize) -> Result<Cell, sqlx::Error> {
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

/// Milliseconds since 1970.
pub(crate) fn millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_millis()).ok())
        .unwrap_or(0)
}

pub(crate) fn now_ms() -> i64 {
    millis(SystemTime::now())
}
