//! What one route serves, where it serves many things: operations of GraphQL by their names, and
//! paths below a `{*rest}` by templates that are learned while requests come.
//!
//! Everything is bounded, and nothing is guessed back: an endpoint is a name for counts and
//! causes. Gates go by the routes of the config.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Names that are given to a slice's endpoints; what is new then is counted as its route.
const ENDPOINTS_MAX: usize = 500;
/// Segments that are told apart at one place of a path.
const LITERALS_MAX: usize = 20;
/// Seen less often, a segment may be anybody's.
const SEEN_MIN: u64 = 3;
/// Where more than [`LITERALS_MAX`] came, a segment of its own has this share of the requests.
const SHARE_MIN: f64 = 0.1;
/// Places of one route.
const NODES_MAX: usize = 2_000;
/// Segments of a template; what is below is left open.
const DEPTH_MAX: usize = 12;

/// What is learned of a slice.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Mutex<Learned>);

#[derive(Debug, Default)]
struct Learned {
    named: BTreeSet<Arc<str>>,
    routes: BTreeMap<Arc<str>, Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    root: Node,
    nodes: usize,
}

/// A place in the paths of a route.
#[derive(Debug, Default)]
struct Node {
    /// Requests that came by here, or would have.
    came: u64,
    /// More came than are told apart.
    many: bool,
    literals: BTreeMap<String, Node>,
    /// What is below a segment that is open.
    open: Option<Box<Node>>,
}

impl Endpoints {
    /// The endpoint of an operation.
    pub(crate) fn operation(&self, route: &Arc<str>, name: &str) -> Arc<str> {
        match name {
            "" => route.clone(),
            name => self.name(route, format!("{route}#{name}")),
        }
    }

    /// The endpoint of a path: that of its template, where its route leaves the rest open.
    pub(crate) fn path(&self, route: &Arc<str>, path: &str) -> Arc<str> {
        let Some((before, _)) = route.split_once("{*") else {
            return route.clone();
        };
        let from = before.find('/').unwrap_or(before.len());
        let depth = before[from..].matches('/').count();
        let rest: Vec<&str> = path.split('/').skip(depth).collect();
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = learned.routes.entry(route.clone()).or_default();
        let template = tree.learn(&rest);
        drop(learned);
        self.name(route, format!("{before}{template}"))
    }

    fn name(&self, route: &Arc<str>, name: String) -> Arc<str> {
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = learned.named.get(name.as_str()) {
            return known.clone();
        }
        if learned.named.len() >= ENDPOINTS_MAX {
            return route.clone();
        }
        let name: Arc<str> = name.into();
        learned.named.insert(name.clone());
        name
    }
}

impl Tree {
    fn learn(&mut self, segments: &[&str]) -> String {
        let mut node = &mut self.root;
        let (mut parts, mut opened) = (Vec::new(), 0);
        node.came += 1;
        for (depth, segment) in segments.iter().enumerate() {
            let room = self.nodes < NODES_MAX;
            if depth >= DEPTH_MAX || !room && node.open.is_none() {
                parts.push("{*rest}".to_owned());
                break;
            }
            if node.tells_apart(segment, room, &mut self.nodes) {
                parts.push((*segment).to_owned());
                node = node.literals.entry((*segment).to_owned()).or_default();
                continue;
            }
            opened += 1;
            parts.push(format!("{{{opened}}}"));
            if node.open.is_none() {
                self.nodes += 1;
            }
            node = node.open.get_or_insert_default();
            node.came += 1;
        }
        parts.join("/")
    }
}

impl Node {
    /// Whether this segment is a word of the application, and no value.
    fn tells_apart(&mut self, segment: &str, room: bool, nodes: &mut usize) -> bool {
        if is_value(segment) {
            return false;
        }
        if !self.literals.contains_key(segment) {
            if self.literals.len() >= LITERALS_MAX {
                self.forget_rare(nodes);
            }
            if self.literals.len() >= LITERALS_MAX || !room {
                return false;
            }
            *nodes += 1;
        }
        let (all, many) = (self.came, self.many);
        let known = self.literals.entry(segment.to_owned()).or_default();
        known.came += 1;
        let often = !many || known.came as f64 >= SHARE_MIN * all as f64;
        known.came >= SEEN_MIN && often
    }

    /// Makes room for others: what comes often comes again.
    fn forget_rare(&mut self, nodes: &mut usize) {
        self.many = true;
        let least = SHARE_MIN * self.came as f64;
        let mut gone = 0;
        self.literals.retain(|_, node| {
            let stays = node.came as f64 >= least;
            gone += if stays { 0 } else { node.size() };
            stays
        });
        *nodes = nodes.saturating_sub(gone);
    }

    fn size(&self) -> usize {
        let literals: usize = self.literals.values().map(Self::size).sum();
        let open = self.open.as_ref().map_or(0, |open| open.size());
        1 + literals + open
    }
}

/// Numbers, ids, hashes, addresses and whatever is long: no word that stands in a program.
fn is_value(segment: &str) -> bool {
    const LONG: usize = 40;
    const HEX_LEAST: usize = 8;
    const MIXED_LEAST: usize = 12;
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let is_hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    segment.len() > LONG
        || segment.contains(['%', '@', '=', ',', ':'])
        || digits > 0 && digits * 2 >= segment.len()
        || digits > 0 && segment.len() >= HEX_LEAST && segment.bytes().all(is_hex)
        || digits > 0 && segment.len() >= MIXED_LEAST && !segment.contains(['-', '_', '.'])
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64_with_seed;

    use super::*;

    fn drawn(n: u64, seed: u64, most: usize) -> usize {
        let drawn = xxh3_64_with_seed(&n.to_le_bytes(), seed) % most as u64;
        usize::try_from(drawn).unwrap()
    }

    fn letter(n: u64, seed: u64) -> char {
        char::from(b"abcdefghijklmnopqrstuvwxyz"[drawn(n, seed, 26)])
    }

    fn uuid(n: u64) -> String {
        let (a, b) = (drawn(n, 8, 1 << 32), drawn(n, 9, 1 << 48));
        format!("{a:08x}-0000-4000-8000-{b:012x}")
    }

    #[test]
    fn ids_and_names_of_many_things_become_open_and_words_do_not() {
        let endpoints = Endpoints::default();
        let route: Arc<str> = "GET /api/{*rest}".into();
        let mut last = BTreeSet::new();
        for n in 0..6_000 {
            let color = ["red", "old", "tall"][drawn(n, 6, 3)];
            let slug = format!("the-{}-lamp", color.repeat(drawn(n, 1, 9) + 1));
            let shop = letter(n, 2).to_string().repeat(drawn(n, 4, 20) + 1);
            let path = match n % 5 {
                0 => format!("/api/orders/{}", drawn(n, 3, 1_000_000)),
                1 => format!("/api/orders/{}/lines/{}", drawn(n, 3, 900), drawn(n, 5, 9)),
                2 => format!("/api/users/{}/avatar.png", uuid(n)),
                3 => format!("/api/shops/shop-{shop}/items/{slug}"),
                _ => "/api/health".to_owned(),
            };
            let name = endpoints.path(&route, &path);
            if n >= 3_000 {
                last.insert(name);
            }
        }
        let last: Vec<&str> = last.iter().map(|name| &**name).collect();
        assert_eq!(
            last,
            [
                "GET /api/health",
                "GET /api/orders/{1}",
                "GET /api/orders/{1}/lines/{2}",
                "GET /api/shops/{1}/items/{2}",
                "GET /api/users/{1}/avatar.png",
            ]
        );
    }

    #[test]
    fn what_a_client_invents_stays_within_bounds() {
        let endpoints = Endpoints::default();
        let route: Arc<str> = "GET shop.example/{*rest}".into();
        for n in 0..20_000 {
            let word =
                |seed: u64| -> String { (0..8).map(|at| letter(n, seed * 10 + at)).collect() };
            let path = format!("/{}/{}/{}", word(1), word(2), word(3));
            endpoints.path(&route, &path);
            endpoints.operation(&route, &word(4));
        }
        let learned = endpoints.0.lock().unwrap();
        assert!(learned.named.len() <= ENDPOINTS_MAX);
        let tree = &learned.routes[&route];
        assert_eq!(tree.nodes, tree.root.size() - 1, "as counted");
        assert!(tree.nodes <= NODES_MAX, "{}", tree.nodes);
    }

    #[test]
    fn routes_without_a_rest_and_operations_have_their_names() {
        let endpoints = Endpoints::default();
        let route: Arc<str> = "GET /api/{id}".into();
        assert_eq!(endpoints.path(&route, "/api/7"), route);
        let route: Arc<str> = "POST /graphql".into();
        assert_eq!(&*endpoints.operation(&route, "Shop"), "POST /graphql#Shop");
        assert_eq!(endpoints.operation(&route, ""), route);
        let deep: Arc<str> = "GET /{*rest}".into();
        let path = "/a".repeat(40);
        for _ in 0..5 {
            assert!(endpoints.path(&deep, &path).ends_with("/{*rest}"));
        }
    }
}
