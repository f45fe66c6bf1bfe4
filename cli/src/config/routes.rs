//! Routes: their notation, and which two would both match a request.

use super::model::Route;
use super::scalar;

/// Methods that a route may name. TRACE and CONNECT are no business of a slice.
const METHODS: [http::Method; 7] = [
    http::Method::GET,
    http::Method::HEAD,
    http::Method::POST,
    http::Method::PUT,
    http::Method::PATCH,
    http::Method::DELETE,
    http::Method::OPTIONS,
];

/// Reads `METHOD [HOST]/PATH/{TEMPLATE}`.
///
/// # Errors
/// Returns the rule that was broken and the fix.
pub(super) fn parse(text: &str) -> Result<Route, (String, String)> {
    let form = "write \"METHOD /path/{name}\" or \"METHOD host/path\"".to_owned();
    let mut words = text.split_whitespace();
    let (Some(method), Some(target), None) = (words.next(), words.next(), words.next()) else {
        return Err(("a route is a method, a space and a path".to_owned(), form));
    };
    let method = match METHODS.iter().find(|known| known.as_str() == method) {
        Some(known) => known.clone(),
        None => {
            let names: Vec<&str> = METHODS.iter().map(http::Method::as_str).collect();
            return Err((
                format!("`{method}` is not a method that a route can have"),
                format!("use one of {}", names.join(", ")),
            ));
        }
    };
    let Some(slash) = target.find('/') else {
        return Err(("the path must start with /".to_owned(), form));
    };
    let (host, path) = target.split_at(slash);
    if !host.is_empty() && !scalar::is_host(host) {
        let fix = "write the bare host name, without scheme and port".to_owned();
        return Err((format!("`{host}` is not a host"), fix));
    }
    template(path)?;
    Ok(Route {
        method,
        host: (!host.is_empty()).then(|| host.to_ascii_lowercase()),
        path: path.to_owned(),
        filters: None,
    })
}

/// Segments are literal, `{name}`, or a last `{*rest}`.
fn template(path: &str) -> Result<(), (String, String)> {
    let refused = |rule: String, fix: &str| Err((rule, fix.to_owned()));
    let mut names = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        if segment.is_empty() && !last {
            return refused(
                "the path has an empty segment".to_owned(),
                "remove one of the //",
            );
        }
        let inner = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        let Some(inner) = inner else {
            if segment.contains(['{', '}']) {
                let fix = "a parameter is a whole segment: /{name}/";
                return refused(format!("`{segment}` mixes text and a parameter"), fix);
            }
            if segment.contains(['?', '#', '*', ':', '%']) || !segment.is_ascii() {
                let fix = "write the path alone, with {name} for what varies";
                return refused(format!("`{segment}` is not a literal path segment"), fix);
            }
            continue;
        };
        let name = inner.strip_prefix('*').unwrap_or(inner);
        let plain =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain {
            let fix = "name it with letters, digits and _";
            return refused(format!("`{segment}` is not a parameter"), fix);
        }
        if inner.starts_with('*') && !last {
            let fix = "move it to the end, or use {name} for one segment";
            return refused(format!("`{segment}` must be the last segment"), fix);
        }
        if names.contains(&name) {
            let fix = "give each parameter its own name";
            return refused(format!("`{{{name}}}` is there twice"), fix);
        }
        names.push(name);
    }
    Ok(())
}

/// How two routes stand to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlap {
    /// No request matches both, or one is plainly the more special of the two.
    None,
    /// Every request that matches one matches the other.
    Same,
    /// Some requests match both, and neither route is the more special.
    Crossing,
}

/// Compares what two routes match. A literal segment is more special than a parameter, a
/// parameter more than the rest of the path, a host more than any host.
pub(super) fn overlap(a: &Route, b: &Route) -> Overlap {
    if a.method != b.method || a.host != b.host {
        return Overlap::None;
    }
    let (a, b) = (segments(&a.path), segments(&b.path));
    let (mut a_wins, mut b_wins) = (false, false);
    let mut index = 0;
    loop {
        match (a.get(index), b.get(index)) {
            (None, None) => break,
            (Some(Segment::Rest), Some(Segment::Rest)) => break,
            // The rest takes one segment or more.
            (Some(Segment::Rest), Some(_)) => {
                b_wins = true;
                break;
            }
            (Some(_), Some(Segment::Rest)) => {
                a_wins = true;
                break;
            }
            (None, Some(_)) | (Some(_), None) => return Overlap::None,
            (Some(Segment::Text(x)), Some(Segment::Text(y))) if x != y => return Overlap::None,
            (Some(Segment::Text(_)), Some(Segment::Any)) => a_wins = true,
            (Some(Segment::Any), Some(Segment::Text(_))) => b_wins = true,
            (Some(_), Some(_)) => {}
        }
        index += 1;
    }
    match (a_wins, b_wins) {
        (false, false) => Overlap::Same,
        (true, true) => Overlap::Crossing,
        _ => Overlap::None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Segment<'a> {
    Text(&'a str),
    Any,
    Rest,
}

fn segments(path: &str) -> Vec<Segment<'_>> {
    path.split('/')
        .skip(1)
        .map(|segment| match segment {
            s if s.starts_with("{*") => Segment::Rest,
            s if s.starts_with('{') => Segment::Any,
            s => Segment::Text(s),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let route = parse("GET Shop.example/api/{id}").unwrap();
        assert_eq!(route.to_string(), "GET shop.example/api/{id}");
        for good in ["GET /", "PUT /a/{b}/c/{d}", "GET /files/{*rest}", "GET /a/"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, rule) in [
            ("/api", "a method, a space"),
            ("GET", "a method, a space"),
            ("GET /a b", "a method, a space"),
            ("get /a", "not a method"),
            ("FETCH /a", "not a method"),
            ("GET api", "start with /"),
            ("GET a:80/x", "not a host"),
            ("GET /a//b", "empty segment"),
            ("GET /a{b}", "mixes"),
            ("GET /{}", "not a parameter"),
            ("GET /{a-b}", "not a parameter"),
            ("GET /{*rest}/x", "last segment"),
            ("GET /{a}/{a}", "twice"),
            ("GET /a?b=1", "literal"),
        ] {
            let (found, fix) = parse(bad).unwrap_err();
            assert!(found.contains(rule), "{bad}: {found}");
            assert!(!fix.is_empty());
        }
    }

    #[test]
    fn overlaps() {
        let check = |a: &str, b: &str, expected| {
            let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
            assert_eq!(overlap(&a, &b), expected, "{a} and {b}");
            assert_eq!(overlap(&b, &a), expected, "{b} and {a}");
        };
        check("GET /a/{x}", "GET /a/{y}", Overlap::Same);
        check("GET /a/{x}", "PUT /a/{x}", Overlap::None);
        check("GET /a/{x}", "GET /a/b", Overlap::None);
        check("GET /a/{x}", "GET /a/{x}/b", Overlap::None);
        check("GET /a/{x}/c", "GET /a/b/{y}", Overlap::Crossing);
        check("GET /a/{*rest}", "GET /a/{x}", Overlap::None);
        check("GET /a/{*rest}", "GET /a/{*other}", Overlap::Same);
        check("GET /{x}/b/c", "GET /a/{*rest}", Overlap::Crossing);
        check("GET h.example/a", "GET /a", Overlap::None);
        check("GET h.example/a", "GET h.example/a", Overlap::Same);
        check("GET /a", "GET /a/", Overlap::None);
    }
}
