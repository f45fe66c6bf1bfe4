//! How much is read at once. Rows of changed keys may be of any size, so large ones are weighed
//! before they are read: what does not fit waits for the next batch, and one row always goes.
//!
//! Of `n` rows each may have an n-th of the bytes without being asked about; what has more is
//! weighed. So what is read at once is at most the bytes twice over, or one larger row.

use std::collections::{HashMap, HashSet};

use outgrow_rollout::Side;

use crate::both::At;
use crate::db::stream::Change;
use crate::db::{Database, Tx, rows, sizes};
use crate::error::{Error, OnSide};
use crate::plan::{Image, Plan};
use crate::value::Key;

/// Bytes of rows that are larger than their share.
pub(crate) type Heavy = HashMap<At, u64>;

/// A batch that is taken anew, because changes that explain a refused row may be among those to
/// come, may be so many times larger at the most.
pub(crate) const WIDEST: u32 = 3;

/// The bytes of a batch that was widened so often, and whether it can be no wider.
pub(crate) fn widened(bytes: usize, times: u32) -> (usize, bool) {
    (
        bytes.saturating_mul(1 << times.min(WIDEST)),
        times >= WIDEST,
    )
}

/// Rows that were read, and those that are too large to be read unasked.
#[derive(Debug, Default)]
pub(crate) struct Light {
    pub(crate) images: HashMap<usize, HashMap<Key, Image>>,
    pub(crate) heavy: Heavy,
}

/// Changes whose rows are weighed to say what waits.
const WEIGHED: u32 = 200;

/// About the bytes of the rows that the changes after a place are of, if there are so many: as
/// much for each as the next have on average.
pub(crate) async fn waiting(
    plan: &Plan,
    source: &Database,
    tx: &mut Tx,
    (after, count): (i64, u64),
) -> Result<u64, Error> {
    if count == 0 {
        return Ok(0);
    }
    let mut next = source.changes(tx, after, WEIGHED).await?;
    next.retain(|change| !change.is_beat() && !change.is_of_all());
    if next.is_empty() {
        // What has no place in the stream yet.
        next = source.unplaced(tx, WEIGHED).await?;
    }
    let mut keys: HashMap<usize, HashSet<Key>> = HashMap::new();
    for change in &next {
        if let Some((group, key)) = change.row(plan, source.side) {
            keys.entry(group).or_default().insert(key);
        }
    }
    let (mut weighed, mut bytes) = (0u64, 0u64);
    for (group, keys) in keys {
        let keys: Vec<Key> = keys.into_iter().collect();
        weighed += keys.len() as u64;
        for table in plan.groups[group].tables(source.side) {
            bytes += sizes::sum(tx, table, &keys).await.on(source.side)?;
        }
    }
    // Changes of one key carry one row over; of all that wait, the next show how many are such.
    let rows = u128::from(count) * u128::from(weighed) / (next.len() as u128).max(1);
    let all = u128::from(bytes) * rows.max(1) / u128::from(weighed.max(1));
    Ok(u64::try_from(all).unwrap_or(u64::MAX))
}

/// What a side has for these keys, but for rows that are larger than their share.
pub(crate) async fn light(
    plan: &Plan,
    side: &Database,
    tx: &mut Tx,
    keys: &HashMap<usize, Vec<Key>>,
    bytes: usize,
) -> Result<Light, Error> {
    let share = share(plan, side.side, keys, bytes);
    let mut light = Light::default();
    for (&group, keys) in keys {
        let tables = plan.groups[group].tables(side.side);
        let mut images: HashMap<Key, Image> = HashMap::with_capacity(keys.len());
        for (at, table) in tables.iter().enumerate() {
            let found = rows::by_keys_within(tx, table, keys, share);
            let found = found.await.on(side.side)?;
            let all = found.len() == keys.len();
            for row in found {
                let image = images.entry(table.key_of(&row));
                image.or_insert_with(|| vec![None; tables.len()])[at] = Some(row);
            }
            if let (false, Some(share)) = (all, share) {
                let read = |key: &&Key| images.get(*key).is_some_and(|image| image[at].is_some());
                let rest: Vec<Key> = keys.iter().filter(|key| !read(key)).cloned().collect();
                let over = sizes::over(tx, table, &rest, share).await;
                for (key, size) in over.on(side.side)? {
                    *light.heavy.entry((group, key)).or_default() += size;
                }
            }
        }
        if !light.heavy.is_empty() {
            images.retain(|key, _| !light.heavy.contains_key(&(group, key.clone())));
        }
        light.images.insert(group, images);
    }
    Ok(light)
}

/// Which of these rows are larger than their share.
async fn over(
    plan: &Plan,
    side: &Database,
    tx: &mut Tx,
    keys: &HashMap<usize, Vec<Key>>,
    share: Option<u64>,
) -> Result<Heavy, Error> {
    let mut heavy = Heavy::new();
    let Some(share) = share else {
        return Ok(heavy);
    };
    for (&group, keys) in keys {
        for table in plan.groups[group].tables(side.side) {
            let over = sizes::over(tx, table, keys, share).await;
            for (key, size) in over.on(side.side)? {
                *heavy.entry((group, key)).or_default() += size;
            }
        }
    }
    Ok(heavy)
}

/// What each row may have; `None` where there is but one.
fn share(plan: &Plan, side: Side, keys: &HashMap<usize, Vec<Key>>, bytes: usize) -> Option<u64> {
    let of =
        |(group, keys): (&usize, &Vec<Key>)| keys.len() * plan.groups[*group].tables(side).len();
    let rows: usize = keys.iter().map(of).sum();
    let share = bytes as u64 / rows.max(1) as u64;
    (rows > 1).then_some(share)
}

/// What is counted of changes of the same row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Each {
    /// The row once, however often it changed.
    Key,
    /// The row each time.
    Change,
}

/// How many of these changes go into so many bytes; `None` if all do.
pub(crate) async fn fitting(
    plan: &Plan,
    side: &Database,
    tx: &mut Tx,
    changes: &[Change],
    each: Each,
    bytes: usize,
) -> Result<Option<usize>, Error> {
    let ats = || {
        let of = |change: &Change| match change.is_of_all() {
            true => None,
            false => change.row(plan, side.side),
        };
        changes.iter().map(of)
    };
    let mut keys: HashMap<usize, Vec<Key>> = HashMap::new();
    let mut seen = HashSet::new();
    for (group, key) in ats().flatten().filter(|at| rows::usable(&at.1)) {
        if seen.insert((group, key.clone())) {
            keys.entry(group).or_default().push(key);
        }
    }
    let share = match each {
        Each::Key => share(plan, side.side, &keys, bytes),
        Each::Change => (changes.len() > 1).then(|| bytes as u64 / changes.len() as u64),
    };
    let heavy = over(plan, side, tx, &keys, share).await?;
    Ok(cut(ats(), &heavy, each, bytes))
}

/// How many of what is about these keys go into so many bytes: one large row at the least. `None`
/// if all do.
pub(crate) fn cut(
    ats: impl Iterator<Item = Option<At>>,
    heavy: &Heavy,
    each: Each,
    bytes: usize,
) -> Option<usize> {
    if heavy.is_empty() {
        return None;
    }
    let mut left = heavy.clone();
    let mut sum = 0u64;
    for (count, at) in ats.enumerate() {
        let size = at.and_then(|at| match each {
            Each::Key => left.remove(&at),
            Each::Change => left.get(&at).copied(),
        });
        let Some(size) = size else { continue };
        let first = sum == 0;
        sum = sum.saturating_add(size);
        if sum > bytes as u64 && !first {
            return Some(count);
        }
    }
    None
}

/// Keys in parts that may each be read at once.
pub(crate) async fn parts(
    plan: &Plan,
    side: &Database,
    tx: &mut Tx,
    keys: &HashMap<usize, Vec<Key>>,
    bytes: usize,
) -> Result<Vec<HashMap<usize, Vec<Key>>>, Error> {
    let share = share(plan, side.side, keys, bytes);
    let heavy = over(plan, side, tx, keys, share).await?;
    if heavy.is_empty() {
        return Ok(vec![keys.clone()]);
    }
    let of = |(group, keys): (&usize, &Vec<Key>)| -> Vec<At> {
        keys.iter().map(|key| (*group, key.clone())).collect()
    };
    let mut rest: Vec<At> = keys.iter().flat_map(of).collect();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let ats = rest.iter().cloned().map(Some);
        let count = cut(ats, &heavy, Each::Key, bytes);
        let more = rest.split_off(count.unwrap_or(rest.len()));
        let mut part: HashMap<usize, Vec<Key>> = HashMap::new();
        for (group, key) in std::mem::replace(&mut rest, more) {
            part.entry(group).or_default().push(key);
        }
        parts.push(part);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: i64) -> At {
        (0, vec![key.into()])
    }

    #[test]
    fn a_large_row_is_counted_once_and_one_always_goes() {
        let heavy: Heavy = [(at(1), 6), (at(2), 5), (at(3), 50)].into();
        let cut_by = |each, keys: &[i64], bytes| {
            let ats = keys.iter().map(|key| (*key != 0).then(|| at(*key)));
            super::cut(ats, &heavy, each, bytes)
        };
        let cut = |keys: &[i64], bytes| cut_by(Each::Key, keys, bytes);
        assert_eq!(cut(&[7, 0, 1, 1, 2], 11), None);
        assert_eq!(cut(&[7, 0, 1, 1, 2], 10), Some(4), "heartbeats go along");
        assert_eq!(cut(&[3, 3, 9], 10), None, "alone, however large");
        assert_eq!(cut(&[3, 9, 1], 10), Some(2));
        assert_eq!(cut(&[1, 2, 3], 11), Some(2));
        assert_eq!(cut_by(Each::Change, &[7, 1, 1, 2], 11), Some(2));
        assert_eq!(cut(&[7, 8], 0), None, "what was not weighed is small");
    }

    #[test]
    fn a_batch_is_widened_a_few_times_only() {
        assert_eq!(widened(10, 0), (10, false));
        assert_eq!(widened(10, 2), (40, false));
        assert_eq!(widened(10, 3), (80, true));
        assert_eq!(widened(10, 9), (80, true));
        assert_eq!(widened(usize::MAX, 1), (usize::MAX, false));
    }
}
