//! The service's SQLite file: one writer, several readers.
//!
//! Owns how the file is opened and how transactions begin. Refuses deferred write transactions: one
//! that reads first and writes later fails at once with "database is locked" when another process
//! (the bridge) has written in between, so every write begins with `BEGIN IMMEDIATE`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::error::StartError;

/// How long a statement waits for a lock. The bridge writes the same file in short transactions; a
/// wait longer than this means that something is wrong.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a connection. Longer than [`BUSY_TIMEOUT`], so that the request
/// behind a waiting one does not give up before it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(8);

/// Readers do not wait for one another in WAL mode. Each is a thread, and more than a few only
/// compete for the cores.
const READERS: u32 = 4;

/// SQLite has one writer at a time; a queue of requests before one connection is fairer than
/// several connections polling for the lock.
const WRITERS: u32 = 1;

/// What a service keeps in its file.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Statements that create what is missing and leave alone what is there.
    pub create: &'static [&'static str],
    /// Queries that fail unless the tables have the columns that the service uses.
    pub probe: &'static [&'static str],
}

/// The open file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
}

impl Database {
    /// Opens or creates the file, creates missing tables and checks those that are there.
    ///
    /// # Errors
    /// [`StartError::OpenDatabase`], [`StartError::PrepareTables`] or [`StartError::WrongTables`].
    pub async fn open(path: &Path, schema: Schema) -> Result<Database, StartError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL this keeps the file sound at any crash; only a power cut may take the last
            // commits, which is the usual bargain for a service of this kind.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let open = |source| StartError::OpenDatabase {
            path: path.to_owned(),
            source,
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(WRITERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await
            .map_err(open)?;
        prepare(&writer, path, schema).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(open)?;
        Ok(Database {
            writer,
            readers,
            path: path.to_owned(),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A transaction that sees one state of the file, however many queries it makes.
    ///
    /// # Errors
    /// When no connection is free in time. Cancel safe.
    pub async fn read(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.readers.begin().await
    }

    /// A transaction that holds the write lock from the start. Dropped without a commit, it is
    /// rolled back.
    ///
    /// # Errors
    /// When the lock cannot be had in time. Cancel safe.
    pub async fn write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// Waits for running queries and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn prepare(writer: &SqlitePool, path: &Path, schema: Schema) -> Result<(), StartError> {
    let prepare = |source| StartError::PrepareTables {
        path: path.to_owned(),
        source,
    };
    let mut tx = writer
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(prepare)?;
    let kit = [crate::idempotency::SCHEMA, crate::outbox::SCHEMA];
    for part in kit.into_iter().chain([schema]) {
        run_all(&mut tx, part.create)
            .await
            .map_err(|source| StartError::WrongTables {
                path: path.to_owned(),
                source,
            })?;
        run_all(&mut tx, part.probe)
            .await
            .map_err(|source| StartError::WrongTables {
                path: path.to_owned(),
                source,
            })?;
    }
    tx.commit().await.map_err(prepare)
}

async fn run_all(
    connection: &mut SqliteConnection,
    statements: &[&'static str],
) -> Result<(), sqlx::Error> {
    for statement in statements {
        sqlx::query(*statement).execute(&mut *connection).await?;
    }
    Ok(())
}
