//! The keys that changed lately, for the quick check inside a cutover.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::value::Key;

/// As many as can be compared in a few milliseconds.
const KEPT: usize = 1_000;

/// The last keys, each once.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    order: VecDeque<(usize, Key)>,
    known: HashSet<(usize, Key)>,
}

impl Recent {
    pub(crate) fn note(&mut self, group: usize, key: &Key) {
        let entry = (group, key.clone());
        if !self.known.insert(entry.clone()) {
            return;
        }
        self.order.push_back(entry);
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn by_group(&self) -> HashMap<usize, Vec<Key>> {
        let mut keys: HashMap<usize, Vec<Key>> = HashMap::new();
        for (group, key) in &self.order {
            keys.entry(*group).or_default().push(key.clone());
        }
        keys
    }
}
