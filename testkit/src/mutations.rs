//! Bytes near to given ones, for whatever reads bytes from outside: the short way to what
//! `scripts/fuzz` looks for at length.

use std::path::Path;

/// Bytes that readers have a meaning for.
const TELLING: [u8; 16] = *b"\0\x01\x7f\xff\"\\{}[],:\r\n -";

/// Calls `target` with every seed of `fuzz/seeds/NAME`, with each beginning of one, and with each
/// after single changes. The same calls on each run.
///
/// # Panics
/// Without a seed.
#[allow(clippy::panic)] // Which seeds are not there is the message of the failing test.
pub fn around_seeds(name: &str, mut target: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let folder = folder.join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "fuzz/seeds/{name} is empty");
    let read = |file| std::fs::read(file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let seeds: Vec<Vec<u8>> = files.iter().map(read).collect();
    for seed in &seeds {
        around(seed, &mut target);
        for other in &seeds {
            target(&[&seed[..seed.len() / 2], &other[other.len() / 2..]].concat());
        }
    }
}

/// Places of a long seed that are changed.
const PLACES_MAX: usize = 400;

/// The same for one seed.
pub fn around(seed: &[u8], target: &mut impl FnMut(&[u8])) {
    target(seed);
    let step = seed.len().div_ceil(PLACES_MAX).max(1);
    for at in (0..seed.len()).step_by(step) {
        target(&seed[..at]);
        target(&seed[at..]);
        let mut one = seed.to_vec();
        // Not all of them at each place: a place further is like this one.
        for shift in 0..4 {
            one[at] = TELLING[(at * 5 + shift * 7) % TELLING.len()];
            target(&one);
        }
        one[at] = seed[at] ^ (1 << (at % 8));
        target(&one);
        one[at] = seed[at];
        one.insert(at, seed[at]);
        target(&one);
        one.drain(at..=at + 1);
        target(&one);
    }
}
