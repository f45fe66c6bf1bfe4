//! Ids that the extracted side gives anew: each legacy id must stand for one new id and the other
//! way round, in all answers of a slice.
//!
//! The first pair that is seen is believed; what contradicts it is a difference, whichever of the
//! two is the wrong one. Equal ids are not looked at. Learnt anew after a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::json::Json;

/// Ids that are remembered for one rule; further ones are shown as differences. Some 20 MB.
const IDS_MAX: usize = 100_000;

/// What is known of one rule's ids. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renaming(Arc<Mutex<Known>>);

#[derive(Debug, Clone, Default)]
struct Known {
    there: HashMap<String, String>,
    back: HashMap<String, String>,
}

/// An id is the same as a number and as text: in a URL it is always text.
fn text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The parts in which two values differ: of URLs those between the signs, else the whole. `None`
/// where they are not built alike.
fn ids<'a>(legacy: &'a str, extracted: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    const SIGNS: [char; 5] = ['/', '?', '&', '=', '#'];
    if !legacy.starts_with('/') && !legacy.contains("://") {
        return Some(vec![(legacy, extracted)]);
    }
    let signs = |text: &'a str| text.matches(SIGNS);
    if !signs(legacy).eq(signs(extracted)) {
        return None;
    }
    let parts = legacy.split(SIGNS).zip(extracted.split(SIGNS));
    Some(parts.filter(|(old, new)| old != new).collect())
}

impl Known {
    fn fits(&self, old: &str, new: &str) -> bool {
        match (self.there.get(old), self.back.get(new)) {
            (Some(known), Some(back)) => known == new && back == old,
            (None, None) => self.there.len() < IDS_MAX,
            _ => false,
        }
    }

    fn learn(&mut self, old: &str, new: &str) -> bool {
        let fits = self.fits(old, new);
        if fits && !self.there.contains_key(old) {
            self.there.insert(old.to_owned(), new.to_owned());
            self.back.insert(new.to_owned(), old.to_owned());
        }
        fits
    }
}

impl Renaming {
    /// Whether these may be the same id on both sides, or URLs with such ids; remembers it.
    pub(crate) fn agrees(&self, legacy: &Json, extracted: &Json) -> bool {
        let (Some(legacy), Some(extracted)) = (text(legacy), text(extracted)) else {
            return false;
        };
        let Some(ids) = ids(&legacy, &extracted) else {
            return false;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // All or nothing: what contradicts is not learnt from.
        if !ids.iter().all(|(old, new)| known.fits(old, new)) {
            return false;
        }
        ids.into_iter().all(|(old, new)| known.learn(old, new))
    }

    /// A copy that learns for itself.
    pub(crate) fn aside(&self) -> Self {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Self(Arc::new(Mutex::new(known.clone())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Json {
        Json::String(text.to_owned())
    }

    #[test]
    fn one_swapped_id_is_seen_and_a_full_memory_hides_nothing() {
        let renaming = Renaming::default();
        for (old, new, agrees) in [
            ("1", "a", true),
            ("2", "b", true),
            ("1", "a", true),
            ("1", "b", false),
            ("3", "a", false),
            ("2", "c", false),
            ("3", "c", true),
        ] {
            assert_eq!(renaming.agrees(&id(old), &id(new)), agrees, "{old} {new}");
        }
        assert!(!renaming.agrees(&Json::Null, &id("d")));
        let aside = renaming.aside();
        assert!(aside.agrees(&id("4"), &id("x")) && renaming.agrees(&id("4"), &id("d")));
        for n in 0..IDS_MAX {
            renaming.agrees(&id(&format!("o{n}")), &id(&format!("n{n}")));
        }
        assert!(!renaming.agrees(&id("one more"), &id("too many")));
    }

    proptest! {
        #[test]
        fn what_agreed_is_a_bijection(pairs in prop::collection::vec((0u8..12, 0u8..12), 0..80)) {
            let renaming = Renaming::default();
            let mut agreed: Vec<(u8, u8)> = pairs
                .into_iter()
                .filter(|(a, b)| renaming.agrees(&id(&a.to_string()), &id(&b.to_string())))
                .collect();
            agreed.sort_unstable();
            agreed.dedup();
            for side in [0, 1] {
                let mut ids: Vec<u8> = agreed.iter().map(|p| if side == 0 { p.0 } else { p.1 }).collect();
                let all = ids.len();
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), all);
            }
        }
    }
}
