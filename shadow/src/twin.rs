//! Two JSON texts read side by side: what is equal in both is looked at once and not kept.
//!
//! Most answers that differ, differ in a few places. The trees that come out have as many
//! differences as those of the whole texts: an equal member is left out on both sides, and an equal
//! element at either end of an array is replaced by a stand-in with the members by which elements
//! are paired. Where elements are equal in value but not in text, as 1 and 1.0, another one of them
//! may be named as the one that is missing. Whoever needs values that are equal on both sides reads
//! the whole texts.

use crate::arrays::KEYS;
use crate::json::{DEPTH_MAX, Json, Reader};

/// The name that makes a stand-in unlike anything but its twin.
const STAND_IN: &str = "\0twin";

/// Both texts; `None` where they have to be read apart: one is no JSON, an object has a name
/// twice, or a name is written with escapes.
pub(crate) fn read(a: &[u8], b: &[u8]) -> Option<(Json, Json)> {
    let mut twins = Twins {
        a: Reader::new(std::str::from_utf8(a).ok()?),
        b: Reader::new(std::str::from_utf8(b).ok()?),
    };
    let found = twins.value(DEPTH_MAX)?;
    (twins.a.is_over() && twins.b.is_over()).then_some(found)
}

struct Twins<'a> {
    a: Reader<'a>,
    b: Reader<'a>,
}

/// The members of one side that are kept, and the names of all.
#[derive(Default)]
struct Members<'a> {
    kept: Vec<(String, Json)>,
    names: Vec<&'a str>,
}

impl Members<'_> {
    fn object(mut self) -> Option<Json> {
        self.names.sort_unstable();
        let twice = self.names.windows(2).any(|pair| pair[0] == pair[1]);
        (!twice).then(|| Json::object(self.kept))
    }
}

impl<'a> Twins<'a> {
    fn value(&mut self, depth: usize) -> Option<(Json, Json)> {
        self.a.space();
        self.b.space();
        match (self.a.peek()?, self.b.peek()?) {
            (b'{', b'{') => self.object(depth.checked_sub(1)?),
            (b'[', b'[') => self.array(depth.checked_sub(1)?),
            _ => Some((self.a.value(depth)?, self.b.value(depth)?)),
        }
    }

    /// Passes over the same text on both sides; false, with nothing done, where it differs.
    fn same(&mut self, depth: usize) -> Option<bool> {
        let (from, to) = (self.a.at(), self.b.at());
        self.a.skip(depth)?;
        let text = self.a.between(from);
        if self.b.passes(text) {
            return Some(true);
        }
        (self.a, self.b) = (self.a.back_at(from), self.b.back_at(to));
        Some(false)
    }

    fn object(&mut self, depth: usize) -> Option<(Json, Json)> {
        let (mut ours, mut theirs) = (Members::default(), Members::default());
        let mut more = (self.a.opens(b'{', b'}')?, self.b.opens(b'{', b'}')?);
        // In step for as long as the names are the same.
        while more == (true, true) {
            let before = (self.a, self.b);
            let (name, other) = (self.a.name()?, self.b.name()?);
            if name != other {
                (self.a, self.b) = before;
                break;
            }
            ours.names.push(name);
            theirs.names.push(name);
            self.member(name, depth, &mut ours, &mut theirs)?;
            more = (self.a.goes_on(b'}')?, self.b.goes_on(b'}')?);
        }
        for (reader, more, members) in [
            (&mut self.a, more.0, &mut ours),
            (&mut self.b, more.1, &mut theirs),
        ] {
            let mut more = more;
            while more {
                let name = reader.name()?;
                members.names.push(name);
                members.kept.push((name.to_owned(), reader.value(depth)?));
                more = reader.goes_on(b'}')?;
            }
        }
        Some((ours.object()?, theirs.object()?))
    }

    /// The value of a name that both have here.
    fn member(
        &mut self,
        name: &'a str,
        depth: usize,
        ours: &mut Members<'a>,
        theirs: &mut Members<'a>,
    ) -> Option<()> {
        self.a.space();
        self.b.space();
        let container = |byte| matches!(byte, b'{' | b'[');
        // Containers are not tried whole first: their equal parts would be read twice.
        if !container(self.a.peek()?) && self.same(depth)? {
            return Some(());
        }
        let (a, b) = self.value(depth)?;
        ours.kept.push((name.to_owned(), a));
        theirs.kept.push((name.to_owned(), b));
        Some(())
    }

    fn array(&mut self, depth: usize) -> Option<(Json, Json)> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut more = (self.a.opens(b'[', b']')?, self.b.opens(b'[', b']')?);
        while more == (true, true) {
            self.a.space();
            self.b.space();
            let from = self.a.at();
            if !self.same(depth)? {
                break;
            }
            let stand_in = stand_in(self.a.between(from), depth, ours.len())?;
            ours.push(stand_in.clone());
            theirs.push(stand_in);
            more = (self.a.goes_on(b']')?, self.b.goes_on(b']')?);
        }
        let (a, b) = (
            self.a.elements(more.0, depth)?,
            self.b.elements(more.1, depth)?,
        );
        let equal = a.iter().rev().zip(b.iter().rev());
        let equal = equal.take_while(|(a, b)| a == b).count();
        let read = |text: &&str| Reader::new(text).value(depth);
        let (a, end) = a.split_at(a.len() - equal);
        for text in a {
            ours.push(read(text)?);
        }
        for text in &b[..b.len() - equal] {
            theirs.push(read(text)?);
        }
        // Counted from the end, and apart from those of the start.
        for (place, text) in end.iter().enumerate() {
            let stand_in = stand_in(text, depth, usize::MAX - place)?;
            ours.push(stand_in.clone());
            theirs.push(stand_in);
        }
        Some((Json::Array(ours), Json::Array(theirs)))
    }
}

/// What stands for an element that is the same on both sides: `place` says which, and the members
/// that may name it are there.
fn stand_in(text: &str, depth: usize, place: usize) -> Option<Json> {
    let mut members = vec![(STAND_IN.to_owned(), Json::String(place.to_string()))];
    if text.starts_with('{') {
        let depth = depth.checked_sub(1)?;
        let mut reader = Reader::new(text);
        let mut more = reader.opens(b'{', b'}')?;
        while more {
            let name = reader.name()?;
            match KEYS.contains(&name) {
                true => members.push((name.to_owned(), reader.value(depth)?)),
                false => reader.skip(depth)?,
            }
            more = reader.goes_on(b'}')?;
        }
    }
    Some(Json::object(members))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::date;

    use super::*;
    use crate::diff::{Difference, diff};
    use crate::json::parse;
    use crate::path::Root;
    use crate::rules::Rules;

    fn found(a: &Json, b: &Json) -> Vec<Difference> {
        diff(a, b, &Root::Body, &Rules::default(), date!(2026 - 11 - 21))
    }

    /// As many as of the whole texts, or nothing.
    fn check(a: &str, b: &str) -> Option<usize> {
        let whole = parse(a.as_bytes()).zip(parse(b.as_bytes()));
        let twins = read(a.as_bytes(), b.as_bytes())?;
        let whole = whole.unwrap_or_else(|| panic!("only one way reads {a} | {b}"));
        let expected = found(&whole.0, &whole.1);
        let found = found(&twins.0, &twins.1);
        assert_eq!(
            found.len(),
            expected.len(),
            "{a} | {b}: {found:?} {expected:?}"
        );
        Some(expected.len())
    }

    #[test]
    fn what_differs_is_the_same_as_of_the_whole_texts() {
        for (a, b, expected) in [
            (r#"{"a":1,"b":[1,2,3]}"#, r#"{"a":1,"b":[1,5,3]}"#, Some(1)),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, Some(0)),
            (r#"{"a":1}"#, r#"{"a":12}"#, Some(1)),
            (r#"{"a":12}"#, r#"{"a":1}"#, Some(1)),
            (r#"{"a": 1.0}"#, r#"{"a":1}"#, Some(0)),
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
            ("[{},{}]", "[{}]", Some(1)),
            ("[[1],[2]]", "[[1],[3]]", Some(1)),
            ("[]", "[1]", Some(1)),
            ("{}", r#"{"a":{}}"#, Some(1)),
            (r#"{"a":1,"a":1}"#, r#"{"a":1}"#, None),
            (r#"{"\u0061":1}"#, r#"{"a":1}"#, None),
            (r#"{"a":01}"#, r#"{"a":01,"b":1}"#, None),
            (r#"{"a":1} x"#, r#"{"a":2} x"#, None),
            ("", "", None),
        ] {
            assert_eq!(check(a, b), expected, "{a} {b}");
        }
    }

    fn element() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            "[0-3]",
            "1\\.[05]{1,2}",
            "\"[a-c]{0,2}\"",
        ];
        scalar.prop_recursive(3, 24, 5, |inner| {
            let member = ("id|name|x|y", inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(member, 0..4).prop_map(|all| {
                    let all: Vec<String> =
                        all.iter().map(|(n, v)| format!("\"{n}\": {v}")).collect();
                    format!("{{{}}}", all.join(", "))
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_024))]

        #[test]
        fn whatever_the_texts_are(a in element(), b in element()) {
            check(&a, &b);
            check(&a, &a);
        }

        #[test]
        fn and_where_most_is_equal(
            base in prop::collection::vec(element(), 1..8),
            place in any::<prop::sample::Index>(),
            new in element(),
            what in 0..3,
        ) {
            let mut other = base.clone();
            let at = place.index(base.len());
            match what {
                0 => other[at] = new,
                1 => other.insert(at, new),
                _ => _ = other.remove(at),
            }
            let text = |all: &[String]| format!("{{\"page\": 1, \"all\": [{}]}}", all.join(","));
            check(&text(&base), &text(&other));
        }

        #[test]
        fn no_text_brings_it_down(a in "[\\[\\]{}:,\"\\\\ a-fu0-9.eE+-]{0,24}", b in "[\\[\\]{}:,\"0-9a]{0,12}") {
            check(&a, &b);
            check(&a, &a);
        }
    }
}
