//! Which route a request is on: the most specific template whose method and host fit.
//!
//! A tree of path segments. At each segment a literal beats a parameter, a parameter beats the
//! rest of the path, and a host beats any host; where a branch ends without a fitting method the
//! next best branch is tried. Path bytes are compared as they are: `%2F` is no slash, `/x/` is
//! not `/x`.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use crate::filters::Filters;
use crate::settings::{Problem, RouteSettings, SliceSettings};

/// All routes of all slices. Immutable.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    root: Node,
    /// In the order of the settings.
    all: Vec<Found>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<String, Node>,
    parameter: Option<Box<Node>>,
    rest: Vec<Leaf>,
    leaves: Vec<Leaf>,
}

#[derive(Debug, Clone)]
struct Leaf {
    method: Method,
    host: Option<String>,
    /// Index into all routes.
    route: usize,
}

/// A route that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Index into the settings' slices.
    pub(crate) slice: usize,
    /// Counts the routes of all slices, in the order of the settings.
    pub(crate) route: usize,
    /// The route as it was declared.
    pub(crate) label: Arc<str>,
    pub(crate) filters: Option<Arc<Filters>>,
}

impl RouteTable {
    /// A route by its number.
    pub(crate) fn route(&self, number: usize) -> &Found {
        &self.all[number]
    }

    pub(crate) fn build(slices: &[SliceSettings]) -> Result<Self, Vec<Problem>> {
        let mut table = Self::default();
        let mut problems = Vec::new();
        let mut count = 0;
        for (index, slice) in slices.iter().enumerate() {
            for route in &slice.routes {
                if let Err(problem) = table.add(slices, (index, count), route) {
                    problems.push(problem);
                }
                count += 1;
            }
        }
        if problems.is_empty() {
            Ok(table)
        } else {
            Err(problems)
        }
    }

    fn add(
        &mut self,
        slices: &[SliceSettings],
        (index, count): (usize, usize),
        route: &RouteSettings,
    ) -> Result<(), Problem> {
        let wrong = |what| Problem::Template {
            template: route.template.clone(),
            what,
        };
        let Some(path) = route.template.strip_prefix('/') else {
            return Err(wrong("a path starts with `/`"));
        };
        let mut node = &mut self.root;
        let mut rest = false;
        for segment in path.split('/') {
            if rest {
                return Err(wrong("nothing may stand behind `{*rest}`"));
            }
            let inside = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            match inside {
                Some(name) if name.starts_with('*') => rest = true,
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                    node = node.parameter.get_or_insert_default();
                }
                Some(_) => return Err(wrong("a parameter is `{name}`")),
                None if segment.contains(['{', '}', '?', '#']) => {
                    return Err(wrong("a parameter is a whole segment, `/{name}/`"));
                }
                None => node = node.literal.entry(segment.to_owned()).or_default(),
            }
        }
        let leaves = if rest {
            &mut node.rest
        } else {
            &mut node.leaves
        };
        let same = |leaf: &&Leaf| leaf.method == route.method && leaf.host == route.host;
        if let Some(other) = leaves.iter().find(same) {
            let other = &self.all[other.route];
            return Err(Problem::Overlap {
                slice: slices[index].id.clone(),
                route: route.to_string(),
                other_slice: slices[other.slice].id.clone(),
                other: other.label.to_string(),
            });
        }
        leaves.push(Leaf {
            method: route.method.clone(),
            host: route.host.clone(),
            route: self.all.len(),
        });
        self.all.push(Found {
            slice: index,
            route: count,
            label: Arc::from(route.to_string()),
            filters: route.filters.clone(),
        });
        // A route with a host is more specific than one without.
        leaves.sort_by_key(|leaf| leaf.host.is_none());
        Ok(())
    }

    /// The route of a request; `None` is the legacy side's. HEAD follows GET.
    pub(crate) fn find(&self, method: &Method, host: Option<&str>, path: &str) -> Option<&Found> {
        let path = path.strip_prefix('/')?;
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let found = descend(&self.root, Some(path), &|leaf| {
            leaf.method == *method
                && leaf.host.as_deref().is_none_or(|wanted| {
                    host.is_some_and(|given| bare_host(given).eq_ignore_ascii_case(wanted))
                })
        })?;
        self.all.get(found)
    }
}

/// `rest` is what of the path is not used up; `None` at its end.
fn descend(node: &Node, rest: Option<&str>, fits: &dyn Fn(&Leaf) -> bool) -> Option<usize> {
    let pick = |leaves: &[Leaf]| {
        let leaf = leaves.iter().find(|leaf| fits(leaf));
        leaf.map(|leaf| leaf.route)
    };
    let Some(rest) = rest else {
        return pick(&node.leaves);
    };
    let (segment, next) = match rest.split_once('/') {
        Some((segment, next)) => (segment, Some(next)),
        None => (rest, None),
    };
    node.literal
        .get(segment)
        .and_then(|child| descend(child, next, fits))
        .or_else(|| {
            let child = node.parameter.as_deref().filter(|_| !segment.is_empty())?;
            descend(child, next, fits)
        })
        .or_else(|| pick(&node.rest))
}

/// The host without its port, and without the dot that ends a whole name.
fn bare_host(host: &str) -> &str {
    let bare = match host.rfind(':') {
        Some(at) if !host.ends_with(']') => &host[..at],
        _ => host,
    };
    bare.strip_suffix('.').unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use outgrow_rollout::{GuardLimits, SliceId};
    use proptest::prelude::*;

    use super::*;

    fn slice(name: &str, routes: &[&str]) -> SliceSettings {
        let route = |text: &&str| {
            let (method, rest) = text.split_once(' ').unwrap();
            let at = rest.find('/').unwrap();
            RouteSettings {
                method: method.parse().unwrap(),
                host: (at > 0).then(|| rest[..at].to_owned()),
                template: rest[at..].to_owned(),
                filters: None,
            }
        };
        SliceSettings {
            id: SliceId::new(name).unwrap(),
            service: "shop".to_owned(),
            routes: routes.iter().map(route).collect(),
            cohort: Vec::new(),
            salt: name.to_owned(),
            guard: GuardLimits::default(),
            fallback: true,
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let slices = [
            slice(
                "a",
                &[
                    "GET /p",
                    "GET /p/{id}",
                    "PUT /p/{id}/price",
                    "GET /f/{*rest}",
                ],
            ),
            slice(
                "b",
                &["GET /p/new", "GET /p/{id}/r", "GET shop.example/p/{id}"],
            ),
        ];
        let table = RouteTable::build(&slices).unwrap();
        for (method, host, path, expected) in [
            ("GET", None, "/p", Some("GET /p")),
            ("HEAD", None, "/p/7", Some("GET /p/{id}")),
            ("GET", None, "/p/new", Some("GET /p/new")),
            ("PUT", None, "/p/new/price", Some("PUT /p/{id}/price")),
            (
                "GET",
                Some("SHOP.example:80"),
                "/p/7",
                Some("GET shop.example/p/{id}"),
            ),
            ("GET", None, "/p/7/r", Some("GET /p/{id}/r")),
            ("GET", None, "/f/x/y/z", Some("GET /f/{*rest}")),
            ("GET", None, "/p/", None),
            ("GET", None, "/p/7/", None),
            ("POST", None, "/p", None),
            ("GET", None, "/", None),
            ("GET", None, "*", None),
        ] {
            let method: Method = method.parse().unwrap();
            let found = table.find(&method, host, path).map(|found| &*found.label);
            assert_eq!(found, expected, "{method} {path}");
        }
    }

    #[test]
    fn equal_routes_of_two_slices_are_refused_together() {
        let slices = [
            slice("a", &["GET /p/{id}", "GET /x/{b}y"]),
            slice("b", &["GET /p/{number}", "GET /z/{*r}/q"]),
        ];
        let problems = RouteTable::build(&slices).unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "`/x/{b}y`: a parameter is a whole segment, `/{name}/`",
                "`GET /p/{number}` of slice `b` is also `GET /p/{id}` of slice `a`",
                "`/z/{*r}/q`: nothing may stand behind `{*rest}`",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "\\PC{0,60}") {
            let table = RouteTable::build(&[slice("a", &["GET /p/{id}/{*rest}"])]).unwrap();
            let found = table.find(&Method::GET, None, &path).is_some();
            let expected = path.strip_prefix("/p/").and_then(|p| p.split_once('/'))
                .is_some_and(|(id, _)| !id.is_empty());
            prop_assert_eq!(found, expected);
        }
    }
}
