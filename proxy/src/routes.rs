//! Which route a request is on: the most specific template whose method and host fit.
//!
//! A tree of path segments. At each segment a literal beats a parameter, a parameter beats the
//! rest of the path, and a host beats any host; where a branch ends without a fitting method the
//! next best branch is tried. `/x/` is not `/x`, and `%2F` is no slash.
//!
//! A path that servers read in several ways (`readings.rs`) is on the route whose filters and writer are
//! those of all its readings, or it is refused: nobody gets past a route by the way a path is written. It
//! goes on as it was written in any case.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use crate::filters::Filters;
use crate::readings;
use crate::settings::{Problem, RouteSettings, SliceSettings};

/// All routes of all slices. Immutable.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    root: Node,
    /// In the order of the settings.
    all: Vec<Found>,
    /// Some are of one host alone.
    hosts: bool,
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

/// The path can be read as one of another route, whose filters or writer it would pass by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous;

impl RouteTable {
    /// Whether the host of a request makes a difference.
    pub(crate) fn asks_hosts(&self) -> bool {
        self.hosts
    }

    /// There is nothing but the legacy side.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

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
                None => node = node.literal.entry(readings::spelled(segment)).or_default(),
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
        self.hosts |= route.host.is_some();
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

    /// The route of a request; `None` is the legacy side's. HEAD follows GET. `elsewhere` are the filters
    /// of what has no route.
    ///
    /// # Errors
    /// Where servers may take it for a request of another route, and that would make a difference.
    pub(crate) fn find(
        &self,
        (method, host): (&Method, Option<&str>),
        path: &str,
        elsewhere: Option<&Filters>,
    ) -> Result<Option<&Found>, Ambiguous> {
        if self.all.is_empty() || readings::is_plain(path) {
            return Ok(self.exactly(method, host, path));
        }
        self.of_all_readings((method, host), path, elsewhere)
    }

    fn of_all_readings(
        &self,
        (method, host): (&Method, Option<&str>),
        path: &str,
        elsewhere: Option<&Filters>,
    ) -> Result<Option<&Found>, Ambiguous> {
        let readings = readings::all(path).ok_or(Ambiguous)?;
        let found = readings.iter();
        let found: Vec<_> = found.map(|path| self.exactly(method, host, path)).collect();
        let guards_all = |one: &&Option<&Found>| {
            let one = **one;
            found.iter().all(|other| guards(one, *other, elsewhere))
        };
        found.iter().find(guards_all).copied().ok_or(Ambiguous)
    }

    /// Whether a request that is on the first route may be taken for one of the other, by their numbers.
    pub(crate) fn guards(
        &self,
        one: Option<&Found>,
        other: Option<usize>,
        elsewhere: Option<&Filters>,
    ) -> bool {
        guards(one, other.map(|other| self.route(other)), elsewhere)
    }

    fn exactly(&self, method: &Method, host: Option<&str>, path: &str) -> Option<&Found> {
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

/// What the config has chosen for a route, or for what has none.
pub(crate) fn filters<'a>(
    found: Option<&'a Found>,
    elsewhere: Option<&'a Filters>,
) -> Option<&'a Filters> {
    match found {
        Some(found) => found.filters.as_deref(),
        None => elsewhere,
    }
}

/// Whether whoever is on the first route is kept from nothing less than on the other one.
fn guards(one: Option<&Found>, other: Option<&Found>, elsewhere: Option<&Filters>) -> bool {
    // Writers, holds and maintenance are those of a slice.
    if let Some(other) = other
        && one.is_none_or(|one| one.slice != other.slice)
    {
        return false;
    }
    match (filters(one, elsewhere), filters(other, elsewhere)) {
        (_, None) => true,
        (Some(one), Some(other)) => one.guards_as(other),
        (None, Some(other)) => Filters::default().guards_as(other),
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
            let found = table.find((&method, host), path, None).unwrap();
            let found = found.map(|found| &*found.label);
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

    /// `/public` is open to all, `/admin` is not, and `/api` is another slice's.
    fn guarded() -> (RouteTable, Filters) {
        let mut slices = [
            slice(
                "a",
                &[
                    "GET /public/{*rest}",
                    "GET /admin/{*rest}",
                    "GET /p/{id}",
                    "GET /p/{id}/r",
                ],
            ),
            slice("b", &["GET /api/items", "GET /api/{a}/{b}/caf\u{e9}"]),
        ];
        let limited = |requests| Filters {
            limit: Some(crate::limit::Limiter::new(crate::limit::RateRule {
                requests,
                per: std::time::Duration::from_secs(1),
                burst: 1,
                by: crate::limit::RateKey::Everybody,
            })),
            ..Filters::default()
        };
        slices[0].routes[1].filters = Some(Arc::new(limited(1)));
        (RouteTable::build(&slices).unwrap(), limited(2))
    }

    #[test]
    fn an_odd_path_is_on_the_route_that_guards_all_its_readings_or_on_none() {
        let (table, elsewhere) = guarded();
        let refused = "refused";
        for (path, expected) in [
            ("/%61dmin/x", Some("GET /admin/{*rest}")),
            ("/public/%2e%2e/admin/x", Some("GET /admin/{*rest}")),
            ("/public/../api/items", Some(refused)),
            ("/public/..;/api/items", Some(refused)),
            ("//api/items", Some("GET /api/items")),
            ("/api/./items", Some("GET /api/items")),
            ("/api/items;v=1", Some("GET /api/items")),
            ("/api%2Fitems", Some("GET /api/items")),
            ("/api/x/y/caf%c3%a9", Some("GET /api/{a}/{b}/caf\u{e9}")),
            ("/p/a%2Fb", Some("GET /p/{id}")),
            ("/p/a%2Fr", Some("GET /p/{id}")),
            ("/p/a%20b%25", Some("GET /p/{id}")),
            ("/.well-known/x", None),
            ("/legacy//a;b", None),
            ("/legacy/../x", None),
        ] {
            let found = table.find((&Method::GET, None), path, None);
            let found = found.map_or(Some(refused), |found| found.map(|found| &*found.label));
            assert_eq!(found, expected, "{path}");
        }
        // Where what has no route is guarded, too, nobody gets there over an open one.
        let find = |path| table.find((&Method::GET, None), path, Some(&elsewhere));
        assert!(find("/public/../legacy").is_err());
        assert!(find("/public/x").is_ok() && find("/legacy//x").is_ok());
    }

    /// One more way to write the same, at a place of the path.
    fn rewritten(path: &str, (way, at): (u8, usize)) -> String {
        let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        let slash = slashes[at % slashes.len()];
        let inner = slash.max(1);
        let (before, after) = path.split_at(slash);
        let behind = &after[1..];
        match way {
            0 => format!("{before}//{behind}"),
            1 => format!("{before}/./{behind}"),
            2 => format!("{before}/x/../{behind}"),
            3 => format!("{before}/x/%2E%2e/{behind}"),
            4 if slash == inner => format!("{before}%2f{behind}"),
            5 if slash == inner => format!("{before}\\{behind}"),
            6 if slash == inner => format!("{before};v=1/{behind}"),
            7 => format!("/public/..{path}"),
            8 => path.replace('%', "%25"),
            9 => format!("/public/..;x{path}"),
            _ => {
                let letters: Vec<char> = path.chars().collect();
                let at = at % letters.len();
                let escape = |(index, letter): (usize, &char)| match index == at && *letter != '/' {
                    true => format!("%{:02x}", u32::from(*letter)),
                    false => letter.to_string(),
                };
                letters.iter().enumerate().map(escape).collect()
            }
        }
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "\\PC{0,60}") {
            let table = RouteTable::build(&[slice("a", &["GET /p/{id}/{*rest}"])]).unwrap();
            let found = table.find((&Method::GET, None), &path, None);
            let expected = path.strip_prefix("/p/").and_then(|p| p.split_once('/'))
                .is_some_and(|(id, _)| !id.is_empty());
            if readings::is_plain(&path) {
                prop_assert_eq!(found.unwrap().is_some(), expected);
            }
        }

        /// However a guarded path is written, it is refused or guarded.
        #[test]
        fn no_spelling_gets_past_a_route(
            admin: bool,
            ways in prop::collection::vec((0_u8..12, any::<usize>()), 1..6),
        ) {
            let (table, _) = guarded();
            let (path, route) = match admin {
                true => ("/admin/users", "GET /admin/{*rest}"),
                false => ("/api/items", "GET /api/items"),
            };
            let path = ways.iter().fold(path.to_owned(), |path, way| rewritten(&path, *way));
            if let Ok(found) = table.find((&Method::GET, None), &path, None) {
                prop_assert_eq!(found.map(|found| &*found.label), Some(route), "{}", path);
            }
        }

        /// A path that everybody reads alike is where it was, escapes or none.
        #[test]
        fn plain_paths_are_never_refused(path in "(/[a-z0-9.~:@!$&'()*+,=_-]{1,8}){1,4}/?") {
            let (table, _) = guarded();
            let dots = path.split('/').any(|segment| segment.starts_with('.'));
            prop_assert!(dots || readings::is_plain(&path));
            let escaped: String = path.bytes().map(|byte| match byte {
                b'/' => "/".to_owned(),
                other => format!("%{other:02x}"),
            }).collect();
            let find = |path| table.find((&Method::GET, None), path, None);
            let found = |path| find(path).map(|found| found.map(|found| found.label.clone()));
            if !dots {
                prop_assert!(found(&path).is_ok());
            }
            prop_assert_eq!(found(&path), found(&escaped));
        }
    }
}
