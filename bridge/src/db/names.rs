//! Names of our own things in a database. Engines cut names that are too long (PostgreSQL after 63
//! bytes), so that two could become one: ours are never that long.

use std::borrow::Cow;

use outgrow_rollout::SliceId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{Database, Dialect};
use crate::value::{Cell, key_text};

/// PostgreSQL takes 63 bytes, MySQL 64 characters.
const NAME_MAX: usize = 63;
/// Of a name, a slice takes at most so much. Names are found again by how they begin, so the
/// beginning is never cut.
const SLICE_MAX: usize = 30;
/// `-` and the hash.
const HASH: usize = 9;

/// The slice, in names.
pub(super) fn of_slice(slice: &SliceId) -> Cow<'_, str> {
    cut(slice.as_str(), SLICE_MAX)
}

/// A name that no engine cuts.
pub(super) fn fitted(name: String) -> String {
    match cut(&name, NAME_MAX) {
        Cow::Borrowed(_) => name,
        Cow::Owned(short) => short,
    }
}

/// Characters of a key that rows of our books are found by: in MySQL they share an index entry of
/// 3,072 bytes with a table's name, in PostgreSQL one of 2,700.
const KEY_MAX: usize = 600;

impl Database {
    /// What a row of our books is found by.
    pub(crate) fn key_name(&self, key: &[Cell]) -> String {
        self.named_by(&key_text(key)).into_owned()
    }

    /// As [`Self::key_name`], of a key's text.
    pub(crate) fn named_by<'k>(&self, key: &'k str) -> Cow<'k, str> {
        match self.dialect() {
            Dialect::Sqlite => Cow::Borrowed(key),
            Dialect::Postgres | Dialect::Mysql => short(key),
        }
    }
}

/// A key's text that is too long ends with a hash of the whole.
fn short(key: &str) -> Cow<'_, str> {
    if key.len() <= KEY_MAX || key.chars().count() <= KEY_MAX {
        return Cow::Borrowed(key);
    }
    let kept = key.char_indices().nth(KEY_MAX - 33);
    let kept = kept.map_or(key, |(at, _)| &key[..at]);
    Cow::Owned(format!("{kept}-{:032x}", xxh3_128(key.as_bytes())))
}

/// What is too long ends with a hash of the whole.
fn cut(name: &str, max: usize) -> Cow<'_, str> {
    if name.len() <= max {
        return Cow::Borrowed(name);
    }
    let kept = name.floor_char_boundary(max - HASH);
    #[allow(clippy::cast_possible_truncation)] // Its lower half is enough to tell names apart.
    let hash = xxh3_64(name.as_bytes()) as u32;
    Cow::Owned(format!("{}-{hash:08x}", &name[..kept]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fits_stays() {
        assert_eq!(fitted("x".repeat(63)), "x".repeat(63));
        let slice: SliceId = "catalog".parse().unwrap();
        assert_eq!(of_slice(&slice), "catalog");
    }

    #[test]
    fn a_long_key_is_found_by_a_short_name() {
        let long = |last: char| format!("{}{last}", "\u{e9}".repeat(600));
        assert_eq!(short(&"\u{e9}".repeat(600)), "\u{e9}".repeat(600));
        assert_eq!(short(&long('a')).chars().count(), 600);
        assert_eq!(short(&long('a')), short(&long('a')));
        assert_ne!(short(&long('a')), short(&long('b')));
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        // Names are looked for again by later versions.
        assert_eq!(cut(&"a".repeat(31), 30), "aaaaaaaaaaaaaaaaaaaaa-59f7c256");
    }

    proptest! {
        #[test]
        fn no_name_is_cut_and_none_is_another(
            names in prop::collection::hash_set("[a-zé]{50,64}_(note|fence)", 2..20),
        ) {
            let fitted: Vec<String> = names.iter().cloned().map(fitted).collect();
            for (name, short) in names.iter().zip(&fitted) {
                prop_assert!(short.len() <= NAME_MAX);
                prop_assert_eq!(&short.as_bytes()[..40], &name.as_bytes()[..40]);
            }
            let distinct: std::collections::HashSet<&String> = fitted.iter().collect();
            prop_assert_eq!(distinct.len(), names.len());
        }
    }
}
