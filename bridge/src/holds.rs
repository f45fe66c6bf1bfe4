//! Places of the streams that readers are at: what comes after them is not trimmed meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use outgrow_rollout::Side;

/// By reader: the place in each side's stream, legacy first, up to which it needs nothing more.
type Places = BTreeMap<u64, [i64; 2]>;

/// All that readers hold.
#[derive(Debug, Default)]
pub(crate) struct Holds(Arc<Mutex<Places>>);

/// What one reader holds, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Hold {
    id: u64,
    all: Arc<Mutex<Places>>,
}

fn at(side: Side) -> usize {
    match side {
        Side::Legacy => 0,
        Side::Extracted => 1,
    }
}

fn with<T>(all: &Mutex<Places>, call: impl FnOnce(&mut Places) -> T) -> T {
    // Plain numbers: a panic elsewhere leaves nothing half-done.
    call(&mut all.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Holds {
    /// Holds both streams wherever they are, until the reader says from where on it needs them.
    pub(crate) fn take(&self) -> Hold {
        let id = with(&self.0, |all| {
            let id = all.last_key_value().map_or(0, |(last, _)| last + 1);
            all.insert(id, [i64::MIN; 2]);
            id
        });
        Hold {
            id,
            all: Arc::clone(&self.0),
        }
    }

    /// How far a side's stream may be trimmed that is to be trimmed to `upto`.
    pub(crate) fn bound(&self, side: Side, upto: i64) -> i64 {
        let held = with(&self.0, |all| {
            all.values().map(|places| places[at(side)]).min()
        });
        held.map_or(upto, |held| held.min(upto))
    }
}

impl Hold {
    /// The reader needs what comes after this place of a side's stream; nothing, without one.
    pub(crate) fn only_after(&self, side: Side, place: Option<i64>) {
        with(&self.all, |all| {
            if let Some(places) = all.get_mut(&self.id) {
                places[at(side)] = place.unwrap_or(i64::MAX);
            }
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        with(&self.all, |all| all.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_place_that_anybody_needs_bounds_the_trimming() {
        let holds = Holds::default();
        assert_eq!(holds.bound(Side::Legacy, 9), 9);
        let (one, other) = (holds.take(), holds.take());
        assert_eq!(holds.bound(Side::Legacy, 9), i64::MIN);
        one.only_after(Side::Legacy, Some(5));
        one.only_after(Side::Extracted, None);
        assert_eq!(holds.bound(Side::Legacy, 9), i64::MIN);
        other.only_after(Side::Legacy, Some(7));
        assert_eq!(holds.bound(Side::Legacy, 9), 5);
        assert_eq!(holds.bound(Side::Legacy, 3), 3);
        assert_eq!(holds.bound(Side::Extracted, 9), i64::MIN);
        drop(one);
        assert_eq!(holds.bound(Side::Legacy, 9), 7);
        drop(other);
        assert_eq!(holds.bound(Side::Extracted, 9), 9);
    }
}
