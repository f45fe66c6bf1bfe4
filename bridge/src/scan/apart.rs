//! The comparison of tables whose keys are in another order on the other side: the legacy side is
//! walked and the other looked up, and then the other is walked for rows that the first has not.

use std::collections::HashMap;

use outgrow_rollout::Side;

use super::pace::{Pace, Picker};
use super::{Found, SUSPECTS};
use crate::batch::images;
use crate::db::rows;
use crate::db::sums::Range;
use crate::error::{Error, OnSide};
use crate::verify::Verifier;

/// Keys read at once. Their rows are read in parts of no more bytes than a chunk has.
const KEYS: u32 = 4_000;

impl Verifier<'_> {
    /// Compares the legacy rows of a range with what the other side has for their keys.
    pub(super) async fn looked_up(
        &self,
        at: usize,
        range: &Range,
        found: &mut Found,
    ) -> Result<(), Error> {
        let group = &self.plan.groups[at];
        let (legacy, extracted) = (&self.shared.legacy, &self.shared.extracted);
        let mut rest = range.clone();
        loop {
            let mut tx = legacy.read().await?;
            let first = &group.tables(Side::Legacy)[0];
            let keys = rows::keys_within(&mut tx, first, &rest, KEYS).await;
            let keys = keys.on(Side::Legacy)?;
            drop(tx);
            let more = keys.len() >= KEYS as usize;
            rest.after = keys.last().cloned();
            for (_, keys) in self.parts(HashMap::from([(at, keys)])).await? {
                let mut tx = legacy.read().await?;
                let mut here = images(group, legacy, &mut tx, &keys).await?;
                drop(tx);
                let mut tx = extracted.read().await?;
                let mut there = images(group, extracted, &mut tx, &keys).await?;
                drop(tx);
                let none = |side| vec![None; group.tables(side).len()];
                for key in keys {
                    let here = here.remove(&key).unwrap_or_else(|| none(Side::Legacy));
                    let there = there.remove(&key).unwrap_or_else(|| none(Side::Extracted));
                    self.pair(at, key, &here, &there, found);
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Suspects extracted rows of whose keys the legacy side has none.
    pub(super) async fn strangers(
        &self,
        at: usize,
        mut picker: Picker,
        pace: &mut Pace<'_>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let group = &self.plan.groups[at];
        let first = &group.tables(Side::Legacy)[0];
        let parts = group.tables(Side::Extracted);
        for (part, table) in parts.iter().enumerate() {
            let mut after = None;
            loop {
                pace.wait().await?;
                let mut tx = self.shared.extracted.read().await?;
                let keys = rows::keys_after(&mut tx, table, after.as_ref(), KEYS).await;
                let keys = keys.on(Side::Extracted)?;
                drop(tx);
                let more = keys.len() >= KEYS as usize;
                after = keys.last().cloned();
                if picker.takes(!more) {
                    let mut tx = self.shared.legacy.read().await?;
                    let there = rows::present(&mut tx, first, &keys).await;
                    let there = there.on(Side::Legacy)?;
                    let mut strangers = keys;
                    strangers.retain(|key| !there.contains(key));
                    drop(tx);
                    // A row that an earlier one has, too, was suspected there.
                    let mut tx = self.shared.extracted.read().await?;
                    for earlier in &parts[..part] {
                        let there = rows::present(&mut tx, earlier, &strangers).await;
                        let there = there.on(Side::Extracted)?;
                        strangers.retain(|key| !there.contains(key));
                    }
                    drop(tx);
                    found
                        .suspects
                        .extend(strangers.into_iter().map(|key| (at, key)));
                    if found.suspects.len() > SUSPECTS {
                        self.settle_suspects(found).await?;
                    }
                }
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }
}
