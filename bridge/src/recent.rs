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
    /// Takes note of keys that have changed; of very many, only the last count.
    pub(crate) fn note_all<'k>(&mut self, keys: impl DoubleEndedIterator<Item = (usize, &'k Key)>) {
        let last: Vec<_> = keys.rev().take(KEPT).collect();
        last.into_iter()
            .rev()
            .for_each(|(group, key)| self.note(group, key));
    }

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
