//! SQLite databases that vanish with the test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tempfile::TempDir;

use crate::disk::Disk;

/// As long as the product waits for another writer.
const BUSY: Duration = Duration::from_secs(5);

/// A database file in a directory of its own, opened as the product opens it (WAL, foreign
/// keys, a busy timeout). Dropping it removes the file.
#[derive(Debug)]
pub struct TempDatabase {
    pool: SqlitePool,
    path: PathBuf,
    _dir: TempDir,
}

impl TempDatabase {
    /// An empty database.
    ///
    /// # Panics
    /// Panics when there is no room for a temporary file.
    pub async fn new() -> Self {
        Self::at(tempfile::tempdir().expect("there is room for a temporary directory")).await
    }

    async fn at(dir: TempDir) -> Self {
        let path = dir.path().join("test.db");
        let pool = open(&path).await;
        Self {
            pool,
            path,
            _dir: dir,
        }
    }

    /// An empty database on a disk that others may fill.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub async fn on_disk(disk: &Disk) -> Self {
        let dir = tempfile::tempdir_in(disk.path()).expect("there is room on the disk");
        Self::at(dir).await
    }

    /// A database after these statements.
    ///
    /// # Panics
    /// Panics when a statement fails.
    pub async fn with(statements: &str) -> Self {
        let database = Self::new().await;
        database.execute(statements).await;
        database
    }

    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `sqlite:PATH`, as the config and the flags want it.
    pub fn url(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    /// Runs one or more statements.
    ///
    /// # Panics
    /// Panics, showing the statement, when one fails.
    #[allow(clippy::panic)] // The statement is the message of the failing test.
    pub async fn execute(&self, statements: &str) {
        self.pool
            .execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned())))
            .await
            .unwrap_or_else(|e| panic!("{e}: {statements}"));
    }

    /// The one integer that a query gives.
    ///
    /// # Panics
    /// Panics, showing the query, when it gives none.
    #[allow(clippy::panic)] // The query is the message of the failing test.
    pub async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{e}: {query}"))
    }
}

/// Opens (and creates) a database file as the product does.
///
/// # Panics
/// Panics when it cannot be opened.
#[allow(clippy::panic)] // The path is the message of the failing test.
pub async fn open(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .foreign_keys(true)
        .busy_timeout(BUSY);
    SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_statements_and_vanishes() {
        let database =
            TempDatabase::with("create table t (a); insert into t values (1), (2)").await;
        assert_eq!(database.number("select count(*) from t").await, 2);
        let path = database.path().to_owned();
        drop(database);
        assert!(!path.exists());
    }
}
