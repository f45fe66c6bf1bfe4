//! `filters`: what the proxy changes in the heads that pass, of a slice, of some of its routes, or
//! of what belongs to no slice.

mod auth;
mod cache;
mod compress;
mod cors;
mod path;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outgrow_proxy::{
    BodyLinks, CohortKey, Edit, Edits, Fallback, Filters, Limiter, Link, RateKey, RateRule,
};

use super::limits;
use super::model::{Proxy, Route};
use super::problem::{Findings, Place, nearest};
use super::scalar;
use super::section::{Node, Section};

pub(super) use cache::store;

/// Whose filters they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belongs {
    ToASlice,
    ToNone,
}

/// Filters, and where each of their `paths` is in the file.
type Placed = (Arc<Filters>, Vec<Place>);

/// `[proxy.filters]`.
pub(super) fn of_proxy(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
) -> Option<Arc<Filters>> {
    // Any path may belong to no slice.
    read(section, Belongs::ToNone, findings).map(|(filters, _)| filters)
}

fn read(
    section: &mut Section<'_>,
    belongs: Belongs,
    findings: &mut Findings<'_>,
) -> Option<Placed> {
    let mut section = section.get("filters")?.section(findings)?;
    let found = keys(&mut section, belongs, findings);
    section.finish(findings);
    Some(found)
}

/// What filters want of the rest of the config.
pub(super) fn check<'a>(
    proxy: &Proxy,
    at: &Place,
    routes: impl Iterator<Item = (&'a Place, &'a Route)>,
    findings: &mut Findings<'_>,
) {
    let routes = routes.map(|(place, route)| (place, route.filters.as_deref()));
    let all = routes.chain([(at, proxy.filters.as_deref())]);
    for (place, filters) in all {
        let slow = filters.is_some_and(|filters| filters.slow.is_some());
        if slow && proxy.access_log.is_none() {
            let rule = "its `slow` is of the access log, and there is none";
            findings.lack(place, rule.to_owned(), "add [proxy.access_log] with `file`");
            return;
        }
        let kept = filters.is_some_and(|filters| filters.cache.is_some());
        if kept && proxy.cache.is_none() {
            let rule = "its answers are to be kept, and there is no cache";
            findings.lack(
                place,
                rule.to_owned(),
                "add [proxy.cache], which may be empty",
            );
            return;
        }
    }
}

/// Gives each route its filters: those of `route_filters` that name it, else the slice's.
pub(super) fn of_routes(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    routes: &mut [(Place, Route)],
) {
    let common = read(section, Belongs::ToASlice, findings);
    let entries = section.get("route_filters");
    let entries = entries.map(|node| node.list(findings)).unwrap_or_default();
    let mut taken = Vec::new();
    let mut all: Vec<Placed> = common.iter().cloned().collect();
    for node in entries {
        let Some(mut section) = node.section(findings) else {
            continue;
        };
        let fix = "write routes = [\"GET /path/{name}\"], as the slice has them";
        let named = section.need(findings, "routes", fix);
        let placed = keys(&mut section, Belongs::ToASlice, findings);
        let own = placed.0.clone();
        all.push(placed);
        section.finish(findings);
        let named = named.map(|node| node.words(findings)).unwrap_or_default();
        for (place, text) in named {
            if taken.contains(&text) {
                findings.refuse(&place, "the route has filters already", "name it once");
                continue;
            }
            let known: Vec<String> = routes.iter().map(|(_, r)| r.to_string()).collect();
            match known.iter().position(|route| *route == text) {
                Some(index) => routes[index].1.filters = Some(own.clone()),
                None => {
                    let fix = match nearest(&text, known.iter().map(String::as_str)) {
                        Some(near) => format!("did you mean \"{near}\"?"),
                        None => "name it as `routes` of the slice does".to_owned(),
                    };
                    findings.refuse(&place, "the slice has no such route", fix);
                }
            }
            taken.push(text);
        }
    }
    for (_, route) in routes.iter_mut() {
        if let (None, Some((common, _))) = (&route.filters, &common) {
            route.filters = Some(common.clone());
        }
    }
    // Where something is wrong the route that is meant may be what was refused.
    if !findings.clean() {
        return;
    }
    for (filters, places) in all {
        let own = |route: &&(Place, Route)| {
            let used = route.1.filters.as_ref();
            used.is_some_and(|used| Arc::ptr_eq(used, &filters))
        };
        let templates: Vec<&str> = routes.iter().filter(own).map(|(_, r)| &*r.path).collect();
        let rules = filters.paths.iter().cloned().zip(places);
        path::check(rules, &templates, findings);
    }
}

fn keys(section: &mut Section<'_>, belongs: Belongs, findings: &mut Findings<'_>) -> Placed {
    let (paths, places) = path::read(section.get("paths"), belongs, findings);
    let links_in = section.get("links_in");
    let header_links = links(section.get("links"), findings);
    let filters = Filters {
        limit: limit(section.get("rate_limit"), findings),
        allowance: limits::of_filters(section.get("limits"), findings),
        auth: auth::read(section.get("auth"), findings),
        cors: cors::read(section.get("cors"), findings),
        paths,
        compress: compress::read(section.get("compress"), findings),
        cache: cache::read(section.get("cache"), belongs, findings),
        slow: section
            .get("slow")
            .and_then(|node| node.duration(findings, Duration::ZERO..=HOUR)),
        fallback: fallback(section.get("fallback"), belongs, findings),
        request: edits(section.get("request"), findings),
        response: edits(section.get("response"), findings),
        body_links: links_in.and_then(|node| bodies(&node, &header_links, findings)),
        links: header_links,
        cookie_domains: pairs(section.get("cookie_domains"), findings)
            .into_iter()
            .filter_map(|pair| domain(&pair, findings))
            .collect(),
        cookie_paths: links(section.get("cookie_paths"), findings),
    };
    (Arc::new(filters), places)
}

/// More a second than a core can refuse.
const REQUESTS_MAX: u64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) fn limit(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Option<Limiter> {
    let mut section = node?.section(findings)?;
    let fix = "write { requests = 100, per = \"1m\", by = \"address\" }";
    let count = |section: &mut Section<'_>, findings: &mut Findings<'_>, needed| {
        let node = match needed {
            true => section.need(findings, "requests", fix),
            false => section.get("burst"),
        };
        let found = node?.integer(findings, 1..=REQUESTS_MAX)?;
        u32::try_from(found).ok()
    };
    let requests = count(&mut section, findings, true);
    let burst = count(&mut section, findings, false);
    let per = section.duration(findings, "per", SECOND, SECOND..=DAY);
    let by = match section.get("by") {
        None => Some(RateKey::Address),
        Some(node) => rate_key(&node, findings),
    };
    section.finish(findings);
    let requests = requests?;
    Some(Limiter::new(RateRule {
        requests,
        per,
        burst: burst.unwrap_or(requests),
        by: by?,
    }))
}

fn rate_key(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<RateKey> {
    let text = node.word(findings)?;
    let found = match text.split_once(':') {
        None if text == "address" => Some(RateKey::Address),
        None if text == "everybody" => Some(RateKey::Everybody),
        Some(("cookie", name)) if scalar::is_token(name) => {
            Some(RateKey::Field(CohortKey::Cookie(name.to_owned())))
        }
        Some(("header", name)) => {
            let name = name.parse().ok();
            name.map(|name| RateKey::Field(CohortKey::Header(name)))
        }
        _ => None,
    };
    if found.is_none() {
        let fix = "write \"address\", \"everybody\", \"header:NAME\" or \"cookie:NAME\"";
        findings.refuse(&node.place, "requests cannot be counted by that", fix);
    }
    found
}

fn edits(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Edits {
    let mut edits = Edits::default();
    let Some(mut section) = node.and_then(|node| node.section(findings)) else {
        return edits;
    };
    if let Some(node) = section.get("remove") {
        for (place, name) in node.words(findings) {
            push(&mut edits, &place, &name, Edit::Remove, findings);
        }
    }
    for (key, kind) in [("set", Edit::Set as fn(_) -> _), ("add", Edit::Add)] {
        let fields = section.get(key).and_then(|node| node.section(findings));
        for (name, place, node) in fields.map(|s| s.entries()).unwrap_or_default() {
            let Some(text) = node.text(findings) else {
                continue;
            };
            match HeaderValue::from_str(text) {
                Ok(value) => push(&mut edits, &place, &name, kind(value), findings),
                Err(_) => {
                    let rule = "it is not the value of a header";
                    findings.refuse(&node.place, rule, "write one line of plain text");
                }
            }
        }
    }
    section.finish(findings);
    edits
}

fn push(edits: &mut Edits, place: &Place, name: &str, edit: Edit, findings: &mut Findings<'_>) {
    let Ok(header) = name.parse::<HeaderName>() else {
        findings.lack(
            place,
            format!("`{name}` is not a header name"),
            "use letters, digits, - and _",
        );
        return;
    };
    if let Err(why) = edits.push(header, edit) {
        let rule = format!("`{name}` cannot be changed: {why}");
        findings.lack(place, rule, "leave it to the proxy: remove it here");
    }
}

/// A `{ from, to }`, with its place.
struct Pair {
    place: Place,
    from: String,
    to: String,
}

fn pairs(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Vec<Pair> {
    let items = node.map(|node| node.list(findings)).unwrap_or_default();
    let pair = |node: Node<'_>| {
        let mut section = node.section(findings)?;
        let fix = "write { from = \"..\", to = \"..\" }";
        let mut text = |key| {
            let node = section.need(findings, key, fix)?;
            Some(node.text(findings)?.trim().to_owned())
        };
        let (from, to) = (text("from"), text("to"));
        section.finish(findings);
        Some(Pair {
            place: node.place,
            from: from?,
            to: to?,
        })
    };
    items.into_iter().filter_map(pair).collect()
}

fn links(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Vec<Link> {
    let pairs = pairs(node, findings);
    let link = |pair: Pair| {
        let fix = "write { from = \"http://HOST/PATH\", to = \"/PATH\" }";
        Link::new(&pair.from, &pair.to)
            .map_err(|rule| findings.refuse(&pair.place, rule, fix))
            .ok()
    };
    pairs.into_iter().filter_map(link).collect()
}

/// When the legacy side steps in for a read.
fn fallback(
    node: Option<Node<'_>>,
    belongs: Belongs,
    findings: &mut Findings<'_>,
) -> Option<Fallback> {
    let node = node?;
    if belongs == Belongs::ToNone {
        let rule = "what belongs to no slice is asked of the legacy side alone";
        findings.refuse(&node.place, rule, "remove it");
        return None;
    }
    let word = node.word(findings)?;
    let found = Fallback::ALL.into_iter().find(|(name, _)| *name == word);
    if found.is_none() {
        let fix = "write \"never\", \"unsent\" or \"failed\"";
        findings.refuse(&node.place, "it is not when another side steps in", fix);
    }
    found.map(|(_, rule)| rule)
}

/// Types of bodies in which links are changed, too.
fn bodies(node: &Node<'_>, links: &[Link], findings: &mut Findings<'_>) -> Option<Arc<BodyLinks>> {
    let types = compress::types(node, findings);
    match BodyLinks::new(links, types) {
        Ok(found) => Some(Arc::new(found)),
        Err(rule) => {
            let fix = "write links = [{ from = \"http://HOST\", to = \"\" }] beside it";
            findings.refuse(&node.place, rule, fix);
            None
        }
    }
}

fn domain(pair: &Pair, findings: &mut Findings<'_>) -> Option<(String, Option<String>)> {
    let from = pair.from.trim_start_matches('.');
    if !scalar::is_host(from) || !(pair.to.is_empty() || scalar::is_host(&pair.to)) {
        let fix =
            "write { from = \"monolith.internal\", to = \"shop.example\" }, or to = \"\" for none";
        findings.refuse(&pair.place, "a cookie's domain is a host name", fix);
        return None;
    }
    let to = (!pair.to.is_empty()).then(|| pair.to.clone());
    Some((from.to_owned(), to))
}
