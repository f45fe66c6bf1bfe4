//! Ids that are given anew, by themselves and in answers.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::compare::{Answer, By, compare};
use crate::rules::{Rules, today};
use crate::settings::{Accept, ArrayBy, ArrayRule, Rule};

fn id(text: &str) -> Json {
    Json::String(text.to_owned())
}

fn agrees(renaming: &Renaming, old: &str, new: &str) -> bool {
    renaming.agrees(Book::Sides, &id(old), &id(new))
}

fn stays(renaming: &Renaming, text: &str) -> bool {
    renaming.stays(Book::Sides, &id(text)).is_ok()
}

#[test]
fn one_swapped_id_is_seen_and_a_full_memory_hides_nothing() {
    let renaming = Renaming::default();
    for (old, new, expected) in [
        ("1", "a", true),
        ("2", "b", true),
        ("1", "a", true),
        ("1", "b", false),
        ("3", "a", false),
        ("2", "c", false),
        ("3", "c", true),
    ] {
        assert_eq!(agrees(&renaming, old, new), expected, "{old} {new}");
    }
    assert!(!renaming.agrees(Book::Sides, &Json::Null, &id("d")));
    let aside = renaming.aside();
    assert!(agrees(&aside, "4", "x") && agrees(&renaming, "4", "d"));
    for n in 0..IDS_MAX {
        agrees(&renaming, &format!("o{n}"), &format!("n{n}"));
    }
    assert!(!agrees(&renaming, "one more", "too many"));
    assert!(stays(&renaming, "without room"));
    assert!(!stays(&renaming, "o1"));
}

#[test]
fn an_id_that_stays_stands_for_itself() {
    let renaming = Renaming::default();
    assert!(stays(&renaming, "17") && stays(&renaming, "17"));
    assert!(!agrees(&renaming, "17", "18"), "a swap");
    assert!(!agrees(&renaming, "16", "17"));
    assert!(agrees(&renaming, "1", "a") && agrees(&renaming, "a", "2"));
    let taken = renaming.stays(Book::Sides, &id("a")).unwrap_err();
    assert_eq!(
        (taken.there.as_deref(), taken.back.as_deref()),
        (Some("2"), Some("1"))
    );
    assert!(!stays(&renaming, "1") && !stays(&renaming, "2"));
    assert!(renaming.stays(Book::Sides, &Json::Null).is_ok());
    assert!(
        stays(&renaming, "/orders/1"),
        "nobody says what is an id of it"
    );
}

#[test]
fn books_are_apart_and_what_is_told_once_is_not_kept() {
    let renaming = Renaming::default();
    assert!(agrees(&renaming, "1", "a") && agrees(&renaming, "5", "5"));
    for book in [Book::Legacy, Book::Sandbox] {
        assert!(renaming.stays(book, &id("1")).is_ok(), "{book:?}");
        assert!(renaming.agrees(book, &id("5"), &id("6")), "{book:?}");
    }
    for new in ["x", "y"] {
        let once = renaming.beside_sides();
        let fits = |old: &str, new: &str| once.agrees(Book::Once, &id(old), &id(new));
        assert!(fits("1", "a") && fits("2", new) && !fits("2", "z"));
        assert!(
            !fits("1", "b") && !fits("3", "a"),
            "what both sides know holds"
        );
        assert!(once.stays(Book::Once, &id("1")).is_err());
        assert!(once.stays(Book::Once, &id("7")).is_ok());
    }
    assert!(agrees(&renaming, "2", "b") && agrees(&renaming, "7", "c"));
}

proptest! {
    #[test]
    fn what_agreed_is_a_bijection(pairs in prop::collection::vec((0u8..12, 0u8..12), 0..80)) {
        let renaming = Renaming::default();
        let mut agreed: Vec<(u8, u8)> = pairs
            .into_iter()
            .filter(|(a, b)| match a == b {
                true => stays(&renaming, &a.to_string()),
                false => agrees(&renaming, &a.to_string(), &b.to_string()),
            })
            .collect();
        agreed.sort_unstable();
        agreed.dedup();
        for side in [0, 1] {
            let ids = agreed.iter().map(|p| if side == 0 { p.0 } else { p.1 });
            let apart: HashSet<u8> = ids.collect();
            prop_assert_eq!(apart.len(), agreed.len());
        }
    }
}

/// With rules of these paths and names.
fn rules(paths: &[(&str, &str)], arrays: &[(&str, ArrayBy)]) -> Rules {
    let rule = |(path, name): &(&str, &str)| Rule {
        path: (*path).to_owned(),
        reason: "given anew".to_owned(),
        until: None,
        owner: None,
        accept: Accept::RenamedAs((*name).to_owned()),
    };
    let array = |(path, by): &(&str, ArrayBy)| ArrayRule {
        path: (*path).to_owned(),
        by: by.clone(),
    };
    let paths: Vec<Rule> = paths.iter().map(rule).collect();
    let arrays: Vec<ArrayRule> = arrays.iter().map(array).collect();
    Rules::new(&paths, &arrays).unwrap()
}

fn answer(kind: &'static str, body: &str) -> Answer {
    let kind = HeaderValue::from_static(kind);
    Answer {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind)]),
        body: Bytes::copy_from_slice(body.as_bytes()),
        trailers: HeaderMap::new(),
    }
}

fn json(body: &str) -> Answer {
    answer("application/json", body)
}

/// Where they differ, and how that is shown.
fn differ(a: &Answer, b: &Answer, rules: &Rules) -> Vec<String> {
    let by = By {
        headers: Some(&["x-order".to_owned()]),
        rules,
        body_cap: 1 << 20,
        today: today(),
    };
    let found = compare(a, b, by).unwrap();
    let shown = found.iter().map(|one| {
        format!(
            "{} {} {} / {}",
            one.kind, one.place, one.legacy, one.extracted
        )
    });
    shown.collect()
}

#[test]
fn an_id_that_both_sides_have_stands_for_itself_wherever_it_is() {
    let rules = rules(&[("$..id", "order"), ("header:x-order", "order")], &[]);
    // In their order: each may say something of an id.
    for (a, b, expected) in [
        (r#"{"id":17}"#, r#"{"id":17}"#, &[][..]),
        (r#"{"id":17}"#, r#"{"id":18}"#, &["value $.id 17 / 18"]),
        (r#"{"n":0,"id":17}"#, r#"{"id":17,"n":0}"#, &[]),
        // In arrays, where equal elements are otherwise not looked at.
        (
            r#"[{"id":1,"n":1},{"id":2,"n":1}]"#,
            r#"[{"id":1,"n":1},{"id":2,"n":1},{"id":3,"n":1}]"#,
            &["extra $[2] absent / object of 2"],
        ),
        (
            r#"{"a":{"id":2}}"#,
            r#"{"a":{"id":9}}"#,
            &["value $.a.id 2 / 9"],
        ),
        // The other way round: what became another one does not stay.
        (r#"{"id":5}"#, r#"{"id":"e"}"#, &[]),
        (
            r#"{"id":5}"#,
            r#"{"id":5}"#,
            &["value $.id 5, which is e elsewhere / 5"],
        ),
        (
            r#"{"id":"e"}"#,
            r#"{"id":"e"}"#,
            &[r#"value $.id "e" / "e", which stands for 5 elsewhere"#],
        ),
        (
            r#"{"id":5,"id":5}"#,
            r#"{"id":5,"id":5}"#,
            &[
                "value $.id 5, which is e elsewhere / 5",
                "value $.id 5, which is e elsewhere / 5",
            ],
        ),
        (r#"{"of":5}"#, r#"{"of":5}"#, &[]),
    ] {
        assert_eq!(differ(&json(a), &json(b), &rules), expected, "{a} | {b}");
    }
    let with = |order: &'static str| {
        let mut made = json("{}");
        let name = HeaderName::from_static("x-order");
        made.headers.insert(name, HeaderValue::from_static(order));
        made
    };
    assert_eq!(differ(&with("17"), &with("17"), &rules).len(), 0);
    assert_eq!(differ(&with("5"), &with("e"), &rules).len(), 0);
    assert_eq!(
        differ(&with("5"), &with("5"), &rules),
        [r#"value header:x-order "5", which is e elsewhere / "5""#]
    );
}

#[test]
fn another_rule_may_still_excuse_it_and_an_expired_one_says_nothing() {
    let rule = |path: &str, accept, until: Option<&str>| Rule {
        path: path.to_owned(),
        reason: "a test".to_owned(),
        until: until.map(str::to_owned),
        owner: None,
        accept,
    };
    let anew = |until| rule("$.id", Accept::Renamed, until);
    let (one, other) = (json(r#"{"id":1}"#), json(r#"{"id":2}"#));
    for (rules, found) in [
        (vec![anew(None)], 1),
        (vec![anew(None), rule("$.id", Accept::Type, None)], 0),
        (vec![anew(Some("2020-01-01"))], 0),
    ] {
        let rules = Rules::new(&rules, &[]).unwrap();
        differ(&one, &other, &rules);
        assert_eq!(differ(&one, &one, &rules).len(), found);
    }
}

#[test]
fn bodies_that_are_equal_are_equal_also_where_they_cannot_be_read() {
    let rules = rules(&[("$", "order")], &[]);
    let mut odd = json("{]");
    assert_eq!(differ(&odd, &odd, &rules), [""; 0]);
    let unknown = HeaderValue::from_static("unknown");
    odd.headers.insert("content-encoding", unknown);
    assert_eq!(differ(&odd, &odd, &rules), [""; 0]);
    let bytes = answer("image/png", "17");
    assert_eq!(differ(&bytes, &bytes, &rules), [""; 0]);
    // A text that is an id.
    let text = |id: &str| answer("text/plain", id);
    assert_eq!(differ(&text("17"), &text("17"), &rules), [""; 0]);
    assert_eq!(differ(&text("17"), &text("18"), &rules).len(), 1);
    assert_eq!(differ(&text("19"), &text("20"), &rules).len(), 0);
    assert_eq!(differ(&text("19"), &text("19"), &rules).len(), 1);
}

#[test]
fn of_pages_that_are_equal_nothing_is_left_out() {
    let mut made = rules(&[("$..id", "order")], &[]);
    let css = Rule {
        path: "css:p".to_owned(),
        reason: "a test".to_owned(),
        until: None,
        owner: None,
        accept: Accept::Any,
    };
    made.add(crate::rules::Accepted::new(&css).unwrap());
    let watched = made.watched(false);
    let page = answer("text/html", "<p>1</p>");
    assert_eq!(differ(&page, &page, &watched), [""; 0]);
    assert!(watched.hidden().is_empty());
}

#[test]
fn one_side_by_itself_says_nothing_of_both() {
    let rules = rules(&[("$..id", "order")], &[]);
    let (one, other) = (json(r#"{"id":1}"#), json(r#"{"id":2}"#));
    let legacy = rules.of(Book::Legacy);
    assert_eq!(differ(&one, &one, &legacy), [""; 0]);
    // What its ids are by chance is noise, as it would be between both sides.
    assert_eq!(differ(&one, &other, &legacy).len(), 1);
    let apart = rules.of_one_side();
    assert_eq!(differ(&one, &one, &apart), [""; 0]);
    assert_eq!(differ(&one, &other, &rules), [""; 0], "not known before");
    assert_eq!(differ(&one, &one, &rules).len(), 1);
    assert_eq!(differ(&one, &other, &apart).len(), 1);
}

/// Each line: how arrays are paired; both sides' answers in their order, and how many differences
/// each has.
type Lists<'a> = (&'a [(&'a str, ArrayBy)], &'a [(&'a str, &'a str, usize)]);

fn check_lists(table: &[Lists<'_>]) {
    for (arrays, pairs) in table {
        let rules = rules(&[("$..id", "order")], arrays);
        for (a, b, expected) in *pairs {
            let found = differ(&json(a), &json(b), &rules);
            assert_eq!(found.len(), *expected, "{a} | {b}: {found:?}");
        }
    }
}

#[test]
fn elements_belong_together_by_what_their_ids_have_become() {
    let by_id = [("$", ArrayBy::Key("id".to_owned()))];
    check_lists(&[
        // New ids out of the same range: 5 is 7, and 7 is 9.
        (
            &[],
            &[(
                r#"[{"id":5,"n":1},{"id":7,"n":1}]"#,
                r#"[{"id":7,"n":1},{"id":9,"n":1}]"#,
                0,
            )],
        ),
        // Once they are known, they name their elements, in whatever order.
        (
            &by_id,
            &[
                (r#"[{"id":5,"n":1}]"#, r#"[{"id":7,"n":1}]"#, 0),
                (r#"[{"id":7,"n":2}]"#, r#"[{"id":9,"n":2}]"#, 0),
                (
                    r#"[{"id":5,"n":1},{"id":7,"n":2}]"#,
                    r#"[{"id":9,"n":2},{"id":7,"n":1}]"#,
                    1,
                ),
                (
                    r#"[{"id":5,"n":1},{"id":7,"n":2}]"#,
                    r#"[{"id":7,"n":2},{"id":9,"n":1}]"#,
                    2,
                ),
            ],
        ),
        // Two things are not one because nothing is known of either.
        (
            &[],
            &[(
                r#"[{"id":1,"n":1,"s":"a"}]"#,
                r#"[{"id":9,"n":2,"s":"b"}]"#,
                2,
            )],
        ),
    ]);
}

#[test]
fn what_nobody_can_tell_apart_is_not_guessed() {
    check_lists(&[
        // A missing one, told apart by the rest of it, or by its id alone.
        (
            &[],
            &[
                (
                    r#"[{"id":1,"n":1},{"id":2,"n":2},{"id":3,"n":3}]"#,
                    r#"[{"id":3,"n":1},{"id":5,"n":3}]"#,
                    1,
                ),
                (r#"{"id":3}"#, r#"{"id":5}"#, 0),
                (r#"{"id":2}"#, r#"{"id":4}"#, 0),
            ],
        ),
        (
            &[],
            &[
                (
                    r#"[{"id":1},{"id":2},{"id":3}]"#,
                    r#"[{"id":1},{"id":3}]"#,
                    1,
                ),
                (r#"{"id":3}"#, r#"{"id":3}"#, 0),
                (r#"{"id":2}"#, r#"{"id":9}"#, 0),
            ],
        ),
        // Of a set, in which nobody can say which is which until they are known.
        (
            &[("$", ArrayBy::Set)],
            &[
                (r#"[{"id":1},{"id":2}]"#, r#"[{"id":8},{"id":9}]"#, 0),
                (r#"{"id":1}"#, r#"{"id":9}"#, 0),
                (r#"{"id":2}"#, r#"{"id":8}"#, 0),
                (r#"[{"id":1},{"id":2}]"#, r#"[{"id":8},{"id":9}]"#, 0),
                (r#"[{"id":1},{"id":2}]"#, r#"[{"id":8},{"id":8}]"#, 2),
            ],
        ),
    ]);
}

/// A list of orders and the order that one asks for, with their customers.
fn orders(all: &[(u8, u8)], wanted: usize) -> Answer {
    let order = |(order, customer): &(u8, u8)| {
        format!(r#"{{"id":{order},"customer":{{"id":{customer}}},"self":"/orders/{order}"}}"#)
    };
    let list: Vec<String> = all.iter().map(order).collect();
    json(&format!(
        r#"{{"all":[{}],"wanted":{}}}"#,
        list.join(","),
        list[wanted]
    ))
}

/// Orders with their customers, and one of them.
type Listed = (Vec<(u8, u8)>, prop::sample::Index);

/// New orders are old ones in another order; customers keep their ids.
fn renamed() -> impl Strategy<Value = (Vec<u8>, Vec<Listed>)> {
    let order = (1u8..=20, 1u8..=20);
    let answer = (
        prop::collection::vec(order, 1..8),
        any::<prop::sample::Index>(),
    );
    let new = Just((0u8..=20).collect::<Vec<u8>>()).prop_shuffle();
    (new, prop::collection::vec(answer, 1..8))
}

proptest! {
    #[test]
    fn an_honest_renaming_never_differs_and_a_swap_of_known_ids_does((new, answers) in renamed()) {
        let rules = rules(
            &[
                ("$.all[*].id", "order"),
                ("$.wanted.id", "order"),
                ("$..self", "order"),
                ("$.all[*].customer.id", "customer"),
                ("$.wanted.customer.id", "customer"),
            ],
            &[],
        );
        let called = |(order, customer): &(u8, u8)| (new[usize::from(*order)], *customer);
        let mut seen: Vec<u8> = Vec::new();
        for (mut all, wanted) in answers {
            all.sort_unstable();
            all.dedup_by_key(|(order, _)| *order);
            let wanted = wanted.index(all.len());
            let theirs: Vec<(u8, u8)> = all.iter().map(called).collect();
            let found = differ(&orders(&all, wanted), &orders(&theirs, wanted), &rules);
            prop_assert_eq!(found, Vec::<String>::new());
            seen.extend(all.iter().map(|(order, _)| *order));
        }
        seen.sort_unstable();
        seen.dedup();
        if let [a, b, ..] = seen[..] {
            let ours = orders(&[(a, 1)], 0);
            let theirs = orders(&[(new[usize::from(b)], 1)], 0);
            prop_assert!(!differ(&ours, &theirs, &rules).is_empty());
        }
    }
}
