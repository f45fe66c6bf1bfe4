//! A transaction of any engine: statements with `?` for their values in, rows of cells out.

use std::fmt;

use sqlx::{AssertSqlSafe, PgConnection, Postgres, Sqlite, Transaction};

use super::{Dialect, keys, mysql, postgres, sqlite};
use crate::value::{Cell, Key};

/// A transaction. Dropped without a commit, it is undone.
#[derive(Debug)]
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    Mysql(mysql::Transaction),
}

/// A value for a statement. Its type belongs to its place in the statement's text, also where it
/// is NULL: engines prepare a text once, with the types that they saw first.
#[derive(Debug, Clone)]
pub(crate) enum Arg {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    /// Of many rows, for an engine that has arrays.
    Array(postgres::binary::Array),
    /// As it is, for an engine whose columns take any type.
    Cell(Cell),
}

/// A query with its values; a macro, as each engine's query is a type of its own.
macro_rules! bound {
    ($text:expr, $args:expr, $query:ident, $array:pat => $by_array:expr) => {
        $args
            .iter()
            .fold(sqlx::query(AssertSqlSafe($text)), |$query, arg| match arg {
                Arg::Array($array) => $by_array,
                Arg::Int(value) => $query.bind(*value),
                Arg::Text(value) => $query.bind(value.clone()),
                Arg::Bytes(value) => $query.bind(value.clone()),
                Arg::Cell(Cell::Null) => $query.bind(None::<i64>),
                Arg::Cell(Cell::Int(i)) => $query.bind(*i),
                Arg::Cell(Cell::Real(r)) => $query.bind(*r),
                Arg::Cell(Cell::Text(s)) => $query.bind(s.clone()),
                Arg::Cell(Cell::Blob(b) | Cell::BadText(b)) => $query.bind(b.clone()),
            })
    };
    // Arrays are made for PostgreSQL alone.
    ($text:expr, $args:expr) => {
        bound!($text, $args, query, _ => query.bind(None::<i64>))
    };
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Arg {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Int(Some(i64::from(value)))
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<&String> for Arg {
    fn from(value: &String) -> Self {
        Self::Text(Some(value.clone()))
    }
}

/// Runs a statement of PostgreSQL that is a transaction of its own. Its values are numbered.
pub(super) async fn run(
    connection: &mut PgConnection,
    text: &str,
    args: &[Arg],
) -> Result<(), sqlx::Error> {
    let query = bound!(text.to_owned(), args, query, array => query.bind(array));
    query.execute(connection).await.map(drop)
}

impl Tx {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::Mysql(_) => Dialect::Mysql,
        }
    }

    /// Runs a statement whose text was put together from quoted names only. Rows affected.
    pub(crate) async fn execute(&mut self, text: &str, args: &[Arg]) -> Result<u64, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let query = bound!(text, args);
                Ok(query.execute(&mut **tx).await?.rows_affected())
            }
            Self::Postgres(tx) => {
                let text = postgres::numbered(text);
                let query = bound!(text, args, query, array => query.bind(array));
                Ok(query.execute(&mut **tx).await?.rows_affected())
            }
            // MySQL prepares no savepoints, which MariaDB does.
            Self::Mysql(tx) if args.is_empty() => {
                let text = sqlx::raw_sql(AssertSqlSafe(text));
                let done = text.execute(tx.ask()?).await;
                Ok(tx.answered(done)?.rows_affected())
            }
            Self::Mysql(tx) => {
                let done = bound!(text, args).execute(tx.ask()?).await;
                Ok(tx.answered(done)?.rows_affected())
            }
        }
    }

    /// Statements without values, one after another.
    pub(crate) async fn script(&mut self, text: String) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => sqlx::raw_sql(AssertSqlSafe(text))
                .execute(&mut **tx)
                .await
                .map(drop),
            Self::Postgres(tx) => sqlx::raw_sql(AssertSqlSafe(text))
                .execute(&mut **tx)
                .await
                .map(drop),
            Self::Mysql(tx) => {
                let text = sqlx::raw_sql(AssertSqlSafe(text));
                let done = text.execute(tx.ask()?).await;
                tx.answered(done).map(drop)
            }
        }
    }

    /// All rows of a query.
    pub(crate) async fn fetch(
        &mut self,
        text: &str,
        args: &[Arg],
    ) -> Result<Vec<Fetched>, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let query = bound!(text, args);
                let rows = query.fetch_all(&mut **tx).await?;
                rows.iter().map(sqlite::cells).collect()
            }
            Self::Postgres(tx) => {
                let text = postgres::numbered(text);
                let query = bound!(text, args, query, array => query.bind(array));
                let rows = query.fetch_all(&mut **tx).await?;
                rows.iter().map(postgres::cells).collect()
            }
            Self::Mysql(tx) => {
                let rows = bound!(text, args).fetch_all(tx.ask()?).await;
                tx.answered(rows)?.iter().map(mysql::cells).collect()
            }
        }
    }

    /// The whole number in the first column of the first row.
    pub(crate) async fn number(
        &mut self,
        text: &str,
        args: &[Arg],
    ) -> Result<Option<i64>, sqlx::Error> {
        let rows = self.fetch(text, args).await?;
        Ok(rows.first().and_then(|row| row.maybe(0)))
    }

    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
            Self::Mysql(tx) => tx.commit().await,
        }
    }

    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.rollback().await,
            Self::Postgres(tx) => tx.rollback().await,
            Self::Mysql(tx) => tx.rollback().await,
        }
    }

    /// A key's value as the engine's own tables keep it.
    pub(crate) fn key_arg(&self, value: Option<&Cell>) -> Arg {
        match self {
            Self::Sqlite(_) => Arg::Cell(value.cloned().unwrap_or(Cell::Null)),
            Self::Postgres(_) | Self::Mysql(_) => Arg::Text(value.and_then(keys::key_text)),
        }
    }

    /// The way back from [`Self::key_arg`].
    pub(crate) fn key_cell(&self, stored: &Cell) -> Cell {
        match self {
            Self::Sqlite(_) => stored.clone(),
            Self::Postgres(_) | Self::Mysql(_) => keys::key_cell(stored),
        }
    }

    /// The key in a row's columns from `first` on, up to the first NULL.
    pub(crate) fn key(&self, row: &Fetched, first: usize) -> Key {
        row.0
            .iter()
            .skip(first)
            .take(crate::plan::KEY_COLUMNS)
            .take_while(|cell| !cell.is_null())
            .map(|cell| self.key_cell(cell))
            .collect()
    }
}

/// One row of a query.
#[derive(Clone)]
pub(crate) struct Fetched(pub(crate) Vec<Cell>);

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rows may hold what nobody should read in a log.
        f.debug_tuple("Fetched").field(&self.0.len()).finish()
    }
}

impl Fetched {
    /// A whole number that is there.
    pub(crate) fn int(&self, at: usize) -> Result<i64, sqlx::Error> {
        self.maybe(at)
            .ok_or_else(|| self.other(at, "a whole number"))
    }

    /// A whole number, or NULL.
    pub(crate) fn maybe(&self, at: usize) -> Option<i64> {
        match self.0.get(at) {
            Some(Cell::Int(i)) => Some(*i),
            _ => None,
        }
    }

    pub(crate) fn text(&self, at: usize) -> Result<String, sqlx::Error> {
        self.maybe_text(at).ok_or_else(|| self.other(at, "a text"))
    }

    pub(crate) fn maybe_text(&self, at: usize) -> Option<String> {
        match self.0.get(at) {
            Some(Cell::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn other(&self, at: usize, wanted: &str) -> sqlx::Error {
        sqlx::Error::ColumnDecode {
            index: at.to_string(),
            source: format!("{wanted} was expected").into(),
        }
    }
}
