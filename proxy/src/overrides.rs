//! Fields by which some servers take a request for one of another method or path. Where that would be another
//! route's, past its filters or its held writes, the request is refused, as one is whose path reads in two ways.

use http::header::{HeaderMap, HeaderName};
use http::{Method, request};

use crate::core::Core;
use crate::error::Refusal;
use crate::forward::is_read;
use crate::headers::is_like;
use crate::routes::{Ambiguous, Found};

/// What becomes of such fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overrides {
    /// They pass, but for those that would make a difference: these are refused.
    #[default]
    Check,
    /// They are taken off.
    Strip,
    /// They pass, whatever they say: no server behind heeds them.
    Pass,
}

impl Overrides {
    /// Names as the config has them.
    pub const ALL: [(&'static str, Self); 3] = [
        ("check", Self::Check),
        ("strip", Self::Strip),
        ("pass", Self::Pass),
    ];
}

const METHODS: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
const PATHS: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Values of each sort that are looked at; whoever sends more wants none of them understood.
const VALUES_MAX: usize = 4;

/// By length first, for every name of every head is looked at.
pub(crate) fn is_override(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name.len(), 13 | 14 | 17 | 22) && (is_one(name, &METHODS) || is_one(name, &PATHS))
}

fn is_one(name: &str, of: &[&str]) -> bool {
    of.iter().any(|one| is_like(name, one))
}

/// Of a request that has such fields, and is on this route as it is written.
pub(crate) fn apply(
    core: &Core,
    found: Option<&Found>,
    parts: &mut request::Parts,
    find: impl Fn(&Method, &str) -> Result<Option<usize>, Ambiguous>,
    guards: impl Fn(Option<usize>) -> bool,
) -> Result<(), Refusal> {
    match core.shared.settings.overrides {
        Overrides::Pass => Ok(()),
        // Nobody could get past anything.
        Overrides::Check if core.shared.table.is_empty() => Ok(()),
        Overrides::Strip => {
            let ours = |name: &&HeaderName| is_override(name);
            let names: Vec<HeaderName> = parts.headers.keys().filter(ours).cloned().collect();
            for name in names {
                parts.headers.remove(name);
            }
            Ok(())
        }
        Overrides::Check => {
            let reads = found.is_some() && is_read(&parts.method);
            let fine = |method: &Method, path: &str| {
                let other = find(method, path).is_ok_and(&guards);
                // What passes for a read is mirrored, split and tried again.
                other && (!reads || is_read(method))
            };
            let (methods, paths) = meant(parts).ok_or(REFUSED)?;
            let mut all = methods
                .iter()
                .flat_map(|m| paths.iter().map(move |p| (m, p)));
            match all.all(|(method, path)| fine(method, path)) {
                true => Ok(()),
                false => Err(REFUSED),
            }
        }
    }
}

const REFUSED: Refusal =
    Refusal::Malformed("a field of it names a method or a path of another route");

/// All methods and paths that a server might take it for, its own first. `None` where nobody could tell.
fn meant(parts: &request::Parts) -> Option<(Vec<Method>, Vec<String>)> {
    let mut methods = vec![parts.method.clone()];
    for text in values(&parts.headers, &METHODS, |text| text.split(',').collect())? {
        // Servers know no methods in small letters, and forgive them here.
        methods.push(text.to_ascii_uppercase().parse().ok()?);
    }
    let mut paths = vec![parts.uri.path().to_owned()];
    for text in values(&parts.headers, &PATHS, targets)? {
        paths.push(path(text));
    }
    Some((methods, paths))
}

/// All that fields of these names say, each of which may say several things.
fn values<'a>(
    fields: &'a HeaderMap,
    names: &[&str],
    parts: impl Fn(&'a str) -> Vec<&'a str>,
) -> Option<Vec<&'a str>> {
    let own = fields
        .iter()
        .filter(|(name, _)| is_one(name.as_str(), names));
    let mut found = Vec::new();
    for (_, value) in own {
        let all = parts(value.to_str().ok()?).into_iter().map(str::trim);
        found.extend(all.filter(|text| !text.is_empty()));
    }
    (found.len() <= VALUES_MAX).then_some(found)
}

/// A field may be the lines of several, put together by somebody before us. But a comma may be a path's or a query's
/// own, as fronts tell the whole target: `?ids=1,2,3` is no other path, and what begins like one may be.
fn targets(text: &str) -> Vec<&str> {
    let mut all = vec![text];
    let parts = text.split(',').map(str::trim);
    all.extend(parts.filter(|part| *part != text.trim() && begins_target(part)));
    all
}

/// Whether it begins as a path or as a whole URL does.
fn begins_target(text: &str) -> bool {
    let scheme = |scheme: &str| {
        scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    text.starts_with('/')
        || text
            .split_once("://")
            .is_some_and(|(before, _)| scheme(before))
}

/// The path of a target or a whole URL.
fn path(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = match text.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => text,
    };
    match text.starts_with('/') {
        true => text.to_owned(),
        false => format!("/{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_one_however_it_is_written() {
        for (name, is) in [
            ("x-http-method-override", true),
            ("x_http_method_override", true),
            ("x-http-method", true),
            ("x-method-override", true),
            ("x-original-url", true),
            ("x_rewrite-url", true),
            ("x-original-uri", false),
            ("x-http-methods", false),
            ("x-request-id", false),
        ] {
            assert_eq!(is_override(&HeaderName::from_static(name)), is, "{name}");
        }
    }

    #[test]
    fn what_is_meant_is_all_that_a_server_could_take_it_for() {
        for (text, expected) in [
            ("/admin?x=1", "/admin"),
            ("http://shop.example/admin#x", "/admin"),
            ("http://shop.example", "/"),
            ("admin", "/admin"),
            ("//admin", "//admin"),
            ("", "/"),
        ] {
            assert_eq!(path(text), expected, "{text}");
        }
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut request = http::Request::post("/a?b").body(()).unwrap();
            for (name, value) in fields {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            meant(&request.into_parts().0).map(|(methods, paths)| (methods.len(), paths.len()))
        };
        assert_eq!(
            of(&[("x-http-method", "put"), ("x-rewrite-url", "/b")]),
            Some((2, 2))
        );
        assert_eq!(of(&[("x-http-method", "PUT, DELETE")]), Some((3, 1)));
        assert_eq!(of(&[("x-original-url", "/a,/b,/c")]), Some((1, 5)));
        assert_eq!(of(&[("x-original-url", "/a,b;c,d,e,f")]), Some((1, 3)));
        let query = "/a?ids=1,2,3,4,5,6&to=/b&by=https://shop/x,7";
        assert_eq!(of(&[("x-original-url", query)]), Some((1, 3)));
        // Of two lines that somebody has put together, also the second.
        for lines in ["/a?b=c,/admin", "/a#b, https://shop/admin"] {
            assert_eq!(of(&[("x-original-url", lines)]), Some((1, 4)), "{lines}");
        }
        assert_eq!(of(&[("x-original-url", "/a,/b,/c,/d,/e")]), None);
        assert_eq!(of(&[("x-http-method", "a b")]), None);
        assert_eq!(of(&[("x-http-method", "")]), Some((1, 1)));
    }
}
