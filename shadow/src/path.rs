//! Paths of differences and of rules: a subset of RFC 9535, with `status`, `header:NAME` and
//! `trailer:NAME`.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::body::Selector;
use crate::error::Error;

const NAME: &str = "a name of letters, digits, `_` and `-` is missing; write others as `['name']`";

/// Most paths are shorter, in text.
const TEXT_LEN: usize = 48;

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Name(String),
    Index(usize),
    /// `[*]`
    Any,
    /// `..`
    Deep,
}

/// A path with every index as `[*]`, so that one cause has one hash.
#[derive(Debug)]
pub(crate) struct General<'a>(pub(crate) &'a [Step]);

impl Hash for General<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.len().hash(state);
        for step in self.0 {
            match step {
                Step::Index(_) => Step::Any.hash(state),
                other => other.hash(state),
            }
        }
    }
}

/// The document that a path goes into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    Header(String),
    Trailer(String),
    Body,
}

impl Root {
    pub(crate) fn place(&self, steps: Vec<Step>) -> Place {
        match self {
            Self::Header(name) => Place::Header(name.clone(), steps),
            Self::Trailer(name) => Place::Trailer(name.clone(), steps),
            Self::Body => Place::Body(steps),
        }
    }
}

/// Where a rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Status,
    /// Elements of HTML, on both sides.
    Css(Selector),
    Header(String, Vec<Step>),
    Trailer(String, Vec<Step>),
    Body(Vec<Step>),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text == "status" {
            return Ok(Self::Status);
        }
        if let Some(selector) = text.strip_prefix("css:") {
            let parsed = Selector::parse(selector.trim()).map(Self::Css);
            return parsed.map_err(|why| Error::Selector(selector.trim().to_owned(), why));
        }
        let fail = |rest: &str, what| Error::Path {
            path: text.to_owned(),
            at: text.len() - rest.len(),
            what,
        };
        let of_head = text.strip_prefix("header:");
        if let Some(name) = of_head.or_else(|| text.strip_prefix("trailer:")) {
            let name = name.trim();
            let (name, rest) = name.split_at(name.find('[').unwrap_or(name.len()));
            let make = match of_head {
                Some(_) => Self::Header,
                None => Self::Trailer,
            };
            return match http::HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => Ok(make(name.as_str().to_owned(), steps(rest, fail)?)),
                Err(_) => {
                    let end = text.trim_end();
                    let from = &text[end.len() - name.len() - rest.len()..];
                    Err(fail(from, "the name of a header is missing or none"))
                }
            };
        }
        let rest = text
            .strip_prefix('$')
            .ok_or_else(|| fail(text, "a path starts with `$`"))?;
        Ok(Self::Body(steps(rest, fail)?))
    }

    /// Whether it is about places in this document.
    pub(crate) fn is_of(&self, root: &Root) -> bool {
        match (self, root) {
            (Self::Header(name, _), Root::Header(seen))
            | (Self::Trailer(name, _), Root::Trailer(seen)) => name == seen,
            (Self::Body(_), Root::Body) => true,
            _ => false,
        }
    }

    /// Whether this place of a body is what it names, and not what lies below that.
    pub(crate) fn is_at(&self, at: &[Step]) -> bool {
        matches!(self, Self::Body(pattern) if is_whole(pattern, at))
    }

    /// Whether the pattern covers this place in this document.
    pub(crate) fn covers(&self, root: &Root, at: &[Step]) -> bool {
        match (self, root) {
            (Self::Header(name, pattern), Root::Header(seen)) => name == seen && fits(pattern, at),
            (Self::Trailer(name, pattern), Root::Trailer(seen)) => {
                name == seen && fits(pattern, at)
            }
            (Self::Body(pattern), Root::Body) => fits(pattern, at),
            _ => false,
        }
    }
}

/// The steps after the root.
fn steps(mut rest: &str, fail: impl Fn(&str, &'static str) -> Error) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Deep);
            rest = name(after, &mut steps).ok_or_else(|| fail(after, NAME))?;
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = name(after, &mut steps).ok_or_else(|| fail(after, NAME))?;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (inside, next) = after
                .split_once(']')
                .ok_or_else(|| fail(rest, "`]` is missing"))?;
            let quoted = inside.strip_prefix('\'').and_then(|s| s.strip_suffix('\''));
            steps.push(match (inside, quoted) {
                ("*", _) => Step::Any,
                (_, Some(name)) => Step::Name(name.to_owned()),
                (digits, None) => Step::Index(
                    digits
                        .parse()
                        .map_err(|_| fail(after, "write a number, * or 'name'"))?,
                ),
            });
            rest = next;
        } else {
            return Err(fail(rest, "write `.`, `..` or `[`"));
        }
    }
    Ok(steps)
}

fn name<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match name {
        "" => return None,
        "*" => steps.push(Step::Any),
        name if !name
            .chars()
            .all(|c| c.is_alphanumeric() || "_-".contains(c)) =>
        {
            return None;
        }
        name => steps.push(Step::Name(name.to_owned())),
    }
    Some(rest)
}

/// A rule covers what lies below its path, too. What follows a `..` is taken where it comes first:
/// whatever fits later fits then, so nothing is tried twice.
fn fits(pattern: &[Step], steps: &[Step]) -> bool {
    let mut parts = pattern.split(|step| *step == Step::Deep);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = after(first, steps) else {
        return false;
    };
    parts.all(|part| {
        let found = (0..=rest.len()).find_map(|at| after(part, &rest[at..]));
        rest = found.unwrap_or_default();
        found.is_some()
    })
}

/// Whether a pattern without what is below it covers this place.
fn is_whole(pattern: &[Step], steps: &[Step]) -> bool {
    let mut parts = pattern.rsplitn(2, |step| *step == Step::Deep);
    let last = parts.next().unwrap_or_default();
    let Some(before) = steps.len().checked_sub(last.len()) else {
        return false;
    };
    let (above, end) = steps.split_at(before);
    let above_fits = match parts.next() {
        Some(pattern) => fits(pattern, above),
        None => above.is_empty(),
    };
    above_fits && after(last, end).is_some()
}

/// What is left of the steps after those of this part, which has no `..`.
fn after<'a>(part: &[Step], steps: &'a [Step]) -> Option<&'a [Step]> {
    let (begin, rest) = steps.split_at_checked(part.len())?;
    let mut both = part.iter().zip(begin);
    let is_so = both.all(|(wanted, seen)| *wanted == Step::Any || wanted == seen);
    is_so.then_some(rest)
}

/// Where a difference is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Status,
    Header(String, Vec<Step>),
    Trailer(String, Vec<Step>),
    Body(Vec<Step>),
}

impl Place {
    /// With indices as `[*]`, so that one cause has one name.
    pub(crate) fn general(&self) -> String {
        let mut text = String::with_capacity(TEXT_LEN);
        // A write into a `String` does not fail.
        let _ = self.write(&mut text, true);
        text
    }

    fn write(&self, out: &mut impl fmt::Write, general: bool) -> fmt::Result {
        let steps = match self {
            Self::Status => return out.write_str("status"),
            Self::Header(name, steps) => {
                write!(out, "header:{name}")?;
                steps
            }
            Self::Trailer(name, steps) => {
                write!(out, "trailer:{name}")?;
                steps
            }
            Self::Body(steps) => {
                out.write_str("$")?;
                steps
            }
        };
        // A point belongs to the name of a header.
        let mut points = matches!(self, Self::Body(_));
        for step in steps {
            let pointed = std::mem::replace(&mut points, true);
            match step {
                Step::Name(name)
                    if pointed && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
                {
                    out.write_char('.')?;
                    out.write_str(name)?;
                }
                Step::Name(name) => write!(out, "['{name}']")?,
                Step::Index(index) if !general => write!(out, "[{index}]")?,
                Step::Index(_) | Step::Any => out.write_str("[*]")?,
                Step::Deep => out.write_str("..")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_cover_places() {
        let place = |text: &str| match Pattern::parse(text).unwrap() {
            Pattern::Status => Place::Status,
            Pattern::Css(_) => panic!("no place"),
            Pattern::Header(name, steps) => Place::Header(name, steps),
            Pattern::Trailer(name, steps) => Place::Trailer(name, steps),
            Pattern::Body(steps) => Place::Body(steps),
        };
        for (pattern, seen, expected) in [
            ("$.a", "$.a", true),
            ("$.a", "$.a[3].b", true),
            ("$.a[*].b", "$.a[3].b", true),
            ("$.a[2].b", "$.a[3].b", false),
            ("$..id", "$.a[3].id", true),
            ("$..id", "$.a[3].idx", false),
            ("$..a..b..c", "$.x.a.a.b.y.b.c.d", true),
            ("$..a[*]..b.c", "$.a.b.c.b.x.b.c", true),
            ("$..a..b.c", "$.b.c.a.b", false),
            ("$.a..a", "$.a", false),
            ("$['a b'].c", "$['a b'].c", true),
            ("status", "status", true),
            ("header:ETag", "header:etag", true),
            ("header:Set-Cookie", "header:set-cookie['sid'].path", true),
            (
                "header:set-cookie['sid'].path",
                "header:set-cookie['sid'].path",
                true,
            ),
            (
                "header:set-cookie[*].path",
                "header:set-cookie['sid'].path",
                true,
            ),
            (
                "header:set-cookie['x']",
                "header:set-cookie['sid'].path",
                false,
            ),
            ("trailer:Grpc-Status", "trailer:grpc-status", true),
            ("header:grpc-status", "trailer:grpc-status", false),
            ("$", "status", false),
        ] {
            let pattern_fits = match place(seen) {
                Place::Status => Pattern::parse(pattern).unwrap() == Pattern::Status,
                Place::Header(name, at) => Pattern::parse(pattern)
                    .unwrap()
                    .covers(&Root::Header(name), &at),
                Place::Trailer(name, at) => Pattern::parse(pattern)
                    .unwrap()
                    .covers(&Root::Trailer(name), &at),
                Place::Body(at) => Pattern::parse(pattern).unwrap().covers(&Root::Body, &at),
            };
            assert_eq!(pattern_fits, expected, "{pattern} {seen}");
        }
        assert_eq!(place("$.a[3].b").general(), "$.a[*].b");
        for text in ["header:set-cookie['sid'].path", "$['a b'].c[0]", "status"] {
            assert_eq!(place(text).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn places_are_covered_as_if_all_ways_were_tried(pattern in "[ab*.]{0,8}", seen in "[abc]{0,10}") {
            /// Easy to believe.
            fn tried(pattern: &[Step], steps: &[Step]) -> bool {
                match (pattern.split_first(), steps.split_first()) {
                    (None, _) => true,
                    (Some((Step::Deep, after)), _) => (0..=steps.len()).any(|at| tried(after, &steps[at..])),
                    (Some((wanted, after)), Some((seen, rest))) => {
                        (*wanted == Step::Any || wanted == seen) && tried(after, rest)
                    }
                    (Some(_), None) => false,
                }
            }
            let steps = |text: &str| -> Vec<Step> {
                let step = |c: char| match c {
                    '.' => Step::Deep,
                    '*' => Step::Any,
                    name => Step::Name(name.to_string()),
                };
                text.chars().map(step).collect()
            };
            let (pattern, seen) = (steps(&pattern), steps(&seen));
            prop_assert_eq!(fits(&pattern, &seen), tried(&pattern, &seen));
        }
    }

    #[test]
    fn a_deep_pattern_tries_nothing_twice() {
        let deep = |name: &str| Step::Name(name.to_owned());
        let mut pattern = vec![[Step::Deep, deep("a")]; 30].concat();
        pattern.push(deep("b"));
        assert!(!fits(&pattern, &vec![deep("a"); 100]));
    }

    #[test]
    fn what_is_no_path_is_refused_with_its_place() {
        for (text, at) in [
            ("a.b", 0),
            ("$.", 2),
            ("$.a[", 3),
            ("$.a[?(@.x)]", 4),
            ("$a", 1),
            ("$.a b", 2),
            ("$.a]", 2),
            ("$.x.'y'", 4),
            ("header:", 7),
            ("header: two words", 8),
        ] {
            match Pattern::parse(text) {
                Err(Error::Path { at: found, .. }) => assert_eq!(found, at, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
