//! Writes a batch into the target: rows, parked rows, copy cursor and position in one
//! transaction, so that the position is never ahead of the rows nor behind them.

use outgrow_rollout::Side;

use crate::batch::{Batch, Direct, Work, images};
use crate::both::Guard;
use crate::db::postgres::copy::{self, Ends};
use crate::db::{Database, Dialect, References, Tx, rows};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::{Group, Image, Plan, Row};
use crate::value::Key;

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

/// How rows go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// All deletes, children first, then all rows, parents first.
    Whole,
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
        let refused = match self.write(batch, Manner::Whole, references, None).await {
            Ok(outcome) => return Ok(outcome),
            Err(e) if e.is_about_rows() => e,
            Err(e) => return Err(e),
        };
        if batch.partial && may_widen {
            return Ok(Outcome::TakeMore);
        }
        tracing::debug!(error = %refused, "batch refused, trying it in parts");
        let swapped = self.write(batch, Manner::Swap, References::Unchecked, None);
        match swapped.await {
            Ok(outcome) => return Ok(outcome),
            Err(e) if e.is_about_rows() => {}
            Err(e) => return Err(e),
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
        self.write(batch, Manner::EachRow, references, None).await
    }

    /// Applies a batch whose chunk goes from database to database.
    pub(crate) async fn apply_direct(
        &self,
        batch: &Batch,
        mut direct: Direct,
    ) -> Result<Outcome, Error> {
        let way = Some(&mut direct);
        let written = self.write(batch, Manner::Whole, References::Unchecked, way);
        match written.await {
            Err(e) if e.is_about_rows() => {
                tracing::debug!(error = %e, "rows refused, looking at each");
                Ok(Outcome::ByRows(Why::Rows))
            }
            Err(e) if e.is_about_statements() => {
                tracing::debug!(error = %e, "the tables do not take COPY");
                Ok(Outcome::ByRows(Why::Tables))
            }
            other => other,
        }
    }

    async fn write(
        &self,
        batch: &Batch,
        manner: Manner,
        references: References,
        direct: Option<&mut Direct>,
    ) -> Result<Outcome, Error> {
        let target = self.target;
        let writes = !batch.work.is_empty() || direct.is_some();
        let mut tx = match writes {
            true => target.write_own(references).await?,
            false => target.write().await?,
        };
        if let Some(direct) = direct
            && !self.chunk(&mut tx, direct).await?
        {
            return Ok(Outcome::ByRows(Why::Tables));
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
            Manner::Whole | Manner::Swap => {
                self.rows(&mut tx, all, manner == Manner::Swap)
                    .await
                    .on(target.side)?;
            }
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
        let stream = target.side.other();
        match batch.log {
            Some((from, place)) => {
                let stream = (stream, self.epoch);
                let moved = target.advance_to(&mut tx, stream, from, place, batch.beat);
                moved.await?;
            }
            None => {
                let moved = target.advance(&mut tx, stream, self.epoch, batch.upto, batch.beat);
                moved.await?;
            }
        }
        if writes && target.dialect() != Dialect::Postgres {
            target.applying(&mut tx, false).await?;
        }
        FaultHook::pass(self.fault, "before-commit");
        tx.commit().await.on(target.side)?;
        FaultHook::pass(self.fault, "after-commit");
        Ok(Outcome::Applied { parked })
    }

    /// Writes the rows of a chunk that nobody looks at; `false` where that cannot be. Parked rows
    /// of the range are tried again when all is copied, as ever.
    async fn chunk(&self, tx: &mut Tx, direct: &mut Direct) -> Result<bool, Error> {
        let (target, straight) = (self.target, &direct.straight);
        if target.dialect() != Dialect::Postgres {
            return Ok(false);
        }
        let there = copy::shape(tx, &straight.extracted, &straight.extracted.columns);
        if there.await.on(target.side)?.as_ref() != Some(&direct.shape) {
            return Ok(false);
        }
        let ends = Ends {
            source: (&direct.source, &mut direct.snapshot),
            target: (target, tx),
            fault: self.fault,
        };
        copy::rows(ends, straight, &direct.shape, &direct.range).await?;
        Ok(true)
    }

    async fn park(&self, tx: &mut Tx, work: &Work, reason: &str) -> Result<(), Error> {
        let table = self.plan.groups[work.group].name();
        // The text can always be made: cells serialise to plain JSON.
        let content = serde_json::to_string(&work.source).unwrap_or_default();
        self.target
            .park(tx, table, &work.key, reason, content)
            .await
    }

    /// On the legacy side some things are not the link's to write. Rows that no extracted table
    /// takes: what would remove one leaves it, and what would write over one is refused. Columns
    /// that have only a default: a row that is there keeps what it has. `None` when there are none.
    async fn spare(&self, tx: &mut Tx, work: &[Work]) -> Result<Option<Vec<Work>>, Error> {
        let cares = |group: &Group| group.is_partial() || group.has_defaults();
        let any = work.iter().any(|w| cares(&self.plan.groups[w.group]));
        if self.target.side != Side::Legacy || !any {
            return Ok(None);
        }
        let mut spared = work.to_vec();
        for (at, group) in self.plan.groups.iter().enumerate() {
            if !cares(group) {
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

    async fn each_row(&self, tx: &mut Tx, work: &[Work]) -> Result<u64, Error> {
        let side = self.target.side;
        let mut parked = 0;
        // Parents first where rows are written, children first where they go.
        let mut order: Vec<&Work> = work.iter().filter(|w| w.target.is_ok()).collect();
        order.sort_by_key(|w| {
            (
                !w.gone(),
                if w.gone() {
                    usize::MAX - w.group
                } else {
                    w.group
                },
            )
        });
        for work in order {
            let one = std::slice::from_ref(work);
            tx.execute("SAVEPOINT one_row", &[]).await.on(side)?;
            let refused = match self.rows(tx, one, false).await.on(side) {
                Ok(()) => None,
                Err(e) if e.is_about_rows() => Some(e),
                Err(e) => return Err(e),
            };
            if refused.is_some() {
                tx.execute("ROLLBACK TO one_row", &[]).await.on(side)?;
            }
            tx.execute("RELEASE one_row", &[]).await.on(side)?;
            if let Some(Error::Database { cause, .. }) = refused {
                self.park(tx, work, &cause.to_string()).await?;
                parked += 1;
            }
        }
        Ok(parked)
    }

    pub(crate) async fn rows(
        &self,
        tx: &mut Tx,
        work: &[Work],
        clear_first: bool,
    ) -> Result<(), sqlx::Error> {
        let order = self.plan.order(self.target.side);
        let of = |at: usize| work.iter().filter(move |w| w.group == at);
        for &(group, table) in order.iter().rev() {
            let gone: Vec<&Key> = of(group)
                .filter(|w| match &w.target {
                    Ok(image) => match image.get(table) {
                        Some(row) => row.is_none() || clear_first,
                        None => false,
                    },
                    Err(_) => false,
                })
                .map(|w| &w.key)
                .collect();
            let table = &self.plan.groups[group].tables(self.target.side)[table];
            rows::delete(tx, table, &gone).await?;
        }
        for &(group, table) in order {
            let present: Vec<&Row> = of(group)
                .filter_map(|w| w.target.as_ref().ok()?.get(table)?.as_ref())
                .collect();
            let table = &self.plan.groups[group].tables(self.target.side)[table];
            rows::upsert(tx, table, &present).await?;
        }
        Ok(())
    }
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
