//! One side's database, whichever engine it is. What is particular to an engine is in the folder
//! of its name: how to connect, how capture and fences are made, how values look. All else speaks
//! of tables, keys and cells, in SQL that every engine understands.

pub(crate) mod again;
mod beat;
pub(crate) mod books;
pub(crate) mod images;
mod install;
mod kept;
pub(crate) mod keys;
pub(crate) mod mark;
pub(crate) mod mysql;
mod names;
pub(crate) mod origin;
mod polite;
pub(crate) mod postgres;
mod references;
pub(crate) mod rows;
pub(crate) mod sizes;
pub(crate) mod sqlite;
pub(crate) mod stream;
pub(crate) mod sums;
mod taking;
mod tx;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outgrow_rollout::{Side, SliceId};
use sqlx::{MySqlPool, PgPool, SqlitePool};

use crate::clock::Clock;
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Schema, Table};
use crate::spec::{Capture, DatabaseUrl, Limits};
pub(crate) use kept::{Ended, Over};
use mysql::binlog;
use postgres::once::Line;
use postgres::replication;
pub(crate) use postgres::replication::short::{Next, Packed, Place, Taken, Told};
pub(crate) use tx::{Arg, Fetched, Tx};

/// Per side: the worker's two, one for calls, one for the events, one to spare for reading while
/// all wait.
const CONNECTIONS: u32 = 5;
/// How long a log's reader waits for what must come: a stream's start, the rest of a transaction, a
/// mark of our own.
const PATIENCE: Duration = Duration::from_secs(30);

/// A function of ours: for which shape of its table it was made, and what calls it.
type Made = (Table, Arc<str>);
/// Which it is: its table, and whether it takes values as they come from a log.
type Which = (String, bool);

/// One side's database, as one slice's link sees it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) side: Side,
    pub(crate) slice: SliceId,
    url: DatabaseUrl,
    bounds: Bounds,
    /// Replaced where its connections hang.
    pool: Arc<RwLock<Pool>>,
    /// Some connection is out of step with its server: none of the pool is to be used again.
    spoiled: Arc<AtomicBool>,
    /// Where changes are found in the database's log, not by triggers.
    pub(crate) feed: Option<Feed>,
    /// Whether changes are noted with their rows.
    noting_rows: bool,
    clock: Clock,
    /// The last heartbeat that it is known to have sent, if any.
    beaten: Arc<AtomicI64>,
    /// Grows while something that takes long goes on.
    moved: Arc<AtomicU64>,
    /// Functions that this process has made, by their table.
    made: Arc<Mutex<HashMap<Which, Made>>>,
    /// What such calls go over.
    line: Arc<Mutex<Option<Line>>>,
}

/// What a side's connections are bound by.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    busy: Duration,
    stall: Duration,
    /// Ranges of a backfill that are copied at a time.
    abreast: u32,
}

/// A log that changes are taken from.
#[derive(Debug, Clone)]
pub(crate) enum Feed {
    Postgres(Arc<replication::Feed>),
    Mysql(Arc<binlog::Feed>),
}

#[derive(Debug, Clone)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    Mysql(MySqlPool),
}

/// Which engine a side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
}

impl Pool {
    fn new(url: &DatabaseUrl, bounds: &Bounds) -> Self {
        let Bounds { busy, stall, .. } = *bounds;
        match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(sqlite::pool(path, busy)),
            DatabaseUrl::Postgres(url) => Self::Postgres(postgres::pool(url, bounds)),
            DatabaseUrl::Mysql(url) => Self::Mysql(mysql::pool(url, busy, stall)),
        }
    }
}

impl Dialect {
    /// What turns an insert into an update of the row that has this key already.
    pub(crate) fn or_update(self, key: &str, columns: &[&str]) -> String {
        let set = |column: &&str| match self {
            Self::Sqlite | Self::Postgres => format!("{column} = excluded.{column}"),
            Self::Mysql => format!("{column} = VALUES({column})"),
        };
        let sets: Vec<String> = columns.iter().map(set).collect();
        let sets = sets.join(", ");
        match self {
            Self::Sqlite | Self::Postgres => format!("ON CONFLICT ({key}) DO UPDATE SET {sets}"),
            Self::Mysql => format!("ON DUPLICATE KEY UPDATE {sets}"),
        }
    }

    /// A table's name as SQL text; `schema.table` where the engine has schemas.
    pub(crate) fn table(self, name: &str) -> String {
        match (self, name.split_once('.')) {
            (Self::Postgres, Some((schema, table))) => {
                format!("{}.{}", quote(schema), quote(table))
            }
            _ => quote(name),
        }
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

/// From when on a commit is there after a crash of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    AtOnce,
    /// From the next commit of the other kind on; see [`crate::short`].
    Later,
}

impl Database {
    /// Connects when first asked something, so that a preflight can report a missing database.
    pub(crate) fn new(
        side: Side,
        slice: SliceId,
        url: &DatabaseUrl,
        limits: &Limits,
        short: bool,
    ) -> Self {
        let bounds = Bounds {
            busy: limits.busy,
            stall: limits.stall,
            abreast: limits.copy_parallel.get(),
        };
        let feed = match url {
            DatabaseUrl::Postgres(url) if url.capture == Capture::Replication => {
                let feed = replication::Feed::new(url, limits.fault.clone(), short);
                Some(Feed::Postgres(Arc::new(feed)))
            }
            DatabaseUrl::Mysql(url) if url.capture == Capture::Replication => {
                let feed = binlog::Feed::new(url, limits.fault.clone());
                Some(Feed::Mysql(Arc::new(feed)))
            }
            _ => None,
        };
        Self {
            side,
            slice,
            url: url.clone(),
            bounds,
            pool: Arc::new(RwLock::new(Pool::new(url, &bounds))),
            spoiled: Arc::default(),
            feed,
            noting_rows: false,
            clock: limits.clock.clone(),
            beaten: Arc::new(AtomicI64::new(i64::MIN)),
            moved: Arc::default(),
            made: Arc::default(),
            line: Arc::default(),
        }
    }

    fn pool(&self) -> Pool {
        if self.spoiled.swap(false, Ordering::AcqRel) {
            self.renew();
        }
        // Replaced whole: a panic elsewhere cannot leave half of one.
        let held = self.pool.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    fn made(&self) -> MutexGuard<'_, HashMap<Which, Made>> {
        // What a panic elsewhere leaves is made again at the worst.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves connections that do not answer to themselves, and takes new ones.
    pub(crate) async fn reconnect(&self) {
        self.release().await;
        self.renew();
    }

    fn renew(&self) {
        self.end_line();
        let fresh = Pool::new(&self.url, &self.bounds);
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Has the connections replaced before the next is asked for. What is under way goes on.
    pub(in crate::db) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Release);
    }

    /// Something that takes long goes on.
    pub(crate) fn moves(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Differs from what it was if something went on meanwhile.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// How changes are found here.
    pub(crate) fn capture(&self) -> Capture {
        match self.feed {
            Some(_) => Capture::Replication,
            None => Capture::Triggers,
        }
    }

    /// Returns once there may be something new in the stream; never, where only asking tells.
    /// Cancel safe.
    pub(crate) async fn changed(&self) {
        match &self.feed {
            Some(Feed::Postgres(feed)) => feed.changed().await,
            Some(Feed::Mysql(feed)) => feed.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Puts everything into the stream that was committed before now, where that takes a step of
    /// its own and the stream may lag behind what a snapshot shows.
    pub(crate) async fn settle_stream(&self) -> Result<(), Error> {
        match &self.feed {
            Some(Feed::Postgres(feed)) => self.catch_up(feed).await,
            Some(Feed::Mysql(feed)) => self.catch_up_binlog(feed).await,
            None => Ok(()),
        }
    }

    /// Refuses a stream that has a gap, is gone, or is of another kind than the config says.
    pub(crate) async fn stream_in_order(&self) -> Result<(), Error> {
        let mut tx = self.read().await?;
        match self.dialect() {
            Dialect::Sqlite => {}
            Dialect::Postgres => self.same_capture(&mut tx).await?,
            Dialect::Mysql => self.same_capture_mysql(&mut tx).await?,
        }
        drop(tx);
        match &self.feed {
            Some(Feed::Postgres(feed)) => self.keep_recorded(feed).await,
            Some(Feed::Mysql(feed)) => self.binlog_in_order(feed).await,
            None => Ok(()),
        }
    }

    /// Lets go of what only one process may hold.
    pub(crate) async fn release(&self) {
        match &self.feed {
            Some(Feed::Postgres(feed)) => feed.stop().await,
            Some(Feed::Mysql(feed)) => feed.stop().await,
            None => {}
        }
    }

    /// A word of ours into the log, as part of a transaction: whose it is, or a heartbeat.
    async fn tell(&self, tx: &mut Tx, what: &str) -> Result<(), Error> {
        match &self.feed {
            Some(Feed::Postgres(feed)) => self.emit(feed, tx, what).await,
            Some(Feed::Mysql(_)) => self.mark(tx, what).await,
            None => Ok(()),
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.url {
            DatabaseUrl::Sqlite(_) => Dialect::Sqlite,
            DatabaseUrl::Postgres(_) => Dialect::Postgres,
            DatabaseUrl::Mysql(_) => Dialect::Mysql,
        }
    }

    /// What is wrong with the reading of this side's log.
    fn stream_error(&self, cause: impl std::fmt::Display) -> Error {
        Error::Stream {
            side: self.side,
            cause: cause.to_string(),
        }
    }

    /// A snapshot: everything read through it is of one moment.
    pub(crate) async fn read(&self) -> Result<Tx, Error> {
        match &self.pool() {
            Pool::Sqlite(pool) => pool.begin().await.map(Tx::Sqlite),
            Pool::Postgres(pool) => postgres::read(pool).await.map(Tx::Postgres),
            Pool::Mysql(pool) => mysql::read(pool).await.map(Tx::Mysql),
        }
        .on(self.side)
    }

    /// What a transaction of this database reads that lasts still and has exported it.
    pub(crate) async fn read_as_of(&self, snapshot: &str) -> Result<Tx, Error> {
        match &self.pool() {
            Pool::Postgres(pool) => postgres::read_as_of(pool, snapshot)
                .await
                .map(Tx::Postgres)
                .on(self.side),
            // They export none.
            Pool::Sqlite(_) | Pool::Mysql(_) => self.read().await,
        }
    }

    /// A transaction that writes.
    pub(crate) async fn write(&self) -> Result<Tx, Error> {
        match &self.pool() {
            Pool::Sqlite(pool) => sqlite::write(pool).await.map(Tx::Sqlite),
            Pool::Postgres(pool) => postgres::write(pool).await.map(Tx::Postgres),
            Pool::Mysql(pool) => mysql::write(pool).await.map(Tx::Mysql),
        }
        .on(self.side)
    }

    /// As [`Self::write`], with references between tables checked at the commit, or not at all
    /// where the engine lets us.
    pub(crate) async fn write_rows(&self, references: References) -> Result<Tx, Error> {
        match &self.pool() {
            Pool::Sqlite(pool) => sqlite::write_rows(pool, references).await.map(Tx::Sqlite),
            Pool::Postgres(pool) => postgres::write_rows(pool, references)
                .await
                .map(Tx::Postgres),
            Pool::Mysql(pool) => mysql::write_rows(pool, references).await.map(Tx::Mysql),
        }
        .on(self.side)
    }

    /// As [`Self::write_rows`], for rows of the link's own: they pass the fence, unnoted, until
    /// [`Self::applying`] takes that back, or the move of a position that is told to.
    pub(crate) async fn write_own(
        &self,
        references: References,
        lasts: Lasts,
    ) -> Result<Tx, Error> {
        if let (Pool::Postgres(pool), true) = (self.pool(), references != References::Unchecked) {
            return self.write_own_postgres(&pool, references, lasts).await;
        }
        let mut tx = self.write_rows(references).await?;
        if lasts == Lasts::Later && self.dialect() == Dialect::Postgres {
            tx.execute(postgres::LATER, &[]).await.on(self.side)?;
        }
        self.applying(&mut tx, true).await?;
        Ok(tx)
    }
    /// The first table of these groups whose triggers are not there any more.
    pub(crate) async fn lost_capture(
        &self,
        plan: &Plan,
        known: &[String],
    ) -> Result<Option<String>, Error> {
        let mut tx = self.read().await?;
        let groups = plan.groups.iter();
        let followed = groups.filter(|g| known.iter().any(|name| name == g.name()));
        for table in followed.flat_map(|g| g.tables(self.side)) {
            let there = match self.dialect() {
                Dialect::Sqlite => self.captured_sqlite(&mut tx, table).await,
                Dialect::Postgres => self.captured_postgres(&mut tx, table).await,
                Dialect::Mysql => self.captured_mysql(&mut tx, table).await,
            };
            if !there.on(self.side)? {
                return Ok(Some(table.name.clone()));
            }
        }
        Ok(None)
    }

    /// What the bridge's user may not do and must: (table, what, how to grant it).
    pub(crate) async fn missing_rights(
        &self,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, Error> {
        let mut missing = match self.dialect() {
            // Who may write the file may do everything.
            Dialect::Sqlite => Vec::new(),
            Dialect::Mysql => self.missing_rights_mysql(plan).await.on(self.side)?,
            Dialect::Postgres => self.missing_rights_postgres(plan).await.on(self.side)?,
        };
        missing.extend(self.missing_for_rows(plan).await?);
        Ok(missing)
    }

    /// The declared shape of these tables; those that do not exist are left out.
    pub(crate) async fn schema(&self, tables: &[String]) -> Result<Schema, Error> {
        let mut tx = self.read().await?;
        let mut schema = Schema::new();
        for name in tables {
            let found = match self.dialect() {
                Dialect::Sqlite => sqlite::introspect::table(&mut tx, name).await,
                Dialect::Postgres => postgres::introspect::table(&mut tx, name).await,
                Dialect::Mysql => mysql::introspect::table(&mut tx, name).await,
            };
            if let Some(table) = found.on(self.side)? {
                schema.insert(name.clone(), table);
            }
        }
        Ok(schema)
    }

    /// Changes with every change of any table's shape.
    pub(crate) async fn schema_version(&self) -> Result<i64, Error> {
        let text = match self.dialect() {
            Dialect::Sqlite => sqlite::introspect::VERSION,
            Dialect::Postgres => postgres::introspect::VERSION,
            Dialect::Mysql => mysql::introspect::VERSION,
        };
        let mut tx = self.read().await?;
        let found = tx.number(text, &[]).await.on(self.side)?;
        Ok(found.unwrap_or(0))
    }

    pub(crate) async fn close(&self) {
        self.release().await;
        // A pool is closed once every connection is back.
        self.end_line();
        let pool = self.pool();
        let closing = async {
            match &pool {
                Pool::Sqlite(pool) => pool.close().await,
                Pool::Postgres(pool) => pool.close().await,
                Pool::Mysql(pool) => pool.close().await,
            }
        };
        if tokio::time::timeout(self.bounds.busy, closing)
            .await
            .is_err()
        {
            tracing::warn!(slice = %self.slice, side = %self.side,
                "a connection to the database does not end by itself: it is left");
        }
    }

    /// Gives what was noted its place in the stream, where that is a step of its own. `false`
    /// where it is known that nothing has come.
    pub(crate) async fn place(&self) -> Result<bool, Error> {
        match (self.pool(), &self.feed) {
            (Pool::Sqlite(_), _) => {}
            (Pool::Postgres(_), Some(Feed::Postgres(feed))) => return self.take_in(feed).await,
            (Pool::Postgres(pool), _) => self.place_postgres(&pool).await?,
            (Pool::Mysql(_), Some(Feed::Mysql(feed))) => self.take_in_binlog(feed).await?,
            (Pool::Mysql(_), _) => self.place_mysql().await?,
        }
        Ok(true)
    }

    /// The feed of rows that may go the short way; see [`postgres::replication::short`].
    fn short(&self) -> Option<&replication::Feed> {
        match &self.feed {
            Some(Feed::Postgres(feed)) => Some(feed),
            Some(Feed::Mysql(_)) | None => None,
        }
    }

    /// Whether the log can tell whole transactions with their rows.
    pub(crate) fn tells_rows(&self) -> bool {
        self.short().is_some()
    }

    /// What the log has next, without waiting; not noted anywhere.
    pub(crate) async fn next_of_log(&self, most: usize) -> Result<Next, Error> {
        match self.short() {
            Some(feed) => self.gather(feed, most).await,
            None => Ok(Next::Nothing),
        }
    }

    /// Has what comes by the log gather for so long before it is read.
    pub(crate) async fn let_gather(&self, pause: Duration) {
        if let Some(feed) = self.short() {
            feed.rest(pause).await;
        }
    }

    /// Takes note that this was applied, up to this number; it is recorded later. `true` when it
    /// is time to.
    pub(crate) async fn took(&self, taken: Taken, head: i64) -> bool {
        match self.short() {
            Some(feed) => self.note_taken(feed, taken, head).await,
            None => false,
        }
    }

    /// Puts into the stream what was not applied.
    pub(crate) async fn give_back(&self, taken: Taken) -> Result<(), Error> {
        match self.short() {
            Some(feed) => self.put_back(feed, taken).await,
            None => Ok(()),
        }
    }

    /// Has on record what was taken; returns once all of it can be seen here.
    pub(crate) async fn record(&self) -> Result<(), Error> {
        match self.short() {
            Some(feed) => self.record_taken(feed).await,
            None => Ok(()),
        }
    }

    /// Returns once all that was applied of a stream up to here is on this database's disk.
    pub(crate) async fn flush(&self, stream: (Side, i64), applied: i64) -> Result<(), Error> {
        match self.pool() {
            Pool::Postgres(pool) => self.flush_postgres(&pool, stream, applied).await,
            // They do not know commits that are to be on the disk later.
            Pool::Sqlite(_) | Pool::Mysql(_) => Ok(()),
        }
    }

    /// The place in the other side's log that this database has applied.
    pub(crate) async fn place_of(&self, tx: &mut Tx, stream: Side) -> Result<Option<Place>, Error> {
        match self.dialect() {
            Dialect::Postgres => self.place_kept(tx, stream).await,
            Dialect::Sqlite | Dialect::Mysql => Ok(None),
        }
    }

    /// Forgets what is not on record.
    pub(crate) async fn forget_taken(&self) {
        if let Some(feed) = self.short() {
            feed.forget().await;
        }
    }

    /// Whether a position ahead of the stream is one that this database's log explains, which is
    /// on record then.
    pub(crate) async fn explains(&self, place: Place) -> Result<(), Error> {
        match self.short() {
            Some(feed) => self.overtake(feed, place).await,
            None => Ok(()),
        }
    }

    /// Has the log tell what this side's role asks for.
    pub(crate) async fn republish(&self, plan: &Plan) -> Result<(), Error> {
        match self.short() {
            Some(feed) => self.republish_feed(feed, plan).await,
            None => Ok(()),
        }
    }

    /// As [`Self::place`], so that this transaction sees every change of the rows that it has
    /// locked or written in the stream.
    pub(crate) async fn place_within(&self, tx: &mut Tx) -> Result<(), Error> {
        if self.feed.is_some() {
            return self.settle_stream().await;
        }
        match self.dialect() {
            Dialect::Sqlite => Ok(()),
            Dialect::Postgres => self.place_within_postgres(tx).await,
            Dialect::Mysql => self.place_within_mysql(tx).await,
        }
    }

    /// The quoted name of one of this slice's own tables.
    pub(crate) fn own(&self, what: &str) -> String {
        let name = quote(&self.own_bare(what));
        match self.dialect() {
            Dialect::Sqlite | Dialect::Mysql => name,
            Dialect::Postgres => format!("{}.{name}", postgres::SCHEMA),
        }
    }

    pub(crate) fn own_bare(&self, what: &str) -> String {
        let slice = names::of_slice(&self.slice);
        match self.dialect() {
            Dialect::Sqlite => format!("_outgrow_{}_{what}", self.slice),
            Dialect::Mysql => names::fitted(format!("_outgrow_{slice}_{what}")),
            Dialect::Postgres => names::fitted(format!("{slice}_{what}")),
        }
    }
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
