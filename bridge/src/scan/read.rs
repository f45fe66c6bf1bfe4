//! The comparison of rows that were read: what says in the end whether they look different.

use std::collections::HashMap;

use outgrow_rollout::Side;

use super::Found;
use crate::db::sums::Range;
use crate::db::{rows, sizes};
use crate::error::{Error, OnSide};
use crate::plan::{Group, Image, Row};
use crate::value::Key;
use crate::verify::Verifier;

/// Rows read at once, of no more bytes than a chunk has: a snapshot of some milliseconds.
const ROWS: u32 = 4_000;

impl Verifier<'_> {
    /// Compares the rows of a range one by one.
    pub(super) async fn rows(
        &self,
        at: usize,
        range: &Range,
        found: &mut Found,
    ) -> Result<(), Error> {
        let group = &self.plan.groups[at];
        if group.keys_apart() {
            return self.looked_up(at, range, found).await;
        }
        let mut rest = range.clone();
        loop {
            let (images, end) = self.images(group, &rest).await?;
            for (key, (legacy, extracted)) in images {
                self.pair(at, key, &legacy, &extracted, found);
            }
            match end {
                Some(end) => rest.after = Some(end),
                None => return Ok(()),
            }
        }
    }

    /// Counts what both sides have for a key, or suspects it.
    pub(super) fn pair(
        &self,
        at: usize,
        key: Key,
        legacy: &Image,
        extracted: &Image,
        found: &mut Found,
    ) {
        let group = &self.plan.groups[at];
        let here = u64::from(legacy.iter().any(Option::is_some));
        found.looked_at += here;
        found.read_rows += here;
        if !self.alike(group, legacy, extracted) {
            found.suspects.push((at, key));
            return;
        }
        let taken = group.taken(legacy);
        let parts = group.tables(Side::Extracted);
        for ((part, row), taken) in parts.iter().zip(extracted).zip(&taken) {
            let counts = found.tables.entry(part.name.clone()).or_default();
            counts.legacy += u64::from(*taken);
            counts.extracted += u64::from(row.is_some());
        }
    }

    /// Rows of both sides from the beginning of a range up to a common key, and that key unless
    /// it is the end.
    async fn images(
        &self,
        group: &Group,
        range: &Range,
    ) -> Result<(HashMap<Key, (Image, Image)>, Option<Key>), Error> {
        let mut found = Vec::new();
        let mut end: Option<Key> = None;
        for side in [Side::Legacy, Side::Extracted] {
            let mut tx = self.shared.on(side).read().await?;
            for (at, table) in group.tables(side).iter().enumerate() {
                let bytes = self.shared.limits().chunk_bytes;
                let most = sizes::within(&mut tx, table, range, ROWS, bytes);
                let most = most.await.on(side)?;
                let rows = rows::within(&mut tx, table, range, most).await.on(side)?;
                let full = rows.len() >= most as usize;
                let rows: Vec<(Key, Row)> = rows
                    .into_iter()
                    .map(|row| (table.key_of(&row), row))
                    .collect();
                if let (true, Some((last, _))) = (full, rows.last())
                    && end
                        .as_ref()
                        .is_none_or(|end| group.key_order(last, end).is_lt())
                {
                    end = Some(last.clone());
                }
                found.push((side, at, rows));
            }
        }
        let none = |side| vec![None; group.tables(side).len()];
        let mut images: HashMap<Key, (Image, Image)> = HashMap::new();
        for (side, at, rows) in found {
            for (key, row) in rows {
                let beyond = |end: &Key| group.key_order(&key, end).is_gt();
                if end.as_ref().is_some_and(beyond) {
                    break;
                }
                let image = images
                    .entry(key)
                    .or_insert_with(|| (none(Side::Legacy), none(Side::Extracted)));
                match side {
                    Side::Legacy => image.0[at] = Some(row),
                    Side::Extracted => image.1[at] = Some(row),
                }
            }
        }
        Ok((images, end))
    }

    fn alike(&self, group: &Group, legacy: &Image, extracted: &Image) -> bool {
        let Ok(expected) = group.map(Side::Legacy, legacy) else {
            return false;
        };
        expected == *extracted || self.compare(group, &[], legacy, extracted).is_empty()
    }
}
