//! Takes transactions from the log into the stream, and commits them with the place in the log.

use std::sync::Arc;

use mysql_async::binlog::events::Event as Raw;

use super::event::{Event, Mapped, Rows, decode};
use super::gtid::{Gtids, Named};
use super::image;
use super::noted::{Noted, Untold, changes_of, places};
use super::rows::Value;
use super::sql::{self, Statement};
use super::value::Part;
use super::{Known, Place, Stream, Watched};
use crate::db::images::{PUT_BYTES, Texts};
use crate::db::{Arg, Database, Tx};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::KEY_COLUMNS;

/// Changes put into the stream by one statement.
const PUT: usize = 500;
/// Changes after which a step ends at the next end of a transaction.
const ENOUGH: usize = 10_000;
/// Events after which it does, so that a busy server keeps us from nothing else.
const LOOKED: usize = 20_000;

/// What a change of every row is called in the stream.
pub(crate) const EVERY_ROW: &str = "t";

/// The transaction that the log is in.
struct Open {
    /// Made by the bridge itself for this slice.
    ours: bool,
    /// Whether its end is told; a single statement is its own.
    begun: bool,
    /// Whether it has changed a row that is followed.
    noted: bool,
    /// How the log names it, and the server that wrote it.
    named: Option<(Named, u32)>,
}

/// Takes in transactions until none is there, or enough.
pub(super) struct Step<'a> {
    database: &'a Database,
    fault: Option<&'a FaultHook>,
    /// The mark that is waited for, and whether it came.
    wanted: Option<u64>,
    pub(super) came: bool,
    pub(super) head: Option<i64>,
    open: Option<Open>,
    waiting: Vec<Noted>,
    /// Bytes of the rows that are noted with these.
    rows: usize,
    put: usize,
    /// Where the last whole transaction ended; `None` where that cannot be said as a place.
    upto: Option<Place>,
    /// Begun with the first change.
    tx: Option<Tx>,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        database: &'a Database,
        wanted: Option<u64>,
        fault: Option<&'a FaultHook>,
    ) -> Self {
        Self {
            database,
            fault,
            wanted,
            came: false,
            head: None,
            open: None,
            waiting: Vec::new(),
            rows: 0,
            put: 0,
            upto: None,
            tx: None,
        }
    }

    pub(super) async fn run(&mut self, stream: &mut Stream, first: Raw) -> Result<(), Error> {
        let mut next = Some(first);
        let mut looked = 0;
        while let Some(raw) = next {
            looked += 1;
            self.event(stream, &raw)?;
            if self.waiting.len() >= PUT || self.rows >= PUT_BYTES {
                self.put().await?;
            }
            let between = self.open.is_none() && stream.proved && self.placed();
            if between && (self.put >= ENOUGH || looked >= LOOKED || stream.stale) {
                break;
            }
            next = self.database.logged(stream, !between).await?;
        }
        self.finish(stream).await
    }

    /// Whether what was gathered ends at a place that can be recorded.
    fn placed(&self) -> bool {
        self.upto.is_some() || self.tx.is_none() && self.waiting.is_empty()
    }

    fn event(&mut self, stream: &mut Stream, raw: &Raw) -> Result<(), Error> {
        let header = raw.header();
        let kind = header.event_type_raw();
        let end = u64::from(header.log_pos());
        let at = i64::from(header.timestamp()) * 1_000;
        let broken = || {
            self.database
                .stream_error(format!("event {kind} of its log is broken"))
        };
        match decode(kind, raw.data()).ok_or_else(broken)? {
            Event::Described => stream.described = true,
            // The first one has a checksum that nobody knows of yet. It names the file that was
            // asked for, or the one that has what was asked for.
            Event::Rotate { file, place } if !stream.described => stream.begins(&file, place),
            Event::Rotate { file, place } => {
                // What a crash has left unfinished at a file's end was never committed.
                self.open = None;
                stream.packed = None;
                if file != stream.place.file {
                    stream.place = Place { file, pos: place };
                    self.upto = Some(stream.place.clone());
                }
            }
            Event::Gtid { begun, named } => {
                if stream.packed.is_some() {
                    return Err(self.unreadable("a compressed transaction cannot be read"));
                }
                self.begin(begun, Some((named, header.server_id())));
            }
            Event::Before(gtids) => stream.before(gtids),
            Event::Query { schema, text } => {
                let text = String::from_utf8_lossy(&text);
                self.statement(stream, &schema, &text, at, end)?;
            }
            Event::Commit => self.end(stream, end),
            Event::Prepared { one_phase } => {
                let noted = self.open.as_ref().is_some_and(|open| open.noted);
                if noted && !one_phase {
                    return Err(self.unreadable(
                        "an XA transaction has changed rows, and whether it was committed is told \
                         elsewhere",
                    ));
                }
                self.end(stream, end);
            }
            Event::Map(mapped) => self.map(stream, &mapped)?,
            Event::Rows(rows) => self.rows(stream, &rows, at)?,
            Event::Payload => stream.packed = Some(end),
            Event::Unreadable(what) => {
                return Err(self.unreadable(&format!("it has {what}")));
            }
            Event::Other => {}
        }
        Ok(())
    }

    fn begin(&mut self, begun: bool, named: Option<(Named, u32)>) {
        self.open = Some(Open {
            ours: false,
            begun,
            noted: false,
            named,
        });
    }

    fn end(&mut self, stream: &mut Stream, end: u64) {
        if let Some((named, server)) = self.open.take().and_then(|open| open.named) {
            stream.took(named, server);
        }
        stream.known.clear();
        let pos = stream.packed.take().unwrap_or(end);
        // Offsets have 32 bits; behind a transaction that went beyond them comes another file.
        let onward = pos > stream.place.pos;
        if onward {
            stream.place.pos = pos;
        }
        self.upto = onward.then(|| stream.place.clone());
    }

    fn unreadable(&self, what: &str) -> Error {
        Error::Unreadable {
            side: self.database.side,
            what: what.to_owned(),
        }
    }

    fn statement(
        &mut self,
        stream: &mut Stream,
        schema: &str,
        text: &str,
        at: i64,
        end: u64,
    ) -> Result<(), Error> {
        let ours = self.open.as_ref().is_some_and(|open| open.ours);
        let statement = sql::read(text);
        match &statement {
            Statement::Begin | Statement::XaStart => {
                match &mut self.open {
                    Some(open) => open.begun = true,
                    None => self.begin(true, None),
                }
                return Ok(());
            }
            Statement::End | Statement::XaEnd => {
                self.end(stream, end);
                return Ok(());
            }
            Statement::Emptied(names) => {
                let noted = stream.sight.meant(schema, names).map(|shape| Noted {
                    shape: Some(Arc::clone(shape)),
                    op: EVERY_ROW,
                    at,
                    keys: Vec::new(),
                    rows: None,
                });
                self.waiting.extend(noted);
            }
            Statement::Replaced(names) => {
                if let Some(shape) = stream.sight.meant(schema, names).next() {
                    return Err(Error::CaptureLost {
                        side: self.database.side,
                        table: shape.table.name.clone(),
                    });
                }
            }
            Statement::Altered(name) => {
                let names = std::slice::from_ref(name);
                let altered = stream.sight.meant(schema, names).next().is_some();
                stream.stale |= altered;
            }
            Statement::Wrote(names) if !ours => {
                if let Some(shape) = stream.sight.meant(schema, names).next() {
                    return Err(self.unreadable(&format!(
                        "a statement that may have changed rows of `{}` is in it as text, by a \
                         session with another `binlog_format`",
                        shape.table.name
                    )));
                }
            }
            Statement::Wrote(_) | Statement::Inside | Statement::Other => {}
        }
        if self.open.as_ref().is_none_or(|open| !open.begun) {
            self.end(stream, end);
        }
        Ok(())
    }

    fn map(&self, stream: &mut Stream, mapped: &Mapped<'_>) -> Result<(), Error> {
        let Some(watched) = stream.sight.find(&mapped.schema, &mapped.table) else {
            stream.known.remove(&mapped.id);
            return Ok(());
        };
        let watched = watched.clone();
        let broken = || {
            self.database
                .stream_error("a table's description in its log is broken")
        };
        let columns = mapped.columns().ok_or_else(broken)?;
        let places = match &watched {
            Watched::Table(shape) => {
                let found = places(&shape.table, &columns);
                let mut found = found.map_err(|e| self.untold(&shape.table.name, &e))?;
                if shape.noting.is_some() {
                    found.extend(image::places(&shape.table, &columns));
                }
                found
            }
            // Both have them in front.
            Watched::Mark | Watched::Slot => vec![0, 1],
        };
        let known = Known {
            watched,
            columns,
            places,
        };
        stream.known.insert(mapped.id, known);
        Ok(())
    }

    fn untold(&self, table: &str, untold: &Untold) -> Error {
        self.unreadable(&match untold {
            Untold::Names => format!(
                "it does not name the columns of `{table}`: SET GLOBAL binlog_row_metadata = 'FULL'"
            ),
            Untold::Column(name) => format!("it has no column `{name}` of `{table}`"),
            Untold::Image(name) => format!(
                "it does not tell `{name}`, which is in the key of `{table}`: SET GLOBAL \
                 binlog_row_image = 'FULL'"
            ),
            Untold::Value(name) => {
                format!("a value of `{name}` of `{table}` is of another type than the column")
            }
        })
    }

    fn rows(&mut self, stream: &mut Stream, rows: &Rows<'_>, at: i64) -> Result<(), Error> {
        let Some(known) = stream.known.get(&rows.table) else {
            return Ok(());
        };
        let changed = rows.changes(&known.columns, &known.places);
        let broken = || self.database.stream_error("rows in its log are broken");
        let changed = changed.ok_or_else(broken)?;
        match &known.watched {
            Watched::Table(shape) => {
                if self.open.as_ref().is_some_and(|open| open.ours) {
                    return Ok(());
                }
                for row in &changed {
                    let noted = changes_of(shape, &known.columns, &known.places, row, at)
                        .map_err(|e| self.untold(&shape.table.name, &e))?;
                    let rows = noted.iter().filter_map(|noted| noted.rows.as_ref());
                    self.rows += rows.map(Texts::len).sum::<usize>();
                    self.waiting.extend(noted);
                }
                if let Some(open) = &mut self.open {
                    open.noted = true;
                }
            }
            Watched::Mark => {
                for row in changed.iter().filter(|row| row.before.is_none()) {
                    if let Some([id, what]) = row.after.as_deref() {
                        self.marked(stream, *id, *what)?;
                    }
                }
            }
            Watched::Slot => {
                for row in &changed {
                    if let Some([_, Value::Bytes(stamp)]) = row.after.as_deref() {
                        // A text's length stands before it and is gone already.
                        stream.proved |= *stamp == stream.stamp.as_bytes();
                    }
                }
            }
        }
        Ok(())
    }

    /// What one of our own marks says.
    fn marked(&mut self, stream: &Stream, id: Value<'_>, what: Value<'_>) -> Result<(), Error> {
        let (Value::Bytes(id), Value::Bytes(what)) = (id, what) else {
            return Ok(());
        };
        let id = super::wire::low(id);
        let what = String::from_utf8_lossy(what);
        let mut words = what.split(' ');
        match (words.next(), words.next().map(str::parse::<i64>)) {
            (Some("own"), _) => {
                if let Some(open) = &mut self.open {
                    open.ours = true;
                }
            }
            (Some("beat"), Some(Ok(at))) => self.waiting.push(Noted {
                shape: None,
                op: "h",
                at,
                keys: Vec::new(),
                rows: None,
            }),
            (Some("mark"), _) => {
                self.came |= self.wanted == Some(id);
                if id == stream.limit && !stream.proved {
                    return Err(Error::Discontinued {
                        side: self.database.side,
                        what: "its binary log is not the one that was read".to_owned(),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts what was gathered behind the stream's head, in the transaction of this step.
    async fn put(&mut self) -> Result<(), Error> {
        let side = self.database.side;
        let mut tx = match self.tx.take() {
            Some(tx) => tx,
            None => self.database.write().await?,
        };
        let mut head = match self.head {
            Some(head) => head,
            None => {
                let text = format!(
                    "SELECT head FROM {} WHERE id = 1 FOR UPDATE",
                    self.database.own("control")
                );
                tx.number(&text, &[]).await.on(side)?.unwrap_or(0)
            }
        };
        let waiting = std::mem::take(&mut self.waiting);
        self.rows = 0;
        let noting = self.database.noting_rows;
        let rows = if noting { ", was, became" } else { "" };
        for some in waiting.chunks(PUT) {
            let mut values = Vec::with_capacity(some.len());
            let mut args = Vec::with_capacity(some.len() * (4 + KEY_COLUMNS));
            for noted in some {
                head += 1;
                values.push(row(noted, head, noting, &mut args));
            }
            let text = format!(
                "INSERT INTO {} (seq, tbl, op, at, {}{rows}) VALUES {}",
                self.database.own("changes"),
                crate::db::stream::KEYS,
                values.join(", ")
            );
            tx.execute(&text, &args).await.on(side)?;
        }
        self.database.moves();
        self.put += waiting.len();
        self.head = Some(head);
        self.tx = Some(tx);
        Ok(())
    }

    /// Commits what was put, with the place in the log.
    async fn finish(&mut self, stream: &mut Stream) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            self.put().await?;
        }
        let (Some(mut tx), Some(upto), Some(head)) = (self.tx.take(), self.upto.take(), self.head)
        else {
            // Nothing of ours up to there: it may come again.
            return Ok(());
        };
        let side = self.database.side;
        stream.stamps += 1;
        let stamp = format!("{}/{}", stream.salt, stream.stamps);
        let text = format!(
            "UPDATE {} SET stamp = ?, server = ?, file = ?, pos = ?, gtids = ? WHERE stamp = ?",
            self.database.own("slot")
        );
        let args = [
            Arg::from(&stamp),
            Arg::from(&stream.server),
            Arg::from(&upto.file),
            Arg::from(i64::try_from(upto.pos).unwrap_or(i64::MAX)),
            Arg::Text(stream.gtids.as_ref().map(Gtids::to_string)),
            Arg::from(&stream.stamp),
        ];
        if tx.execute(&text, &args).await.on(side)? != 1 {
            // Who of two processes has to go is said by their epochs.
            return Err(self
                .database
                .stream_error("another process has read its binary log meanwhile"));
        }
        let text = format!("UPDATE {} SET head = ?", self.database.own("control"));
        tx.execute(&text, &[Arg::from(head)]).await.on(side)?;
        FaultHook::pass(self.fault, "log-read");
        tx.commit().await.on(side)?;
        FaultHook::pass(self.fault, "log-taken");
        stream.stamp = stamp;
        Ok(())
    }
}

/// The values of one change, as SQL text; what they stand for is put behind `args`.
fn row(noted: &Noted, seq: i64, noting: bool, args: &mut Vec<Arg>) -> String {
    args.push(Arg::from(seq));
    args.push(Arg::from(
        noted.shape.as_ref().map_or("", |shape| &shape.table.name),
    ));
    args.push(Arg::from(noted.op));
    args.push(Arg::from(noted.at));
    let mut text = "(?, ?, ?, ?".to_owned();
    for at in 0..KEY_COLUMNS {
        let charset = noted
            .shape
            .as_ref()
            .and_then(|shape| shape.charsets.get(at))
            .and_then(Option::as_deref)
            .filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric()));
        let (place, arg) = match (noted.keys.get(at), charset) {
            (Some(Part::Foreign(bytes)), Some(charset)) => (
                format!(
                    ", CONCAT('t', CONVERT(CAST(? AS CHAR CHARACTER SET {charset}) USING utf8mb4))"
                ),
                Arg::Bytes(Some(bytes.clone())),
            ),
            (Some(Part::Foreign(bytes)), None) => {
                let text = String::from_utf8_lossy(bytes);
                (", ?".to_owned(), Arg::Text(Some(format!("t{text}"))))
            }
            (Some(Part::Stored(text)), _) => (", ?".to_owned(), Arg::from(text)),
            (Some(Part::Null) | None, _) => (", ?".to_owned(), Arg::Text(None)),
        };
        text.push_str(&place);
        args.push(arg);
    }
    if noting {
        for end in [|t: &Texts| t.was.clone(), |t: &Texts| t.became.clone()] {
            text.push_str(", ?");
            args.push(Arg::Text(noted.rows.as_ref().map(end)));
        }
    }
    text.push(')');
    text
}
