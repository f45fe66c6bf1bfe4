//! Differences between two JSON documents, each with its place and kind.

mod ids;

use std::collections::HashMap;
use std::hash::BuildHasher;

use time::Date;

use crate::arrays::{self, WORK_MAX};
use crate::json::Json;
use crate::path::{General, Place, Root, Step};
use crate::renaming::Taken;
use crate::rules::Rules;
use crate::twin::{Elements, Member, Twin};

/// Elements that are shown of arrays whose order differs.
pub(crate) const ELEMENTS_SHOWN: usize = 5;

/// Differences of one pair that are looked at; beyond, the pair differs everywhere anyway.
const DIFFERENCES_MAX: usize = 200;

/// Of these, how many of one field in all elements of an array: it is one cause. So a field that
/// differs in every row leaves room for others.
const SAME_FIELD_MAX: usize = 20;

/// One difference, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) place: Place,
    /// `value`, `type`, `missing` (the extracted side lacks it), `extra`, `duplicate` (of a
    /// name), `order`; `budget` where there was too much to look at.
    pub(crate) kind: &'static str,
    pub(crate) legacy: String,
    pub(crate) extracted: String,
}

/// One difference with the values themselves: enough to make one side from the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit<'a> {
    /// Indices are those of the legacy side, but the last one of an extra element.
    pub(crate) at: Vec<Step>,
    pub(crate) change: Change<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Value(&'a Json, &'a Json),
    Missing(&'a Json),
    Extra(&'a Json),
    /// All values of a name that an object has twice, on either side.
    Duplicate(Vec<&'a Json>, Vec<&'a Json>),
    /// The legacy indices of common elements in the extracted order, and the arrays.
    Order(Vec<usize>, &'a [Json], &'a [Json]),
    /// Elements that were paired by position, because a better pairing cost too much.
    Budget(usize, usize),
    /// An id that both sides have here, and one of them has for another one elsewhere.
    Taken(&'a Json, Taken),
}

impl Change<'_> {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Value(a, b) if a.kind() != b.kind() => "type",
            Self::Value(..) | Self::Taken(..) => "value",
            Self::Missing(_) => "missing",
            Self::Extra(_) => "extra",
            Self::Duplicate(..) => "duplicate",
            Self::Order(..) => "order",
            Self::Budget(..) => "budget",
        }
    }

    /// Both sides in short.
    fn texts(&self) -> (String, String) {
        let absent = || "absent".to_owned();
        match self {
            Self::Value(a, b) if a.kind() == b.kind() => (a.brief(), b.brief()),
            Self::Value(a, b) => {
                let text = |json: &Json| format!("{} ({})", json.brief(), json.kind());
                (text(a), text(b))
            }
            Self::Missing(value) => (value.brief(), absent()),
            Self::Extra(value) => (absent(), value.brief()),
            Self::Duplicate(a, b) => {
                let text = |all: &[&Json]| {
                    let all: Vec<String> = all.iter().take(5).map(|json| json.brief()).collect();
                    all.join(", ")
                };
                (text(a), text(b))
            }
            Self::Order(order, legacy, extracted) => {
                let text = |all: &[Json], len: usize| {
                    let name = |json: &Json| match json {
                        Json::Object(_) => arrays::name(json).map_or(json.brief(), Json::brief),
                        other => other.brief(),
                    };
                    let all: Vec<String> =
                        all.iter().take(len.min(ELEMENTS_SHOWN)).map(name).collect();
                    all.join(", ")
                };
                (text(legacy, order.len()), text(extracted, order.len()))
            }
            Self::Budget(a, b) => {
                let text = |len: &usize| format!("{len} elements, paired by position");
                (text(a), text(b))
            }
            Self::Taken(id, Taken { there, back }) => {
                let text = |known: &Option<String>, what: &str| match known {
                    Some(known) => format!("{}, {what} {known} elsewhere", id.brief()),
                    None => id.brief(),
                };
                (text(there, "which is"), text(back, "which stands for"))
            }
        }
    }
}

/// Collects the differences of one pair.
#[derive(Debug)]
struct Walk<'a, 'r> {
    rules: &'r Rules,
    today: Date,
    root: Root,
    at: Vec<Step>,
    found: Vec<Edit<'a>>,
    /// How often each field has differed, by a hash of its path: two of one hash would be counted
    /// as one, and leave less room for each other.
    fields: HashMap<u64, usize>,
    most: usize,
    /// Differences beyond [`DIFFERENCES_MAX`] that no rule accepts.
    more: u64,
    work: usize,
    /// Whether the rules are shown what is equal, too.
    equal: bool,
}

/// What no rule accepts, at most [`DIFFERENCES_MAX`]; beyond, a last entry says how many more.
pub(crate) fn diff(
    legacy: &Json,
    extracted: &Json,
    root: &Root,
    rules: &Rules,
    today: Date,
) -> Vec<Difference> {
    sides(Some(legacy), Some(extracted), root, rules, today)
}

/// The same where one side may have nothing.
pub(crate) fn sides(
    legacy: Option<&Json>,
    extracted: Option<&Json>,
    root: &Root,
    rules: &Rules,
    today: Date,
) -> Vec<Difference> {
    let mut walk = Walk::new(root, rules, today, DIFFERENCES_MAX);
    match (legacy, extracted) {
        (Some(a), Some(b)) => walk.value(a, b),
        (Some(a), None) => walk.report(Change::Missing(a)),
        (None, Some(b)) => walk.report(Change::Extra(b)),
        (None, None) => {}
    }
    walk.shown()
}

/// The same of two texts that were read side by side.
pub(crate) fn twins(twin: &Twin<'_>, root: &Root, rules: &Rules, today: Date) -> Vec<Difference> {
    let mut walk = Walk::new(root, rules, today, DIFFERENCES_MAX);
    walk.twin(twin);
    walk.shown()
}

/// The differences that no rule accepts, at most `most`, and how many more there are.
#[cfg(test)]
pub(crate) fn edits<'a>(
    legacy: &'a Json,
    extracted: &'a Json,
    root: &Root,
    rules: &Rules,
    today: Date,
    most: usize,
) -> (Vec<Edit<'a>>, u64) {
    let mut walk = Walk::new(root, rules, today, most);
    walk.value(legacy, extracted);
    (walk.found, walk.more)
}

impl<'a, 'r> Walk<'a, 'r> {
    fn new(root: &Root, rules: &'r Rules, today: Date, most: usize) -> Self {
        Self {
            rules,
            today,
            root: root.clone(),
            at: Vec::new(),
            found: Vec::new(),
            fields: HashMap::new(),
            most,
            more: 0,
            work: WORK_MAX,
            equal: rules.look_at_equal(root, today),
        }
    }

    fn shown(self) -> Vec<Difference> {
        let (root, more) = (self.root, self.more);
        let shown = |edit: Edit<'_>| {
            let (legacy, extracted) = edit.change.texts();
            Difference {
                place: root.place(edit.at),
                kind: edit.change.kind(),
                legacy,
                extracted,
            }
        };
        let mut found: Vec<Difference> = self.found.into_iter().map(shown).collect();
        if more > 0 {
            let text = format!("and {more} more differences");
            found.push(Difference {
                place: root.place(Vec::new()),
                kind: "budget",
                legacy: text.clone(),
                extracted: text,
            });
        }
        found
    }

    fn report(&mut self, change: Change<'a>) {
        if !self.rules.accept(&self.root, &self.at, &change, self.today) {
            self.found(change);
        }
    }

    fn found(&mut self, change: Change<'a>) {
        if self.most <= DIFFERENCES_MAX {
            let field = self.fields.hasher().hash_one(General(&self.at));
            let seen = self.fields.entry(field).or_default();
            *seen += 1;
            if *seen > SAME_FIELD_MAX {
                return;
            }
        }
        if self.found.len() >= self.most {
            self.more += 1;
            return;
        }
        let at = self.at.clone();
        self.found.push(Edit { at, change });
    }

    fn below(&mut self, step: Step, look: impl FnOnce(&mut Self)) {
        self.at.push(step);
        look(self);
        self.at.pop();
    }

    fn value(&mut self, legacy: &'a Json, extracted: &'a Json) {
        match (legacy, extracted) {
            (Json::Object(a), Json::Object(b)) => self.object(a, b),
            (Json::Array(a), Json::Array(b)) => self.array(a, b),
            (a, b) if a == b => self.same(a),
            (a, b) => self.report(Change::Value(a, b)),
        }
    }

    fn twin(&mut self, twin: &'a Twin<'_>) {
        match twin {
            Twin::Same => {}
            Twin::Values(both) => self.value(&both.0, &both.1),
            Twin::Object(members) => {
                for (name, member) in members {
                    self.below(Step::Name((*name).to_owned()), |walk| match member {
                        Member::Both(twin) => walk.twin(twin),
                        Member::Missing(value) => walk.report(Change::Missing(value)),
                        Member::Extra(value) => walk.report(Change::Extra(value)),
                    });
                }
            }
            Twin::Array(elements) => self.elements(elements),
        }
    }

    /// In the order of [`Self::array`].
    fn elements(&mut self, elements: &'a Elements<'_>) {
        for (index, twin) in &elements.pairs {
            self.below(Step::Index(*index), |walk| walk.twin(twin));
        }
        for (index, value) in &elements.missing {
            self.below(Step::Index(*index), |walk| {
                walk.report(Change::Missing(value));
            });
        }
        for (index, value) in &elements.extra {
            self.below(Step::Index(*index), |walk| {
                walk.report(Change::Extra(value));
            });
        }
        if let Some(order) = &elements.order {
            let indices = order.indices.clone();
            self.report(Change::Order(indices, &order.legacy, &order.extracted));
        }
        if let Some((legacy, extracted)) = elements.by_position {
            self.report(Change::Budget(legacy, extracted));
        }
    }

    /// Members are sorted by name, so that both sides are read once, side by side.
    fn object(&mut self, legacy: &'a [(String, Json)], extracted: &'a [(String, Json)]) {
        let (mut a, mut b) = (legacy, extracted);
        while let Some(name) = smaller(a.first(), b.first()) {
            let ours;
            let theirs;
            (ours, a) = a.split_at(a.iter().take_while(|(other, _)| other == name).count());
            (theirs, b) = b.split_at(b.iter().take_while(|(other, _)| other == name).count());
            self.below(Step::Name(name.clone()), |walk| match (ours, theirs) {
                ([(_, a)], [(_, b)]) => walk.value(a, b),
                ([(_, a)], []) => walk.report(Change::Missing(a)),
                ([], [(_, b)]) => walk.report(Change::Extra(b)),
                (a, b) if a == b && walk.equal => {
                    for ((_, a), (_, b)) in a.iter().zip(b) {
                        walk.value(a, b);
                    }
                }
                (a, b) if a == b => {}
                (a, b) => {
                    let values = |all: &'a [(String, Json)]| all.iter().map(|(_, v)| v).collect();
                    walk.report(Change::Duplicate(values(a), values(b)));
                }
            });
        }
    }

    fn array(&mut self, legacy: &'a [Json], extracted: &'a [Json]) {
        let pairing = self.pairing(legacy, extracted);
        for (index, partner) in pairing.pairs {
            let (ours, theirs) = (&legacy[index], &extracted[partner]);
            self.below(Step::Index(index), |walk| walk.value(ours, theirs));
        }
        for index in pairing.missing {
            let change = Change::Missing(&legacy[index]);
            self.below(Step::Index(index), |walk| walk.report(change));
        }
        for index in pairing.extra {
            let change = Change::Extra(&extracted[index]);
            self.below(Step::Index(index), |walk| walk.report(change));
        }
        if let Some(order) = pairing.order {
            self.report(Change::Order(order, legacy, extracted));
        }
        if pairing.by_position {
            self.report(Change::Budget(legacy.len(), extracted.len()));
        }
    }
}

fn smaller<'a>(a: Option<&'a (String, Json)>, b: Option<&'a (String, Json)>) -> Option<&'a String> {
    match (a, b) {
        (Some((a, _)), Some((b, _))) => Some(a.min(b)),
        (a, b) => a.or(b).map(|(name, _)| name),
    }
}

#[cfg(test)]
mod tests;
