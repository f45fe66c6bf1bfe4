//! `[slices.ID]`: each slice by itself, and all of them against one another and the services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outgrow_rollout::{GuardLimits, SliceId, Watched};

use super::Surroundings;
use super::comparing;
use super::events::{self, Events};
use super::filters;
use super::model::{
    Cohort, Database, Legacy, Route, Service, Slice, SliceShadow, SliceSync, Table,
};
use super::plan;
use super::problem::{Findings, Place, nearest};
use super::process::Services;
use super::routes::{self, Overlap, Tree};
use super::scalar;
use super::section::{Node, Section};
use super::sync;
use super::tables;
use super::writes;

/// A slice with the places of what is compared with other parts of the file.
#[derive(Debug)]
pub(super) struct Draft {
    place: Place,
    id: Option<SliceId>,
    service: Option<(Place, String)>,
    routes: Vec<(Place, Route)>,
    cohort: Vec<Cohort>,
    tables: Vec<(Place, Option<Table>)>,
    sync: SliceSync,
    load_place: Place,
    shadow: SliceShadow,
    shadow_place: Place,
    plan: outgrow_rollout::Plan,
    cutover_place: Place,
    guard: GuardLimits,
    fallback: bool,
    events: Option<Events>,
}

impl Draft {
    /// `None` only together with a finding.
    pub(super) fn finish(self) -> Option<Slice> {
        Some(Slice {
            id: self.id?,
            service: self.service?.1,
            routes: self.routes.into_iter().map(|(_, route)| route).collect(),
            cohort: self.cohort,
            tables: self
                .tables
                .into_iter()
                .map(|(_, table)| table)
                .collect::<Option<_>>()?,
            sync: self.sync,
            shadow: self.shadow,
            plan: self.plan,
            guard: self.guard,
            fallback: self.fallback,
            events: self.events,
        })
    }
}

impl Draft {
    /// With their places.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&Place, &Route)> {
        self.routes.iter().map(|(place, route)| (place, route))
    }
}

pub(super) fn read(
    root: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Vec<Draft> {
    let Some(section) = root.get("slices").and_then(|node| node.section(findings)) else {
        return Vec::new();
    };
    section
        .entries()
        .into_iter()
        .filter_map(|(name, place, node)| {
            let id = SliceId::new(&*name);
            if id.is_err() {
                let fix = "use 1 to 63 of a-z, 0-9 and -, starting with a letter";
                findings.lack(&place, "it is not a slice name", fix);
            }
            let section = node.section(findings)?;
            Some(slice(id.ok(), place, section, findings, around))
        })
        .collect()
}

fn slice(
    id: Option<SliceId>,
    place: Place,
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Draft {
    let fix = "name the service that answers for it: service = \"...\"";
    let service = section
        .need(findings, "service", fix)
        .and_then(|node| Some((node.place.clone(), node.word(findings)?)));
    let mut routes = own_routes(&mut section, findings);
    filters::of_routes(&mut section, findings, &mut routes);
    let cohort = section
        .get("cohort")
        .map(|node| cohort(&node, findings))
        .unwrap_or_default();
    let tables: Vec<_> = section
        .get("tables")
        .map(|node| node.list(findings))
        .unwrap_or_default()
        .into_iter()
        .map(|node| {
            let table = node
                .section(findings)
                .and_then(|s| tables::read(s, findings));
            (node.place, table)
        })
        .collect();
    tables::cross_check(&tables, findings);
    let (sync, load_place) = sync::read(&mut section, findings, !tables.is_empty());
    let shadow_place = section.at("shadow");
    let shadow = comparing::read(&mut section, findings, around, &routes);
    let is_fenced = !tables.is_empty() && sync.writes == outgrow_bridge::Writes::One;
    writes::check(&shadow, &shadow_place, is_fenced, findings);
    let (mut plan, cutover_place) = plan::plan(&mut section, findings, !tables.is_empty());
    if sync.writes != outgrow_bridge::Writes::One {
        // Both sides' clients write: nobody can tell whose write it was.
        plan.tripwire = false;
        plan.bypass = Watched::Off;
    }
    let guard = plan::guard(&mut section, findings);
    let fallback = section
        .get("fallback")
        .and_then(|node| node.boolean(findings))
        .unwrap_or(true);
    let name = id.as_ref().map_or("", SliceId::as_str);
    let events_place = section.at("events");
    let events = events::read(&mut section, name, !tables.is_empty(), findings, around);
    if events.is_some() && sync.writes != outgrow_bridge::Writes::One {
        let rule = "change events tell of one side's writes, and here both sides write";
        findings.refuse(&events_place, rule, "remove it, or write writes = \"one\"");
    }
    section.finish(findings);
    Draft {
        place,
        id,
        service,
        routes,
        cohort,
        tables,
        sync,
        load_place,
        shadow,
        shadow_place,
        plan,
        cutover_place,
        guard,
        fallback,
        events,
    }
}

fn own_routes(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Vec<(Place, Route)> {
    let fix = "write routes = [\"GET /path/{name}\"]";
    let Some(node) = section.need(findings, "routes", fix) else {
        return Vec::new();
    };
    let words = node.words(findings);
    if words.is_empty() && node.is_list() {
        findings.refuse(&node.place, "a slice without routes moves nothing", fix);
    }
    words
        .into_iter()
        .filter_map(|(place, text)| match routes::parse(&text) {
            Ok(route) => Some((place, route)),
            Err((rule, fix)) => {
                findings.refuse(&place, rule, fix);
                None
            }
        })
        .collect()
}

pub(super) fn cohort(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<Cohort> {
    let mut found = Vec::new();
    for (place, text) in node.words(findings) {
        let key = match text.split_once(':') {
            Some(("cookie", name)) if scalar::is_token(name) => Cohort::Cookie(name.to_owned()),
            Some(("header", name)) if scalar::is_token(name) => {
                Cohort::Header(name.to_ascii_lowercase())
            }
            _ => {
                let fix = "write \"cookie:NAME\" or \"header:NAME\"";
                findings.refuse(&place, "it is not a cohort key", fix);
                continue;
            }
        };
        if found.contains(&key) {
            findings.refuse(&place, "it is listed twice", "remove one of them");
            continue;
        }
        found.push(key);
    }
    found
}

/// What the slices are checked against.
pub(super) struct Rest<'a> {
    /// Services that decide who may ask.
    pub(super) asked: Vec<String>,
    /// Whether `[legacy]` names a database; `true` where that is reported already.
    pub(super) legacy_database: bool,
    pub(super) legacy: Option<&'a Legacy>,
    pub(super) services: &'a Services,
    /// How long a held write waits, where that is known.
    pub(super) hold_timeout: Option<Duration>,
}

/// Checks the slices against one another and the rest of the file.
pub(super) fn cross_check(drafts: &[Draft], rest: &Rest<'_>, findings: &mut Findings<'_>) {
    check_services(drafts, (rest.services, &rest.asked), findings);
    check_routes(drafts, findings);
    check_tables(drafts, rest, findings);
    check_sandboxes(drafts, rest, findings);
    check_load(drafts, rest, findings);
    for draft in drafts {
        let cutover = draft.plan.cutover_timeout;
        let Some(hold) = rest.hold_timeout.filter(|hold| *hold < cutover) else {
            continue;
        };
        if draft.tables.is_empty() {
            continue;
        }
        findings.lack(
            &draft.cutover_place,
            format!(
                "a cutover of up to {} outlasts the held writes, which are refused after {}",
                scalar::show(cutover),
                scalar::show(hold)
            ),
            "lower it, or raise proxy.hold_timeout",
        );
    }
}

fn check_services(
    drafts: &[Draft],
    (services, asked): (&Services, &[String]),
    findings: &mut Findings<'_>,
) {
    let mut used: BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    for (place, name) in drafts.iter().filter_map(|draft| draft.service.as_ref()) {
        used.insert(name.as_str());
        if services.contains_key(name) {
            continue;
        }
        let fix = match nearest(name, services.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add [services.{name}] with its urls"),
        };
        findings.refuse(place, "there is no such service", fix);
    }
    for (name, (place, _)) in services {
        if !used.contains(name.as_str()) {
            findings.warn(place, "nothing uses this service", "remove it, or use it");
        }
    }
}

fn check_sandboxes(drafts: &[Draft], rest: &Rest<'_>, findings: &mut Findings<'_>) {
    for draft in drafts {
        let legacy = rest.legacy.into_iter().flat_map(Legacy::parts);
        let legacy = legacy.flat_map(|(_, urls)| urls);
        let legacy = legacy.map(|source| ("[legacy]".to_owned(), source));
        let named = rest.services.iter().flat_map(|(name, (_, service))| {
            let parts = service.iter().flat_map(Service::parts);
            let urls = parts.flat_map(|(_, urls)| urls);
            urls.map(move |source| (format!("[services.{name}]"), source))
        });
        writes::check_sandbox(
            &draft.shadow,
            &draft.shadow_place,
            legacy.chain(named),
            findings,
        );
    }
}

/// SQLite does not tell what others do.
fn check_load(drafts: &[Draft], rest: &Rest<'_>, findings: &mut Findings<'_>) {
    for draft in drafts.iter().filter(|draft| !draft.tables.is_empty()) {
        let most = draft.sync.max_running;
        let legacy = rest.legacy.and_then(|legacy| legacy.database.as_ref());
        let service = draft.service.as_ref();
        let service = service.and_then(|(_, name)| rest.services.get(name)?.1.as_ref());
        let extracted = service.and_then(|service| service.database.as_ref());
        for (limit, database, side, other) in [
            (most.legacy, legacy, "legacy", "extracted"),
            (most.extracted, extracted, "extracted", "legacy"),
        ] {
            if limit.is_some() && matches!(database, Some(Database::Sqlite(_))) {
                findings.refuse(
                    &draft.load_place,
                    format!(
                        "the {side} database is SQLite, which does not tell how many statements run"
                    ),
                    format!("limit the other side alone, {{ {other} = N }}, or none"),
                );
            }
        }
    }
}

fn check_routes(drafts: &[Draft], findings: &mut Findings<'_>) {
    let all: Vec<(usize, &Place, &Route)> = drafts
        .iter()
        .enumerate()
        .flat_map(|(slice, draft)| draft.routes.iter().map(move |(p, r)| (slice, p, r)))
        .collect();
    let mut before = Tree::default();
    for (index, (slice, place, route)) in all.iter().enumerate() {
        for other in before.add(index, route) {
            let (other_slice, other_place, other) = &all[other];
            let overlap = routes::overlap(route, other);
            if overlap == Overlap::None {
                continue;
            }
            let (line, _) = findings.position(other_place.span.start);
            let key = &other_place.key;
            let same_slice = slice == other_slice;
            match overlap {
                Overlap::Same if same_slice => findings.refuse(
                    place,
                    format!("it overlaps `{other}` ({key}, line {line})"),
                    "remove one of them",
                ),
                Overlap::Same => findings.refuse(
                    place,
                    format!("it overlaps `{other}` of another slice ({key}, line {line})"),
                    "a request belongs to one slice: remove the route from the other",
                ),
                // Inside a slice both lead to the same place.
                Overlap::Crossing if !same_slice => findings.refuse(
                    place,
                    format!(
                        "some requests match it and also `{other}` of another slice ({key}, line {line})"
                    ),
                    "add a route that is special in both places to the slice that shall have them, \
                     or change one of the two",
                ),
                Overlap::Crossing | Overlap::None => {}
            }
        }
    }
}

fn check_tables(drafts: &[Draft], rest: &Rest<'_>, findings: &mut Findings<'_>) {
    let mut owners: BTreeMap<(Option<&str>, &str), &Place> = BTreeMap::new();
    for draft in drafts.iter().filter(|draft| !draft.tables.is_empty()) {
        if !rest.legacy_database {
            let fix = "add database = \"sqlite:PATH\" to [legacy]";
            findings.lack(&draft.place, "its tables need the legacy database", fix);
        }
        let service = draft.service.as_ref().map_or("", |(_, name)| name.as_str());
        let known = rest
            .services
            .get(service)
            .and_then(|(_, known)| known.as_ref());
        if known.is_some_and(|service| service.database.is_none()) {
            let fix = format!("add database = \"sqlite:PATH\" to [services.{service}]");
            findings.lack(&draft.place, "its tables need the service's database", fix);
        }
        for (place, table) in &draft.tables {
            let Some(table) = table else { continue };
            let beside = table.also.iter().map(|also| (None, &also.table));
            let ends = [(None, &table.legacy), (Some(service), &table.extracted)];
            for (database, name) in ends.into_iter().chain(beside) {
                let owner = *owners.entry((database, name)).or_insert(&draft.place);
                if owner.key != draft.place.key {
                    let rule = format!("table `{name}` belongs to {} already", owner.key);
                    let fix = "a table has one writer: move the two slices as one";
                    findings.lack(place, rule, fix);
                }
            }
        }
    }
}
