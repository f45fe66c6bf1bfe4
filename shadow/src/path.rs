//! Paths of differences and of rules: a subset of RFC 9535, with `status` and `header:NAME`.

use std::fmt;

use crate::error::Error;

const NAME: &str = "a name of letters, digits, `_` and `-` is missing; write others as `['name']`";

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Name(String),
    Index(usize),
    /// `[*]`
    Any,
    /// `..`
    Deep,
}

/// Where a rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Status,
    Header(String),
    Body(Vec<Step>),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text == "status" {
            return Ok(Self::Status);
        }
        let fail = |rest: &str, what| Error::Path {
            path: text.to_owned(),
            at: text.len() - rest.len(),
            what,
        };
        if let Some(name) = text.strip_prefix("header:") {
            let name = name.trim();
            return http::HeaderName::from_bytes(name.as_bytes())
                .map(|name| Self::Header(name.as_str().to_owned()))
                .map_err(|_| fail(name, "the name of a header is missing or none"));
        }
        let mut rest = text
            .strip_prefix('$')
            .ok_or_else(|| fail(text, "a path starts with `$`"))?;
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
        Ok(Self::Body(steps))
    }

    pub(crate) fn fits(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Status, Place::Status) => true,
            (Self::Header(name), Place::Header(seen)) => name == seen,
            (Self::Body(pattern), Place::Body(steps)) => fits(pattern, steps),
            _ => false,
        }
    }
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

/// A rule covers what lies below its path, too.
fn fits(pattern: &[Step], steps: &[Step]) -> bool {
    match (pattern.split_first(), steps.split_first()) {
        (None, _) => true,
        (Some((Step::Deep, after)), _) => (0..=steps.len()).any(|at| fits(after, &steps[at..])),
        (Some((Step::Any, after)), Some((_, rest))) => fits(after, rest),
        (Some((wanted, after)), Some((seen, rest))) => wanted == seen && fits(after, rest),
        (Some(_), None) => false,
    }
}

/// Where a difference is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Status,
    Header(String),
    Body(Vec<Step>),
}

impl Place {
    /// With indices as `[*]`, so that one cause has one name.
    pub(crate) fn general(&self) -> String {
        match self {
            Self::Body(steps) => {
                let step = |step: &Step| match step {
                    Step::Index(_) => Step::Any,
                    other => other.clone(),
                };
                Self::Body(steps.iter().map(step).collect()).to_string()
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = match self {
            Self::Status => return f.write_str("status"),
            Self::Header(name) => return write!(f, "header:{name}"),
            Self::Body(steps) => steps,
        };
        f.write_str("$")?;
        for step in steps {
            match step {
                Step::Name(name)
                    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
                {
                    write!(f, ".{name}")?;
                }
                Step::Name(name) => write!(f, "['{name}']")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Any => f.write_str("[*]")?,
                Step::Deep => f.write_str("..")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_places() {
        let place = |text: &str| match Pattern::parse(text).unwrap() {
            Pattern::Status => Place::Status,
            Pattern::Header(name) => Place::Header(name),
            Pattern::Body(steps) => Place::Body(steps),
        };
        for (pattern, seen, expected) in [
            ("$.a", "$.a", true),
            ("$.a", "$.a[3].b", true),
            ("$.a[*].b", "$.a[3].b", true),
            ("$.a[2].b", "$.a[3].b", false),
            ("$..id", "$.a[3].id", true),
            ("$..id", "$.a[3].idx", false),
            ("$['a b'].c", "$['a b'].c", true),
            ("status", "status", true),
            ("header:ETag", "header:etag", true),
            ("$", "status", false),
        ] {
            assert_eq!(
                Pattern::parse(pattern).unwrap().fits(&place(seen)),
                expected,
                "{pattern} {seen}"
            );
        }
        assert_eq!(place("$.a[3].b").general(), "$.a[*].b");
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
