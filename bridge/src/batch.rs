//! Takes the next piece of work from the source: which keys changed, what their rows are now,
//! and the next chunk of the backfill, all of one moment.
//!
//! Why this is right, also beside a running backfill. One task does everything in turn. Each
//! batch reads events, rows and chunk in one snapshot of the source, and later batches read later
//! snapshots. So after each batch this holds for every key that was copied or touched: the target
//! has the row as it was in some snapshot that the bridge has seen, and every change after that
//! snapshot has a number above the position. For the stream that is plain, as events up to the
//! position are taken with the rows of the same snapshot or of a later one. A chunk reads rows
//! that may be newer than the position; the events between come later and read a still newer row,
//! so nothing goes back in time. A row deleted before the chunk's snapshot is not in the chunk; if
//! an earlier batch had written it, its delete has a number above the position then and comes.
//! Applying a key twice is the same as once, because what is applied is a state, not an event.
//!
//! A chunk whose rows need no look goes from database to database: the source hands them out by
//! COPY in the very snapshot that the batch's events and rows are of, which stays open until they
//! are written; several such chunks may follow one another so ([`crate::abreast`]). They are written
//! first, and the rows of changed keys over them: of one snapshot, both say the same of a key that both have, and a key that only the changes have is one that was
//! deleted or lies elsewhere. What such a chunk is refused for is left to a batch of its own, with
//! a snapshot of its own, in which every row is looked at.
//!
//! A chunk does not wait for the stream to be caught up, or a busy source would never be copied.
//! A table counts as copied only at a moment when *all* changes were taken too: then references
//! between the tables hold, and are enforced from there on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use outgrow_rollout::Side;

use crate::db::books::Copy;
use crate::db::mark::Mark;
use crate::db::postgres::copy::{self, Cut, Shape};
use crate::db::stream::Change;
use crate::db::sums::Range;
use crate::db::{Database, Dialect, Place, Tx, rows, sizes};
use crate::error::{Error, OnSide};
use crate::moments::{self, Moment};
use crate::plan::{Group, Image, Plan, Row, Straight, Table};
use crate::portion::{self, Each, Light};
use crate::spec::Capture;
use crate::value::{Key, Kind};

/// Changes without a place that are looked at in one batch: what was committed in some
/// milliseconds.
pub(crate) const UNPLACED: u32 = 10_000;

/// One key to be brought up to date on the target.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) group: usize,
    pub(crate) key: Key,
    /// What the target shall have, or why that cannot be said. An image without tables leaves
    /// what is there.
    pub(crate) target: Result<Image, String>,
    pub(crate) source: Image,
}

/// What is applied in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The position once this is applied.
    pub(crate) upto: i64,
    /// Which change that is, where the source says so.
    pub(crate) mark: Option<Mark>,
    /// Time of the newest heartbeat up to there.
    pub(crate) beat: Option<i64>,
    pub(crate) work: Vec<Work>,
    /// The copy's new cursor, if a chunk is part of this.
    pub(crate) copy: Option<Copy>,
    /// More changes are there already.
    pub(crate) truncated: bool,
    /// They wait because rows of this are large.
    pub(crate) cut: bool,
    /// Every change that its snapshot shows is in it, if those beyond the stream were asked for, too.
    pub(crate) whole: bool,
    /// Changes may be missing that the rows show the effects of; they can be asked for.
    pub(crate) partial: bool,
    /// A table that lost all its rows at once, and whose group is to be looked at whole. Nothing
    /// else is in this batch then.
    pub(crate) emptied: Option<usize>,
    /// Numbers of the changes without a place that this has taken, too.
    pub(crate) unplaced: HashSet<i64>,
    /// The chunk's rows, where they go from database to database; they are not in `work` then.
    pub(crate) direct: Option<Direct>,
    /// The names of all transactions that its rows may have seen, where the source's log has names.
    pub(crate) named: Option<String>,
    /// Most of its rows are new to the source, so probably to the target.
    pub(crate) fresh: bool,
    /// Where this comes from the source's log without the stream between: the number before it,
    /// and the place in the log where it ends.
    pub(crate) log: Option<(i64, Place)>,
    /// When its changes were made.
    pub(crate) moments: Vec<Moment>,
}

/// Rows that nobody looks at on their way.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) way: Way,
    /// The first of them; those behind it are found while it is copied.
    pub(crate) first: copy::Range,
    /// The snapshot that all of the batch is of.
    pub(crate) snapshot: Tx,
}

/// How rows go that nobody looks at.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) straight: Straight,
    pub(crate) shape: Shape,
    pub(crate) cut: Cut,
    pub(crate) source: Database,
    /// How far the copy is.
    pub(crate) copy: Copy,
    /// How many ranges are copied side by side, and for how long new ones are begun.
    pub(crate) abreast: u32,
    pub(crate) round: Duration,
}

/// The chunk that is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) copy: &'a Copy,
    /// Rows that it may have at the most, and about their bytes; those of a chunk that goes from
    /// database to database, where that is allowed.
    pub(crate) rows: u32,
    pub(crate) bytes: usize,
    pub(crate) direct: Option<u32>,
    /// How many of those are copied side by side, and for how long while there is nothing else.
    pub(crate) abreast: u32,
    pub(crate) round: Duration,
}

/// What to take.
pub(crate) struct Take<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) source: &'a Database,
    pub(crate) after: i64,
    pub(crate) mark: Option<&'a Mark>,
    pub(crate) changes: u32,
    /// What their rows may have, about.
    pub(crate) bytes: usize,
    pub(crate) chunk: Option<Chunk<'a>>,
    /// Changes without a place that an earlier batch has taken.
    pub(crate) unplaced: &'a HashSet<i64>,
    /// Also changes whose rows the snapshot may show before the stream does. That takes a wait.
    pub(crate) beyond: bool,
    /// All that the snapshot shows is wanted, so that no transaction is cut; so many changes may it be.
    pub(crate) whole: bool,
}

impl Take<'_> {
    /// Reads the next batch, or `None` when there is nothing to do.
    pub(crate) async fn next(&self) -> Result<Option<Batch>, Error> {
        let mut tx = self.source.read().await?;
        let head = self.source.head_behind(&mut tx, self.after).await?;
        let most = if self.whole {
            self.changes.max(UNPLACED)
        } else {
            UNPLACED
        };
        let unplaced = self.source.unplaced(&mut tx, most).await?;
        let fresh = unplaced.iter().any(|c| !self.unplaced.contains(&c.seq));
        if head == self.after && self.chunk.is_none() && !fresh {
            return Ok(None);
        }
        let mut changes = self.behind(&mut tx, &unplaced).await?;
        let mut truncated = changes.len() >= self.changes as usize;
        let beside = self.source.prints(&unplaced);
        match changes.iter().position(Change::is_of_all) {
            Some(0) => return self.emptied(&mut tx, &changes[..1], (head, beside)).await,
            // Up to there as ever.
            Some(at) => {
                changes.truncate(at);
                truncated = true;
            }
            None => {}
        }
        let mut upto = match changes.last() {
            Some(last) if truncated => last.seq,
            _ => head,
        };
        // Rows do not wait for a place in the stream: what they refer to may have come by it.
        let mut unplaced = if truncated { Vec::new() } else { unplaced };
        let beyond = match self.beyond && !truncated {
            true => self.source.beyond(head, most).await?,
            false => Vec::new(),
        };
        let all = !truncated && unplaced.len().max(beyond.len()) < most as usize;
        let mut seen = [changes.as_slice(), &beyond].concat();
        let fresh = unplaced.iter().filter(|c| !self.unplaced.contains(&c.seq));
        seen.extend(fresh.cloned());
        // Heartbeats have seen nothing.
        let named = match self.chunk.is_some() || seen.iter().any(|change| !change.is_beat()) {
            true => self.source.named(&mut tx).await?,
            false => None,
        };
        let (work, cut) = self.rows(&mut tx, &seen).await?;
        if let Some(count) = cut {
            (truncated, unplaced) = (true, Vec::new());
            if count < changes.len() {
                changes.truncate(count);
                upto = changes.last().map_or(self.after, |last| last.seq);
            }
        }
        let applied = (self.mark, changes.as_slice());
        let shown = (head, beside);
        let mut batch = Batch {
            work,
            named,
            cut: cut.is_some(),
            whole: all && cut.is_none(),
            mark: self.source.marked_within(&mut tx, applied, shown).await?,
            unplaced: unplaced.iter().map(|c| c.seq).collect(),
            upto,
            beat: changes.iter().filter(|c| c.is_beat()).map(|c| c.at).max(),
            moments: moments::of_stream(self.plan, self.source.side, &changes),
            truncated,
            partial: truncated || !self.beyond && self.source.capture() == Capture::Replication,
            ..Batch::default()
        };
        if let Some(chunk) = self.chunk {
            self.copy(tx, chunk, &mut batch).await?;
        }
        Ok(Some(batch))
    }

    /// The next changes, of a source that has all that was seen of it before.
    async fn behind(&self, tx: &mut Tx, unplaced: &[Change]) -> Result<Vec<Change>, Error> {
        let (source, mark) = (self.source, self.mark.filter(|mark| mark.seq == self.after));
        let changes = source.changes_behind(tx, (self.after, mark), self.changes);
        let changes = changes.await?;
        match changes.len() < self.changes as usize {
            true => source.has_shown(mark, &changes, unplaced)?,
            false => source.still_has(tx, mark, unplaced).await?,
        }
        Ok(changes)
    }

    /// The batch of a change that has no key.
    async fn emptied(
        &self,
        tx: &mut Tx,
        change: &[Change],
        shown: (i64, Vec<u64>),
    ) -> Result<Option<Batch>, Error> {
        let group = |of: &Change| self.plan.group_of(self.source.side, &of.table);
        let mark = self.source.marked_within(tx, (self.mark, change), shown);
        Ok(Some(Batch {
            upto: change.first().map_or(self.after, |of| of.seq),
            moments: moments::of_stream(self.plan, self.source.side, change),
            mark: mark.await?,
            emptied: change.first().and_then(group),
            truncated: true,
            ..Batch::default()
        }))
    }

    /// Adds what is due of the backfill.
    async fn copy(&self, mut tx: Tx, chunk: Chunk<'_>, batch: &mut Batch) -> Result<(), Error> {
        let Some((straight, shape, first, cut)) = self.direct(&mut tx, chunk).await? else {
            batch.copy = Some(self.chunk(&mut tx, chunk, batch).await?);
            return Ok(());
        };
        let idle = batch.work.is_empty() && !batch.truncated;
        let way = Way {
            straight,
            shape,
            cut,
            source: self.source.clone(),
            copy: chunk.copy.clone(),
            abreast: chunk.abreast,
            round: if idle { chunk.round } else { Duration::ZERO },
        };
        batch.direct = Some(Direct {
            way,
            first,
            snapshot: tx,
        });
        Ok(())
    }

    /// The rows of these changes as they are now, mapped, and how many of the changes that is where
    /// their rows are too large to be read at once.
    async fn rows(
        &self,
        tx: &mut Tx,
        seen: &[Change],
    ) -> Result<(Vec<Work>, Option<usize>), Error> {
        let (plan, source) = (self.plan, self.source);
        let mut keys = distinct(plan, source.side, seen);
        let light = portion::light(plan, source, tx, &keys, self.bytes).await?;
        let Light { mut images, heavy } = light;
        let ats = seen.iter().map(|change| change.row(plan, source.side));
        let cut = portion::cut(ats, &heavy, Each::Key, self.bytes);
        if let Some(count) = cut {
            keys = distinct(plan, source.side, &seen[..count]);
        }
        let mut work = Vec::new();
        for (at, keys) in keys {
            let group = &plan.groups[at];
            let mut images = images.remove(&at).unwrap_or_default();
            let large = |key: &&Key| heavy.contains_key(&(at, (*key).clone()));
            if !heavy.is_empty() {
                let large: Vec<Key> = keys.iter().filter(large).cloned().collect();
                fill(&mut images, group, source, tx, &large, 0).await?;
            }
            for key in keys {
                let image = images.remove(&key);
                let image = image.unwrap_or_else(|| vec![None; group.tables(source.side).len()]);
                work.push(mapped(group, at, source.side, key, image));
            }
        }
        Ok((work, cut))
    }

    /// The next rows to go from database to database; `None` where they may not, or where there
    /// are none.
    async fn direct(
        &self,
        tx: &mut Tx,
        chunk: Chunk<'_>,
    ) -> Result<Option<(Straight, Shape, copy::Range, Cut)>, Error> {
        let side = self.source.side;
        let (Some(most), Dialect::Postgres, Side::Legacy) =
            (chunk.direct, self.source.dialect(), side)
        else {
            return Ok(None);
        };
        let group = self.plan.group_of(side, &chunk.copy.table);
        let Some(straight) = group.and_then(|at| self.plan.groups[at].straight()) else {
            return Ok(None);
        };
        let table = &straight.legacy;
        let shape = copy::shape(tx, table, &straight.from).await.on(side)?;
        let Some(shape) = shape else {
            return Ok(None);
        };
        let cut = Cut {
            most,
            bytes: chunk.bytes,
            large: copy::has_large(tx, table).await.on(side)?,
        };
        let first = copy::range(tx, table, chunk.copy.cursor.as_ref(), cut);
        let first = first.await.on(side)?;
        Ok(first.map(|first| (straight, shape, first, cut)))
    }

    async fn chunk(&self, tx: &mut Tx, chunk: Chunk<'_>, batch: &mut Batch) -> Result<Copy, Error> {
        let copy = chunk.copy;
        let side = self.source.side;
        let mut next = copy.clone();
        let Some(group) = self.plan.group_of(side, &copy.table) else {
            return Ok(next.ended(true));
        };
        let table = &self.plan.groups[group].tables(side)[0];
        let cursor = copy.cursor.as_ref();
        let range = Range::after(cursor);
        let limit = sizes::within(tx, table, &range, chunk.rows, chunk.bytes);
        let limit = limit.await.on(side)?;
        let found = rows::within(tx, table, &range, limit).await.on(side)?;
        let done = found.len() < limit as usize && !batch.truncated;
        let lacking = match cursor {
            None => rows::keyless(tx, table).await.on(side)?,
            Some(_) => Vec::new(),
        };
        next.copied += found.len() as u64;
        let mut once = HashSet::new();
        let found: Vec<(Key, Row)> = lacking
            .into_iter()
            .chain(found)
            .map(|row| (table.key_of(&row), row))
            .filter(|(key, _)| rows::usable(key) || once.insert(key.clone()))
            .collect();
        let taken: Vec<Key> = found.iter().map(|(key, _)| key.clone()).collect();
        let last = taken.last().filter(|key| rows::usable(key));
        next.cursor = last.cloned().or(next.cursor);
        let group_of = &self.plan.groups[group];
        let mut beside = HashMap::new();
        fill(&mut beside, group_of, self.source, tx, &taken, 1).await?;
        // A key that changed was read in the same snapshot: once is enough.
        let of_group = batch.work.iter().filter(|w| w.group == group);
        let have: HashSet<&Key> = of_group.map(|w| &w.key).collect();
        let mut work = Vec::with_capacity(found.len());
        for (key, row) in found.into_iter().filter(|(key, _)| !have.contains(key)) {
            let mut image = beside
                .remove(&key)
                .unwrap_or_else(|| vec![None; group_of.tables(side).len()]);
            image[0] = Some(row);
            work.push(mapped(group_of, group, side, key, image));
        }
        batch.work.extend(work);
        Ok(next.ended(done))
    }
}

/// The rows of these keys as they are now, mapped.
pub(crate) async fn current(
    plan: &Plan,
    source: &Database,
    tx: &mut Tx,
    keys: &HashMap<usize, Vec<Key>>,
) -> Result<Vec<Work>, Error> {
    let mut work = Vec::new();
    for (&group, keys) in keys {
        let mut images = images(&plan.groups[group], source, tx, keys).await?;
        for key in keys {
            let empty = || vec![None; plan.groups[group].tables(source.side).len()];
            let image = images.remove(key).unwrap_or_else(empty);
            work.push(mapped(
                &plan.groups[group],
                group,
                source.side,
                key.clone(),
                image,
            ));
        }
    }
    Ok(work)
}

/// What a side has for these keys; keys without any row are left out.
pub(crate) async fn images(
    group: &Group,
    side: &Database,
    tx: &mut Tx,
    keys: &[Key],
) -> Result<HashMap<Key, Image>, Error> {
    let mut images = HashMap::with_capacity(keys.len());
    fill(&mut images, group, side, tx, keys, 0).await?;
    Ok(images)
}

/// Adds what a side's tables from this one on have for these keys.
async fn fill(
    images: &mut HashMap<Key, Image>,
    group: &Group,
    side: &Database,
    tx: &mut Tx,
    keys: &[Key],
    from: usize,
) -> Result<(), Error> {
    let tables = group.tables(side.side);
    for (at, table) in tables.iter().enumerate().skip(from) {
        let found: Vec<Row> = rows::by_keys(tx, table, keys).await.on(side.side)?;
        for row in found {
            let image = images
                .entry(table.key_of(&row))
                .or_insert_with(|| vec![None; tables.len()]);
            image[at] = Some(row);
        }
    }
    Ok(())
}

pub(crate) fn mapped(group: &Group, at: usize, side: Side, key: Key, source: Image) -> Work {
    // SQLite finds rows without a value in the key, too, so what it does not find is gone.
    let finds = |table: &Table| matches!(table.columns[table.key[0]].kind, Kind::Sqlite(_));
    let gone = || source.iter().all(Option::is_none) && group.tables(side).iter().all(finds);
    let target = if rows::usable(&key) || gone() {
        group.map(side, &source).map_err(|e| e.to_string())
    } else {
        Err("a key column is NULL".to_owned())
    };
    Work {
        group: at,
        key,
        target,
        source,
    }
}

fn distinct(plan: &Plan, side: Side, changes: &[Change]) -> HashMap<usize, Vec<Key>> {
    let mut seen = HashSet::new();
    let mut keys: HashMap<usize, Vec<Key>> = HashMap::new();
    for change in changes.iter().filter(|c| !c.is_of_all()) {
        // A table that is not mapped any more has triggers left from an older config.
        let Some((group, key)) = change.row(plan, side) else {
            continue;
        };
        if seen.insert((group, key.clone())) {
            keys.entry(group).or_default().push(key);
        }
    }
    keys
}
