//! Ranges of a backfill that are copied side by side, each over connections of its own.
//!
//! All of them read one snapshot of the source, that of their batch. Each is written in a
//! transaction of its own, and only when all have ended does the batch's own transaction move the
//! cursor behind them, with the position. So a death leaves rows that the cursor does not know of
//! yet: they are as a snapshot had them that is no older than the position, so every change since
//! comes by the stream, and they are copied again, over what is there. What may have to be copied
//! again is one round, not more.
//!
//! An older worker must write no row once another has taken over. The batch's own transaction sees
//! to that by moving the position; each of these locks it against a new epoch until it has ended.
//!
//! They need not wait for the disk: the commit that moves the cursor does, and is behind them in
//! the log of the target.

use futures_util::future::join_all;

use crate::apply::{Applier, Why};
use crate::batch::Direct;
use crate::db::postgres::copy::{self, Ends, Range};
use crate::db::{Lasts, References, Tx};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;

impl Applier<'_> {
    /// Writes all ranges; why not, if the tables do not allow it so.
    pub(crate) async fn abreast(&self, direct: &mut Direct) -> Result<Option<Why>, Error> {
        let side = direct.source.side;
        let snapshot = copy::export(&mut direct.snapshot).await.on(side)?;
        let direct = &*direct;
        let ranges = direct.ranges.iter();
        // All come to their end, for a COPY that is broken off costs its connection.
        let ended = join_all(ranges.map(|range| self.range(direct, range, &snapshot))).await;
        for one in ended {
            if let Some(why) = one? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    /// Writes one range.
    async fn range(
        &self,
        direct: &Direct,
        range: &Range,
        snapshot: &str,
    ) -> Result<Option<Why>, Error> {
        let (target, straight) = (self.target, &direct.straight);
        let mut from = direct.source.read_as_of(snapshot).await?;
        let mut tx = target
            .write_own(References::Unchecked, Lasts::Later)
            .await?;
        self.stay(&mut tx).await?;
        let there = copy::shape(&mut tx, &straight.extracted, &straight.extracted.columns);
        if there.await.on(target.side)?.as_ref() != Some(&direct.shape) {
            return Ok(Some(Why::Tables));
        }
        let ends = Ends {
            source: (&direct.source, &mut from),
            target: (target, &mut tx),
            fault: self.fault,
        };
        copy::rows(ends, straight, &direct.shape, range).await?;
        target.applying(&mut tx, false).await?;
        FaultHook::pass(self.fault, "range-copied");
        tx.commit().await.on(target.side)?;
        FaultHook::pass(self.fault, "range-committed");
        Ok(None)
    }

    /// Keeps everybody from taking over until this transaction has ended.
    async fn stay(&self, tx: &mut Tx) -> Result<(), Error> {
        let target = self.target;
        match target.hold(tx, target.side.other(), self.epoch).await? {
            true => Ok(()),
            false => Err(Error::Superseded(target.slice.clone())),
        }
    }
}
