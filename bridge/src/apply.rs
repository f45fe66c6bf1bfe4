//! Writes a batch into the target: rows, parked rows, copy cursor and position in one
//! transaction, so that the position is never ahead of the rows nor behind them.

use std::collections::HashMap;

use outgrow_rollout::Side;

use crate::batch::{Batch, Work, images};
use crate::both::Guard;
use crate::db::postgres::once::{Once, Rows};
use crate::db::{Database, Dialect, Lasts, Packed, References, Tx, rows};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::{Group, Image, Plan, Row, Table};
use crate::value::{Cell, Key, key_text};

/// By table: it with all of its columns, and what rows have in those that are not the link's.
type Kept = HashMap<(usize, usize), (Table, HashMap<Key, Row>)>;

/// Where and under which right a batch is written.
#[derive(Debug)]
pub(crate) struct Applier<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) target: &'a Database,
    pub(crate) epoch: i64,
    /// Not every table is filled yet, so references cannot hold.
    pub(crate) filling: bool,
    /// Whether there are parked rows that this batch might free.
    pub(crate) any_parked: bool,
    /// Where both sides take writes: looks for rows that the target has changed.
    pub(crate) guard: Option<&'a Guard<'a>>,
    pub(crate) fault: Option<&'a FaultHook>,
}

/// Bytes of a parked row's value that are kept to be looked at.
const SHOWN: usize = 10_000;
/// Looks at rows that are refused alone, before those that are left change places at once.
const ALONE: u32 = 3;

/// What can be written, in an order in which each row may go alone: what goes makes room, children first;
/// then parents first.
fn one_by_one(work: &[Work]) -> Vec<&Work> {
    let mut order: Vec<&Work> = work.iter().filter(|w| w.target.is_ok()).collect();
    order.sort_by_key(|w| match w.gone() {
        true => (false, usize::MAX - w.group),
        false => (true, w.group),
    });
    order
}

/// What of a row is kept to be looked at: the row itself stays where it is.
fn shown(image: &Image) -> Image {
    let mut shown = image.clone();
    for cell in shown.iter_mut().flatten().flatten() {
        match cell {
            Cell::Text(text) if text.len() > SHOWN => {
                let end = text.floor_char_boundary(SHOWN);
                *text = format!("{}.. ({} bytes)", &text[..end], text.len());
            }
            Cell::Blob(bytes) | Cell::BadText(bytes) => bytes.truncate(SHOWN),
            _ => {}
        }
    }
    shown
}

/// How rows go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// All deletes, children first, then all rows, parents first.
    Whole,
    /// As whole, but what a database that checks each statement does not let go, as rows of the batch
    /// still refer to it, goes when these have been written.
    GoneLast,
    /// As whole, but rows that will be written are taken out first: rows of the batch may then
    /// swap unique values among themselves.
    Swap,
    /// Each key by itself; one that is refused is parked.
    EachRow,
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Applied {
        parked: u64,
    },
    /// Some row was refused, and changes that might explain it are still to come: take more.
    TakeMore,
    /// The target has changed a row just now; nothing was written.
    Again,
    /// The chunk does not go from database to database: look at its rows. Nothing was written.
    ByRows(Why),
}

/// Why rows do not go from database to database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Some row is refused.
    Rows,
    /// These tables do not allow it.
    Tables,
}

impl Applier<'_> {
    /// Applies a batch, parking what the target refuses.
    pub(crate) async fn apply(&self, batch: &Batch, may_widen: bool) -> Result<Outcome, Error> {
        let references = if self.filling {
            References::Unchecked
        } else {
            References::AtCommit
        };
        let refused = match self.write(batch, Manner::Whole, references).await {
            Ok(outcome) => return Ok(outcome),
            Err(e) if e.is_about_rows() => e,
            // It says at which row.
            Err(e) if e.is_strange() && !batch.work.is_empty() => {
                return self.apply_each(batch).await;
            }
            Err(e) => return Err(e),
        };
        if batch.partial && may_widen {
            return Ok(Outcome::TakeMore);
        }
        tracing::debug!(error = %refused, "batch refused, trying it in parts");
        let mut refused = refused;
        if refused.is_about_references() && !self.filling {
            // Rows of the batch may refer to each other in a circle: what is left of it is checked.
            match self
                .write(batch, Manner::Whole, References::Unchecked)
                .await
            {
                Ok(outcome) => return Ok(outcome),
                Err(e) if e.is_about_rows() => refused = e,
                Err(e) => return Err(e),
            }
        }
        if refused.is_about_references() && refused.is_by_database() {
            // Though it was asked not to check: nobody gave us the right to that.
            let last = self.write(batch, Manner::GoneLast, References::Unchecked);
            match last.await {
                Ok(outcome) => return Ok(outcome),
                Err(e) if e.is_about_rows() => refused = e,
                Err(e) => return Err(e),
            }
        }
        if refused.is_about_uniqueness() {
            match self.write(batch, Manner::Swap, References::Unchecked).await {
                Ok(outcome) => return Ok(outcome),
                Err(e) if e.is_about_rows() => {
                    tracing::debug!(error = %e, "its rows cannot change places at once");
                }
                Err(e) => return Err(e),
            }
        }
        self.apply_each(batch).await
    }

    /// Applies each key by itself.
    pub(crate) async fn apply_each(&self, batch: &Batch) -> Result<Outcome, Error> {
        let references = if self.filling {
            References::Unchecked
        } else {
            References::AtOnce
        };
        self.write(batch, Manner::EachRow, references).await
    }

    pub(crate) async fn write(
        &self,
        batch: &Batch,
        manner: Manner,
        references: References,
    ) -> Result<Outcome, Error> {
        let target = self.target;
        if manner == Manner::Whole && self.at_once(batch).await? {
            return Ok(Outcome::Applied { parked: 0 });
        }
        let writes = !batch.work.is_empty();
        let mut tx = match (batch.log, writes) {
            (Some(_), _) => target.write_own(references, Lasts::Later).await?,
            (None, true) => target.write_own(references, Lasts::AtOnce).await?,
            (None, false) => target.write().await?,
        };
        if manner == Manner::EachRow && target.dialect() == Dialect::Postgres {
            // Also where they may not be left unchecked: a commit would refuse all for one.
            let each = "SET CONSTRAINTS ALL IMMEDIATE";
            tx.execute(each, &[]).await.on(target.side)?;
        }
        let ruling = match self.guard {
            Some(guard) => Some(guard.rule(&mut tx, &batch.work).await?),
            None => None,
        };
        let all = ruling
            .as_ref()
            .map_or(&*batch.work, |r| r.work(&batch.work));
        let mut parked = 0;
        let spared = self.spare(&mut tx, all).await?;
        let all = spared.as_deref().unwrap_or(all);
        for work in all {
            if let Err(reason) = &work.target {
                self.park(&mut tx, work, reason).await?;
                parked += 1;
            } else if self.any_parked {
                let table = self.plan.groups[work.group].name();
                target.unpark(&mut tx, table, &work.key).await?;
            }
        }
        match manner {
            Manner::EachRow => parked += self.each_row(&mut tx, all).await?,
            Manner::Whole => self.rows(&mut tx, all).await?,
            Manner::GoneLast => self.gone_last(&mut tx, all).await?,
            Manner::Swap => match self.written_alone(&mut tx, all).await? {
                Some(rest) => self.swap(&mut tx, &rest).await?,
                None => self.swap(&mut tx, all).await?,
            },
        }
        if references == References::Unchecked && manner != Manner::EachRow && !self.filling {
            target.check_references(&mut tx, self.plan, all).await?;
        }
        FaultHook::pass(self.fault, "after-rows");
        if let (Some(guard), Some(ruling)) = (self.guard, &ruling)
            && !guard.finish(&mut tx, ruling).await?
        {
            tx.rollback().await.on(target.side)?;
            return Ok(Outcome::Again);
        }
        if let Some(copy) = &batch.copy {
            target.save_copy(&mut tx, copy).await?;
        }
        self.move_on(&mut tx, batch).await?;
        if writes && target.dialect() != Dialect::Postgres {
            target.applying(&mut tx, false).await?;
        }
        FaultHook::pass(self.fault, "before-commit");
        tx.commit().await.on(target.side)?;
        FaultHook::pass(self.fault, "after-commit");
        Ok(Outcome::Applied { parked })
    }

    /// Moves the position to where the batch ends.
    async fn move_on(&self, tx: &mut Tx, batch: &Batch) -> Result<(), Error> {
        let (target, stream) = (self.target, self.target.side.other());
        if let Some(named) = &batch.named {
            target.saw(tx, stream, named).await?;
        }
        match batch.log {
            Some((from, place)) => {
                let stream = (stream, self.epoch);
                let moved = target.advance_to(tx, stream, from, place, batch.beat);
                moved.await
            }
            None => {
                let to = (batch.upto, batch.mark.as_ref());
                let moved = target.advance(tx, (stream, self.epoch), to, batch.beat);
                moved.await
            }
        }
    }

    /// Writes a batch of the short way in one statement, where it is of one table and nothing else
    /// is to be done; `false` where that is not so.
    async fn at_once(&self, batch: &Batch) -> Result<bool, Error> {
        let (Some((from, place)), None, false) = (batch.log, self.guard, self.any_parked) else {
            return Ok(false);
        };
        let plain = |work: &Work| work.target.is_ok() && !self.spares(work);
        if !batch.work.iter().all(plain) {
            return Ok(false);
        }
        let side = self.target.side;
        let mut touched = self.plan.order(side).iter().filter_map(|&(group, at)| {
            let (gone, rows) = of_table(&batch.work, group, at, false);
            let table = &self.plan.groups[group].tables(side)[at];
            (!gone.is_empty() || !rows.is_empty()).then_some((table, gone, rows))
        });
        let (Some((table, gone, rows)), None) = (touched.next(), touched.next()) else {
            return Ok(false);
        };
        if table.loose {
            return Ok(false);
        }
        let once = Once {
            table,
            gone,
            rows: Rows::Read(rows),
            stream: (side.other(), self.epoch),
            from,
            place,
            beat: batch.beat,
            fresh: batch.fresh,
        };
        self.write_once(&once).await
    }

    /// Writes rows of one table as a log has them, over what is there. `false` where that cannot
    /// be; nothing was written then.
    pub(crate) async fn move_rows(
        &self,
        batch: &Batch,
        (group, places): (usize, &[usize]),
        (gone, rows): (Vec<&Key>, Vec<&Packed>),
    ) -> Result<bool, Error> {
        let side = self.target.side;
        let (Some((from, place)), None, false) = (batch.log, self.guard, self.any_parked) else {
            return Ok(false);
        };
        let [table] = self.plan.groups[group].tables(side) else {
            return Ok(false);
        };
        if table.loose {
            return Ok(false);
        }
        let once = Once {
            table,
            gone,
            rows: Rows::Packed(rows, places),
            stream: (side.other(), self.epoch),
            from,
            place,
            beat: batch.beat,
            fresh: batch.fresh,
        };
        match self.write_once(&once).await {
            // What is refused so is refused once more where each row is looked at.
            Err(e) if e.is_about_rows() => Ok(false),
            other => other,
        }
    }

    async fn write_once(&self, once: &Once<'_>) -> Result<bool, Error> {
        FaultHook::pass(self.fault, "before-commit");
        let written = self.target.write_once(once).await?;
        if written {
            FaultHook::pass(self.fault, "after-commit");
        }
        Ok(written)
    }

    /// Whether something of the row that is there may not be the link's to write.
    fn spares(&self, work: &Work) -> bool {
        let group = &self.plan.groups[work.group];
        self.target.side == Side::Legacy && (group.is_partial() || group.has_defaults())
    }

    async fn park(&self, tx: &mut Tx, work: &Work, reason: &str) -> Result<(), Error> {
        let table = self.plan.groups[work.group].name();
        // The text can always be made: cells serialise to plain JSON.
        let content = serde_json::to_string(&shown(&work.source)).unwrap_or_default();
        self.target
            .park(tx, table, &work.key, reason, content)
            .await
    }

    /// On the legacy side some things are not the link's to write. Rows that no extracted table
    /// takes: what would remove one leaves it, and what would write over one is refused. Columns
    /// that have only a default: a row that is there keeps what it has. `None` when there are none.
    async fn spare(&self, tx: &mut Tx, work: &[Work]) -> Result<Option<Vec<Work>>, Error> {
        if !work.iter().any(|w| self.spares(w)) {
            return Ok(None);
        }
        let mut spared = work.to_vec();
        for (at, group) in self.plan.groups.iter().enumerate() {
            if !(group.is_partial() || group.has_defaults()) {
                continue;
            }
            let of = |w: &Work| w.group == at && w.target.is_ok();
            let keys: Vec<Key> = work
                .iter()
                .filter(|w| of(w))
                .map(|w| w.key.clone())
                .collect();
            let present = images(group, self.target, tx, &keys).await?;
            for one in spared.iter_mut().filter(|w| of(w)) {
                if let Some(present) = present.get(&one.key) {
                    one.spare(group, present);
                }
            }
        }
        Ok(Some(spared))
    }

    /// Writes row by row; those that stay refused are parked.
    async fn each_row(&self, tx: &mut Tx, work: &[Work]) -> Result<u64, Error> {
        let mut rest = one_by_one(work);
        let mut refused;
        loop {
            refused = Vec::new();
            for &work in &rest {
                match self.one_row(tx, work).await? {
                    None => {}
                    Some(Error::Database { cause, .. }) => refused.push((work, cause.to_string())),
                    Some(other) => refused.push((work, other.to_string())),
                }
            }
            // What was written may have been what others waited for.
            if refused.is_empty() || refused.len() == rest.len() {
                break;
            }
            rest = refused.iter().map(|(work, _)| *work).collect();
        }
        let mut parked = 0;
        for (work, reason) in refused {
            self.park(tx, work, &reason).await?;
            parked += 1;
        }
        Ok(parked)
    }

    /// Writes one row, or undoes it and says why it was refused.
    async fn one_row(&self, tx: &mut Tx, work: &Work) -> Result<Option<Error>, Error> {
        let side = self.target.side;
        tx.execute("SAVEPOINT one_row", &[]).await.on(side)?;
        let refused = match self.rows(tx, std::slice::from_ref(work)).await {
            Ok(()) => None,
            Err(e) if e.is_about_rows() => Some(e),
            Err(e) if e.is_strange() => {
                return Err(Error::Row {
                    side,
                    table: self.plan.groups[work.group].name().to_owned(),
                    key: key_text(&work.key),
                    cause: Box::new(e),
                });
            }
            Err(e) => return Err(e),
        };
        if refused.is_some() {
            tx.execute("ROLLBACK TO one_row", &[]).await.on(side)?;
        }
        tx.execute("RELEASE SAVEPOINT one_row", &[])
            .await
            .on(side)?;
        Ok(refused)
    }

    pub(crate) async fn rows(&self, tx: &mut Tx, work: &[Work]) -> Result<(), Error> {
        let side = self.target.side;
        for &(group, table) in self.plan.order(side).iter().rev() {
            let (gone, _) = of_table(work, group, table, false);
            let table = &self.plan.groups[group].tables(side)[table];
            rows::delete(tx, table, &gone).await.on(side)?;
        }
        self.present(tx, work, &Kept::new()).await
    }

    /// As [`Self::rows`], where the database checks references with each statement.
    async fn gone_last(&self, tx: &mut Tx, work: &[Work]) -> Result<(), Error> {
        let side = self.target.side;
        let mut last = Vec::new();
        for &(group, at) in self.plan.order(side).iter().rev() {
            let (gone, _) = of_table(work, group, at, false);
            if gone.is_empty() {
                continue;
            }
            let table = &self.plan.groups[group].tables(side)[at];
            tx.execute("SAVEPOINT gone", &[]).await.on(side)?;
            match rows::delete(tx, table, &gone).await.on(side) {
                Ok(_) => {}
                Err(e) if e.is_about_references() => {
                    tx.execute("ROLLBACK TO gone", &[]).await.on(side)?;
                    last.push((table, gone));
                }
                Err(e) => return Err(e),
            }
            tx.execute("RELEASE SAVEPOINT gone", &[]).await.on(side)?;
        }
        self.present(tx, work, &Kept::new()).await?;
        for (table, gone) in last {
            rows::delete(tx, table, &gone).await.on(side)?;
        }
        Ok(())
    }

    /// Where tables have columns that are not the link's: writes the rows that are not refused alone, and
    /// gives the others, which must be taken out and put back whole. These are few, so few values that
    /// are nobody's business here have to be read and kept. The target itself says which they are, of
    /// whatever index: partial ones and those of expressions, too.
    async fn written_alone(&self, tx: &mut Tx, work: &[Work]) -> Result<Option<Vec<Work>>, Error> {
        let tables = |w: &Work| self.plan.groups[w.group].tables(self.target.side);
        let has_others = |w: &Work| tables(w).iter().any(|table| !table.others.is_empty());
        if !work.iter().any(has_others) {
            return Ok(None);
        }
        let mut rest = one_by_one(work);
        for _ in 0..ALONE {
            let before = rest.len();
            let mut refused = Vec::new();
            for one in rest {
                if self.one_row(tx, one).await?.is_some() {
                    refused.push(one);
                }
            }
            rest = refused;
            if rest.is_empty() || rest.len() == before {
                break;
            }
        }
        Ok(Some(rest.into_iter().cloned().collect()))
    }

    /// As [`Self::rows`], with all rows of the batch taken out first. What they have in columns that are
    /// not the link's they have afterwards.
    async fn swap(&self, tx: &mut Tx, work: &[Work]) -> Result<(), Error> {
        let side = self.target.side;
        let acts = self.target.still_acts(tx).await?;
        let kept = self.others(tx, work).await?;
        for &(group, table) in self.plan.order(side).iter().rev() {
            let (gone, _) = of_table(work, group, table, true);
            let table = &self.plan.groups[group].tables(side)[table];
            if acts && !gone.is_empty() {
                self.target.check_actions(tx, table, &gone).await?;
            }
            rows::delete(tx, table, &gone).await.on(side)?;
        }
        self.present(tx, work, &kept).await
    }

    /// What the rows of a batch have in columns that are not the link's, where there are such.
    async fn others(&self, tx: &mut Tx, work: &[Work]) -> Result<Kept, Error> {
        let side = self.target.side;
        let mut kept = Kept::new();
        for &(group, at) in self.plan.order(side) {
            let table = &self.plan.groups[group].tables(side)[at];
            let Some(whole) = table.whole() else { continue };
            let (keys, _) = of_table(work, group, at, true);
            let keys: Vec<Key> = keys.into_iter().cloned().collect();
            let found = rows::by_keys(tx, &whole, &keys).await.on(side)?;
            let others = found.into_iter().map(|mut row| {
                let key = table.key_of(&row);
                (key, row.split_off(table.columns.len()))
            });
            kept.insert((group, at), (whole, others.collect()));
        }
        Ok(kept)
    }

    /// Writes what is to be there, parents first; with what was `kept` of a row.
    async fn present(&self, tx: &mut Tx, work: &[Work], kept: &Kept) -> Result<(), Error> {
        let side = self.target.side;
        for &(group, at) in self.plan.order(side) {
            let (_, present) = of_table(work, group, at, false);
            let table = &self.plan.groups[group].tables(side)[at];
            let mut fresh = present;
            if let Some((whole, others)) = kept.get(&(group, at)) {
                let old;
                (old, fresh) = with_others(table, fresh, others);
                let old: Vec<&Row> = old.iter().collect();
                rows::upsert(tx, whole, &old).await.on(side)?;
            }
            rows::upsert(tx, table, &fresh).await.on(side)?;
        }
        Ok(())
    }
}

/// Rows that were there, whole, and rows that are new.
fn with_others<'a>(
    table: &Table,
    present: Vec<&'a Row>,
    others: &HashMap<Key, Row>,
) -> (Vec<Row>, Vec<&'a Row>) {
    let (mut old, mut fresh) = (Vec::new(), Vec::new());
    for row in present {
        match others.get(&table.key_of(row)) {
            Some(others) => old.push([&row[..], others].concat()),
            None => fresh.push(row),
        }
    }
    (old, fresh)
}

/// What is to be removed from a table of the target, and what is to be written there.
pub(crate) fn of_table(
    work: &[Work],
    group: usize,
    table: usize,
    clear_first: bool,
) -> (Vec<&Key>, Vec<&Row>) {
    let (mut gone, mut present) = (Vec::new(), Vec::new());
    for one in work.iter().filter(|w| w.group == group) {
        let Ok(image) = &one.target else { continue };
        let Some(row) = image.get(table) else {
            continue;
        };
        if row.is_none() || clear_first {
            gone.push(&one.key);
        }
        present.extend(row);
    }
    (gone, present)
}

impl Work {
    /// Leaves what is not the link's to write of the legacy rows that are there.
    fn spare(&mut self, group: &Group, present: &Image) {
        let first = present.first().and_then(Option::as_ref);
        if first.is_some_and(|row| !group.belongs(row)) {
            self.target = if self.gone() {
                Ok(Vec::new())
            } else {
                let name = group.name();
                Err(format!("{name}: a row that is not mapped has this key"))
            };
            return;
        }
        let Ok(target) = &mut self.target else { return };
        for (table, column) in group.defaulted(&self.source) {
            if let (Some(Some(row)), Some(Some(present))) =
                (target.get_mut(table), present.get(table))
            {
                row[column] = present[column].clone();
            }
        }
    }

    fn gone(&self) -> bool {
        matches!(&self.target, Ok(image) if image.iter().all(Option::is_none))
    }
}
