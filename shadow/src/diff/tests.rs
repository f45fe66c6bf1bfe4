//! Differences between documents, and the way back from the differences to a document.

use proptest::prelude::*;
use time::macros::date;

use super::*;
use crate::json::parse;
use crate::settings::{ArrayBy, ArrayRule};

const TODAY: Date = date!(2026 - 11 - 21);

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
    diff(&a, &b, &Root::Body, rules, TODAY)
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
        (r#"{"a":1,"a":2}"#, r#"{"a":1}"#, &["duplicate $.a"]),
        (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, &["duplicate $.a"]),
        (r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#, &[]),
        ("[1,2]", "[2,1]", &["missing $[0]", "extra $[1]"]),
        ("[1,5,3]", "[1,6,3]", &["value $[1]"]),
        ("[1]", "[1,2]", &["extra $[1]"]),
        (r#"{"x":1,"y":2}"#, r#"{"y":2,"x":1}"#, &[]),
        // One of them was replaced by another: not each of its fields is blamed.
        (
            r#"[{"n":"a","p":1,"q":1},{"n":"b","p":2,"q":2}]"#,
            r#"[{"n":"a","p":1,"q":1},{"n":"c","p":3,"q":3}]"#,
            &["missing $[1]", "extra $[1]"],
        ),
        // An insert beside a change.
        (
            r#"[{"n":"a","p":1,"q":1}]"#,
            r#"[{"n":"z","p":9,"q":9},{"n":"a","p":2,"q":1}]"#,
            &["value $[0].p", "extra $[0]"],
        ),
    ] {
        assert_eq!(found(a, b, &plain), expected, "{a} {b}");
    }
    let set = rules(&[("$.t", ArrayBy::Set)]);
    assert!(found(r#"{"t":[1,2,2]}"#, r#"{"t":[2,1,2]}"#, &set).is_empty());
    assert!(
        found(
            r#"{"t":[{"x":1,"y":2},3]}"#,
            r#"{"t":[3,{"y":2,"x":1}]}"#,
            &set
        )
        .is_empty(),
        "the order of members means nothing, in a set neither"
    );
    assert_eq!(
        found(r#"{"t":[1,2]}"#, r#"{"t":[2,2]}"#, &set),
        ["missing $.t[0]", "extra $.t[1]"]
    );
}

#[test]
fn one_insert_and_one_change_in_a_thousand_objects_are_two_differences() {
    for (name, rules) in [
        ("id", rules(&[("$", ArrayBy::Key("id".to_owned()))])),
        ("id", rules(&[])),
        ("id", rules(&[("$", ArrayBy::Order)])),
        ("position", rules(&[])),
    ] {
        let object =
            |id: u32, text: &str| format!(r#"{{"{name}":{id},"name":"{text}","kind":"k"}}"#);
        let all: Vec<String> = (0..1_000).map(|id| object(id, "n")).collect();
        let mut other = all.clone();
        other[500] = object(500, "changed");
        other.insert(100, object(5_000, "new"));
        let texts = |all: &[String]| format!("[{}]", all.join(","));
        let seen = found(&texts(&all), &texts(&other), &rules);
        assert_eq!(seen, ["value $[500].name", "extra $[100]"]);
    }
}

#[test]
fn keyed_elements_that_changed_places_are_one_difference() {
    let list = |ids: &[u32]| {
        let all: Vec<String> = ids.iter().map(|id| format!(r#"{{"id":{id}}}"#)).collect();
        format!("[{}]", all.join(","))
    };
    let plain = rules(&[]);
    assert_eq!(
        found(&list(&[1, 2, 3]), &list(&[1, 3, 2]), &plain),
        ["order $"]
    );
}

#[test]
fn a_field_that_differs_everywhere_leaves_room_for_others() {
    let row = |at: u32, n: u32| format!(r#"{{"at":{at},"n":{n},"fixed":true,"x":1}}"#);
    let list = |at: u32, n: u32| {
        let all: Vec<String> = (0..1_000).map(|i| row(i + at, i + n * (i / 999))).collect();
        format!("[{}]", all.join(","))
    };
    let seen = found(&list(0, 0), &list(5_000, 7), &rules(&[]));
    assert!(seen.contains(&"value $[999].n".to_owned()), "{seen:?}");
}

#[test]
fn what_is_beyond_the_bound_is_said() {
    let object = |value: u32| {
        let all: Vec<String> = (0..500).map(|n| format!(r#""k{n}":{value}"#)).collect();
        format!("{{{}}}", all.join(","))
    };
    let seen = found(&object(1), &object(2), &rules(&[]));
    assert_eq!((seen.len(), seen[200].as_str()), (201, "budget $"));
}

/// Makes the extracted side from the legacy one.
fn apply(base: &Json, edits: &[Edit<'_>]) -> Json {
    for edit in edits.iter().filter(|edit| edit.at.is_empty()) {
        if let Change::Value(_, new) = edit.change {
            return new.clone();
        }
    }
    match base {
        Json::Object(members) => object_after(members, edits),
        Json::Array(all) => array_after(all, edits),
        scalar => scalar.clone(),
    }
}

fn below<'a>(edits: &[Edit<'a>], step: &Step) -> Vec<Edit<'a>> {
    let inside = edits.iter().filter(|edit| edit.at.first() == Some(step));
    let cut = |edit: &Edit<'a>| Edit {
        at: edit.at[1..].to_vec(),
        change: edit.change.clone(),
    };
    inside.map(cut).collect()
}

fn object_after(members: &[(String, Json)], edits: &[Edit<'_>]) -> Json {
    let mut names: Vec<&String> = members.iter().map(|(name, _)| name).collect();
    names.extend(edits.iter().filter_map(|edit| match edit.at.first() {
        Some(Step::Name(name)) => Some(name),
        _ => None,
    }));
    names.sort_unstable();
    names.dedup();
    let mut after = Vec::new();
    for name in names {
        let inside = below(edits, &Step::Name(name.clone()));
        let values = members.iter().filter(|(known, _)| known == name);
        match inside
            .first()
            .map(|edit| (&edit.change, edit.at.is_empty()))
        {
            Some((Change::Missing(_), true)) => {}
            Some((Change::Extra(new), true)) => after.push((name.clone(), (*new).clone())),
            Some((Change::Duplicate(_, new), true)) => {
                after.extend(new.iter().map(|new| (name.clone(), (*new).clone())));
            }
            _ => after.extend(values.map(|(_, old)| (name.clone(), apply(old, &inside)))),
        }
    }
    Json::object(after)
}

fn array_after(all: &[Json], edits: &[Edit<'_>]) -> Json {
    let is_own = |edit: &&Edit<'_>| edit.at.len() == 1;
    let mut gone = Vec::new();
    let mut new = Vec::new();
    for edit in edits.iter().filter(is_own) {
        match (&edit.at[0], &edit.change) {
            (Step::Index(index), Change::Missing(_)) => gone.push(*index),
            (Step::Index(index), Change::Extra(json)) => new.push((*index, (*json).clone())),
            _ => {}
        }
    }
    let order = edits.iter().find_map(|edit| match &edit.change {
        Change::Order(order, ..) if edit.at.is_empty() => Some(order.clone()),
        _ => None,
    });
    let stay = order.unwrap_or_else(|| (0..all.len()).filter(|i| !gone.contains(i)).collect());
    let inside = |index: usize| {
        let mut inside = below(edits, &Step::Index(index));
        inside.retain(|edit| {
            !(edit.at.is_empty() && matches!(edit.change, Change::Extra(_) | Change::Missing(_)))
        });
        inside
    };
    let mut after: Vec<Json> = stay
        .into_iter()
        .map(|index| apply(&all[index], &inside(index)))
        .collect();
    new.sort_by_key(|(index, _)| *index);
    for (index, json) in new {
        after.insert(index.min(after.len()), json);
    }
    Json::Array(after)
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        "[a-c]{0,2}".prop_map(Json::String),
        "[0-9]{1,30}(\\.[0-9]{1,3})?".prop_map(|text| parse(
            text.trim_start_matches('0').replace('.', "0.").as_bytes()
        )
        .unwrap_or(Json::Null)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::Array),
            prop::collection::vec(("[a-c]|id", inner), 0..5).prop_map(Json::object),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_differs_from_itself(json in any_json()) {
        for rules in [rules(&[]), rules(&[("$..a", ArrayBy::Set), ("$..b", ArrayBy::Key("c".to_owned()))])] {
            prop_assert!(diff(&json, &json, &Root::Body, &rules, TODAY).is_empty());
        }
    }

    #[test]
    fn a_difference_is_seen_from_both_sides(a in any_json(), b in any_json()) {
        let rules = rules(&[]);
        let (there, back) = (
            diff(&a, &b, &Root::Body, &rules, TODAY),
            diff(&b, &a, &Root::Body, &rules, TODAY),
        );
        prop_assert_eq!(there.is_empty(), back.is_empty());
        prop_assert_eq!(there.is_empty(), a == b);
    }

    #[test]
    fn the_differences_make_one_side_from_the_other(a in any_json(), b in any_json()) {
        let sets = [("$..a", ArrayBy::Set), ("$..b", ArrayBy::Key("c".to_owned()))];
        for rules in [rules(&[]), rules(&sets)] {
            let (edits, more) = edits(&a, &b, &Root::Body, &rules, TODAY, usize::MAX);
            prop_assert_eq!(more, 0);
            let made = apply(&a, &edits);
            let left = diff(&made, &b, &Root::Body, &rules, TODAY);
            prop_assert!(left.is_empty(), "{:?} of {:?}", left, edits);
        }
    }

    #[test]
    fn small_changes_of_a_list_come_back(
        base in prop::collection::vec(any_json(), 0..12),
        at in 0usize..12,
        new in any_json(),
    ) {
        let mut other = base.clone();
        other.insert(at.min(base.len()), new);
        let (a, b) = (Json::Array(base), Json::Array(other));
        let plain = rules(&[]);
        let (edits, _) = edits(&a, &b, &Root::Body, &plain, TODAY, usize::MAX);
        prop_assert_eq!(apply(&a, &edits), b);
    }

    #[test]
    fn what_is_json_is_decided_as_everywhere(text in "[\\[\\]{}:,\"\\\\ a-fu0-9.eE+-]{0,24}|\\PC{0,12}") {
        let ours = parse(text.as_bytes()).is_some();
        let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text).is_ok()
            // Lone surrogates have no text; the reference looks only at how they are written.
            && (serde_json::from_str::<serde_json::Value>(&text).is_ok() || !text.contains("\\u"));
        prop_assert_eq!(ours, theirs, "{}", text);
    }
}
