//! Seeded faults: what the rules would still catch. Pure.
//!
//! Rules that ignore too much look like a candidate that is right. So some matched answers are
//! spoilt in ways that bugs spoil answers, and compared with themselves; the share of spoilt
//! answers that is noticed is the rules' score. A rule that ignores everything scores nothing.

use crate::json::{Json, parse};

/// Places of one answer that are spoilt, evenly spread over it.
const PLACES_MAX: usize = 40;

/// Copies of a document with one fault each.
pub(crate) fn mutants(json: &Json) -> Vec<Json> {
    let mut places = Vec::new();
    walk(json, &mut Vec::new(), &mut places);
    let step = places.len().div_ceil(PLACES_MAX).max(1);
    let mut found = Vec::new();
    for place in places.into_iter().step_by(step) {
        for fault in [Fault::Value, Fault::Type, Fault::Gone] {
            let mut copy = json.clone();
            if spoil(&mut copy, &place, fault) {
                found.push(copy);
            }
        }
    }
    found
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Another value of the same type.
    Value,
    /// The same value as another type.
    Type,
    /// Left out.
    Gone,
}

/// Positions of members and elements, to every scalar and every empty container.
fn walk(json: &Json, at: &mut Vec<usize>, places: &mut Vec<Vec<usize>>) {
    let children: Vec<&Json> = match json {
        Json::Object(members) => members.iter().map(|(_, value)| value).collect(),
        Json::Array(all) => all.iter().collect(),
        _ => Vec::new(),
    };
    if children.is_empty() {
        places.push(at.clone());
    }
    for (index, child) in children.into_iter().enumerate() {
        at.push(index);
        walk(child, at, places);
        at.pop();
    }
}

/// False where this fault cannot be at this place.
fn spoil(json: &mut Json, place: &[usize], fault: Fault) -> bool {
    let Some((first, rest)) = place.split_first() else {
        return match other(json, fault) {
            Some(new) => {
                *json = new;
                true
            }
            None => false,
        };
    };
    if rest.is_empty() && matches!(fault, Fault::Gone) {
        return match json {
            Json::Object(members) if *first < members.len() => {
                members.remove(*first);
                true
            }
            Json::Array(all) if *first < all.len() => {
                all.remove(*first);
                true
            }
            _ => false,
        };
    }
    let child = match json {
        Json::Object(members) => members.get_mut(*first).map(|(_, value)| value),
        Json::Array(all) => all.get_mut(*first),
        _ => None,
    };
    child.is_some_and(|child| spoil(child, rest, fault))
}

fn other(json: &Json, fault: Fault) -> Option<Json> {
    let text = |text: &str| Some(Json::String(text.to_owned()));
    match (fault, json) {
        (Fault::Gone, _) => None,
        (Fault::Value, Json::Bool(flag)) => Some(Json::Bool(!flag)),
        (Fault::Value, Json::Number(number)) => {
            let digits = number.to_string();
            let other = if digits.starts_with('-') {
                "1e9"
            } else {
                "-1e9"
            };
            parse(other.as_bytes())
        }
        (Fault::Value, Json::String(old)) => text(&format!("{old}~")),
        (Fault::Value, Json::Null | Json::Array(_) | Json::Object(_)) => text("~"),
        (Fault::Type, Json::Number(number)) => text(&number.to_string()),
        (Fault::Type, Json::Bool(flag)) => text(&flag.to_string()),
        (Fault::Type, Json::Null) => None,
        (Fault::Type, _) => Some(Json::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::path::Root;
    use crate::rules::{Rules, today};
    use crate::settings::{Accept, Rule};

    fn score(rules: &[(&str, Accept)]) -> (usize, usize) {
        let rule = |(path, accept): &(&str, Accept)| Rule {
            path: (*path).to_owned(),
            reason: "a test".to_owned(),
            until: None,
            owner: None,
            accept: accept.clone(),
        };
        let rules: Vec<Rule> = rules.iter().map(rule).collect();
        let rules = Rules::new(&rules, &[]).unwrap();
        let text = br#"{"id":7,"name":"x","ok":true,"tags":["a","b"],"none":null,"empty":[]}"#;
        let json = parse(text).unwrap();
        let all = mutants(&json);
        let caught = |spoilt: &&Json| !diff(&json, spoilt, &Root::Body, &rules, today()).is_empty();
        (all.iter().filter(caught).count(), all.len())
    }

    #[test]
    fn without_rules_every_fault_is_caught_and_an_ignore_all_rule_catches_none() {
        let (caught, all) = score(&[]);
        assert_eq!((caught, all), (20, 20));
        assert_eq!(score(&[("$", Accept::Any)]), (0, 20));
        // Of the number's three faults the other value is hidden.
        assert_eq!(score(&[("$.id", Accept::Type)]), (19, 20));
        assert_eq!(score(&[("$.id", Accept::Any)]), (17, 20));
        assert_eq!(
            score(&[("$.id", Accept::Tolerance("1".to_owned()))]),
            (20, 20)
        );
    }

    #[test]
    fn a_large_answer_is_spoilt_in_some_places_all_over_it() {
        let all: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        let json = parse(format!("[{}]", all.join(",")).as_bytes()).unwrap();
        assert_eq!(mutants(&json).len(), PLACES_MAX * 3);
    }
}
