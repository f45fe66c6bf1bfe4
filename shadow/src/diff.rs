//! Differences between two JSON documents, each with its place and kind.

use std::collections::HashSet;

use crate::json::Json;
use crate::path::{Place, Step};
use crate::rules::Rules;
use crate::settings::ArrayBy;

/// Differences of one pair that are looked at; beyond, the pair differs everywhere anyway.
const DIFFERENCES_MAX: usize = 200;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) place: Place,
    /// `value`, `type`, `missing` (the extracted side lacks it), `extra`.
    pub(crate) kind: &'static str,
    pub(crate) legacy: String,
    pub(crate) extracted: String,
}

/// Collects the differences of one pair.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    rules: &'a Rules,
    at: Vec<Step>,
    found: Vec<Difference>,
}

/// All differences, at most [`DIFFERENCES_MAX`].
pub(crate) fn diff(legacy: &Json, extracted: &Json, rules: &Rules) -> Vec<Difference> {
    let mut walk = Walk {
        rules,
        at: Vec::new(),
        found: Vec::new(),
    };
    walk.value(legacy, extracted);
    walk.found
}

impl Walk<'_> {
    fn report(&mut self, kind: &'static str, legacy: String, extracted: String) {
        if self.found.len() < DIFFERENCES_MAX {
            let place = Place::Body(self.at.clone());
            self.found.push(Difference {
                place,
                kind,
                legacy,
                extracted,
            });
        }
    }

    fn below(&mut self, step: Step, look: impl FnOnce(&mut Self)) {
        self.at.push(step);
        look(self);
        self.at.pop();
    }

    fn missing(&mut self, step: Step, value: &Json) {
        self.below(step, |walk| {
            walk.report("missing", value.brief(), "absent".to_owned())
        });
    }

    fn extra(&mut self, step: Step, value: &Json) {
        self.below(step, |walk| {
            walk.report("extra", "absent".to_owned(), value.brief())
        });
    }

    fn value(&mut self, legacy: &Json, extracted: &Json) {
        match (legacy, extracted) {
            (Json::Object(a), Json::Object(b)) => self.object(a, b),
            (Json::Array(a), Json::Array(b)) => self.array(a, b),
            (a, b) if a == b => {}
            (a, b) if a.kind() == b.kind() => self.report("value", a.brief(), b.brief()),
            (a, b) => {
                let text = |json: &Json| format!("{} ({})", json.brief(), json.kind());
                self.report("type", text(a), text(b));
            }
        }
    }

    fn object(&mut self, legacy: &[(String, Json)], extracted: &[(String, Json)]) {
        let (ours, theirs) = (Json::by_name(legacy), Json::by_name(extracted));
        let mut seen = HashSet::new();
        for (name, _) in legacy.iter().chain(extracted) {
            let name = name.as_str();
            if !seen.insert(name) {
                continue;
            }
            let step = Step::Name(name.to_owned());
            let (a, b) = (ours.get(name), theirs.get(name));
            let (a, b) = (
                a.map_or(&[][..], Vec::as_slice),
                b.map_or(&[][..], Vec::as_slice),
            );
            for (a, b) in a.iter().zip(b) {
                self.below(step.clone(), |walk| walk.value(a, b));
            }
            for value in a.iter().skip(b.len()) {
                self.missing(step.clone(), value);
            }
            for value in b.iter().skip(a.len()) {
                self.extra(step.clone(), value);
            }
        }
    }

    fn array(&mut self, legacy: &[Json], extracted: &[Json]) {
        match self.rules.array(&Place::Body(self.at.clone())).cloned() {
            Some(ArrayBy::Set) => self.set(legacy, extracted),
            Some(ArrayBy::Key(key)) => self.keyed(legacy, extracted, &key),
            None => {
                for (index, (a, b)) in legacy.iter().zip(extracted).enumerate() {
                    self.below(Step::Index(index), |walk| walk.value(a, b));
                }
                self.ends(legacy, extracted);
            }
        }
    }

    fn ends(&mut self, legacy: &[Json], extracted: &[Json]) {
        for (index, value) in legacy.iter().enumerate().skip(extracted.len()) {
            self.missing(Step::Index(index), value);
        }
        for (index, value) in extracted.iter().enumerate().skip(legacy.len()) {
            self.extra(Step::Index(index), value);
        }
    }

    /// As multisets: both sorted, then merged.
    fn set(&mut self, legacy: &[Json], extracted: &[Json]) {
        let sorted = |all: &[Json]| {
            let mut order: Vec<(usize, Json)> = all.iter().cloned().enumerate().collect();
            order.sort_by(|a, b| a.1.cmp(&b.1));
            order
        };
        let (ours, theirs) = (sorted(legacy), sorted(extracted));
        let (mut a, mut b) = (ours.iter().peekable(), theirs.iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((_, x)), Some((_, y))) => x.cmp(y),
            };
            let ours = if order.is_le() { a.next() } else { None };
            let theirs = if order.is_ge() { b.next() } else { None };
            match (ours, theirs) {
                (Some((index, value)), None) => self.missing(Step::Index(*index), value),
                (None, Some((index, value))) => self.extra(Step::Index(*index), value),
                _ => {}
            }
        }
    }

    /// Elements with the same key are a pair, those without one in their order; then the order of the common ones must agree.
    fn keyed(&mut self, legacy: &[Json], extracted: &[Json], key: &str) {
        let key_of = |element: &Json| match element {
            Json::Object(members) => members
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone()),
            _ => None,
        };
        let mut theirs: std::collections::BTreeMap<
            Option<Json>,
            std::collections::VecDeque<usize>,
        > = std::collections::BTreeMap::new();
        for (index, element) in extracted.iter().enumerate() {
            theirs.entry(key_of(element)).or_default().push_back(index);
        }
        let mut last = None;
        let mut moved = false;
        for (index, element) in legacy.iter().enumerate() {
            let partner = theirs
                .get_mut(&key_of(element))
                .and_then(std::collections::VecDeque::pop_front);
            let Some(partner) = partner else {
                self.missing(Step::Index(index), element);
                continue;
            };
            moved |= last.is_some_and(|last| last > partner);
            last = Some(partner);
            self.below(Step::Index(index), |walk| {
                walk.value(element, &extracted[partner])
            });
        }
        for index in theirs.into_values().flatten() {
            self.extra(Step::Index(index), &extracted[index]);
        }
        if moved {
            let order = |all: &[Json]| {
                let keys = all.iter().take(5).filter_map(key_of).map(|key| key.brief());
                keys.collect::<Vec<_>>().join(", ")
            };
            self.report("order", order(legacy), order(extracted));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::parse;
    use crate::settings::ArrayRule;

    fn rules(arrays: &[(&str, ArrayBy)]) -> Rules {
        let arrays: Vec<ArrayRule> = arrays
            .iter()
            .map(|(path, by)| ArrayRule {
                path: (*path).to_owned(),
                by: by.clone(),
            })
            .collect();
        Rules::new(&[], &arrays).unwrap()
    }

    fn found(a: &str, b: &str, rules: &Rules) -> Vec<String> {
        let (a, b) = (parse(a.as_bytes()).unwrap(), parse(b.as_bytes()).unwrap());
        diff(&a, &b, rules)
            .iter()
            .map(|d| format!("{} {}", d.kind, d.place))
            .collect()
    }

    #[test]
    fn kinds_and_places() {
        let plain = rules(&[]);
        for (a, b, expected) in [
            (
                r#"{"a":1,"b":null}"#,
                r#"{"a":2}"#,
                &["value $.a", "missing $.b"][..],
            ),
            (r#"{"a":"1"}"#, r#"{"a":1}"#, &["type $.a"]),
            (r#"{"a":1,"a":2}"#, r#"{"a":1}"#, &["missing $.a"]),
            ("[1,2]", "[2,1]", &["value $[0]", "value $[1]"]),
            ("[1]", "[1,2]", &["extra $[1]"]),
            (r#"{"x":1,"y":2}"#, r#"{"y":2,"x":1}"#, &[]),
        ] {
            assert_eq!(found(a, b, &plain), expected, "{a} {b}");
        }
        let set = rules(&[("$.t", ArrayBy::Set)]);
        assert!(found(r#"{"t":[1,2,2]}"#, r#"{"t":[2,1,2]}"#, &set).is_empty());
        assert_eq!(
            found(r#"{"t":[1,2]}"#, r#"{"t":[2,2]}"#, &set),
            ["missing $.t[0]", "extra $.t[1]"]
        );
    }

    #[test]
    fn one_insert_and_one_change_in_a_thousand_keyed_objects_are_two_differences() {
        let by_id = rules(&[("$", ArrayBy::Key("id".to_owned()))]);
        let object = |id: u32, name: &str| format!(r#"{{"id":{id},"name":"{name}"}}"#);
        let all: Vec<String> = (0..1_000).map(|id| object(id, "n")).collect();
        let mut other = all.clone();
        other[500] = object(500, "changed");
        other.insert(100, object(5_000, "new"));
        let texts = |all: &[String]| format!("[{}]", all.join(","));
        let seen = found(&texts(&all), &texts(&other), &by_id);
        assert_eq!(seen, ["value $[500].name", "extra $[100]"]);
        other.swap(1, 2);
        assert!(found(&texts(&all), &texts(&other), &by_id).contains(&"order $".to_owned()));
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            "[a-c]{0,2}".prop_map(Json::String),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
                prop::collection::vec(("[a-c]", inner), 0..5).prop_map(Json::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_differs_from_itself(json in any_json()) {
            for rules in [rules(&[]), rules(&[("$..a", ArrayBy::Set), ("$..b", ArrayBy::Key("c".to_owned()))])] {
                prop_assert!(diff(&json, &json, &rules).is_empty());
            }
        }

        #[test]
        fn a_difference_is_seen_from_both_sides(a in any_json(), b in any_json()) {
            let rules = rules(&[]);
            prop_assert_eq!(diff(&a, &b, &rules).len(), diff(&b, &a, &rules).len());
        }
    }
}
