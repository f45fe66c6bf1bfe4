//! Writes on both sides: each side's stream is applied to the other, and rows that both have
//! changed are noticed, kept with both versions, and decided.
//!
//! **No loops.** What the bridge writes is not noted where it is written ([`Database::applying`]),
//! so it is in no stream and never comes back.
//!
//! **What a conflict is.** Streams hold keys, rows are read when they are applied. A batch of side
//! A is about to change row K on side B. If B's stream has a change of K that is not applied on A
//! yet, neither of the two changes has seen the other: that is a conflict, whatever the two are
//! (insert, update, delete), unless both came to the same row. A change of B that A could not take
//! (it is *parked* there) has not been seen by A either, and counts alike.
//!
//! For that the positions must be exact: "A's changes up to here are on B" must mean these and no
//! later ones, or a change of B that was made in sight of a later one would look concurrent. So a
//! batch takes only rows whose newest change lies within it; a row with a later one is left for
//! that one, which is sure to come.
//!
//! **Why a conflict cannot be missed.** The look at B's stream is part of the transaction that
//! writes B, after the rows are locked: where writers commit side by side it is repeated after the
//! last write, and if anything has changed, nothing stands and the batch is taken anew. What others
//! commit on B after that they have made in sight of A's version.
//!
//! **Why no version is lost, whenever the bridge dies.** There is one transaction, on B. It writes
//! A's rows, the record of each conflict with both versions, and the position of A's stream, or none
//! of it. What is decided:
//!
//! - *A's version stands.* B's is overwritten; the record in the same transaction has it. B's change
//!   of K is still in B's stream and means nothing any more; that it is *seen* up to its place is
//!   noted in the same transaction, so it is neither carried to A nor taken for a change that A
//!   has not seen.
//! - *B's version stands.* Nothing of K is written; A's position moves past its change, and the
//!   record, with A's version, is committed with that. B's change is still in B's stream and
//!   overwrites A when its turn comes. Dying before that leaves it there. If A changes K once more
//!   in between, that is another conflict, and another record.
//! - *A person decides.* The record is open, and K is *held*: both positions move past its changes
//!   and nothing of K is written on either side. To settle it, the present row of the side that was
//!   chosen is written to the other, in one transaction with a record of what was there. If the open
//!   record is in the other database it is closed after that; a start that finds it open and settled
//!   closes it ([`load`]).
//!
//! Doing a batch twice is impossible, as its position is in the transaction; so no conflict is
//! recorded twice either. A second process is shut out by the epochs of both positions.
//!
//! **Why both sides end equal.** Take the last change of K. If no change of the other side is
//! unseen, it is applied there, and both are equal. Else the decision leaves one version, which is
//! on one side and on its way to the other. Rows that one side refuses are parked, as ever.

mod books;
mod clocks;
mod flow;
mod foreign;
mod guard;
mod ids;
mod list;
mod literal;
mod policy;
mod settle;
mod turn;
pub(crate) mod verify;
mod version;

use std::collections::HashSet;

use outgrow_rollout::Side;

pub(crate) use books::{At, Carried};
pub(crate) use clocks::clock_ahead;
pub(crate) use flow::State;
pub(crate) use guard::Guard;
pub use list::{Conflicts, Page};
pub use policy::{Both, Policy, Writes};
pub use settle::{SettleReport, Settled, Which};

use crate::db::Database;
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::plan::{Group, Image};
use crate::shared::Shared;

/// Rows that may wait for a person: they are kept in memory.
const HELD_MAX: u32 = 100_000;

/// The text that is kept of a version.
pub(crate) fn kept(group: &Group, side: Side, image: Option<&Image>) -> String {
    let empty = || vec![None; group.tables(side).len()];
    let image = image.cloned().unwrap_or_else(empty);
    guard::shaped_text(group, side, &image)
}

/// What is open in both databases; closes what a dead process had settled but not closed.
pub(crate) async fn load(shared: &Shared) -> Result<State, Error> {
    let mut held = HashSet::new();
    for side in [Side::Legacy, Side::Extracted] {
        let (home, other) = (shared.on(side), shared.on(side.other()));
        let mut tx = home.read().await?;
        let open = home
            .conflicts_where(&mut tx, "winner IS NULL", &[], (HELD_MAX + 1, 0))
            .await?;
        drop(tx);
        if open.len() > HELD_MAX as usize {
            return Err(Error::TooManyConflicts(HELD_MAX as usize));
        }
        for conflict in open {
            if close_settled(home, other, conflict.id).await? {
                continue;
            }
            held.insert((conflict.table, conflict.cells));
        }
    }
    Ok(State::new(held))
}

/// Closes an open conflict that was settled in the other database. `true` when it was.
async fn close_settled(home: &Database, other: &Database, id: i64) -> Result<bool, Error> {
    let mut tx = other.read().await?;
    let settling = other
        .conflicts_where(&mut tx, "settles = ?", &[crate::db::Arg::from(id)], (1, 0))
        .await?;
    drop(tx);
    let Some(settled) = settling.first() else {
        return Ok(false);
    };
    let mut tx = home.write().await?;
    home.close_conflict(&mut tx, id, settled).await?;
    tx.commit().await.on(home.side)?;
    Ok(true)
}

impl Engine {
    /// A guard for the copy, where both sides will take writes.
    pub(crate) fn copy_guard(&self) -> Option<Guard<'_>> {
        self.shared.spec.writes.both()?;
        Some(self.guard(
            self.source,
            std::collections::HashMap::new(),
            std::collections::HashMap::new(),
            None,
        ))
    }

    /// Fences the passive side, or opens it where both take writes and every row is copied.
    pub(crate) async fn settle_passive(&self) -> Result<(), Error> {
        let passive = self.source.other();
        if !self.both_ways() {
            return self.set_fence(passive, true).await.map(drop);
        }
        self.keep_ids_apart().await?;
        self.set_fence(passive, false).await.map(drop)
    }

    /// Conflicts, rows parked on the source, and what came from the passive side.
    pub(crate) async fn count_both(&mut self) -> Result<(), Error> {
        let (mut open, mut all) = (0, 0);
        for database in [&self.shared.legacy, &self.shared.extracted] {
            let mut tx = database.read().await?;
            let counts = database.conflict_counts(&mut tx).await?;
            (open, all) = (open + counts.0, all + counts.1);
        }
        let source = self.source();
        let mut tx = source.read().await?;
        let mut parked = 0;
        let mut carried = Carried::default();
        if self.shared.spec.writes.both().is_some() {
            parked = source.parked_count(&mut tx).await?;
            carried = source.carried(&mut tx).await?;
        }
        self.both.parked = parked;
        self.shared.status(|s| {
            s.both.open = open;
            s.both.conflicts = all;
            s.both.parked = parked;
            s.both.carried = carried;
        });
        if open > u64::from(HELD_MAX) {
            return Err(Error::TooManyConflicts(HELD_MAX as usize));
        }
        Ok(())
    }
}
