//! A person decides: which side's version of a row stands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outgrow_rollout::Side;
use serde::Serialize;

use super::books::{At, Conflict};
use super::foreign::OPEN;
use super::list::{Kind, name, named};
use super::{guard, literal, version};
use crate::apply::Outcome;
use crate::batch::{Batch, Work, current, images};
use crate::db::books::Foreign;
use crate::db::{Arg, References, now_ms, rows};
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::link::{Inner, Link};
use crate::shared::Shared;
use crate::value::Key;

/// Looks at a row that keeps changing before its conflict is left open.
const TRIES: u32 = 200;

/// Rows that are looked at and settled together, with both versions in memory.
const PART: u32 = 200;
/// Rows that a report names of each kind; the others are counted.
const NAMED: usize = 1_000;

/// What is to be settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every open conflict, and every foreign write that nobody has settled.
    All,
    /// One of those that [`Link::conflicts`] lists. A conflict that is settled already is decided
    /// anew: the version that was kept is written again.
    One(String),
}

/// What was settled, or would be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SettleReport {
    pub dry_run: bool,
    /// The first thousand.
    pub settled: Vec<Settled>,
    /// What could not be, with the reason: the first thousand.
    pub failed: Vec<Failed>,
    /// How many were settled, and how many could not be, named or not.
    pub total: u64,
    pub total_failed: u64,
    /// Whether some are not named.
    pub more: bool,
    /// Conflicts that are open still.
    pub open: u64,
}

impl SettleReport {
    fn settled(&mut self, one: Settled) {
        self.total += 1;
        if self.settled.len() < NAMED {
            self.settled.push(one);
        } else {
            self.more = true;
        }
    }

    fn failed(&mut self, one: Failed) {
        self.total_failed += 1;
        if self.failed.len() < NAMED {
            self.failed.push(one);
        } else {
            self.more = true;
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Settled {
    pub id: String,
    /// `conflict`, `settled conflict`, `foreign write`.
    pub what: &'static str,
    pub table: String,
    pub key: String,
    /// The side whose version stands.
    pub took: Side,
    /// Whether the other side refuses the row: it is parked there, and comes when it may.
    pub parked: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    pub id: String,
    pub why: String,
}

#[derive(Debug, Clone)]
enum Chosen {
    Conflict(Side, Conflict),
    /// With those of its row that are settled with it, itself among them.
    Foreign(Side, Foreign, Vec<i64>),
}

impl Chosen {
    fn row(&self) -> (String, String) {
        match self {
            Self::Conflict(_, c) => (c.table.clone(), c.key.clone()),
            Self::Foreign(_, f, _) => (f.table.clone(), f.key.clone()),
        }
    }

    fn settled(&self, took: Side) -> Settled {
        let (id, what, table, key) = match self {
            Self::Conflict(home, c) => {
                let what = match c.winner {
                    None => "conflict",
                    Some(_) => "settled conflict",
                };
                let id = name(Kind::Conflict, *home, c.id);
                (id, what, c.table.clone(), c.key.clone())
            }
            Self::Foreign(home, f, _) => {
                let id = name(Kind::Foreign, *home, f.id);
                (id, "foreign write", f.table.clone(), f.key.clone())
            }
        };
        Settled {
            id,
            what,
            table,
            key,
            took,
            parked: false,
        }
    }
}

impl Link {
    /// Lets one side's version of rows stand on both. With `dry_run` only says of which.
    ///
    /// # Errors
    /// When there is no such conflict, the link was never started, or a database fails.
    pub async fn settle(
        &self,
        which: &Which,
        take: Side,
        dry_run: bool,
    ) -> Result<SettleReport, Error> {
        let (inner, which) = (Arc::clone(&self.inner), which.clone());
        let work = async move {
            let mut report = SettleReport {
                dry_run,
                ..SettleReport::default()
            };
            match which {
                Which::All => inner.settle_all(take, &mut report).await?,
                Which::One(text) => {
                    let one = choose(&inner.shared, &text).await?;
                    let settled = one.settled(take);
                    let parked = match dry_run {
                        true => false,
                        false => inner.settle(&one, take).await?,
                    };
                    report.settled(Settled { parked, ..settled });
                    if !dry_run {
                        inner.counted().await?;
                    }
                }
            }
            report.open = inner.shared.status(|s| s.both.open);
            Ok(report)
        };
        self.whole(Box::pin(work)).await
    }
}

async fn choose(shared: &Shared, text: &str) -> Result<Chosen, Error> {
    let none = || Error::NoConflict(text.to_owned());
    let (kind, side, id) = named(text).ok_or_else(none)?;
    let home = shared.on(side);
    let mut tx = home.read().await?;
    match kind {
        Kind::Conflict => {
            let (condition, id) = ("id = ? AND settles IS NULL", [Arg::from(id)]);
            let found = home
                .conflicts_where(&mut tx, condition, &id, (1, 0))
                .await?;
            let found = found.into_iter().next().ok_or_else(none)?;
            Ok(Chosen::Conflict(side, found))
        }
        Kind::Foreign => {
            let found = home.foreign_one(&mut tx, id).await?.ok_or_else(none)?;
            let mut with = home.foreign_of_row(&mut tx, &found).await?;
            with.retain(|other| *other != id);
            with.push(id);
            Ok(Chosen::Foreign(side, found, with))
        }
    }
}

/// One for each row, of its newest write: that speaks for the others.
fn by_row(home: Side, writes: Vec<Foreign>) -> Vec<Chosen> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut rows: Vec<(Foreign, Vec<i64>)> = Vec::new();
    for write in writes {
        let row = (write.table.clone(), write.key.clone());
        let at = *places.entry(row).or_insert(rows.len());
        match rows.get_mut(at) {
            Some((_, with)) => with.push(write.id),
            None => {
                let with = vec![write.id];
                rows.push((write, with));
            }
        }
    }
    rows.into_iter()
        .map(|(write, with)| Chosen::Foreign(home, write, with))
        .collect()
}

impl Inner {
    async fn settle(&self, one: &Chosen, take: Side) -> Result<bool, Error> {
        let mut engine = self.engine.lock().await;
        let engine = engine.as_mut().ok_or_else(|| self.not_started())?;
        engine.settle(one, take).await
    }

    async fn counted(&self) -> Result<(), Error> {
        let mut engine = self.engine.lock().await;
        let engine = engine.as_mut().ok_or_else(|| self.not_started())?;
        engine.count().await?;
        self.publish(engine);
        Ok(())
    }

    /// Goes through all that is open, newest first, a part at a time. What comes meanwhile is left.
    async fn settle_all(&self, take: Side, report: &mut SettleReport) -> Result<(), Error> {
        for side in [Side::Legacy, Side::Extracted] {
            let home = self.shared.on(side);
            let mut before = i64::MAX;
            loop {
                let (open, upto) = ("winner IS NULL AND id < ?", [Arg::from(before)]);
                let mut tx = home.read().await?;
                let some = home
                    .conflicts_where(&mut tx, open, &upto, (PART, 0))
                    .await?;
                drop(tx);
                let Some(last) = some.last() else { break };
                before = last.id;
                let some = some.into_iter().map(|c| Chosen::Conflict(side, c));
                self.settle_part(some.collect(), take, report).await?;
            }
            self.settle_foreign(side, take, report).await?;
        }
        Ok(())
    }

    async fn settle_foreign(
        &self,
        side: Side,
        take: Side,
        report: &mut SettleReport,
    ) -> Result<(), Error> {
        let home = self.shared.on(side);
        let mut before = i64::MAX;
        // Rows whose newest write an earlier part had, and whether that was settled.
        let mut known: HashMap<(String, String), bool> = HashMap::new();
        loop {
            let condition = format!("{OPEN} AND f.id < ?");
            let mut tx = home.read().await?;
            let some = home
                .foreign_where(&mut tx, &condition, &[Arg::from(before)], (PART, 0))
                .await?;
            drop(tx);
            let Some(last) = some.last() else { break };
            before = last.id;
            let mut part = Vec::new();
            let mut older = Vec::new();
            for one in by_row(side, some) {
                let row = one.row();
                match (known.get(&row), &one) {
                    (None, _) => part.push(one),
                    (Some(true), Chosen::Foreign(_, _, with)) => older.extend(with),
                    (Some(_), _) => {}
                }
            }
            let rows: Vec<_> = part.iter().map(Chosen::row).collect();
            let done = self.settle_part(part, take, report).await?;
            known.extend(rows.into_iter().zip(done));
            if !report.dry_run && !older.is_empty() {
                let mut tx = home.write().await?;
                home.settle_foreign(&mut tx, &older, take).await?;
                tx.commit().await.on(home.side)?;
            }
        }
        Ok(())
    }

    /// Whether each was settled.
    async fn settle_part(
        &self,
        part: Vec<Chosen>,
        take: Side,
        report: &mut SettleReport,
    ) -> Result<Vec<bool>, Error> {
        let mut done = Vec::new();
        for one in part {
            let settled = one.settled(take);
            let ended = match report.dry_run {
                true => Ok(false),
                false => self.settle(&one, take).await,
            };
            done.push(ended.is_ok());
            match ended {
                Ok(parked) => report.settled(Settled { parked, ..settled }),
                Err(e) => report.failed(Failed {
                    id: settled.id,
                    why: e.to_string(),
                }),
            }
        }
        if !report.dry_run {
            self.counted().await?;
        }
        Ok(done)
    }
}

fn cannot(id: String, why: &str) -> Error {
    let why = why.to_owned();
    Error::Unsettled { id, why }
}

impl Engine {
    async fn settle(&mut self, one: &Chosen, take: Side) -> Result<bool, Error> {
        let id = one.settled(take).id;
        match one {
            Chosen::Conflict(home, conflict) => {
                let unmapped = || cannot(id.clone(), "its table is not mapped any more");
                let at = self.at(Side::Legacy, &conflict.table, conflict.cells.clone());
                let at = at.ok_or_else(unmapped)?;
                match conflict.winner {
                    None => self.settle_open(*home, conflict, at, take, id).await,
                    Some(_) => self.write_again(*home, conflict, at, take, id).await,
                }
            }
            Chosen::Foreign(home, foreign, with) => {
                let side = if foreign.side == Side::Legacy.as_str() {
                    Side::Legacy
                } else {
                    Side::Extracted
                };
                let unknown = || cannot(id.clone(), "its table or key is not known any more");
                let key = literal::key(&foreign.key).ok_or_else(unknown)?;
                let at = self.at(side, &foreign.table, key).ok_or_else(unknown)?;
                let parked = if take == self.source {
                    let keys = HashMap::from([(at.0, vec![at.1])]);
                    self.refresh(&keys, false).await? > 0
                } else {
                    self.write_from(take, at, id).await?;
                    false
                };
                let home = self.shared.on(*home);
                let mut tx = home.write().await?;
                home.settle_foreign(&mut tx, with, take).await?;
                tx.commit().await.on(home.side)?;
                Ok(parked)
            }
        }
    }

    fn at(&self, side: Side, table: &str, key: Key) -> Option<At> {
        let group = self.plan.group_of(side, table)?;
        let width = self.plan.groups[group].tables(side)[0].key.len();
        let key: Key = key.into_iter().take(width).collect();
        (key.len() == width).then_some((group, key))
    }

    /// Writes the chosen side's present row to the other, and lets the row go.
    async fn settle_open(
        &mut self,
        home: Side,
        conflict: &Conflict,
        at: At,
        take: Side,
        id: String,
    ) -> Result<bool, Error> {
        let mut parked = None;
        for _ in 0..TRIES {
            let database = self.shared.on(take);
            database.settle_stream().await?;
            database.place().await?;
            let Some(work) = self.settled_row(take, &at).await? else {
                // It has just been changed: its stream is followed first.
                self.step().await?;
                continue;
            };
            if let Err(why) = &work.target {
                return Err(cannot(id, why));
            }
            let mut tx = database.read().await?;
            let named = database.named(&mut tx).await?;
            drop(tx);
            let batch = Batch {
                upto: self.applied_of(take),
                work: vec![work],
                named,
                ..Batch::default()
            };
            let settles = Some((home, conflict.id));
            let guard = self.guard(take, HashMap::new(), HashMap::new(), settles);
            let applier = self.applier_from(take, &guard);
            if let Outcome::Applied { parked: refused } = applier.apply_each(&batch).await? {
                parked = Some(refused > 0);
                break;
            }
        }
        let Some(parked) = parked else {
            return Err(cannot(id, "the row keeps changing; try again"));
        };
        self.shared.pass("settled");
        if home == take {
            let (home, other) = (self.shared.on(home), self.shared.on(home.other()));
            super::close_settled(home, other, conflict.id).await?;
        }
        let held = (conflict.table.clone(), conflict.cells.clone());
        self.both.held.remove(&held);
        Ok(parked)
    }

    /// The present row of a side, unless its stream has a change of it that is not taken yet.
    async fn settled_row(&self, from: Side, at: &At) -> Result<Option<Work>, Error> {
        let database = self.shared.on(from);
        let mut tx = database.read().await?;
        let head = database.head(&mut tx).await?;
        let keys = HashSet::from([at.clone()]);
        let upto = self.applied_of(from);
        let work = self.exact(from, &mut tx, &keys, (head, upto)).await?;
        Ok(work.unwrap_or_default().into_iter().next())
    }

    /// Writes the version that was kept of a side again, as anybody would: it is noted and goes to
    /// the other side by the stream. What it replaces is kept in turn.
    async fn write_again(
        &mut self,
        home: Side,
        conflict: &Conflict,
        at: At,
        take: Side,
        id: String,
    ) -> Result<bool, Error> {
        let group = &self.plan.groups[at.0];
        let kept = match take {
            Side::Legacy => &conflict.legacy,
            Side::Extracted => &conflict.extracted,
        };
        let image = version::image(group, kept)
            .ok_or_else(|| cannot(id.clone(), "the version that was kept does not map"))?;
        let target = match self.source {
            Side::Extracted => image,
            Side::Legacy => group
                .map(Side::Extracted, &image)
                .map_err(|e| cannot(id, &e.to_string()))?,
        };
        tracing::info!(%home, id = conflict.id, %take, "a version that was kept is written again");
        let again = Some((kept.clone(), take, conflict.clone()));
        self.write_plain(at, target, again).await?;
        Ok(false)
    }

    /// Writes a side's present row to the source, as anybody would.
    async fn write_from(&mut self, from: Side, at: At, id: String) -> Result<(), Error> {
        let database = self.shared.on(from);
        let mut tx = database.read().await?;
        let keys = HashMap::from([(at.0, vec![at.1.clone()])]);
        let work = current(&self.plan, database, &mut tx, &keys).await?;
        drop(tx);
        let work = work.into_iter().next();
        let target = work.map_or_else(|| Err("there is no row".to_owned()), |w| w.target);
        let target = target.map_err(|why| cannot(id, &why))?;
        self.write_plain(at, target, None).await
    }

    async fn write_plain(
        &mut self,
        at: At,
        target: crate::plan::Image,
        again: Option<(String, Side, Conflict)>,
    ) -> Result<(), Error> {
        let source = self.source();
        let group = &self.plan.groups[at.0];
        let mut tx = source.write_rows(References::AtCommit).await?;
        let keys = [at.1.clone()];
        for table in group.tables(source.side) {
            rows::lock(&mut tx, table, &keys).await.on(source.side)?;
        }
        if let Some((kept, take, conflict)) = again {
            let mut there = images(group, source, &mut tx, &keys).await?;
            let empty = || vec![None; group.tables(source.side).len()];
            let there = there.remove(&at.1).unwrap_or_else(empty);
            let replaced = guard::shaped_text(group, source.side, &there);
            let (legacy, extracted) = match take {
                Side::Legacy => (kept, replaced),
                Side::Extracted => (replaced, kept),
            };
            let now = now_ms();
            let record = Conflict {
                legacy,
                extracted,
                at_ms: now,
                policy: "by hand".to_owned(),
                winner: Some(take),
                settled_at: Some(now),
                ..conflict
            };
            source.note_conflict(&mut tx, &record).await?;
        }
        let work = [Work {
            group: at.0,
            key: at.1,
            target: Ok(target),
            source: Vec::new(),
        }];
        let guard = self.guard(source.side.other(), HashMap::new(), HashMap::new(), None);
        let applier = self.applier_from(source.side.other(), &guard);
        applier.rows(&mut tx, &work).await?;
        tx.commit().await.on(source.side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_some_and_counts_all() {
        let mut report = SettleReport::default();
        let failed = |at: usize| Failed {
            id: format!("L{at}"),
            why: String::new(),
        };
        (0..NAMED).for_each(|at| report.failed(failed(at)));
        assert!(!report.more, "all of them are named");
        report.failed(failed(NAMED));
        let all = u64::try_from(NAMED).unwrap_or(0) + 1;
        assert_eq!((report.failed.len(), report.total_failed), (NAMED, all));
        assert!(report.more);
    }
}
