//! What a link is asked to keep in step: databases, tables, columns, limits. Plain data; nothing
//! is checked here but the form of a URL, because [`crate::Plan`] reports every problem at once.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use outgrow_rollout::SliceId;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::both::Writes;
use crate::clock::Clock;
use crate::error::Error;
use crate::fault::FaultHook;
use crate::load::MaxRunning;
use crate::tls::{Options, Tls};
use crate::value::Cell;
use crate::zone::{Ambiguous, Zone};

/// One slice's tables on both sides.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    pub slice: SliceId,
    pub legacy: DatabaseUrl,
    pub extracted: DatabaseUrl,
    pub tables: Vec<TableSpec>,
    pub writes: Writes,
    pub limits: Limits,
}

/// Where a database is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    /// `postgres://USER:PASSWORD@HOST:PORT/NAME`, with the options of libpq in its query.
    Postgres(PostgresUrl),
    /// `mysql://USER:PASSWORD@HOST:PORT/NAME`, or `mariadb://..`.
    Mysql(MysqlUrl),
}

/// How a database's changes are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Capture {
    /// Triggers on the mapped tables note the keys of changed rows.
    #[default]
    Triggers,
    /// They are read from the database's own log: PostgreSQL 14 or newer, MySQL 8, MariaDB 10.6.
    Replication,
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Triggers => "triggers",
            Self::Replication => "replication",
        })
    }
}

/// Checked once; its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: String,
    pub(crate) capture: Capture,
    tls: Tls,
}

impl PostgresUrl {
    pub(crate) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let options = PgConnectOptions::from_str(&self.text)?;
        let host = bare(options.get_host()).to_owned();
        Ok(self.tls.postgres(options.host(&host)))
    }

    /// The password of the URL.
    pub(crate) fn password(&self) -> Option<String> {
        password(&self.text)
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Without user, password and options.
    fn shown(&self) -> String {
        match PgConnectOptions::from_str(&self.text) {
            Ok(options) => format!(
                "postgres://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            ),
            Err(_) => "postgres://".to_owned(),
        }
    }
}

/// Checked once; its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlUrl {
    text: String,
    pub(crate) capture: Capture,
    pub(crate) follow_failover: bool,
    tls: Tls,
}

impl MysqlUrl {
    pub(crate) fn options(&self) -> Result<MySqlConnectOptions, sqlx::Error> {
        let options = MySqlConnectOptions::from_str(&self.text)?;
        let host = bare(options.get_host()).to_owned();
        Ok(self.tls.mysql(options.host(&host)))
    }

    /// The password of the URL.
    pub(crate) fn password(&self) -> Option<String> {
        password(&self.text)
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Without user, password and options.
    fn shown(&self) -> String {
        match MySqlConnectOptions::from_str(&self.text) {
            Ok(options) => format!(
                "mysql://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            ),
            Err(_) => "mysql://".to_owned(),
        }
    }
}

fn password(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let plain = percent_encoding::percent_decode_str(url.password()?).decode_utf8();
    plain.ok().map(std::borrow::Cow::into_owned)
}

/// An address of IPv6 without the brackets that it has in a URL: a certificate has none.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

impl DatabaseUrl {
    /// Takes the paths of certificates that are relative from this folder.
    #[must_use]
    pub fn based_on(mut self, folder: &Path) -> Self {
        match &mut self {
            Self::Sqlite(_) => {}
            Self::Postgres(url) => url.tls.based_on(folder),
            Self::Mysql(url) => url.tls.based_on(folder),
        }
        self
    }

    /// What is wrong with the certificates that it names.
    pub(crate) fn check_files(&self) -> Result<(), String> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(url) => url.tls.check_files(),
            Self::Mysql(url) => url.tls.check_files(),
        }
    }
}

/// What a server's URL says of TLS. `shown` is what may be printed of it.
fn tls(text: &str, options: Options, shown: &str) -> Result<Tls, Error> {
    let url = url::Url::parse(text).map_err(|_| Error::Url(shown.to_owned()))?;
    Tls::read(&url, options).map_err(Error::UrlOption)
}

impl fmt::Debug for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&url.shown()),
            Self::Mysql(url) => f.write_str(&url.shown()),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl DatabaseUrl {
    /// The same database, with its changes found in this way.
    ///
    /// # Errors
    /// [`Error::Capture`] when its engine knows no such way.
    pub fn capturing(self, capture: Capture) -> Result<Self, Error> {
        match (self, capture) {
            (Self::Postgres(url), capture) => Ok(Self::Postgres(PostgresUrl { capture, ..url })),
            (Self::Mysql(url), capture) => Ok(Self::Mysql(MysqlUrl { capture, ..url })),
            (other, Capture::Triggers) => Ok(other),
            (other, Capture::Replication) => Err(Error::Capture(other.to_string())),
        }
    }

    /// The same database, gone on with by itself where another server has taken its place and its
    /// GTIDs prove that it has all that was applied.
    ///
    /// # Errors
    /// [`Error::NoFailover`] where there are no GTIDs to prove it by.
    pub fn following_failover(self) -> Result<Self, Error> {
        match self {
            Self::Mysql(url) if url.capture == Capture::Replication => Ok(Self::Mysql(MysqlUrl {
                follow_failover: true,
                ..url
            })),
            other => Err(Error::NoFailover(other.to_string())),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // What was written may hold a password.
            let shown = "postgres://..";
            let tls = tls(text, Options::Postgres, shown)?;
            let text = text.to_owned();
            let url = PostgresUrl {
                text,
                tls,
                capture: Capture::default(),
            };
            return match url.options() {
                Ok(_) => Ok(Self::Postgres(url)),
                Err(_) => Err(Error::Url(shown.to_owned())),
            };
        }
        if text.starts_with("mysql://") || text.starts_with("mariadb://") {
            let shown = "mysql://..";
            let tls = tls(text, Options::Mysql, shown)?;
            let text = text.to_owned();
            let url = MysqlUrl {
                text,
                tls,
                capture: Capture::default(),
                follow_failover: false,
            };
            return match url.options() {
                Ok(options) if options.get_database().is_some_and(|name| !name.is_empty()) => {
                    Ok(Self::Mysql(url))
                }
                _ => Err(Error::Url(shown.to_owned())),
            };
        }
        let rest = text
            .strip_prefix("sqlite:")
            .map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match rest {
            Some(path) if !path.is_empty() && !path.starts_with(":memory:") => {
                Ok(Self::Sqlite(PathBuf::from(path)))
            }
            _ => Err(Error::Url(text.to_owned())),
        }
    }
}

/// One extracted table and the legacy table that its rows come from. Several with the same
/// legacy table split it.
#[derive(Debug, Clone, Default)]
pub struct TableSpec {
    pub legacy: String,
    pub extracted: String,
    /// Legacy columns; each must make one in `columns` alone, by something that stays the same.
    pub key: Vec<String>,
    pub columns: Vec<ColumnSpec>,
    /// What a legacy column gets that no extracted column feeds, when rows flow back.
    pub defaults: Vec<(String, Cell)>,
    /// Which legacy rows belong to the extracted table; `None` is all of them.
    pub rows: Option<RowFilter>,
    /// Legacy tables with the same key that add columns, named `table.column` in `columns` and
    /// `defaults`.
    pub also: Vec<AlsoSpec>,
    /// What becomes of the legacy table's `0000-00-00`.
    pub zero_dates: ZeroDates,
}

/// What becomes of a date of MySQL that has no year, month or day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ZeroDates {
    /// It is carried over like any other. A database that has no such dates refuses its row.
    #[default]
    Keep,
    /// Its row is parked.
    Refuse,
    /// `0000-00-00` is NULL on the other side. What comes back is `0000-00-00` where the legacy
    /// column cannot be NULL, and NULL where it can.
    Null,
}

/// A legacy table beside the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlsoSpec {
    pub table: String,
    /// Its columns that hold the first table's key.
    pub key: Vec<String>,
    /// It may have no row. Then its columns are NULL, and NULL in all of them means no row.
    pub optional: bool,
}

/// Tells the legacy rows of an extracted table from the others by one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter {
    pub column: String,
    /// NULL is a value like the others.
    pub values: Vec<Cell>,
    /// The rows whose value is none of these.
    pub not: bool,
}

/// One extracted column and where its value comes from.
#[derive(Debug, Clone)]
pub struct ColumnSpec {
    pub extracted: String,
    pub source: Source,
}

/// The origin of an extracted value. NULL stays NULL in all but [`Source::Const`].
#[derive(Debug, Clone)]
pub enum Source {
    Rename(String),
    /// Decimal text such as `12.90` on the legacy side, an integer of `10^-scale` here.
    Cents {
        from: String,
        scale: u32,
    },
    /// Codes: (legacy, extracted), one to one.
    Map {
        from: String,
        pairs: Vec<(Cell, Cell)>,
    },
    /// `YYYY-MM-DD HH:MM:SS` at this offset from UTC in seconds; here `YYYY-MM-DDTHH:MM:SSZ`.
    LocalTime {
        from: String,
        offset: i32,
    },
    /// As [`Self::LocalTime`], by the clocks of a zone.
    ZonedTime {
        from: String,
        zone: Zone,
        ambiguous: Ambiguous,
    },
    Const(Cell),
    /// CEL over the variable `value`, both ways.
    Expr {
        from: String,
        forward: String,
        reverse: String,
    },
    /// Codes that a table of the legacy database translates, one to one.
    Lookup {
        from: String,
        table: String,
        /// Its column of codes, and of what they mean.
        key: String,
        value: String,
    },
    /// One text of several legacy columns. Values that would not come back the same are refused.
    Join {
        from: Vec<String>,
        /// What stands before, between and after them: one more than there are columns.
        literals: Vec<String>,
        /// An empty piece means NULL. Else NULL is all pieces NULL, and some NULL is refused.
        empty_is_null: bool,
    },
    /// One piece of a legacy text; all its pieces are in one entry.
    Part {
        of: String,
        /// From 1.
        part: usize,
        /// What stands between two pieces.
        at: String,
        empty_is_null: bool,
    },
}

impl Source {
    /// Columns with the same text between them.
    pub fn joined(from: Vec<String>, with: &str, empty_is_null: bool) -> Self {
        let mut literals = vec![with.to_owned(); from.len().saturating_sub(1)];
        literals.insert(0, String::new());
        literals.push(String::new());
        Self::Join {
            from,
            literals,
            empty_is_null,
        }
    }

    /// The legacy columns that feed it.
    pub fn from(&self) -> Vec<&str> {
        match self {
            Self::Rename(from)
            | Self::Cents { from, .. }
            | Self::Map { from, .. }
            | Self::LocalTime { from, .. }
            | Self::ZonedTime { from, .. }
            | Self::Lookup { from, .. }
            | Self::Part { of: from, .. }
            | Self::Expr { from, .. } => vec![from],
            Self::Join { from, .. } => from.iter().map(String::as_str).collect(),
            Self::Const(_) => Vec::new(),
        }
    }
}

/// A verification that runs by itself, at a rate that leaves the databases to others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watch {
    /// From the end of one to the beginning of the next.
    pub every: Duration,
    /// Of the rows, above 0; 1 is all.
    pub share: f64,
}

/// How the writer's transactions come to the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transactions {
    /// In batches, which may cut one in two where much is to be done.
    #[default]
    Batched,
    /// A reader of the other side sees all of a transaction or nothing of it, once every row is copied:
    /// each batch takes the target from one snapshot of the source to a later one. What is too much for
    /// one batch ([`Limits::whole_changes`], eight times [`Limits::chunk_bytes`]) comes in parts, and is
    /// told of in the status until the link has caught up.
    Whole,
}

/// Bounds of a link's work.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows of one backfill chunk: large enough that a commit is cheap, small enough that the
    /// target's write lock is held for milliseconds.
    pub chunk_rows: u32,
    /// Rows of a chunk that goes from one PostgreSQL to another by COPY: so many that a commit's
    /// wait for the disk does not count, so few that changes wait for a fraction of a second.
    pub copy_rows: u32,
    /// How many such chunks are copied side by side, each over connections of its own.
    pub copy_parallel: NonZeroU32,
    /// So long they go on, one after another, while the source has no change to be followed: what a
    /// round costs beside its rows is not to count, and a change that comes amid it waits for its end.
    pub copy_round: Duration,
    /// Bytes of one chunk, about: what of it is in memory, or how long its transaction takes. A row
    /// that is larger goes alone.
    pub chunk_bytes: usize,
    /// Rows that a backfill copies in a second at the most.
    pub copy_rate: Option<NonZeroU32>,
    /// A backfill waits while the target is further behind the source than this.
    pub copy_lag: Duration,
    /// Beyond, whatever copies or compares rows waits.
    pub max_running: MaxRunning,
    /// Changes taken in one step while there is a backlog.
    pub batch_changes: u32,
    /// Whether such a step may cut a transaction, and how many changes it may have if not.
    pub transactions: Transactions,
    pub whole_changes: u32,
    /// Between two looks at the change table.
    pub poll: Duration,
    /// Between two heartbeats in each direction.
    pub heartbeat: Duration,
    /// Changes removed per trim; a longer delete would hold the source's write lock.
    pub trim_rows: u32,
    /// Differences of a verification that are reported with their values.
    pub report_rows: usize,
    /// Rows one repair may write.
    pub repair_rows: usize,
    /// Foreign writes that are kept once they are settled: as long as they are among so many newest
    /// ones. Others are all kept.
    pub foreign_kept: u32,
    /// Rows that the preflight sends through the mapping and back, per table.
    pub sample_rows: u32,
    /// Rows of one range of a verification: a hash of each takes some milliseconds in all.
    pub verify_rows: u32,
    /// What is verified again and again while the link runs.
    pub watch: Option<Watch>,
    /// Looks at a row that keeps changing before a verification calls it unsettled.
    pub settle_tries: u32,
    /// How long the bridge waits for a database lock before it says so and tries again.
    pub busy: Duration,
    /// How long one step may take before its connections are given up: a server that vanished
    /// without a word never answers. Longer than the largest transaction of a step.
    pub stall: Duration,
    /// Bytes of its log that a server may keep for a link that reads it. From the half on it is
    /// warned of; beyond it the slot is given up, so that the server's disk does not fill.
    pub log_bytes: u64,
    /// Bytes of changes that a database may keep for a link that does not apply them. From the half
    /// on it is warned of; beyond it nothing more is noted.
    pub noted_bytes: u64,
    /// Between two looks at what the databases keep.
    pub look: Duration,
    /// What heartbeats take their time of day from: the machine's clock, but in tests of clocks.
    pub clock: Clock,
    /// Told of every point at which a crash must lose nothing. For crash tests.
    pub fault: Option<FaultHook>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chunk_rows: 1_000,
            copy_rows: 50_000,
            copy_parallel: NonZeroU32::MIN.saturating_add(1),
            copy_round: Duration::from_millis(500),
            chunk_bytes: 16 << 20,
            copy_rate: None,
            copy_lag: Duration::from_secs(10),
            max_running: MaxRunning::default(),
            batch_changes: 2_000,
            transactions: Transactions::Batched,
            whole_changes: 100_000,
            poll: Duration::from_millis(20),
            heartbeat: Duration::from_millis(150),
            trim_rows: 5_000,
            report_rows: 100,
            repair_rows: 10_000,
            foreign_kept: 10_000,
            sample_rows: 500,
            verify_rows: 20_000,
            watch: None,
            settle_tries: 200,
            busy: Duration::from_secs(5),
            stall: Duration::from_mins(5),
            log_bytes: 64 << 30,
            noted_bytes: 16 << 30,
            look: Duration::from_secs(2),
            clock: Clock::default(),
            fault: None,
        }
    }
}
