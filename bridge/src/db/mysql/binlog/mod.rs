//! Capture by the row log: what was committed is read from the server's binary log, as a replica
//! would, and the keys of it are put into `changes`, so that the application's own transactions
//! note nothing.
//!
//! What is taken in and the place in the log up to which it was taken are committed together, so
//! nothing is noted twice and nothing is left out, wherever the process dies. A log that does not go
//! on from that place is refused ([`place`]).
//!
//! # What can be seen
//!
//! A commit is in the log before its row can be seen, for long where a replica must confirm it. A
//! change may be in the stream only when everybody who sees it there sees its row. Here this needs no
//! looking: *the stream is written through the same log*. A transaction T was read from the log; then
//! the step S that notes its keys commits, and comes into the log behind T. Servers make commits
//! visible in the order of their log: MariaDB always (its `commit_ordered` runs under one lock, in the
//! log's order), MySQL while `binlog_order_commits` is on (the leader of each group commits it in the
//! log's order), which is looked at before each connection. So a snapshot that shows S shows T. S waits
//! where T waits: for a replica's confirmation (`AFTER_SYNC`), for the disk.
//!
//! The same order makes a mark (an empty transaction of ours) a barrier: whoever could be seen before
//! it was written is in the log before it.
//!
//! # Our own writes
//!
//! The first thing that an applying transaction does is to put a row into `mark`, and take it out
//! again. Both come by the log before the rows that it writes, which are then left alone.
//! Heartbeats and barriers are rows of that table too; it is always empty.

mod connect;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gtid;
mod image;
mod moved;
mod needs;
mod noted;
mod place;
mod rows;
mod sql;
mod step;
#[cfg(test)]
mod tests;
mod value;
mod wire;

pub(crate) use self::step::EVERY_ROW;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mysql_async::BinlogStream;
use mysql_async::binlog::events::Event as Raw;
use tokio::sync::Mutex;

use self::connect::{Broken, dump};
use self::event::Logged;
use self::gtid::{Flavour, Gtids, Named};
pub(crate) use self::needs::missing_for_rows_mysql;
use self::noted::Shape;
use self::place::{Begin, Place, Sight};
use self::step::Step;
use crate::db::taking::{Leaves, Taking};
use crate::db::{Arg, Database, PATIENCE, Tx};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::Table;
use crate::spec::MysqlUrl;

/// A server that has nothing to tell says so every five seconds.
const SILENCE: Duration = Duration::from_secs(20);
/// How long the connection may take to end in order.
const FAREWELL: Duration = Duration::from_secs(2);
/// A last look, where nothing seems to have come.
const LAST_LOOK: Duration = Duration::from_secs(1);
const STOPPED: &str = "its binary log has stopped coming";

/// One side's log as its changes are taken from it.
#[derive(Debug)]
pub(crate) struct Feed {
    url: MysqlUrl,
    fault: Option<FaultHook>,
    flavour: OnceLock<Flavour>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    followed: Vec<Table>,
    stream: Option<Stream>,
    /// The stream's head as this process knows it.
    head: i64,
}

impl Leaves for Inner {
    fn lose_stream(&mut self) {
        self.stream = None;
    }
}

impl Inner {
    /// What is looked for from now on; where in the log it is comes to light at the next connection.
    fn follow(&mut self, tables: Vec<Table>) {
        self.followed = tables;
        if let Some(stream) = &mut self.stream {
            stream.stale = true;
        }
    }
}

/// A table of the log that is our business.
#[derive(Debug, Clone)]
enum Watched {
    Table(Arc<Shape>),
    /// Our own: whose transaction it is, heartbeats, barriers.
    Mark,
    /// Our own: the record of the place.
    Slot,
}

/// A table that rows are told of by a number.
struct Known {
    watched: Watched,
    columns: Vec<Logged>,
    /// Where the columns are that are wanted.
    places: Vec<usize>,
}

struct Stream {
    log: BinlogStream,
    /// When something came last, also a mere sign of life.
    last: Instant,
    /// Whether the log has said what its events look like.
    described: bool,
    /// Taken by somebody who only waited for it.
    waiting: Option<Result<Raw, Broken>>,
    /// Up to here it was read.
    place: Place,
    /// The transactions up to there; `None` where the server does not name them.
    gtids: Option<Gtids>,
    /// Files of a server that was asked by names of transactions: one of them begins.
    files: Vec<String>,
    /// Whose log it is.
    server: String,
    sight: Sight,
    /// The shapes of tables may have changed.
    stale: bool,
    known: HashMap<u64, Known>,
    /// The end of a compressed transaction whose parts are coming.
    packed: Option<u64>,
    /// The stamp of the record in force.
    stamp: String,
    /// Whether that record has come by the log.
    proved: bool,
    /// The mark before which it must come.
    limit: u64,
    /// What no other connection's stamps begin with, and how many there were.
    salt: String,
    stamps: u64,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("place", &self.place)
            .field("gtids", &self.gtids)
            .field("stamp", &self.stamp)
            .field("proved", &self.proved)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Where it begins, if it was not asked for by its place: its name has a checksum behind it.
    fn begins(&mut self, file: &str, pos: u64) {
        let known = self.files.iter().filter(|known| file.starts_with(*known));
        if let Some(known) = known.max_by_key(|known| known.len()) {
            self.place = Place {
                file: known.clone(),
                pos,
            };
        }
    }

    /// Takes note of a transaction that has ended.
    fn took(&mut self, named: Named, server: u32) {
        if let Some(gtids) = &mut self.gtids
            && !gtids.take(named, server)
        {
            self.gtids = None;
        }
    }

    /// What is in the files before this one, where it begins.
    fn before(&mut self, gtids: Option<Gtids>) {
        match (&mut self.gtids, gtids) {
            (Some(mine), Some(before)) => mine.join(before),
            (mine, before) => *mine = before,
        }
    }
}

impl Feed {
    pub(crate) fn new(url: &MysqlUrl, fault: Option<FaultHook>) -> Self {
        Self {
            url: url.clone(),
            fault,
            flavour: OnceLock::new(),
            inner: Mutex::new(Inner::default()),
        }
    }

    /// Returns once something has come. Cancel safe.
    pub(crate) async fn changed(&self) {
        let mut inner = self.inner.lock().await;
        let Some(stream) = inner.stream.as_mut() else {
            drop(inner);
            return std::future::pending().await;
        };
        if stream.waiting.is_none() {
            stream.waiting = Some(came(stream.log.next().await));
        }
    }

    /// Lets go of the connection.
    pub(crate) async fn stop(&self) {
        let Some(stream) = self.inner.lock().await.stream.take() else {
            return;
        };
        match tokio::time::timeout(FAREWELL, stream.log.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!(error = %e, "the connection for the log ended badly"),
            // Dropped, it is cut off.
            Err(_) => tracing::debug!("the connection for the log did not end by itself"),
        }
    }
}

fn came(next: Option<mysql_async::Result<Raw>>) -> Result<Raw, Broken> {
    match next {
        Some(event) => event.map_err(Broken::from),
        None => Err(Broken::Passing(STOPPED.to_owned())),
    }
}

impl Database {
    /// Takes in what has come, without waiting for more.
    pub(in crate::db) async fn take_in_binlog(&self, feed: &Feed) -> Result<(), Error> {
        let mut inner = Taking::of(feed.inner.lock().await);
        Box::pin(self.pump_binlog(feed, &mut inner, None)).await?;
        inner.keep_stream();
        Ok(())
    }

    /// Takes in everything that was committed before now.
    pub(in crate::db) async fn catch_up_binlog(&self, feed: &Feed) -> Result<(), Error> {
        let inner = feed.inner.lock().await;
        let mark = self.barrier().await?;
        let mut inner = Taking::of(inner);
        Box::pin(self.pump_binlog(feed, &mut inner, Some(mark))).await?;
        inner.keep_stream();
        Ok(())
    }

    /// An empty transaction, in the log behind all that is committed. Its number.
    async fn barrier(&self) -> Result<u64, Error> {
        let mut tx = self.write().await?;
        self.mark(&mut tx, "mark").await?;
        let mark = tx.number("SELECT CAST(LAST_INSERT_ID() AS SIGNED)", &[]);
        let mark = mark.await.on(self.side)?.unwrap_or(0);
        tx.commit().await.on(self.side)?;
        Ok(u64::try_from(mark).unwrap_or(0))
    }

    /// A word of ours into the log, as part of a transaction.
    pub(in crate::db) async fn mark(&self, tx: &mut Tx, what: &str) -> Result<(), Error> {
        let mark = self.own("mark");
        let text = format!("INSERT INTO {mark} (what) VALUES (?)");
        tx.execute(&text, &[Arg::from(what)]).await.on(self.side)?;
        let text = format!("DELETE FROM {mark} WHERE id = LAST_INSERT_ID()");
        tx.execute(&text, &[]).await.map(drop).on(self.side)
    }

    async fn pump_binlog(
        &self,
        feed: &Feed,
        inner: &mut Inner,
        mark: Option<u64>,
    ) -> Result<(), Error> {
        if inner.stream.is_none() {
            inner.stream = Some(self.connect_binlog(feed, inner).await?);
        }
        let Some(stream) = inner.stream.as_mut() else {
            return Ok(());
        };
        let mut came = mark.is_none();
        loop {
            if stream.stale {
                stream.sight = self.sight(&inner.followed).await?;
                stream.stale = false;
            }
            let Some(first) = self.logged(stream, !came).await? else {
                return Ok(());
            };
            let mut step = Step::new(self, mark, feed.fault.as_ref());
            step.run(stream, first).await?;
            inner.head = step.head.unwrap_or(inner.head);
            came |= step.came;
            if came {
                return Ok(());
            }
        }
    }

    /// The next event; `None` when there is none yet and nobody waits for it.
    async fn logged(&self, stream: &mut Stream, patient: bool) -> Result<Option<Raw>, Error> {
        let silent = stream.last.elapsed() > SILENCE;
        let waited = if patient { PATIENCE } else { LAST_LOOK };
        let found = match stream.waiting.take() {
            Some(found) => found,
            None if patient || silent => {
                let next = tokio::time::timeout(waited, stream.log.next());
                let next = next.await.map_err(|_| self.stream_error(STOPPED))?;
                came(next)
            }
            None => tokio::select! {
                biased;
                next = stream.log.next() => came(next),
                () = std::future::ready(()) => return Ok(None),
            },
        };
        stream.last = Instant::now();
        // Later than at the start it is asked again, from a place that is proved.
        found.map(Some).map_err(|broken| match broken {
            Broken::Gone(text) if stream.proved => self.stream_error(text),
            other => self.broken(other),
        })
    }

    fn broken(&self, broken: Broken) -> Error {
        match broken {
            Broken::Gone(what) => Error::Discontinued {
                side: self.side,
                what: format!("its binary log does not go on: {what}"),
            },
            Broken::Passing(cause) => self.stream_error(cause),
        }
    }

    async fn connect_binlog(&self, feed: &Feed, inner: &Inner) -> Result<Stream, Error> {
        let slot = self.recorded(feed).await?;
        let sight = self.sight(&inner.followed).await?;
        let mut tx = self.read().await?;
        let set = place::settings(&mut tx).await.on(self.side)?;
        let of = |name: &str| set.get(name).map_or("", String::as_str);
        if let Some((what, fix)) = needs::wrong_settings(of).into_iter().next() {
            return Err(self.stream_error(format!("{what}: {fix}")));
        }
        let head = self.head(&mut tx).await?;
        if head < inner.head {
            return Err(Error::Discontinued {
                side: self.side,
                what: format!("its last change is {head} and was {}", inner.head),
            });
        }
        let encrypted = needs::encrypted(&mut tx).await.on(self.side)?;
        let rows = tx.fetch("SELECT CAST(UUID() AS CHAR)", &[]).await;
        let salt = rows
            .on(self.side)?
            .first()
            .and_then(|row| row.maybe_text(0));
        drop(tx);
        let limit = self.barrier().await?;
        let opened = dump(&feed.url, encrypted, slot.reader, &slot.from);
        let log = tokio::time::timeout(PATIENCE, opened)
            .await
            .map_err(|_| self.stream_error("its binary log does not come"))?
            .map_err(|broken| self.broken(broken))?;
        let (place, files) = match slot.from {
            Begin::Place(place) => (place, Vec::new()),
            Begin::Gtids(_) => (Place::default(), slot.files),
        };
        Ok(Stream {
            log,
            last: Instant::now(),
            described: false,
            waiting: None,
            place,
            gtids: slot.gtids,
            files,
            server: slot.server,
            sight,
            stale: false,
            known: HashMap::new(),
            packed: None,
            stamp: slot.stamp,
            proved: false,
            limit,
            salt: salt.unwrap_or_default(),
            stamps: 0,
        })
    }
}
