//! The oracle is the slow way: both texts read into trees, and the trees compared.

use proptest::prelude::*;
use time::macros::date;

use super::*;
use crate::diff::{Difference, diff, twins};
use crate::json::parse;
use crate::settings::{ArrayBy, ArrayRule};

const TODAY: time::Date = date!(2026 - 11 - 21);

fn rules(arrays: &[(&str, ArrayBy)]) -> Rules {
    let rule = |(path, by): &(&str, ArrayBy)| ArrayRule {
        path: (*path).to_owned(),
        by: by.clone(),
    };
    let arrays: Vec<ArrayRule> = arrays.iter().map(rule).collect();
    Rules::new(&[], &arrays).unwrap()
}

fn with_rules() -> Rules {
    rules(&[
        ("$..x", ArrayBy::Set),
        ("$..y", ArrayBy::Key("id".to_owned())),
        ("$[*].z", ArrayBy::Order),
        ("$..all[0]", ArrayBy::Set),
    ])
}

/// What the slow way finds.
fn slow(a: &str, b: &str, rules: &Rules) -> Option<Vec<Difference>> {
    let (a, b) = (parse(a.as_bytes())?, parse(b.as_bytes())?);
    Some(diff(&a, &b, &Root::Body, rules, TODAY))
}

/// The same as of the whole texts, or nothing: how many.
fn check(a: &str, b: &str) -> Option<usize> {
    let mut count = None;
    for rules in [rules(&[]), with_rules()] {
        for again in [0, a.len() / 2, a.len() + b.len()] {
            let found = read_within(a.as_bytes(), b.as_bytes(), &rules, again);
            let found = found.map(|found| twins(&found, &Root::Body, &rules, TODAY));
            let Some(found) = found else {
                count = None;
                continue;
            };
            let slow = slow(a, b, &rules);
            let slow = slow.unwrap_or_else(|| panic!("only one way reads {a} | {b}"));
            assert_eq!(found, slow, "{a} | {b} | {again}");
            count = Some(found.len());
        }
    }
    count
}

#[test]
fn what_differs_is_the_same_as_of_the_whole_texts() {
    for (a, b, expected) in [
        (r#"{"a":1,"b":[1,2,3]}"#, r#"{"a":1,"b":[1,5,3]}"#, Some(1)),
        (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, Some(0)),
        (r#"{"a":1}"#, r#"{"a":12}"#, Some(1)),
        (r#"{"a":12}"#, r#"{"a":1}"#, Some(1)),
        (r#"{"a": 1.0}"#, r#"{"a":1}"#, Some(0)),
        ("1", "12", Some(1)),
        // The one that is left is another thing.
        (
            r#"[{"name":null,"x":null,"id":0},null]"#,
            r#"[{"y":null,"name":true,"id":null},null]"#,
            Some(2),
        ),
        ("[1]", "[12]", Some(1)),
        (r#"["a\"b"]"#, r#"["a\"c"]"#, Some(1)),
        (r#"["a\\"]"#, r#"["a\\","x"]"#, Some(1)),
        (
            r#"[{"id":1,"x":1},{"id":2,"x":2},{"id":3,"x":3}]"#,
            r#"[{"id":1,"x":1},{"id":3,"x":3},{"id":2,"x":2}]"#,
            Some(1),
        ),
        (
            r#"[{"id":1,"x":1},{"id":2,"x":2}]"#,
            r#"[{"id":1,"x":1},{"id":9,"x":2},{"id":2,"x":2}]"#,
            Some(1),
        ),
        (
            r#"[{"id":1,"x":1},{"id":1,"x":2}]"#,
            r#"[{"id":1,"x":1},{"id":1,"x":3}]"#,
            Some(1),
        ),
        // A name of an element that is twice in it names nothing.
        (
            r#"[{"id":1,"id":1},{"id":2,"x":2},{"id":3}]"#,
            r#"[{"id":1,"id":1},{"id":3},{"id":2,"x":2}]"#,
            Some(2),
        ),
        // Numbers and texts that are the same key.
        (
            r#"[{"id":10,"x":1},{"id":"\u0061","x":2}]"#,
            r#"[{"id":"a","x":2},{"id":1e1,"x":1}]"#,
            Some(1),
        ),
        (
            r#"[{"id":1,"x":1},{"id":"1","x":2}]"#,
            r#"[{"id":"1","x":2},{"id":1,"x":1}]"#,
            Some(1),
        ),
        // A field that is gone at the front, one that is new in the middle.
        (
            r#"{"a":1,"b":{"c":1},"d":[1]}"#,
            r#"{"b":{"c":2},"cc":1,"d":[2]}"#,
            Some(4),
        ),
        ("[{},{}]", "[{}]", Some(1)),
        ("[[1],[2]]", "[[1],[3]]", Some(1)),
        ("[]", "[1]", Some(1)),
        ("{}", r#"{"a":{}}"#, Some(1)),
        ("{}", "[]", Some(1)),
        (r#"{"a":1,"a":1}"#, r#"{"a":1}"#, None),
        (r#"{"a":1,"a":1,"b":1}"#, r#"{"a":1,"a":1,"b":2}"#, None),
        (r#"{"\u0061":1}"#, r#"{"a":1}"#, None),
        (r#"{"a":01}"#, r#"{"a":01,"b":1}"#, None),
        (r#"{"a":1} x"#, r#"{"a":2} x"#, None),
        (r#"["\ud800",1]"#, r#"["\ud800",2]"#, None),
        ("[1,2", "[1,3", None),
        ("[1,]", "[2,]", None),
        ("", "", None),
    ] {
        assert_eq!(check(a, b), expected, "{a} {b}");
    }
}

#[test]
fn what_is_equal_is_as_deep_as_it_may_be() {
    for levels in 95..105 {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        let nested = |value: &str| format!("{open}{value}{close}");
        let beside = |value: u32| format!("[{},{value}]", nested("1"));
        for (a, b) in [(nested("1"), nested("2")), (beside(1), beside(2))] {
            let reads = check(&a, &b).is_some();
            assert_eq!(reads, parse(a.as_bytes()).is_some(), "{levels} levels");
        }
    }
}

/// A document as somebody may write it.
#[derive(Debug, Clone)]
enum Doc {
    Leaf(String),
    Array(Vec<Doc>),
    Object(Vec<(String, Doc)>),
}

impl Doc {
    /// `style` says what is between the tokens.
    fn write(&self, style: usize, level: usize, out: &mut String) {
        let space = |out: &mut String, level: usize| match style {
            0 => {}
            1 => out.push(' '),
            _ => {
                out.push('\n');
                out.push_str(&"  ".repeat(level));
            }
        };
        let (open, close, len) = match self {
            Self::Leaf(text) => return out.push_str(text),
            Self::Array(all) => ('[', ']', all.len()),
            Self::Object(all) => ('{', '}', all.len()),
        };
        out.push(open);
        for at in 0..len {
            if at > 0 {
                out.push(',');
            }
            space(out, level + 1);
            match self {
                Self::Array(all) => all[at].write(style, level + 1, out),
                Self::Object(all) => {
                    out.push_str(&format!("\"{}\":", all[at].0));
                    all[at].1.write(style, level + 1, out);
                }
                Self::Leaf(_) => {}
            }
        }
        space(out, level);
        out.push(close);
    }

    fn text(&self, style: usize) -> String {
        let mut out = String::new();
        self.write(style, 0, &mut out);
        out
    }

    /// The `at`th value from the front, itself the first one.
    fn nth(&mut self, at: &mut usize) -> Option<&mut Self> {
        if *at == 0 {
            return Some(self);
        }
        *at -= 1;
        match self {
            Self::Leaf(_) => None,
            Self::Array(all) => all.iter_mut().find_map(|one| one.nth(at)),
            Self::Object(all) => all.iter_mut().find_map(|(_, one)| one.nth(at)),
        }
    }

    fn count(&self) -> usize {
        1 + match self {
            Self::Leaf(_) => 0,
            Self::Array(all) => all.iter().map(Self::count).sum(),
            Self::Object(all) => all.iter().map(|(_, one)| one.count()).sum(),
        }
    }

    /// Whether a name comes twice in an object.
    fn has_twice(&self) -> bool {
        match self {
            Self::Leaf(_) => false,
            Self::Array(all) => all.iter().any(Self::has_twice),
            Self::Object(all) => {
                let names: std::collections::BTreeSet<&str> =
                    all.iter().map(|(name, _)| name.as_str()).collect();
                names.len() < all.len() || all.iter().any(|(_, one)| one.has_twice())
            }
        }
    }

    /// One edit, as `what` and `at` have it.
    fn edit(&mut self, what: usize, at: usize, new: Self) {
        let mut place = at % self.count();
        let Some(here) = self.nth(&mut place) else {
            return;
        };
        match (what, here) {
            (0, here) => *here = new,
            (1, Self::Array(all)) => all.insert(at % (all.len() + 1), new),
            (2, Self::Array(all)) if !all.is_empty() => _ = all.remove(at % all.len()),
            (3, Self::Array(all)) => all.reverse(),
            (4, Self::Array(all)) if !all.is_empty() => {
                let by = at % all.len();
                all.rotate_left(by);
            }
            (1, Self::Object(all)) => {
                all.insert(at % (all.len() + 1), (format!("n{}", at % 3), new));
            }
            (2, Self::Object(all)) if !all.is_empty() => _ = all.remove(at % all.len()),
            (3, Self::Object(all)) => all.reverse(),
            (4, Self::Object(all)) if !all.is_empty() => {
                let by = at % all.len();
                all.rotate_left(by);
            }
            (_, Self::Leaf(text)) if text == "1" => *text = "1.0".to_owned(),
            (_, Self::Leaf(text)) if text == "\"a\"" => *text = "\"\\u0061\"".to_owned(),
            _ => {}
        }
    }
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?[0-3]",
        "1\\.[05]{1,2}|1e1|10|12345678901234567890123[45]",
        "\"[a-c]{0,2}\"",
        "\"(\\\\n|\\\\u00e9|\\\\ud83d\\\\ude00|[a-zé]){0,12}\"",
    ]
}

fn doc() -> impl Strategy<Value = Doc> {
    let leaf = leaf().prop_map(Doc::Leaf);
    leaf.prop_recursive(4, 40, 6, |inner| {
        let member = ("id|name|x|y|z|all|longer_name", inner.clone());
        let keyed = (0u32..12, inner.clone()).prop_map(|(id, inner)| {
            let id = ("id".to_owned(), Doc::Leaf(id.to_string()));
            let members = vec![id, ("x".to_owned(), inner)];
            Doc::Object(members)
        });
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Doc::Array),
            prop::collection::vec(keyed, 0..6).prop_map(Doc::Array),
            prop::collection::vec(member, 0..5).prop_map(Doc::Object),
        ]
    })
}

#[test]
fn elements_that_are_no_pairs_within_others_are_not_read_over_and_over() {
    // The key comes last, and each level has its elements the other way round.
    let nested = |first: u32| {
        let mut text = "1".to_owned();
        for level in 0..10 {
            let element = |id: u32| format!("{{\"x\":{text},\"id\":{id}}}");
            let (one, other) = (element(first), element(3 - first));
            text = format!("[{one},{other},{{\"x\":{level},\"id\":{first}0}}]");
        }
        text
    };
    let (a, b) = (nested(1), nested(2));
    let rules = rules(&[]);
    let all = a.len() + b.len();
    let mut twins = Twins::new(&a, &b, &rules, all);
    assert!(twins.value(DEPTH_MAX).is_some());
    assert_eq!(twins.again, 0, "there was much to read again");
    // On each level once to pass over it, and once to look at it.
    let most = all * 2 * 12;
    assert!(twins.read < most, "{} of {most} bytes", twins.read);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_the_texts_are(a in doc(), b in doc(), style in 0usize..9) {
        let (a, b) = (a.text(style / 3), b.text(style % 3));
        check(&a, &b);
        prop_assert_eq!(check(&a, &a), Some(0));
    }

    #[test]
    fn and_where_most_is_equal(
        base in prop::collection::vec(doc(), 1..8),
        edits in prop::collection::vec((0usize..6, any::<usize>(), doc()), 1..5),
        style in 0usize..9,
    ) {
        let page = ("page".to_owned(), Doc::Leaf("1".to_owned()));
        let base = Doc::Object(vec![page, ("all".to_owned(), Doc::Array(base))]);
        let mut other = base.clone();
        for (what, at, new) in edits {
            other.edit(what, at, new);
        }
        let (a, b) = (base.text(style / 3), other.text(style % 3));
        // Only a name that comes twice, where it differs, keeps them apart.
        if check(&a, &b).is_none() {
            prop_assert!(base.has_twice() || other.has_twice(), "{} {}", a, b);
        }
        check(&b, &a);
    }

    #[test]
    fn and_where_a_byte_of_both_is_wrong(
        base in doc(),
        (what, edit, new) in (0usize..6, any::<usize>(), doc()),
        at in any::<prop::sample::Index>(),
        byte in "[\\[\\]{}:,\"\\\\ 0a\u{1}]",
    ) {
        let mut other = base.clone();
        other.edit(what, edit, new);
        let (mut a, mut b) = (base.text(0), other.text(0));
        let common = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        let at = at.index(common + 1);
        if a.is_char_boundary(at) && b.is_char_boundary(at) {
            a.insert_str(at, &byte);
            b.insert_str(at, &byte);
        }
        check(&a, &b);
    }

    #[test]
    fn no_text_brings_it_down(a in "[\\[\\]{}:,\"\\\\ a-fu0-9.eE+-]{0,24}", b in "[\\[\\]{}:,\"0-9a]{0,12}") {
        check(&a, &b);
        check(&a, &a);
    }

    #[test]
    fn the_common_front_is_that_of_the_bytes(
        front in prop::collection::vec(any::<u8>(), 0..200),
        a in prop::collection::vec(any::<u8>(), 0..20),
        b in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let (a, b) = ([&front[..], &a].concat(), [&front[..], &b].concat());
        let wanted = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        prop_assert_eq!(common(&a, &b), wanted);
    }
}
