//! What control remembers: one SQLite file with the states, the journal, leases and snapshots.
//!
//! A state changes only by compare-and-swap on its revision, in one transaction with its
//! journal entry, and only by the holder of the lease. Nothing here decides anything.

mod builds;
mod journal;
mod lease;
mod progress;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use outgrow_rollout::{Revision, SliceId, SliceState};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Row, Sqlite, SqlitePool, Transaction};

pub use journal::{Draft, JournalEntry, Verified};
pub use lease::{LEASE_MS, Lease};
pub use progress::{CutoverRow, StageMark};

use crate::error::StoreError;

/// Raised whenever the tables change; a store of a higher one is refused.
const SCHEMA: i64 = 1;

/// Marks the file as ours ("ogrw").
const APPLICATION_ID: i64 = 0x6f67_7277;

/// Longer than any transaction of ours takes, shorter than a person waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Readers beside the one writer that SQLite allows.
const CONNECTIONS_MAX: u32 = 4;

const TABLES: &str = "
CREATE TABLE slices (
  slice TEXT PRIMARY KEY, revision INTEGER NOT NULL, state TEXT NOT NULL
) STRICT;
CREATE TABLE journal (
  seq INTEGER PRIMARY KEY, at TEXT NOT NULL, by TEXT NOT NULL, slice TEXT NOT NULL,
  action TEXT NOT NULL, reason TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
  evidence TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE INDEX journal_by_slice ON journal (slice, seq);
CREATE TRIGGER journal_is_append_only_u BEFORE UPDATE ON journal
  BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_is_append_only_d BEFORE DELETE ON journal
  BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TABLE cutover (
  slice TEXT PRIMARY KEY, step TEXT NOT NULL, direction TEXT NOT NULL,
  started INTEGER NOT NULL, detail TEXT NOT NULL
) STRICT;
CREATE TABLE snapshots (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE stage_marks (
  slice TEXT PRIMARY KEY, stage TEXT NOT NULL, began INTEGER NOT NULL, counts TEXT NOT NULL
) STRICT;
CREATE TABLE approvals (
  slice TEXT NOT NULL, step TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
  PRIMARY KEY (slice, step)
) STRICT;
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until INTEGER NOT NULL) STRICT;
";

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

/// A change of a state together with everything that must happen with it or not at all.
#[derive(Debug)]
pub struct Change<'a> {
    pub slice: &'a SliceId,
    /// The revision that the change was decided on.
    pub expected: Revision,
    pub after: &'a SliceState,
    pub entry: &'a Draft,
    /// A new stage begins.
    pub mark: Option<&'a StageMark>,
    /// The record of a cutover that this change belongs to.
    pub cutover: Option<&'a CutoverRow>,
}

impl Store {
    /// Opens the store at `sqlite:FILE`, making it when missing.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the file is locked, damaged, of another program or of a newer
    /// version.
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        let path = address
            .strip_prefix("sqlite:")
            .map(|rest| rest.strip_prefix("//").unwrap_or(rest))
            .filter(|path| !path.is_empty() && !path.starts_with(':'))
            .map(PathBuf::from)
            .ok_or_else(|| StoreError::Address(address.to_owned()))?;
        let options = SqliteConnectOptions::from_str("sqlite:")
            .map_err(StoreError::Database)?
            .filename(&path)
            .in_memory(false)
            .shared_cache(false)
            .create_if_missing(true)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal)
            // A switch of the writer must outlive a power failure.
            .synchronous(SqliteSynchronous::Full);
        let opened = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(2 * BUSY_TIMEOUT)
            // A full disk ends a transaction by itself; the client library counts it still, and begins
            // no other on that connection.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            .connect_with(options)
            .await;
        let pool = opened.map_err(|error| match StoreError::from(error) {
            StoreError::Database(source) => StoreError::Open {
                path: path.display().to_string(),
                source,
            },
            told => told,
        })?;
        let store = Self { pool };
        store.prepare(&path.display().to_string()).await?;
        Ok(store)
    }

    async fn prepare(&self, path: &str) -> Result<(), StoreError> {
        let check: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await?;
        if check != "ok" {
            return Err(StoreError::Corrupt(check));
        }
        let mut tx = self.begin().await?;
        let id: i64 = sqlx::query_scalar("PRAGMA application_id")
            .fetch_one(&mut *tx)
            .await?;
        let found: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *tx)
            .await?;
        let objects: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
            .fetch_one(&mut *tx)
            .await?;
        match (id, objects) {
            (APPLICATION_ID, _) if found > SCHEMA => {
                return Err(StoreError::Newer {
                    found,
                    known: SCHEMA,
                });
            }
            (APPLICATION_ID, _) => {}
            (0, 0) => {
                sqlx::raw_sql(TABLES).execute(&mut *tx).await?;
                // Pragmas take no parameters; both numbers are constants of this file.
                let stamp = format!(
                    "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};"
                );
                sqlx::raw_sql(sqlx::AssertSqlSafe(stamp))
                    .execute(&mut *tx)
                    .await?;
            }
            _ => return Err(StoreError::Foreign(path.to_owned())),
        }
        tx.commit().await?;
        Ok(())
    }

    /// A deferred transaction that turns into a writer would fail at once when another writes.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The stored state, or that of a slice that was just declared, stored now.
    ///
    /// # Errors
    /// Returns [`StoreError`]; [`StoreError::Unreadable`] for a state that this version cannot
    /// read.
    pub async fn load(&self, slice: &SliceId, has_tables: bool) -> Result<SliceState, StoreError> {
        if let Some(state) = self.state(slice).await? {
            if state.data.is_some() == has_tables {
                return Ok(state);
            }
            return Err(StoreError::Unreadable {
                slice: slice.to_string(),
                why: "the config gives it tables and the store knows none, or the reverse; name \
                      the slice anew"
                    .to_owned(),
            });
        }
        let state = SliceState::new(has_tables);
        sqlx::query("INSERT OR IGNORE INTO slices (slice, revision, state) VALUES (?, 0, ?)")
            .bind(slice.as_str())
            .bind(text(&state))
            .execute(&self.pool)
            .await?;
        Ok(state)
    }

    /// The stored state, if there is one.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn state(&self, slice: &SliceId) -> Result<Option<SliceState>, StoreError> {
        let row: Option<String> = sqlx::query_scalar("SELECT state FROM slices WHERE slice = ?")
            .bind(slice.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|text| {
            serde_json::from_str(&text).map_err(|error| StoreError::Unreadable {
                slice: slice.to_string(),
                why: error.to_string(),
            })
        })
        .transpose()
    }

    /// Stores a new state with its journal entry, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Moved`] if the revision is no longer the expected one,
    /// [`StoreError::Held`] if the lease belongs to somebody else.
    ///
    /// Cancel safe: it has happened wholly or not at all, but the caller cannot know which.
    pub async fn change(&self, lease: &Lease, change: &Change<'_>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        let moved = sqlx::query(
            "UPDATE slices SET revision = ?, state = ? WHERE slice = ? AND revision = ?",
        )
        .bind(signed(change.after.revision.0))
        .bind(text(change.after))
        .bind(change.slice.as_str())
        .bind(signed(change.expected.0))
        .execute(&mut *tx)
        .await?;
        if moved.rows_affected() == 0 {
            let actual: Option<i64> =
                sqlx::query_scalar("SELECT revision FROM slices WHERE slice = ?")
                    .bind(change.slice.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
            let actual = Revision(actual.and_then(|r| u64::try_from(r).ok()).unwrap_or(0));
            return Err(StoreError::Moved { actual });
        }
        journal::append(&mut tx, change.slice.as_str(), change.entry).await?;
        if let Some(mark) = change.mark {
            progress::put_mark(&mut tx, change.slice, mark).await?;
        }
        if let Some(row) = change.cutover {
            progress::put_cutover(&mut tx, change.slice, row).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Writes a journal entry without a change of state.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn note(&self, slice: &SliceId, entry: &Draft) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        journal::append(&mut tx, slice.as_str(), entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Replaces a snapshot.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn put_snapshot(&self, name: &str, body: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO snapshots (name, body) VALUES (?, ?)
             ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        )
        .bind(name)
        .bind(body)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// # Errors
    /// Returns [`StoreError`].
    pub async fn snapshot(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT body FROM snapshots WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.get("body")))
    }

    /// Waits until every connection is closed.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Plain data always serializes: its maps have text keys and its numbers are finite.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// SQLite numbers are signed; revisions stay far below.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
