//! Where ids are given anew, what is equal says something, too: an id that both sides have stands
//! for itself. And elements of arrays are paired by what their ids are on the extracted side.

use outgrow_rollout::Side;

use super::{Change, Walk};
use crate::arrays::{self, Pairing};
use crate::json::Json;
use crate::path::Step;
use crate::settings::ArrayBy;

/// What stands for an id of which nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// Nothing: whatever else an element has says which it is.
    Null,
    Itself,
}

impl<'a> Walk<'a, '_> {
    /// A scalar that both sides have is a difference where the rules know better.
    pub(super) fn same(&mut self, value: &'a Json) {
        if !self.equal {
            return;
        }
        let taken = self.rules.taken(&self.root, &self.at, value, self.today);
        let Some(taken) = taken else {
            return;
        };
        let change = Change::Value(value, value);
        if !self.rules.accept(&self.root, &self.at, &change, self.today) {
            self.found(Change::Taken(value, taken));
        }
    }

    /// Which elements belong together: all of them, where the rules are shown what is equal.
    pub(super) fn pairing(&mut self, legacy: &[Json], extracted: &[Json]) -> Pairing {
        let rules = self.rules;
        let by = rules.array(&self.root, &self.at);
        if !self.equal {
            return arrays::pair(legacy, extracted, by, &mut self.work);
        }
        let mut both = |unknown| {
            let ours = self.called_all(Side::Legacy, legacy, unknown);
            (ours, self.called_all(Side::Extracted, extracted, unknown))
        };
        let (bare, named) = (both(Unknown::Null), both(Unknown::Itself));
        // One is missing, and nothing but their ids tells them apart.
        let is_unclear = legacy.len() != extracted.len()
            && (arrays::have_twice(&bare.0) || arrays::have_twice(&bare.1));
        let (ours, theirs) = if is_unclear { &named } else { &bare };
        let mut pairing = arrays::pair(ours, theirs, by, &mut self.work);
        let is_set = by == Some(&ArrayBy::Set);
        arrays::complete(&mut pairing, ours, theirs, is_set);
        // That of both nothing is known makes them no more alike.
        arrays::part_strangers(&mut pairing, &named.0, &named.1);
        pairing
    }

    fn called_all(&mut self, of: Side, all: &[Json], unknown: Unknown) -> Vec<Json> {
        let mut made = Vec::with_capacity(all.len());
        for (index, value) in all.iter().enumerate() {
            self.at.push(Step::Index(index));
            made.push(self.called(of, value, unknown));
            self.at.pop();
        }
        made
    }

    /// A value of one side, with its ids as they are on the extracted side.
    fn called(&mut self, of: Side, value: &Json, unknown: Unknown) -> Json {
        match value {
            Json::Array(all) => Json::Array(self.called_all(of, all, unknown)),
            Json::Object(members) => {
                let mut made = Vec::with_capacity(members.len());
                for (name, value) in members {
                    self.at.push(Step::Name(name.clone()));
                    made.push((name.clone(), self.called(of, value, unknown)));
                    self.at.pop();
                }
                Json::Object(made)
            }
            scalar => {
                let place = (&self.root, self.at.as_slice());
                match self.rules.called(of, place, scalar, self.today) {
                    Some(Json::Null) if unknown == Unknown::Itself => scalar.clone(),
                    Some(called) => called,
                    None => scalar.clone(),
                }
            }
        }
    }
}
