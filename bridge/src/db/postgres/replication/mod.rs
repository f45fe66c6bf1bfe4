//! Capture by logical replication: what was committed is read from the write-ahead log through a
//! slot, and the keys of it are put into `changes`, so that the application's own transactions
//! carry nothing of ours.
//!
//! What is taken in and the place in the log up to which it was taken are committed together; the
//! slot is told only after that. So nothing is noted twice and nothing is left out, wherever the
//! process dies. A slot that has moved on without us, or is gone, is refused.
//!
//! A commit is in the log before its rows can be seen, for long where a standby must confirm it.
//! So changes are put into the stream only once their transactions are visible: whoever sees a
//! change there sees its row.

mod client;
pub(crate) mod frames;
mod logged;
mod login;
pub(crate) mod packed;
pub(crate) mod pgoutput;
mod reader;
mod says;
pub(crate) mod short;
mod slot;
mod socket;
mod step;
mod streamed;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use self::client::Client;
use self::login::Login;
use self::step::Step;
use self::streamed::{Kept, Streamed};
use crate::db::postgres::wire::Native;
use crate::db::taking::{Leaves, Taking};
use crate::db::{Arg, Database, PATIENCE, literal, names, quote};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::Table;
use crate::spec::PostgresUrl;

/// How long a stream may take to end in order.
const FAREWELL: Duration = Duration::from_secs(2);
/// The prefix of our own messages in the log.
const PREFIX: &str = "outgrow";

/// One side's log as its changes are taken from it.
#[derive(Debug)]
pub(crate) struct Feed {
    url: PostgresUrl,
    fault: Option<FaultHook>,
    /// Whether rows may go the short way, so that they are to come by the log.
    rows: bool,
    /// Tells our marks from those that a process before us has left in the log.
    nonce: u64,
    /// What the server can tell.
    version: says::Version,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: Arc<HashMap<u32, Watched>>,
    stream: Option<Stream>,
    /// The server's process that served the last stream. One that was lost without a word holds
    /// the slot until the server misses it.
    walsender: Option<i64>,
    /// What the log was told to tell.
    published: String,
    /// Number of the last mark that was ordered, and of the last that came.
    ordered: u64,
    came: u64,
    /// Applied the short way since the last record of it.
    ahead: Option<short::Ahead>,
    /// Some value came in a binary form that is not known here, so all is to come as text.
    as_text: bool,
    /// Transactions are to come once they are committed, and not while they run.
    at_once: bool,
    /// A place that was on record when the link was taken over, or when the last stream was lost or left.
    recorded: u64,
    /// Whoever started last has found that the server goes on from what was applied. Nobody looks at the log
    /// before that, or after a refusal: what a look puts into the stream would hide what is gone.
    taken_over: bool,
}

impl Leaves for Inner {
    fn lose_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.as_text |= stream.unread;
            self.at_once |= stream.unkept;
            self.recorded = self.recorded.max(stream.written);
        }
    }
}

impl Inner {
    /// Has these tables watched from now on.
    fn watch(&mut self, tables: HashMap<u32, Watched>) {
        self.tables = Arc::new(tables);
        let binary = self.reads_binary();
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.binary && !binary)
        {
            self.lose_stream();
        }
    }

    /// Whether every value that is needed has a binary form that is known here.
    fn reads_binary(&self) -> bool {
        let native = |watched: &Watched| match watched {
            Watched::Table(table) => {
                let mut columns = table.columns.iter();
                columns.all(|column| Native::of(&column.kind).is_some())
            }
            Watched::Noted | Watched::Said => true,
        };
        !self.as_text && self.tables.values().all(native)
    }
}

/// A relation of the publication.
#[derive(Debug)]
enum Watched {
    Table(Table),
    /// Our own, for what no row of the log tells: truncated tables.
    Noted,
    /// Our own, for what we say where the log tells no messages.
    Said,
}

struct Stream {
    client: Client,
    /// What relations are, as the stream has told it.
    relations: HashMap<u32, pgoutput::Relation>,
    /// Some of them has other types than it had, which nobody was told yet.
    reshaped: bool,
    /// It tells values in the form of their type's `send` function, where there is one.
    binary: bool,
    /// It has told of a key in a form that is not known here.
    unread: bool,
    /// What transactions that run have said so far.
    streamed: Streamed,
    /// They cannot be kept.
    unkept: bool,
    /// Looked at, and left for whoever comes next.
    held: Option<Bytes>,
    /// Up to here all is in the stream, by its committed record.
    written: u64,
    /// The server's process behind it, and how far in the log that was when it was asked last.
    walsender: Option<i64>,
    sent: Option<i64>,
    /// The run of the server that it comes from; what was read of it is nothing to another.
    run: i64,
}

impl Stream {
    /// Goes back to the tables as they were known, but for what a transaction has described since.
    fn adopt(&mut self, before: HashMap<u32, pgoutput::Relation>, kept: &Kept) {
        for (id, relation) in std::mem::replace(&mut self.relations, before) {
            let came = kept.described(id);
            let known = self.relations.get(&id);
            if known.is_some_and(|known| known.came > came) {
                continue;
            }
            self.reshaped |= known.is_some_and(|known| !relation.agrees(known));
            let relation = pgoutput::Relation { came, ..relation };
            self.relations.insert(id, relation);
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Feed {
    pub(crate) fn new(url: &PostgresUrl, fault: Option<FaultHook>, rows: bool) -> Self {
        Self {
            url: url.clone(),
            fault,
            rows,
            nonce: std::hash::RandomState::new().build_hasher().finish(),
            version: says::Version::default(),
            inner: Mutex::new(Inner::default()),
        }
    }

    async fn taking(&self) -> Taking<'_, Inner> {
        Taking::of(self.inner.lock().await)
    }

    /// Returns once something has come. Cancel safe.
    pub(crate) async fn changed(&self) {
        let mut inner = self.inner.lock().await;
        let Some(stream) = inner.stream.as_mut() else {
            drop(inner);
            return std::future::pending().await;
        };
        if stream.held.is_none() {
            stream.client.ready().await;
        }
    }

    /// Has what comes gather for so long before it is read.
    pub(crate) async fn rest(&self, pause: Duration) {
        if let Some(stream) = &self.inner.lock().await.stream {
            stream.client.rest(pause);
        }
    }

    /// Lets go of the slot. What it was is still known: a server that was restored from a backup is to be
    /// told from it also by what is done last.
    pub(crate) async fn stop(&self) {
        let mut inner = self.inner.lock().await;
        let Some(stream) = inner.stream.take() else {
            return;
        };
        inner.recorded = inner.recorded.max(stream.written);
        if tokio::time::timeout(FAREWELL, stream.client.leave())
            .await
            .is_err()
        {
            // Dropped, it is cut off.
            tracing::debug!("the replication stream did not end by itself");
        }
    }
}

impl Database {
    pub(in crate::db) fn feed_publication(&self) -> String {
        format!("outgrow_{}", names::of_slice(&self.slice))
    }

    /// Takes in what has come, without waiting for more. Whether any of it is in the stream now.
    pub(in crate::db) async fn take_in(&self, feed: &Feed) -> Result<bool, Error> {
        let mut inner = feed.taking().await;
        let put = self.pump(feed, &mut inner, None).await?;
        inner.keep_stream();
        Ok(put)
    }

    /// Takes in everything that was committed before now.
    pub(in crate::db) async fn catch_up(&self, feed: &Feed) -> Result<(), Error> {
        let mut inner = feed.inner.lock().await;
        if !inner.taken_over {
            return Err(self.stream_error(format_args!(
                "the link has not taken this server's log over yet: see `outgrow sync status {slice}`, mend \
                 what it says, and go on by `outgrow sync resume {slice}`",
                slice = self.slice
            )));
        }
        let mark = self.order_mark(feed, &mut inner).await?;
        let mut inner = Taking::of(inner);
        self.pump(feed, &mut inner, Some(mark)).await?;
        inner.keep_stream();
        Ok(())
    }

    /// Puts a mark into the log, behind all that is committed; no standby needs to have it.
    async fn order_mark(&self, feed: &Feed, inner: &mut Inner) -> Result<u64, Error> {
        inner.ordered += 1;
        let mark = inner.ordered;
        let mut tx = self.write().await?;
        tx.execute("SET LOCAL synchronous_commit = 'local'", &[])
            .await
            .on(self.side)?;
        let text = format!("mark {mark} {}", feed.nonce);
        self.emit(feed, &mut tx, &text).await?;
        tx.commit().await.on(self.side)?;
        Ok(mark)
    }

    async fn pump(&self, feed: &Feed, inner: &mut Inner, mark: Option<u64>) -> Result<bool, Error> {
        self.connected(feed, inner).await?;
        let mut put = false;
        loop {
            let tables = Arc::clone(&inner.tables);
            let Some(stream) = inner.stream.as_mut() else {
                return Ok(put);
            };
            let patient = mark.is_some_and(|mark| inner.came < mark);
            let Some(first) = self.event(stream, patient).await? else {
                return Ok(put);
            };
            let mut step = Step::new(self, &tables, (inner.came, feed.nonce), feed.fault.as_ref());
            put |= step.run(stream, first).await?;
            inner.came = step.came;
            if mark.is_none_or(|mark| inner.came >= mark) {
                return Ok(put);
            }
        }
    }

    async fn connected(&self, feed: &Feed, inner: &mut Inner) -> Result<(), Error> {
        if inner.stream.is_some() {
            return Ok(());
        }
        // Keys alone are noted as text.
        let binary = feed.rows && inner.reads_binary();
        self.learn_version(feed).await?;
        let form = if feed.tells() {
            (binary, !inner.at_once)
        } else {
            (false, false)
        };
        let (stream, walsender) = self.connect(feed, inner, form).await?;
        inner.stream = Some(stream);
        inner.walsender = walsender;
        // What was applied and is not on record comes again, if this is the log that it came by: one
        // that was restored from a backup may be as long by now. A commit that nobody was told of may
        // have put it on record.
        let written = inner.stream.as_ref().map_or(0, |stream| stream.written);
        let ahead = inner.ahead.as_ref().map(|ahead| ahead.commit);
        if let Some(commit) = ahead.filter(|commit| commit.end > written) {
            self.skip_to(feed, inner, commit).await?;
        }
        Ok(())
    }

    /// The next message; `None` when there is none yet and nobody waits for it.
    async fn event(&self, stream: &mut Stream, patient: bool) -> Result<Option<Bytes>, Error> {
        if let Some(held) = stream.held.take() {
            return Ok(Some(held));
        }
        loop {
            let next = stream.client.next();
            if let Some(message) = next.map_err(|e| self.stream_error(e))? {
                return Ok(Some(message));
            }
            if !patient {
                tokio::select! {
                    biased;
                    () = stream.client.ready() => continue,
                    () = std::future::ready(()) => return Ok(None),
                }
            }
            let heard = stream.client.heard();
            let waited = tokio::time::timeout(PATIENCE, stream.client.ready()).await;
            if waited.is_err() && !self.goes_on(stream).await? && stream.client.heard() == heard {
                return Err(self.stream_error("the replication stream has stopped"));
            }
        }
    }

    /// Whether the server is further in its log than when it was asked before. Of a transaction it
    /// tells nothing before it has read it to its end, which takes long where it is large.
    async fn goes_on(&self, stream: &mut Stream) -> Result<bool, Error> {
        let text = "SELECT (sent_lsn - pg_lsn '0/0')::int8 FROM pg_stat_replication WHERE pid = ?";
        let mut tx = self.read().await?;
        let sent = tx.number(text, &[Arg::from(stream.walsender)]).await;
        let sent = sent.on(self.side)?;
        let further = sent.is_some() && sent != stream.sent;
        stream.sent = sent;
        if further {
            self.moves();
        }
        Ok(further)
    }

    /// A stream from our place on, and the server's process behind it.
    async fn connect(
        &self,
        feed: &Feed,
        inner: &Inner,
        (binary, early): (bool, bool),
    ) -> Result<(Stream, Option<i64>), Error> {
        let before = inner.walsender;
        let read = inner.ahead.as_ref().map_or(0, |ahead| ahead.commit.end);
        let (name, written, run) = self.log_goes_on(inner.recorded, read).await?;
        if before.is_some() && self.walsender(&name).await? == before {
            let mut tx = self.read().await?;
            let end = "SELECT pg_terminate_backend(CAST(? AS int))::int";
            tx.number(end, &[Arg::from(before)]).await.on(self.side)?;
        }
        let login = feed.url.login(Asked {
            slot: &name,
            publication: &self.feed_publication(),
            from: written,
            tells: feed.tells(),
            binary,
            early,
        });
        let login = login.map_err(|e| self.stream_error(e))?;
        let begun = Client::begin(&feed.url, login, written);
        let client = tokio::time::timeout(PATIENCE, begun)
            .await
            .map_err(|_| self.stream_error("the replication stream does not start"))?
            .map_err(|e| self.stream_error(e))?;
        let walsender = self.walsender(&name).await?;
        // What was asked before is of the server that has begun it.
        if self.run().await? != run {
            return Err(self.stream_error("the server has started again meanwhile"));
        }
        let stream = Stream {
            client,
            relations: HashMap::new(),
            reshaped: false,
            binary,
            unread: false,
            streamed: Streamed::default(),
            unkept: false,
            held: None,
            written,
            walsender,
            sent: None,
            run,
        };
        Ok((stream, walsender))
    }
}

/// What is asked of the server.
struct Asked<'a> {
    slot: &'a str,
    publication: &'a str,
    /// Nothing that ends before this place in the log is wanted.
    from: u64,
    /// The server has protocol 2, with messages.
    tells: bool,
    binary: bool,
    /// Large transactions are told of while they run.
    early: bool,
}

impl PostgresUrl {
    /// What is said for a stream, or why that cannot be.
    fn login(&self, asked: Asked<'_>) -> Result<Login, sqlx::Error> {
        let options = self.options()?;
        let Asked {
            slot,
            publication,
            from,
            tells,
            binary,
            early,
        } = asked;
        let wanted = format!(
            "START_REPLICATION SLOT {} LOGICAL {:X}/{:X} (proto_version '{}', \
             publication_names {}{}{}{})",
            quote(slot),
            from >> 32,
            from & 0xffff_ffff,
            if tells { 2 } else { 1 },
            literal(&quote(publication)),
            if tells { ", messages 'true'" } else { "" },
            if binary { ", binary 'true'" } else { "" },
            if early { ", streaming 'on'" } else { "" },
        );
        let user = options.get_username();
        Ok(Login {
            user: user.to_owned(),
            database: options.get_database().unwrap_or(user).to_owned(),
            password: self.password().unwrap_or_default(),
            wanted,
        })
    }
}
