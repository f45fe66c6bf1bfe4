//! Which side a client's reads go to.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{Side, Weight};

/// Number of buckets; one is one basis point of weight.
pub const BUCKETS: u16 = 10_000;

/// Hash of a cohort key under a slice's salt.
///
/// Pinned by test vectors: proxies of different versions must decide alike, and a client must
/// not change side because a binary was upgraded.
pub fn key_hash(salt: &str, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, xxh3_64_with_seed(salt.as_bytes(), 0))
}

/// The bucket of a hash, 0 to 9,999, by multiply-shift (Lemire, "Fast Random Integer Generation
/// in an Interval", 2019), which has no modulo bias worth counting at this size.
pub fn bucket(hash: u64) -> u16 {
    let wide = (u128::from(hash) * u128::from(BUCKETS)) >> 64;
    // The product of a 64-bit hash and 10,000, shifted by 64, is below 10,000.
    u16::try_from(wide).unwrap_or(BUCKETS - 1)
}

/// The side for a bucket. Monotone: a bucket that is on the extracted side stays there while the
/// weight rises.
pub fn side_for(bucket: u16, weight: Weight) -> Side {
    if bucket < weight.basis_points() {
        Side::Extracted
    } else {
        Side::Legacy
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pinned_vectors() {
        for (salt, key, expected) in [
            ("catalog", "alice", PINNED[0]),
            ("catalog", "", PINNED[1]),
            ("reviews", "alice", PINNED[2]),
        ] {
            assert_eq!(
                bucket(key_hash(salt, key.as_bytes())),
                expected,
                "{salt}/{key}"
            );
        }
    }

    const PINNED: [u16; 3] = [3433, 3053, 4610];

    #[test]
    fn buckets_are_even() {
        let mut halves = [0u32; 10];
        for n in 0..100_000u32 {
            let b = bucket(key_hash("salt", &n.to_le_bytes()));
            halves[usize::from(b / 1_000)] += 1;
        }
        for count in halves {
            assert!((9_500..10_500).contains(&count), "{halves:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_never_changes_side_as_the_weight_rises(hash: u64, low in 0u16..=10_000, high in 0u16..=10_000) {
            let (low, high) = (low.min(high), low.max(high));
            let at = |points| side_for(bucket(hash), Weight::from_basis_points(points).expect("in range"));
            if at(low) == Side::Extracted {
                prop_assert_eq!(at(high), Side::Extracted);
            }
        }

        #[test]
        fn the_ends_are_whole(hash: u64) {
            prop_assert_eq!(side_for(bucket(hash), Weight::ZERO), Side::Legacy);
            prop_assert_eq!(side_for(bucket(hash), Weight::FULL), Side::Extracted);
        }
    }
}
