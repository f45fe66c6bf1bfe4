//! Why the bridge could not do what it was asked, and what may be tried again.

use std::time::Duration;

use outgrow_rollout::{Side, SliceId};

use crate::preflight::Problem;
use crate::spec::Capture;
use crate::tls::told;

/// A failure of a link. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{0}` is not a database the bridge can open: write `sqlite:PATH`, or `postgres://` or `mysql://USER:PASSWORD@HOST:PORT/NAME`"
    )]
    Url(String),
    /// An option of a URL, in words.
    #[error("{0}")]
    UrlOption(String),
    /// The mapping or the tables do not fit. Every problem is in the list.
    #[error("slice `{slice}` cannot be copied: {}", list(.problems))]
    Mapping {
        slice: SliceId,
        problems: Vec<Problem>,
    },
    /// A database did not do its part.
    #[error("the {side} database: {}", told(.cause))]
    Database { side: Side, cause: sqlx::Error },
    /// As [`Self::Database`], of rows that were read past the client library.
    #[error("the {side} database: {cause}")]
    File {
        side: Side,
        /// SQLite's result code.
        code: i32,
        cause: String,
    },
    #[error(
        "{0} has no capture by replication: only `postgres://` and `mysql://` databases have; use `triggers`"
    )]
    Capture(String),
    #[error(
        "{0} cannot be followed to another server: that takes `mysql://` with capture by replication, whose log names its transactions"
    )]
    NoFailover(String),
    /// Changing how changes are found would leave a gap.
    #[error(
        "changes of the {side} database are found by {was} and the config says {wanted}: put it back, or close the link with `outgrow sync close` and start the copy again"
    )]
    CaptureChanged {
        side: Side,
        was: Capture,
        wanted: Capture,
    },
    #[error(
        "the {side} database kept {kept} bytes of its log for the link, more than the limit of {limit}, so its replication slot was given up: close the link with `outgrow sync close` and start the copy again"
    )]
    LogLimit { side: Side, kept: u64, limit: u64 },
    #[error(
        "the {side} database kept {kept} bytes of changes that were not applied, more than the limit of {limit}, so changes are noted no more: close the link with `outgrow sync close` and start the copy again"
    )]
    NotedLimit { side: Side, kept: u64, limit: u64 },
    #[error(
        "a database has not answered for {0:?}; its connections are given up, and it is asked again"
    )]
    Stalled(Duration),
    /// The stream of changes broke off; it is opened again where it was.
    #[error("the {side} database: {cause}")]
    Stream { side: Side, cause: String },
    /// A certificate or a key that its URL names.
    #[error("the {side} database: {what}")]
    Certificate { side: Side, what: String },
    /// The tables are not those any more that the link was started with.
    #[error(
        "the tables of slice `{slice}` have changed, and the link has stopped before anything could be lost. What changed: {}. What is in the way: {}. Mend the table, or the mapping (then run `outgrow reload`), and run `outgrow sync resume {slice}`",
        .changes.join("; "),
        list(.problems)
    )]
    TablesChanged {
        slice: SliceId,
        changes: Vec<String>,
        problems: Vec<Problem>,
    },
    #[error("slice `{0}` is not synced yet: run `outgrow sync start`")]
    NotStarted(SliceId),
    #[error("the backfill of slice `{0}` is still running: wait until it has copied every row")]
    NotCopied(SliceId),
    #[error(
        "rows of slice `{0}` are still read again: wait until `outgrow sync status {0}` shows none"
    )]
    ReadsAgain(SliceId),
    #[error(
        "the mapping of `{table}` of slice `{slice}` was edited, and its rows cannot be read again: {why}"
    )]
    MappingEdited {
        slice: SliceId,
        table: String,
        why: String,
    },
    #[error(
        "the {side} side has not applied position {position} within {within:?} (it is at {applied}): see `outgrow sync status`"
    )]
    DrainTimeout {
        side: Side,
        position: i64,
        applied: i64,
        within: Duration,
    },
    #[error("the {0} side must be fenced before rows may flow the other way")]
    NotFenced(Side),
    #[error("{waiting} changes of the {side} side are not applied yet: drain first")]
    NotDrained { side: Side, waiting: i64 },
    #[error(
        "{0} rows were changed on both sides and wait for a person: settle them with `outgrow sync settle`"
    )]
    OpenConflicts(u64),
    #[error(
        "more than {0} rows were changed on both sides and wait for a person: settle some with `outgrow sync settle`, then `outgrow sync resume`"
    )]
    TooManyConflicts(usize),
    #[error("there is no conflict `{0}`: `outgrow sync conflicts` lists them")]
    NoConflict(String),
    #[error("conflict `{id}` cannot be settled so: {why}")]
    Unsettled { id: String, why: String },
    /// Another process has taken the link over; this one has stopped without touching a row.
    #[error("another bridge process has taken over slice `{0}`: stop one of the two")]
    Superseded(SliceId),
    /// The last transactions of the target were not on its disk yet; the log has them still.
    #[error(
        "the {side} database has lost its last transactions in a crash: it has {at} of the {applied} changes that were applied; the others are applied again"
    )]
    SetBack { side: Side, at: i64, applied: i64 },
    /// The stream that the position belongs to is gone.
    #[error(
        "the {side} database is not the one that was followed ({what}): was it restored from a backup? close the link and start the copy again"
    )]
    Discontinued { side: Side, what: String },
    /// Another server, or another log, than the one that was followed; by the names of transactions
    /// it may yet go on from it.
    #[error(
        "the {side} database is not the one that was followed ({what}). Has a fail-over put another server in its place, `outgrow sync resume {slice} --another-server` goes on with it, if its GTIDs prove that it has all that was applied. Was it restored from a backup, close the link and start the copy again"
    )]
    Elsewhere {
        side: Side,
        slice: SliceId,
        what: String,
    },
    /// Nothing proves that a server goes on from the one that was followed.
    #[error("the {side} database is not gone on with: {what}")]
    Unproved { side: Side, what: String },
    /// It takes no writes yet.
    #[error(
        "the {0} database is read-only, as a replica is: let it take writes (`SET GLOBAL read_only = OFF`), then try again"
    )]
    ReadOnly(Side),
    /// A refusal of one row that is none of its values' fault, as far as anybody can tell.
    #[error("{side}.{table}, the row with key {key}: {cause}")]
    Row {
        side: Side,
        table: String,
        key: String,
        cause: Box<Self>,
    },
    /// The log does not say which rows have changed.
    #[error(
        "the log of the {side} database does not tell all ({what}): mend that, close the link with `outgrow sync close` and start the copy again"
    )]
    Unreadable { side: Side, what: String },
    #[error(
        "capture is gone from table `{table}` of the {side} database: changes may have been missed; close the link and start the copy again"
    )]
    CaptureLost { side: Side, table: String },
    /// What was written without a check of references would leave rows that refer to nothing.
    #[error(
        "the {side} database: rows of {child} would refer to rows of {parent} that are not there"
    )]
    Orphans {
        side: Side,
        child: String,
        parent: String,
    },
    /// No verification was interrupted, or it was of something else.
    #[error(
        "no verification can be gone on with ({0}): run `outgrow sync verify` without --resume"
    )]
    NothingToResume(&'static str),
    #[error(
        "repair mends {cap} rows at the most and {found} differ: raise `repair_limit` in `[slices.ID.sync]`, reload and verify again; or end the link with `outgrow sync close` and start the copy again"
    )]
    RepairCap { cap: usize, found: usize },
}

impl Error {
    /// Whether the same step may succeed later without anybody's help: locks, full disks.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::File { code, .. } => passes(code & 0xff),
            Self::Database { cause, .. } => match code(cause) {
                Some(Code::Sqlite(code)) => passes(code),
                // Connections, rollbacks by the server, resources, locks and cancels, shutdowns; a server
                // that only reads (for now); sessions that PostgreSQL ended, idle within a transaction or
                // after a long one.
                Some(Code::State(state)) => {
                    ["08", "40", "53", "55", "57"].contains(&&state[..2])
                        || ["25006", "25P03", "25P04"].contains(&&*state)
                }
                None => matches!(
                    cause,
                    sqlx::Error::PoolTimedOut
                        | sqlx::Error::Io(_)
                        | sqlx::Error::Protocol(_)
                        | sqlx::Error::WorkerCrashed
                ),
            },
            Self::Stream { .. } | Self::Stalled(_) | Self::SetBack { .. } | Self::ReadOnly(_) => {
                true
            }
            _ => false,
        }
    }

    /// Whether rows, not circumstances, were refused: CONSTRAINT, MISMATCH, TOOBIG.
    pub(crate) fn is_about_rows(&self) -> bool {
        match self {
            Self::Database { cause, .. } if is_fence(cause) => false,
            Self::Database {
                cause: sqlx::Error::Encode(inner),
                ..
            } => inner.is::<TooLarge>(),
            Self::Database { cause, .. } => {
                match code(cause) {
                    Some(Code::Sqlite(code)) => matches!(code, 18..=20),
                    // Data that does not fit, and constraints; what a trigger of the application's raises or
                    // signals, a key that is there twice, a view's check, more than an index takes.
                    Some(Code::State(state)) => {
                        ["22", "23", "45", "P0"].contains(&&state[..2])
                            || ["21000", "44000", "54000"].contains(&&*state)
                    }
                    None => false,
                }
            }
            Self::Orphans { .. } => true,
            _ => false,
        }
    }

    /// Whether rows were refused for values that others have, too.
    pub(crate) fn is_about_uniqueness(&self) -> bool {
        match self.reason() {
            // CONSTRAINT_UNIQUE, CONSTRAINT_PRIMARYKEY, CONSTRAINT_ROWID.
            Some(Reason::Sqlite(code)) => matches!(code, 2067 | 1555 | 2579),
            // Unique and exclusion constraints.
            Some(Reason::Postgres(state)) => ["23505", "23P01"].contains(&&*state),
            // Duplicate entries, also with the key's name and of children.
            Some(Reason::Mysql(number)) => matches!(number, 1062 | 1169 | 1586 | 1761 | 1762),
            None => false,
        }
    }

    /// Whether rows were refused for what they refer to, or for what refers to them.
    pub(crate) fn is_about_references(&self) -> bool {
        match self.reason() {
            // CONSTRAINT_FOREIGNKEY, and CONSTRAINT_TRIGGER, by which RESTRICT is done.
            Some(Reason::Sqlite(code)) => matches!(code, 787 | 1811),
            Some(Reason::Postgres(state)) => ["23503", "23001"].contains(&&*state),
            Some(Reason::Mysql(number)) => matches!(number, 1216 | 1217 | 1451 | 1452),
            None => matches!(self, Self::Orphans { .. }),
        }
    }

    /// Whether a database refused a statement in a way that neither passes nor is known to be about rows.
    pub(crate) fn is_strange(&self) -> bool {
        matches!(self, Self::Database { .. }) && !self.passes() && !self.is_about_rows()
    }

    /// Whether it is a database that says so, not we.
    pub(crate) fn is_by_database(&self) -> bool {
        matches!(self, Self::Database { .. })
    }

    /// Whether somebody else held a lock for too long, or waited for one of ours.
    pub(crate) fn is_about_locks(&self) -> bool {
        match self.reason() {
            // BUSY, LOCKED.
            Some(Reason::Sqlite(code)) => matches!(code & 0xff, 5 | 6),
            Some(Reason::Postgres(state)) => ["55P03", "40P01"].contains(&&*state),
            Some(Reason::Mysql(number)) => matches!(number, 1205 | 1213),
            None => false,
        }
    }

    fn reason(&self) -> Option<Reason> {
        let Self::Database { cause, .. } = self else {
            return None;
        };
        let inner = cause.as_database_error()?;
        if let Some(mysql) = inner.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            return Some(Reason::Mysql(mysql.number()));
        }
        let code = inner.code()?;
        match inner.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
            Some(_) => code.parse().ok().map(Reason::Sqlite),
            None => Some(Reason::Postgres(code.into_owned())),
        }
    }
}

/// BUSY, LOCKED, IOERR, FULL, CANTOPEN, PROTOCOL, SCHEMA.
fn passes(code: i32) -> bool {
    matches!(code, 5 | 6 | 10 | 13 | 14 | 15 | 17)
}

/// Why exactly a database refused something, as it says it.
enum Reason {
    /// The extended result code.
    Sqlite(i32),
    Postgres(String),
    Mysql(u16),
}

impl Error {
    /// Whether two sessions of PostgreSQL made the same schema, table or function at once: one of them trips
    /// over a row of the catalog, "if not exists" or not.
    pub(crate) fn is_about_both_making(&self) -> bool {
        let Self::Database { cause, .. } = self else {
            return false;
        };
        let inner = cause.as_database_error();
        inner.is_some_and(|inner| match inner.code().as_deref() {
            Some("XX000") => inner.message().starts_with("tuple concurrently "),
            Some("23505") => inner
                .constraint()
                .is_some_and(|name| name.starts_with("pg_")),
            _ => false,
        })
    }

    /// Whether a server refused a statement as such: no right to it, or no such feature.
    pub(crate) fn is_about_statements(&self) -> bool {
        match self {
            Self::Database { cause, .. } => matches!(
                code(cause), Some(Code::State(state)) if ["42", "0A"].contains(&&state[..2])
            ),
            _ => false,
        }
    }
}

/// A row that does not go through a server's `max_allowed_packet`.
#[derive(Debug, thiserror::Error)]
#[error(
    "the row has {bytes} bytes, and the server takes {most} at once: raise `max_allowed_packet` there and start outgrow again"
)]
pub(crate) struct TooLarge {
    pub(crate) bytes: usize,
    pub(crate) most: usize,
}

/// Whether it is a fence of ours that refused.
fn is_fence(error: &sqlx::Error) -> bool {
    let inner = error.as_database_error();
    inner.is_some_and(|inner| inner.message().starts_with("outgrow: "))
}

/// How an engine names what went wrong.
enum Code {
    /// SQLite's primary result code; sqlx hands out the extended one as text.
    Sqlite(i32),
    /// Five characters, of which two name the class (SQL standard, SQLSTATE).
    State(String),
}

fn code(error: &sqlx::Error) -> Option<Code> {
    let sqlx::Error::Database(inner) = error else {
        return None;
    };
    let code = inner.code()?;
    let sqlite = inner
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some();
    if sqlite {
        return code
            .parse::<i32>()
            .ok()
            .map(|code| Code::Sqlite(code & 0xff));
    }
    if let Some(mysql) = inner.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // States of its own that say nothing: a check, a bad string, cut data, more than
        // a page takes, a row of no partition, a view's check; waits for locks,
        // too many connections, a shutdown, a server that is read-only (yet), a statement that took
        // longer than the server lets one; tables truncated, and rows changed, after a snapshot.
        match mysql.number() {
            3819 | 4025 | 1366 | 1265 | 1364 | 1118 | 1526 | 1369 => {
                return Some(Code::State("23000".to_owned()));
            }
            1205 | 1040 | 1053 | 1927 | 1317 | 1290 | 1836 | 1969 | 3024 | 1412 | 1020 => {
                return Some(Code::State("40001".to_owned()));
            }
            // A full disk, as the server, its files and its tables say it.
            3 | 20 | 1021 | 1026 | 1114 | 1878 => return Some(Code::State("53100".to_owned())),
            1030 if mysql.message().contains("error 28 ") => {
                return Some(Code::State("53100".to_owned()));
            }
            _ => {}
        }
    }
    (code.len() == 5 && code.is_ascii()).then(|| Code::State(code.into_owned()))
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Says which side's database an error came from.
pub(crate) trait OnSide<T> {
    fn on(self, side: Side) -> Result<T, Error>;
}

impl<T> OnSide<T> for Result<T, sqlx::Error> {
    fn on(self, side: Side) -> Result<T, Error> {
        self.map_err(|cause| Error::Database { side, cause })
    }
}
