//! Routes: their notation, and which two would both match a request.

use std::collections::HashMap;

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

/// Routes by their segments: a new one has to be compared with those alone that may match the same
/// request, which are few of ten thousand.
#[derive(Debug, Default)]
pub(super) struct Tree<'a> {
    roots: HashMap<(&'a http::Method, Option<&'a str>), usize>,
    nodes: Vec<Node<'a>>,
}

/// Behind the same segments. Nodes and routes are numbers, so that a long path needs no deep stack.
#[derive(Debug, Default)]
struct Node<'a> {
    texts: HashMap<&'a str, usize>,
    any: Option<usize>,
    /// Routes that go on with the rest of the path.
    rest: Vec<usize>,
    /// Routes that end here.
    ends: Vec<usize>,
}

impl<'a> Tree<'a> {
    /// Adds a route under a number. The numbers of those before it that may overlap with it, in
    /// order; all others do not.
    pub(super) fn add(&mut self, number: usize, route: &'a Route) -> Vec<usize> {
        let path = segments(&route.path);
        let next = self.nodes.len();
        let root = self.roots.entry((&route.method, route.host.as_deref()));
        let root = *root.or_insert(next);
        if root == next {
            self.nodes.push(Node::default());
        }
        let mut found = self.find(root, &path);
        found.sort_unstable();
        self.put(root, &path, number);
        found
    }

    fn find(&self, root: usize, path: &[Segment<'_>]) -> Vec<usize> {
        let (mut found, mut to_see) = (Vec::new(), vec![(root, 0)]);
        while let Some((at, depth)) = to_see.pop() {
            let node = &self.nodes[at];
            // A rest takes all segments that there are.
            let segment = path
                .get(depth)
                .or(path.last().filter(|last| **last == Segment::Rest));
            if depth >= path.len() {
                found.extend(&node.ends);
            }
            let Some(segment) = segment else { continue };
            found.extend(&node.rest);
            let below = node.any.iter();
            match segment {
                Segment::Text(text) => {
                    let same = below.chain(node.texts.get(text));
                    to_see.extend(same.map(|next| (*next, depth + 1)));
                }
                Segment::Any | Segment::Rest => {
                    let all = below.chain(node.texts.values());
                    to_see.extend(all.map(|next| (*next, depth + 1)));
                }
            }
        }
        found
    }

    fn put(&mut self, root: usize, path: &[Segment<'a>], number: usize) {
        let mut at = root;
        for segment in path {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            let to = match segment {
                Segment::Text(text) => *node.texts.entry(text).or_insert(next),
                Segment::Any => *node.any.get_or_insert(next),
                Segment::Rest => {
                    node.rest.push(number);
                    return;
                }
            };
            if to == next {
                self.nodes.push(Node::default());
            }
            at = to;
        }
        self.nodes[at].ends.push(number);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn those_that_a_tree_leaves_out_do_not_overlap(
            paths in prop::collection::vec("(/(a|b|\\{x\\})){1,4}(/\\{\\*r\\})?|/\\{\\*r\\}|/", 0..40),
        ) {
            let made = |path: &String| Route {
                method: http::Method::GET,
                host: path.len().is_multiple_of(3).then(|| "shop.example".to_owned()),
                path: path.clone(),
                filters: None,
            };
            let routes: Vec<Route> = paths.iter().map(made).collect();
            let mut tree = Tree::default();
            for (number, route) in routes.iter().enumerate() {
                let found = tree.add(number, route);
                prop_assert!(found.is_sorted());
                for (at, other) in routes[..number].iter().enumerate() {
                    let is_left_out = !found.contains(&at);
                    prop_assert!(!is_left_out || overlap(route, other) == Overlap::None);
                }
                // All that it names may match the same request.
                let same_kind = |at: &usize| routes[*at].host == route.host;
                prop_assert!(found.iter().all(same_kind));
            }
        }
    }

    #[test]
    fn a_tree_leaves_out_what_is_elsewhere() {
        let routes: Vec<Route> = (0..10_000)
            .map(|n| parse(&format!("GET /api/r{n}/{{id}}")).unwrap())
            .collect();
        let (mut tree, mut named) = (Tree::default(), 0);
        for (number, route) in routes.iter().enumerate() {
            named += tree.add(number, route).len();
        }
        assert_eq!(named, 0);
        let all = parse("GET /{*rest}").unwrap();
        assert_eq!(tree.add(10_000, &all).len(), 10_000);
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
