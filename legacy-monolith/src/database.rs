//! The one SQLite file: how it is opened, read and written.
//!
//! Owns the connection settings and the split into one writer and several readers. Refuses
//! deferred writes: every write starts with `BEGIN IMMEDIATE`, because a transaction that reads
//! first and upgrades later fails at once when another process wrote in between.

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use std::str::FromStr as _;
use std::time::Duration;

use crate::error::{Failure, StartError, is_busy};
use crate::token;

/// Other processes write the same file; ten seconds outlast their longest transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the busy timeout, so that the database's own answer comes first.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
/// Each reader has a thread of its own; more than a few gain nothing on a small machine.
const READERS: u32 = 6;

/// Handles on the shop's database; clones share the pools.
#[derive(Debug, Clone)]
pub struct Database {
    readers: SqlitePool,
    writer: SqlitePool,
    url: String,
}

impl Database {
    /// Opens (and creates, when missing) the file of `url`, such as `sqlite:shop.db`.
    ///
    /// # Errors
    /// A URL that is no file, a file that cannot be opened or is no database, a lock that outlasts
    /// ten seconds.
    pub async fn open(url: &str) -> Result<Self, StartError> {
        Self::open_waiting(url, BUSY_TIMEOUT).await
    }

    /// As [`Database::open`], waiting at most `busy_timeout` for a lock.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub async fn open_waiting(url: &str, busy_timeout: Duration) -> Result<Self, StartError> {
        let bad_url = |why: &str| StartError::DatabaseUrl {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let file = url
            .strip_prefix("sqlite:")
            .ok_or_else(|| bad_url("it does not begin with `sqlite:`"))?;
        let file = file.trim_start_matches("//");
        if file.is_empty() || file.starts_with(":memory:") || file.contains("mode=memory") {
            return Err(bad_url("the shop needs a file"));
        }
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|error| bad_url(&error.to_string()))?
            .busy_timeout(busy_timeout)
            .foreign_keys(true);
        let failed = |source: sqlx::Error| {
            if is_busy(&source) {
                return StartError::Locked {
                    url: url.to_owned(),
                };
            }
            StartError::Open {
                url: url.to_owned(),
                source,
            }
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(
                options
                    .clone()
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Normal),
            )
            .await
            .map_err(failed)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self {
            readers,
            writer,
            url: url.to_owned(),
        })
    }

    /// The pool for reading; its connections refuse to write.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Starts a write; waits its turn. Dropping it undoes it.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// Starts a write while the shop is starting, where a lock has its own error.
    pub(crate) async fn write_at_start(&self) -> Result<Transaction<'static, Sqlite>, StartError> {
        self.write().await.map_err(|error| {
            if is_busy(&error) {
                StartError::Locked {
                    url: self.url.clone(),
                }
            } else {
                StartError::Fill(error)
            }
        })
    }

    /// Whether the database answers and holds the shop.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        sqlx::query("SELECT 1 FROM users LIMIT 1")
            .fetch_one(&self.readers)
            .await?;
        Ok(())
    }

    /// The key of the form tokens; made on first use, then kept, so that open pages survive a
    /// restart.
    pub(crate) async fn form_key(&self) -> Result<Vec<u8>, StartError> {
        const READ: &str = "SELECT value FROM settings WHERE name = 'form_key'";
        let known: Option<String> = sqlx::query_scalar(READ)
            .fetch_optional(&self.readers)
            .await
            .map_err(StartError::Fill)?;
        if let Some(key) = known {
            return Ok(key.into_bytes());
        }
        let fresh = token::secret().map_err(|failure| StartError::Seed(failure.to_string()))?;
        let mut tx = self.write_at_start().await?;
        sqlx::query(
            "INSERT INTO settings(name, value) VALUES ('form_key', ?) ON CONFLICT DO NOTHING",
        )
        .bind(fresh)
        .execute(&mut *tx)
        .await
        .map_err(StartError::Fill)?;
        let key: String = sqlx::query_scalar(READ)
            .fetch_one(&mut *tx)
            .await
            .map_err(StartError::Fill)?;
        tx.commit().await.map_err(StartError::Fill)?;
        Ok(key.into_bytes())
    }

    /// Waits for the connections in use and closes all.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
