//! What was said of tokens lately. Two clocks: how long a word is good goes by the monotonic one, so that no
//! change of the wall's clock keeps it longer; when a token ends goes by the wall's, for it says so.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Instant;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use serde_json::Value;

use super::{Hash, Said};

/// Of an answer beside its own bytes: key, counters, the table.
const OVERHEAD: u64 = 256;
/// A tree of values takes more than its text.
const SPREAD: u64 = 4;
/// Most answers have half a kilobyte.
const USUAL: u64 = 2 << 10;

#[derive(Debug)]
struct Known {
    said: Said,
    until: Instant,
    /// When its token ends, in seconds since 1970.
    exp: Option<f64>,
    weight: u64,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Hash, Arc<Known>> for Bytes {
    fn weight(&self, _: &Hash, known: &Arc<Known>) -> u64 {
        known.weight
    }
}

/// The table, of bounded size.
pub(super) struct Kept(Option<Cache<Hash, Arc<Known>, Bytes, RandomState>>);

impl Kept {
    pub(super) fn new(size: u64) -> Self {
        let items = usize::try_from(size / USUAL).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(items)
            .weight_capacity(size)
            .build();
        let made = options.ok().map(|options| {
            let lifecycle = DefaultLifecycle::default();
            Cache::with_options(options, Bytes, RandomState::new(), lifecycle)
        });
        Self(made)
    }

    /// What is still good, by both clocks.
    pub(super) fn get(&self, hash: &Hash, now: Instant, wall: u64) -> Option<Said> {
        let known = self.0.as_ref()?.get(hash)?;
        // Exact for the next 200 million years.
        #[allow(clippy::cast_precision_loss)]
        let ended = known.exp.is_some_and(|exp| wall as f64 >= exp);
        (now < known.until && !ended).then(|| known.said.clone())
    }

    /// How many are kept, and about how many bytes they take.
    pub(super) fn takes(&self) -> (u64, u64) {
        let Some(cache) = &self.0 else {
            return (0, 0);
        };
        (cache.len() as u64, cache.weight())
    }

    pub(super) fn put(&self, hash: Hash, said: Said, bytes: usize, until: Instant) {
        let Some(cache) = &self.0 else { return };
        let exp = match &said {
            Said::Active(claims) => claims.get("exp").and_then(Value::as_f64),
            Said::Inactive => None,
        };
        let weight = OVERHEAD + SPREAD * bytes as u64;
        cache.insert(
            hash,
            Arc::new(Known {
                said,
                until,
                exp,
                weight,
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::json;

    const NOON: u64 = 1_800_000_000;

    fn active(claims: &Value) -> Said {
        Said::Active(Arc::new(claims.as_object().unwrap().clone()))
    }

    #[test]
    fn a_word_is_good_for_its_time_and_not_beyond_the_token() {
        let (kept, now) = (Kept::new(1 << 20), Instant::now());
        let minute = Duration::from_secs(60);
        kept.put(
            [1; 32],
            active(&json!({"exp": NOON + 30})),
            10,
            now + minute,
        );
        kept.put([2; 32], active(&json!({"sub": "a"})), 10, now + minute);
        kept.put([3; 32], Said::Inactive, 10, now + minute / 12);
        let is = |key: u8, after: u64, wall: u64| {
            let at = now + Duration::from_secs(after);
            kept.get(&[key; 32], at, wall).is_some()
        };
        assert!(is(1, 0, NOON) && is(1, 29, NOON + 29));
        assert!(!is(1, 30, NOON + 30), "its token has ended");
        assert!(is(2, 59, NOON + 59) && !is(2, 60, NOON + 60));
        assert!(is(3, 4, NOON + 4) && !is(3, 5, NOON + 5));
        assert!(!is(4, 0, NOON));
    }

    /// Neither way lets a word be good for longer than its time.
    #[test]
    fn the_wall_clock_may_jump() {
        let (kept, now) = (Kept::new(1 << 20), Instant::now());
        let minute = Duration::from_secs(60);
        kept.put(
            [1; 32],
            active(&json!({"exp": NOON + 30})),
            10,
            now + minute,
        );
        kept.put([2; 32], active(&json!({})), 10, now + minute);
        let at = |after: u64| now + Duration::from_secs(after);
        for (hours, first) in [(24, false), (-24_i64, true)] {
            let wall = NOON.checked_add_signed(hours * 3_600).unwrap();
            assert_eq!(kept.get(&[1; 32], at(10), wall).is_some(), first);
            assert!(kept.get(&[2; 32], at(10), wall).is_some());
            assert!(
                kept.get(&[1; 32], at(60), wall).is_none(),
                "its time is over"
            );
            assert!(kept.get(&[2; 32], at(60), wall).is_none());
        }
    }

    #[test]
    fn the_table_has_a_bound() {
        let (kept, now) = (Kept::new(1 << 20), Instant::now());
        let until = now + Duration::from_secs(60);
        for key in 0..20_000_u32 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&key.to_be_bytes());
            kept.put(hash, Said::Inactive, 500, until);
        }
        let cache = kept.0.as_ref().unwrap();
        assert!(cache.weight() <= 1 << 20);
        assert!(cache.len() > 100);
        assert_eq!(kept.takes(), (cache.len() as u64, cache.weight()));
    }
}
