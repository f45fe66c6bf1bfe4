//! Takes transactions from the log into the stream, and commits them with the place in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Postgres, Row as _, Transaction};

use super::logged::{Layout, Noted, Told, Unkeyed, before, changes_of, low, note_of, since_1970};
use super::pgoutput::{self, Message, Row};
use super::slot::RUN;
use super::streamed::Unkept;
use super::{PREFIX, Stream, Watched, says};
use crate::db::images::{COLUMNS, PUT_BYTES, Texts};
use crate::db::keys::key_text;
use crate::db::{Database, Tx, now_ms};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::KEY_COLUMNS;

/// Changes put into the stream by one statement.
const PUT: usize = 2_000;
/// Changes after which a step ends at the next end of a transaction.
const ENOUGH: usize = 10_000;
/// Bytes put aside of transactions that run, after which a step ends, so that they keep us from
/// nothing else.
const ASIDE: usize = 16 << 20;
/// Between two looks whether a transaction has become visible.
const VISIBLE: Duration = Duration::from_millis(2);

/// What was gathered and is not committed yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) waiting: Vec<Noted>,
    /// Bytes of the rows that are noted with them.
    pub(super) rows: usize,
    /// Bytes put aside of transactions that run.
    pub(super) aside: usize,
    /// Bytes of the messages of these.
    pub(super) bytes: usize,
    pub(super) put: usize,
    pub(super) head: Option<i64>,
    pub(super) transactions: Vec<u32>,
    pub(super) upto: Option<u64>,
    /// The transaction whose end that is.
    pub(super) last: Option<Commit>,
    /// Ids of our own notes that came by the log.
    pub(super) notes: Vec<String>,
    /// Some table has another shape than it had.
    pub(super) reshaped: bool,
}

/// What tells a transaction of a log from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) end: u64,
    pub(super) xid: u32,
    pub(super) micros: i64,
}

/// What becomes of what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It is put into the stream.
    Put,
    /// It is gathered, with rows, up to so many changes and about so many bytes.
    Gather { most: usize, bytes: usize },
    /// It was applied before, up to this transaction; nothing beyond it is read.
    Skip(Commit),
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// At the end of a transaction, or with none.
    Whole,
    /// At a transaction that is too large to be gathered, or within it.
    TooLarge,
    /// The transaction up to which it was to be skipped is not in the log.
    Missed,
}

/// The transaction that the stream is in.
struct Open {
    xid: u32,
    micros: i64,
    /// Made by the bridge itself for this slice.
    ours: bool,
    at: i64,
}

impl Open {
    fn of(xid: u32, micros: i64) -> Self {
        Self {
            xid,
            micros,
            ours: false,
            at: since_1970(micros),
        }
    }
}

/// Takes in transactions until none is there, or enough.
pub(super) struct Step<'a> {
    database: &'a Database,
    tables: &'a HashMap<u32, Watched>,
    pub(super) gathered: Gathered,
    manner: Manner,
    /// Per relation where its table's columns are.
    layouts: HashMap<u32, Arc<Layout>>,
    pub(super) came: u64,
    /// What had come before this step.
    began: u64,
    nonce: u64,
    fault: Option<&'a FaultHook>,
    /// Begun with the first change.
    tx: Option<Transaction<'static, Postgres>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        database: &'a Database,
        tables: &'a HashMap<u32, Watched>,
        (came, nonce): (u64, u64),
        fault: Option<&'a FaultHook>,
    ) -> Self {
        Self {
            database,
            tables,
            gathered: Gathered::default(),
            manner: Manner::Put,
            layouts: HashMap::new(),
            came,
            began: came,
            nonce,
            fault,
            tx: None,
        }
    }

    pub(super) fn doing(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    /// Takes in what has come, and puts it into the stream. Whether there was anything to put.
    pub(super) async fn run(&mut self, stream: &mut Stream, first: Bytes) -> Result<bool, Error> {
        self.read(stream, first).await?;
        self.finish(stream).await?;
        Ok(self.gathered.put > 0)
    }

    /// Takes in what has come.
    pub(super) async fn read(&mut self, stream: &mut Stream, first: Bytes) -> Result<Ended, Error> {
        let mut next = Some(first);
        let mut open: Option<Open> = None;
        while let Some(data) = next {
            if stream.streamed.is_within() && !pgoutput::stops(&data) {
                self.put_aside(stream, &data).await?;
            } else {
                match pgoutput::decode(&data).map_err(|e| self.database.stream_error(e))? {
                    Message::Committed { xid, end, micros } => {
                        if self.is_too_large(stream, xid) {
                            stream.held = Some(data);
                            return Ok(match self.gathered.last {
                                Some(_) => Ended::Whole,
                                None => Ended::TooLarge,
                            });
                        }
                        let open = Open::of(xid, micros);
                        if !Box::pin(self.replay(stream, open, end)).await? {
                            return Ok(Ended::TooLarge);
                        }
                    }
                    message => self.message(stream, (&data, message), &mut open)?,
                }
            }
            self.put_enough().await?;
            if let Some(ended) = self.ended(open.is_some()) {
                return Ok(ended);
            }
            let skips = matches!(self.manner, Manner::Skip(_));
            next = self.database.event(stream, open.is_some() || skips).await?;
        }
        Ok(Ended::Whole)
    }

    fn message(
        &mut self,
        stream: &mut Stream,
        (data, message): (&Bytes, Message<'_>),
        open: &mut Option<Open>,
    ) -> Result<(), Error> {
        match message {
            Message::Begin { xid, micros } => {
                // It is told whole, whatever was told of it before.
                stream.streamed.take(xid);
                *open = Some(Open::of(xid, micros));
                return Ok(());
            }
            Message::Commit { end } => {
                if let Some(open) = open.take() {
                    self.committed(&open, end);
                }
                return Ok(());
            }
            Message::Said { prefix, text } => {
                if prefix == PREFIX {
                    self.said(&String::from_utf8_lossy(text), open.as_mut());
                }
                return Ok(());
            }
            Message::Start { xid } => stream.streamed.begins(xid),
            Message::Stop => stream.streamed.stops(),
            Message::RolledBack { xid, part } => {
                let known = stream.streamed.rolled_back(xid, part);
                known.map_err(|e| self.unkept(stream, &e))?;
            }
            Message::Relation(mut relation) => {
                self.layouts.remove(&relation.id);
                let id = relation.id;
                if let Some(before) = stream.relations.get(&id) {
                    stream.reshaped |= !relation.agrees(before);
                }
                relation.came = stream.streamed.describes();
                stream.relations.insert(id, relation);
            }
            Message::Row(row) if open.as_ref().is_none_or(|open| !open.ours) => {
                let at = open.as_ref().map_or_else(now_ms, |open| open.at);
                self.row(stream, &row, (at, data), open.as_mut())?;
            }
            Message::Row(_) | Message::Committed { .. } | Message::Other => {}
        }
        self.gathered.bytes += data.len();
        Ok(())
    }

    /// Keeps what a transaction that runs has said.
    async fn put_aside(&mut self, stream: &mut Stream, data: &Bytes) -> Result<(), Error> {
        let full = stream.streamed.keep(data);
        if full.map_err(|e| self.unkept(stream, &e))? {
            let written = Box::pin(stream.streamed.write()).await;
            self.gathered.aside += written.map_err(|e| self.unkept(stream, &e))?;
            self.database.moves();
        }
        Ok(())
    }

    /// Whether a transaction that was told of while it ran is too large for what is gathered, or
    /// for all that may be.
    fn is_too_large(&self, stream: &Stream, xid: u32) -> bool {
        let Manner::Gather { bytes, .. } = self.manner else {
            return false;
        };
        let (messages, size) = stream.streamed.size(xid);
        let gathered = &self.gathered;
        gathered.waiting.len().saturating_add(messages) >= ENOUGH
            || gathered.bytes.saturating_add(size) >= bytes.saturating_mul(2)
    }

    /// Takes in a transaction that was told of while it ran. `false` where it is too large.
    async fn replay(&mut self, stream: &mut Stream, open: Open, end: u64) -> Result<bool, Error> {
        let (kept, mut open) = (stream.streamed.take(open.xid), Some(open));
        if let Some(mut kept) = kept
            && !matches!(self.manner, Manner::Skip(_))
        {
            let before = std::mem::take(&mut stream.relations);
            self.layouts.clear();
            let rewound = kept.rewind().await;
            rewound.map_err(|e| self.unkept(stream, &e))?;
            loop {
                let next = kept.next().await;
                let Some(data) = next.map_err(|e| self.unkept(stream, &e))? else {
                    break;
                };
                let message = pgoutput::decode(&data).map_err(|e| self.database.stream_error(e))?;
                self.message(stream, (&data, message), &mut open)?;
                self.put_enough().await?;
                if self.ended(true) == Some(Ended::TooLarge) {
                    return Ok(false);
                }
            }
            self.layouts.clear();
            stream.adopt(before, &kept);
        }
        if let Some(open) = open {
            self.committed(&open, end);
        }
        Ok(true)
    }

    /// A transaction that runs cannot be kept: from now on it comes once it is committed.
    fn unkept(&self, stream: &mut Stream, cause: &Unkept) -> Error {
        stream.unkept |= !matches!(cause, Unkept::Malformed(_));
        self.database.stream_error(cause)
    }

    async fn put_enough(&mut self) -> Result<(), Error> {
        let gathered = &self.gathered;
        let enough = gathered.waiting.len() >= PUT || gathered.rows >= PUT_BYTES;
        if self.manner == Manner::Put && enough {
            self.put().await?;
        }
        Ok(())
    }

    fn committed(&mut self, open: &Open, end: u64) {
        if !open.ours {
            self.gathered.transactions.push(open.xid);
        }
        self.gathered.upto = Some(end);
        self.gathered.last = Some(Commit {
            end,
            xid: open.xid,
            micros: open.micros,
        });
        if matches!(self.manner, Manner::Skip(_)) {
            self.gathered.waiting.clear();
        }
    }

    /// Whether this is enough, within a transaction or not.
    fn ended(&self, within: bool) -> Option<Ended> {
        let gathered = &self.gathered;
        if !within && gathered.aside >= ASIDE && !matches!(self.manner, Manner::Skip(_)) {
            return Some(Ended::Whole);
        }
        match self.manner {
            Manner::Put => (!within && gathered.put >= ENOUGH).then_some(Ended::Whole),
            Manner::Gather { most, bytes } => {
                let enough = gathered.waiting.len() >= most || gathered.bytes >= bytes;
                match (enough, within) {
                    (true, false) => Some(Ended::Whole),
                    (true, true) if gathered.waiting.len() >= ENOUGH => Some(Ended::TooLarge),
                    (true, true) if gathered.bytes >= bytes.saturating_mul(2) => {
                        Some(Ended::TooLarge)
                    }
                    _ => None,
                }
            }
            Manner::Skip(upto) => match gathered.last {
                Some(last) if last == upto => Some(Ended::Whole),
                Some(last) if last.end >= upto.end => Some(Ended::Missed),
                // Our mark is behind all that it could be in.
                _ => self.marked().then_some(Ended::Missed),
            },
        }
    }

    /// Whether a mark of ours has come in this step.
    fn marked(&self) -> bool {
        self.came > self.began
    }

    /// What one of our own messages says.
    fn said(&mut self, text: &str, open: Option<&mut Open>) {
        let slice = self.database.slice.as_str();
        let mut words = text.split(' ');
        if words.next() != Some(slice) {
            return;
        }
        let word = words.next();
        let mut number = || words.next().and_then(|text| text.parse::<u64>().ok());
        match (word, number()) {
            (Some("own"), _) => {
                if let Some(open) = open {
                    open.ours = true;
                }
            }
            (Some("mark"), Some(mark)) if number() == Some(self.nonce) => {
                self.came = self.came.max(mark);
            }
            (Some("beat"), Some(at)) => self.gathered.waiting.push(Noted {
                table: "".into(),
                op: "h".into(),
                at: i64::try_from(at).unwrap_or(0),
                key: Vec::new(),
                told: Told::Gone,
                rows: None,
            }),
            _ => {}
        }
    }

    fn row(
        &mut self,
        stream: &mut Stream,
        row: &Row<'_>,
        (at, data): (i64, &Bytes),
        open: Option<&mut Open>,
    ) -> Result<(), Error> {
        let relation = stream.relations.get(&row.relation);
        match self.tables.get(&row.relation) {
            Some(Watched::Table(table)) => {
                let layout = self.layouts.entry(row.relation);
                let layout = layout.or_insert_with(|| {
                    let noting = self.database.noting_rows;
                    Arc::new(Layout::of(table, relation, noting))
                });
                let whole = matches!(self.manner, Manner::Gather { .. }).then_some(data);
                match changes_of(table, layout, row, (at, whole)) {
                    Ok(noted) => {
                        for noted in noted.into_iter().flatten() {
                            self.gathered.rows += noted.rows.as_ref().map_or(0, Texts::len);
                            self.gathered.waiting.push(noted);
                        }
                    }
                    Err(Unkeyed::Missing(column)) => {
                        let side = self.database.side;
                        let what = format!(
                            "the log does not have column `{column}` of table `{}`, which is in its key",
                            table.name
                        );
                        return Err(Error::Discontinued { side, what });
                    }
                    Err(Unkeyed::Unread) => {
                        stream.unread = true;
                        let cause = "a key is of another type than it was; it is read as text now";
                        return Err(self.database.stream_error(cause));
                    }
                }
            }
            Some(Watched::Noted) => {
                let note = relation.and_then(|relation| note_of(relation, row));
                if let Some((id, noted)) = note {
                    self.gathered.notes.push(id);
                    self.gathered.waiting.push(noted);
                }
            }
            Some(Watched::Said) => {
                if let Some(text) = relation.and_then(|relation| says::words(relation, row)) {
                    self.said(text, open);
                }
            }
            // Not mapped any more.
            None => {}
        }
        Ok(())
    }

    /// Puts what was gathered behind the stream's head, in the transaction of this step.
    async fn put(&mut self) -> Result<(), Error> {
        let side = self.database.side;
        let Some(mut tx) = self.begun().await? else {
            return Ok(());
        };
        let head = match self.gathered.head {
            Some(head) => head,
            None => {
                let text = format!(
                    "SELECT head FROM {} FOR UPDATE",
                    self.database.own("control")
                );
                let row = sqlx::query(sqlx::AssertSqlSafe(text)).fetch_one(&mut *tx);
                row.await.and_then(|row| row.try_get(0)).on(side)?
            }
        };
        let waiting = std::mem::take(&mut self.gathered.waiting);
        self.gathered.rows = 0;
        let noting = self.database.noting_rows;
        let mut keys: Vec<String> = (0..KEY_COLUMNS).map(|at| format!("k{at}")).collect();
        keys.extend(COLUMNS.iter().filter(|_| noting).map(|&c| c.to_owned()));
        let arrays: Vec<String> = (0..keys.len())
            .map(|at| format!("${}::text[]", at + 5))
            .collect();
        let text = format!(
            "INSERT INTO {} (seq, tbl, op, at, {keys}) \
             SELECT $1 + place, tbl, op, at, {keys} FROM unnest($2::text[], $3::text[], $4::int8[], {}) \
             WITH ORDINALITY AS n (tbl, op, at, {keys}, place)",
            self.database.own("changes"),
            arrays.join(", "),
            keys = keys.join(", "),
        );
        let column = |of: fn(&Noted) -> &str| waiting.iter().map(of).collect::<Vec<&str>>();
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(head)
            .bind(column(|n| &n.table))
            .bind(column(|n| &n.op))
            .bind(waiting.iter().map(|n| n.at).collect::<Vec<i64>>());
        for at in 0..KEY_COLUMNS {
            let keys = waiting.iter().map(|n| key_text(n.key.get(at)?));
            query = query.bind(keys.collect::<Vec<Option<String>>>());
        }
        if noting {
            for end in [|t: &Texts| t.was.clone(), |t: &Texts| t.became.clone()] {
                let rows = waiting.iter().map(|n| n.rows.as_ref().map(end));
                query = query.bind(rows.collect::<Vec<Option<String>>>());
            }
        }
        query.execute(&mut *tx).await.on(side)?;
        self.database.moves();
        self.gathered.put += waiting.len();
        self.gathered.head = Some(head + i64::try_from(waiting.len()).unwrap_or(0));
        self.tx = Some(tx);
        Ok(())
    }

    async fn begun(&mut self) -> Result<Option<Transaction<'static, Postgres>>, Error> {
        match self.tx.take() {
            Some(tx) => Ok(Some(tx)),
            None => {
                FaultHook::pass(self.fault, "log-gathered");
                match self.database.write().await? {
                    Tx::Postgres(tx) => Ok(Some(tx)),
                    // The feed belongs to a database of this engine.
                    Tx::Sqlite(_) | Tx::Mysql(_) => Ok(None),
                }
            }
        }
    }

    /// Commits a place in the log, up to which all was applied, with its number in the stream.
    pub(super) async fn record(&mut self, stream: &mut Stream) -> Result<(), Error> {
        self.tx = self.begun().await?;
        self.finish(stream).await
    }

    /// Commits what was put, with the place in the log.
    pub(super) async fn finish(&mut self, stream: &mut Stream) -> Result<(), Error> {
        if !self.gathered.waiting.is_empty() {
            self.put().await?;
        }
        let Some(upto) = self.gathered.upto else {
            return Ok(());
        };
        let Some(mut tx) = self.tx.take() else {
            // Nothing of ours up to there: it may come again.
            return Ok(());
        };
        let side = self.database.side;
        self.visible(&mut tx, stream.run).await?;
        if !self.gathered.notes.is_empty() {
            let text = format!(
                "DELETE FROM {} WHERE id = ANY ($1::text[]::bigint[])",
                self.database.own("noted")
            );
            sqlx::query(sqlx::AssertSqlSafe(text))
                .bind(std::mem::take(&mut self.gathered.notes))
                .execute(&mut *tx)
                .await
                .on(side)?;
        }
        let place = |lsn: u64| i64::try_from(lsn).unwrap_or(i64::MAX);
        let text = format!(
            "WITH moved AS (UPDATE {} SET lsn = $1 WHERE lsn = $2 RETURNING 1) \
             UPDATE {} SET head = $3 WHERE EXISTS (SELECT 1 FROM moved)",
            self.database.own("slot"),
            self.database.own("control"),
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(place(upto))
            .bind(place(stream.written))
            .bind(self.gathered.head.unwrap_or(0))
            .execute(&mut *tx)
            .await
            .on(side)?;
        if done.rows_affected() != 1 {
            // What it had read when its stream was taken from it, a process before us may still
            // have put. Whose turn it is, the position says; the log is read from there on.
            let cause = "another process has put what this one has read of the log";
            return Err(self.database.stream_error(cause));
        }
        FaultHook::pass(self.fault, "log-read");
        tx.commit().await.on(side)?;
        FaultHook::pass(self.fault, "log-taken");
        stream.written = upto;
        stream.client.committed(upto);
        Ok(())
    }

    /// Waits until every transaction that was taken in can be seen. Where the server is another run than
    /// the log was read of, it may never have had them: it may be one that was restored from a backup.
    async fn visible(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        run: i64,
    ) -> Result<(), Error> {
        let side = self.database.side;
        let text = format!(
            "SELECT pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8, \
             ARRAY(SELECT x::text::int8 FROM pg_snapshot_xip(s) AS x), {RUN} \
             FROM pg_current_snapshot() AS s"
        );
        loop {
            let query = sqlx::query(sqlx::AssertSqlSafe(text.clone()));
            let row = query.fetch_one(&mut **tx).await.on(side)?;
            if row.try_get::<i64, _>(3).on(side)? != run {
                let cause = "the server has started again since its log was read";
                return Err(self.database.stream_error(cause));
            }
            let read = || {
                Ok::<_, sqlx::Error>((
                    row.try_get::<i64, _>(0)?,
                    row.try_get::<i64, _>(1)?,
                    row.try_get::<Vec<i64>, _>(2)?,
                ))
            };
            let (least, end, open) = read().on(side)?;
            let hidden = self.gathered.transactions.iter().any(|&xid| {
                !before(xid, least)
                    && (!before(xid, end) || open.iter().any(|open| low(*open) == xid))
            });
            if !hidden {
                return Ok(());
            }
            tokio::time::sleep(VISIBLE).await;
        }
    }
}
