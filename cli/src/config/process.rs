//! `[proxy]`, `[legacy]`, `[control]`, `[shadow]` and `[services]`: what concerns the whole
//! process rather than one slice.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use outgrow_bridge::Capture;
use outgrow_proxy::{Limits, Network, Overrides, TlsSettings, Trust};

use super::Surroundings;
use super::access_log;
use super::auth;
use super::builds;
use super::cookies;
use super::filters;
use super::limits;
use super::model::{Build, Control, Database, Identity, Legacy, Proxy, Service, Shadow};
use super::pages;
use super::plan;
use super::problem::{Findings, Place};
use super::scalar;
use super::secret::Secret;
use super::section::{Node, Section};
use super::slices;
use super::sources;
use super::tls;
use super::trace;
use super::upstreams;

/// What is wrong is among the findings already.
pub(super) struct Reported;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// What most web servers and browsers allow, so the proxy is not the first to give up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A host of the same data centre answers in a millisecond; lost packets are sent again after
/// one and three seconds, and a second loss means that it is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Well above the longest planned cutover (2 s by default), well below a client's patience.
const HOLD_TIMEOUT: Duration = Duration::from_secs(10);
const HOLD_MAX: u64 = 1_000_000;
const HOLD_BYTES: RangeInclusive<u64> = 0..=1 << 40;
/// Service managers kill after 30 to 90 seconds; this leaves them no reason to.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough to spare the monolith, short enough that a lost staff role matters soon.
const IDENTITY_TTL: Duration = Duration::from_secs(5);
/// More threads than any machine that this runs on has cores.
const WORKERS_MAX: u64 = 512;
const BUILD_HEADER: &str = "x-build-id";
const CONTROL_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
const STORE: &str = "outgrow-store.db";
const TOKEN_FILE: &str = "admin.token";

/// How many writes of a slice may be held at once, and how much of their bodies.
fn held(section: &mut Section<'_>, findings: &mut Findings<'_>) -> (usize, u64) {
    let usual = Limits::default();
    let most = section.get("hold_max");
    let most = most.and_then(|node| node.integer(findings, 1..=HOLD_MAX));
    let most = most.and_then(|count| usize::try_from(count).ok());
    let bytes = section.size(findings, "hold_bytes", usual.held_bytes, HOLD_BYTES);
    (most.unwrap_or(usual.held_max), bytes)
}

fn trust(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Trust {
    Trust {
        preface: networks(section, findings, "proxy_protocol").unwrap_or_default(),
        forwarded: networks(section, findings, "trusted_proxies"),
    }
}

/// Where clients come in, over TLS and in clear text. What is wrong is `None`.
fn listeners(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    (around, fix): (Surroundings<'_>, &str),
) -> (Option<Option<TlsSettings>>, Option<Vec<SocketAddr>>) {
    let tls = section
        .get("tls")
        .map(|node| tls::read(node.section(findings)?, findings, around));
    // Who serves over TLS alone needs no other address.
    let listen = match tls {
        None => section.need(findings, "listen", fix),
        Some(_) => section.get("listen"),
    };
    let listen = match listen {
        None => tls.is_some().then(Vec::new),
        Some(node) => Some(needed_addresses(&node, findings, fix)),
    };
    (tls.map_or(Some(None), |found| found.map(Some)), listen)
}

pub(super) fn proxy(
    root: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Proxy> {
    let fix = "add [proxy] with listen = [\"127.0.0.1:8080\"]";
    let mut section = root.need(findings, "proxy", fix)?.section(findings)?;
    let (tls, listen) = listeners(&mut section, findings, (around, fix));
    let workers = section
        .get("workers")
        .and_then(|node| node.integer(findings, 1..=WORKERS_MAX))
        .and_then(|count| usize::try_from(count).ok());
    let request_timeout =
        section.duration(findings, "request_timeout", REQUEST_TIMEOUT, 10 * MS..=HOUR);
    let connect_timeout =
        section.duration(findings, "connect_timeout", CONNECT_TIMEOUT, MS..=MINUTE);
    let hold_timeout = section.duration(findings, "hold_timeout", HOLD_TIMEOUT, 10 * MS..=MINUTE);
    let held = held(&mut section, findings);
    let drain_timeout = section.duration(
        findings,
        "drain_timeout",
        DRAIN_TIMEOUT,
        Duration::ZERO..=HOUR,
    );
    let trust = trust(&mut section, findings);
    let limits = Limits {
        held_max: held.0,
        held_bytes: held.1,
        ..limits::of_proxy(&mut section, findings)
    };
    let overrides = overrides(&mut section, findings);
    let limit = filters::limit(section.get("rate_limit"), findings);
    let cache = filters::store(section.get("cache"), findings);
    let filters = filters::of_proxy(&mut section, findings);
    let auth = auth::read(&mut section, findings, around);
    let error_pages = pages::read(section.get("error_pages"), findings, around);
    let names = ["override_secret_file", "override_secret_env"];
    let override_secret = secret(&mut section, findings, around, names);
    let identity = section
        .get("identity")
        .and_then(|node| node.section(findings))
        .map(|section| identity(section, findings, around));
    let cookie_keys = cookies::read(section.get("cookies"), findings, around);
    let access_log = section
        .get("access_log")
        .map(|node| access_log::read(node.section(findings)?, findings, around));
    let dns = sources::dns(&mut section, findings);
    let has_secret = !matches!(override_secret, Ok(None));
    let (trace, spans) = trace::read(section.get("trace"), has_secret, findings, around);
    section.finish(findings);
    Some(Proxy {
        listen: listen?,
        tls: tls?,
        workers,
        request_timeout,
        connect_timeout,
        hold_timeout,
        drain_timeout,
        limits,
        trust,
        limit: limit.map(Arc::new),
        cache,
        filters,
        auth,
        error_pages,
        cookie_keys: cookie_keys?,
        overrides,
        override_secret: override_secret.ok()?,
        // A section that is there but wrong must not pass as one that is not there.
        identity: identity.map_or(Some(None), |found| found.map(Some))?,
        trace,
        spans,
        dns,
        access_log: access_log.map_or(Some(None), |found| found.map(Some))?,
    })
}

/// What becomes of fields by which some servers take a request for another one.
fn overrides(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Overrides {
    let Some(node) = section.get("overrides") else {
        return Overrides::default();
    };
    let text = node.text(findings).unwrap_or("check");
    let found = Overrides::ALL.iter().find(|(name, _)| *name == text);
    let Some((_, found)) = found else {
        let fix = "write \"check\", \"strip\" or \"pass\"";
        findings.refuse(&node.place, "such fields cannot be treated so", fix);
        return Overrides::default();
    };
    *found
}

fn networks(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    key: &'static str,
) -> Option<Vec<Network>> {
    let words = section.get(key)?.words(findings);
    let read = |(place, text): (Place, String)| {
        text.parse::<Network>()
            .map_err(|rule| findings.refuse(&place, rule, "write \"10.0.0.0/8\" or \"10.0.0.7\""))
            .ok()
    };
    Some(words.into_iter().filter_map(read).collect())
}

fn identity(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Identity> {
    let cookie = section
        .need(
            findings,
            "cookie",
            "name the session cookie of the monolith",
        )
        .and_then(|node| token(&node, findings, "a cookie name"));
    let fix = "name the path at which the monolith says who is logged in, e.g. \"/api/me\"";
    let whoami = section.need(findings, "whoami", fix).and_then(|node| {
        let path = node.word(findings)?;
        if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) {
            return Some(path);
        }
        findings.refuse(&node.place, "it is not a path", fix);
        None
    });
    let place = section.place.clone();
    let ttl = section.duration(findings, "ttl", IDENTITY_TTL, Duration::ZERO..=5 * MINUTE);
    let secret = secret(
        &mut section,
        findings,
        around,
        ["secret_file", "secret_env"],
    );
    if let Ok(None) = secret {
        findings.lack(
            &place,
            "the signing secret is missing",
            "add secret_file = \"identity.secret\", or secret_env with the name of a variable",
        );
    }
    section.finish(findings);
    Some(Identity {
        cookie: cookie?,
        whoami: whoami?,
        secret: secret.ok()??,
        ttl,
    })
}

/// A secret that a file or a variable holds, if any is named.
pub(super) fn secret(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
    [file_key, env_key]: [&'static str; 2],
) -> Result<Option<Secret>, Reported> {
    let (file, env) = (section.get(file_key), section.get(env_key));
    let (node, found) = match (file, env) {
        (None, None) => return Ok(None),
        (Some(_), Some(env)) => {
            let rule = format!("`{file_key}` and `{env_key}` exclude one another");
            findings.refuse(&env.place, rule, "keep one of them");
            return Err(Reported);
        }
        (Some(node), None) => {
            let path = around.dir.join(node.word(findings).ok_or(Reported)?);
            let found = Secret::read(&path)
                .map_err(|why| format!("no secret in {}: {why}", path.display()));
            (node, found)
        }
        (None, Some(node)) => {
            let name = node.word(findings).ok_or(Reported)?;
            let found = (around.env)(&name)
                .ok_or_else(|| "the environment has no such variable".to_owned())
                .and_then(Secret::new);
            (node, found)
        }
    };
    found.map(Some).map_err(|rule| {
        let fix = "put at least 16 random bytes there, e.g. from `openssl rand -hex 32`";
        findings.refuse(&node.place, rule, fix);
        Reported
    })
}

pub(super) fn legacy(
    root: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Legacy> {
    let fix = "add [legacy] with urls = [\"http://127.0.0.1:9000\"]";
    let mut section = root.need(findings, "legacy", fix)?.section(findings)?;
    let (urls, builds, safe) = who(&mut section, findings, around);
    let rules = upstreams::rules(&mut section, findings, around, safe);
    let database = database(&mut section, findings, around);
    let cohort = section.get("cohort");
    let cohort = cohort.map(|node| slices::cohort(&node, findings));
    let guard = plan::guard(&mut section, findings);
    section.finish(findings);
    Some(Legacy {
        urls: urls?,
        builds: builds?,
        cohort: cohort.unwrap_or_default(),
        guard,
        rules,
        database: database.ok()?,
    })
}

pub(super) fn control(
    root: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Control> {
    let default = Control {
        listen: CONTROL_LISTEN,
        store: Database::Sqlite(around.dir.join(STORE)),
        token_file: around.dir.join(TOKEN_FILE),
    };
    let Some(node) = root.get("control") else {
        return Some(default);
    };
    let mut section = node.section(findings)?;
    let listen = match section.get("listen") {
        None => Some(default.listen),
        Some(node) => address(&node, findings).and_then(|address| {
            if address.ip().is_loopback() {
                return Some(address);
            }
            findings.refuse(
                &node.place,
                "the admin API listens on a loopback address only",
                format!(
                    "write \"127.0.0.1:{}\"; reach it from afar by ssh -L",
                    address.port()
                ),
            );
            None
        }),
    };
    let store = match section.get("store") {
        None => Some(default.store),
        Some(node) => match a_database(&node, findings, around) {
            Some(Database::Server(_)) => {
                let rule = "the store is an SQLite file in this version";
                findings.refuse(&node.place, rule, "write \"sqlite:outgrow-store.db\"");
                None
            }
            found => found,
        },
    };
    let token_file = match section.get("token_file") {
        None => Some(default.token_file),
        Some(node) => node.word(findings).map(|path| around.dir.join(path)),
    };
    section.finish(findings);
    Some(Control {
        listen: listen?,
        store: store?,
        token_file: token_file?,
    })
}

pub(super) fn shadow(root: &mut Section<'_>, findings: &mut Findings<'_>) -> Shadow {
    let mut build_header = None;
    if let Some(mut section) = root.get("shadow").and_then(|node| node.section(findings)) {
        build_header = section
            .get("build_header")
            .and_then(|node| token(&node, findings, "a header name"));
        section.finish(findings);
    }
    Shadow {
        build_header: build_header
            .unwrap_or_else(|| BUILD_HEADER.to_owned())
            .to_ascii_lowercase(),
    }
}

/// The services by name, with their places. One that is wrong is `None`, so that slices may
/// still name it.
pub(super) type Services = BTreeMap<String, (Place, Option<Service>)>;

pub(super) fn services(
    root: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Services {
    let mut found = BTreeMap::new();
    let Some(section) = root.get("services").and_then(|node| node.section(findings)) else {
        return found;
    };
    for (name, place, node) in section.entries() {
        let section = node.section(findings);
        let service = section.and_then(|section| service(section, findings, around));
        found.insert(name, (place, service));
    }
    found
}

/// Upstreams, or builds that have some, and what the schemes of all their URLs say.
type Who = (
    Option<Vec<outgrow_proxy::Source>>,
    Option<Vec<Build>>,
    Option<bool>,
);

fn who(section: &mut Section<'_>, findings: &mut Findings<'_>, around: Surroundings<'_>) -> Who {
    match section.get("builds") {
        None => {
            let found = sources::read(section, findings, around);
            let safe = found.as_ref().and_then(|urls| urls.safe);
            (found.map(|urls| urls.all), Some(Vec::new()), safe)
        }
        Some(node) => {
            let found = builds::read(&node, section, findings, around);
            let safe = found.as_ref().and_then(|(_, safe)| *safe);
            (Some(Vec::new()), found.map(|(builds, _)| builds), safe)
        }
    }
}

fn service(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Service> {
    let (urls, builds, safe) = who(&mut section, findings, around);
    let rules = upstreams::rules(&mut section, findings, around, safe);
    let database = database(&mut section, findings, around);
    section.finish(findings);
    Some(Service {
        urls: urls?,
        builds: builds?,
        rules,
        database: database.ok()?,
    })
}

fn database(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Result<Option<Database>, Reported> {
    let found = captured(section, findings, around);
    let Some(node) = section.get("follow_failover") else {
        return found;
    };
    if !node.boolean(findings).ok_or(Reported)? {
        return found;
    }
    let followed = match found? {
        Some(Database::Server(url)) => url.following_failover().map_err(|e| e.to_string()),
        Some(lite @ Database::Sqlite(_)) => {
            Err(outgrow_bridge::Error::NoFailover(lite.to_string()).to_string())
        }
        None => Err("it is of a database, and there is none".to_owned()),
    };
    let followed = followed.map(|url| Some(Database::Server(url)));
    followed.map_err(|rule| {
        let fix = "remove it, or have a `mysql://` database with `capture = \"replication\"`";
        findings.refuse(&node.place, rule, fix);
        Reported
    })
}

fn captured(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Result<Option<Database>, Reported> {
    let found = match section.get("database") {
        None => None,
        Some(node) => Some(a_database(&node, findings, around).ok_or(Reported)?),
    };
    let Some(node) = section.get("capture") else {
        return Ok(found);
    };
    const FIX: &str =
        "write \"triggers\", or \"replication\" for PostgreSQL 14, MySQL 8, MariaDB 10.6 or newer";
    let capture = match node.word(findings).as_deref() {
        Some("triggers") => Capture::Triggers,
        Some("replication") => Capture::Replication,
        Some(_) => {
            let rule = "there is no such way to find changes";
            findings.refuse(&node.place, rule, FIX);
            return Err(Reported);
        }
        None => return Err(Reported),
    };
    let captured = match found {
        Some(Database::Server(url)) => url.capturing(capture).map(Database::Server),
        Some(lite @ Database::Sqlite(_)) if capture == Capture::Triggers => Ok(lite),
        Some(lite @ Database::Sqlite(_)) => Err(outgrow_bridge::Error::Capture(lite.to_string())),
        None => {
            let rule = "it says how changes of a database are found, and there is none";
            findings.refuse(&node.place, rule, "add `database`, or remove it");
            return Err(Reported);
        }
    };
    captured.map(Some).map_err(|e| {
        findings.refuse(&node.place, e.to_string(), FIX);
        Reported
    })
}

fn a_database(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Database> {
    let text = node.word(findings)?;
    let text = match text.strip_prefix("env:") {
        None => text,
        Some(name) => match (around.env)(name) {
            Some(found) => found,
            None => {
                let rule = format!("the variable `{name}` is not set");
                findings.refuse(&node.place, rule, "set it to the database's URL");
                return None;
            }
        },
    };
    let fix = "write \"sqlite:PATH\", \"postgres://USER@HOST/NAME\", \"mysql://USER@HOST/NAME\", or \"env:VARIABLE\"";
    scalar::database(&text, around.dir)
        .map_err(|rule| findings.refuse(&node.place, rule, fix))
        .ok()
}

/// Addresses of which there must be one.
pub(super) fn needed_addresses(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    fix: &str,
) -> Vec<SocketAddr> {
    let (count, found) = addresses(node, findings);
    if count == 0 && node.is_list() {
        findings.refuse(&node.place, "it must not be empty", fix);
    }
    found
}

/// How many are written, and those that are right.
fn addresses(node: &Node<'_>, findings: &mut Findings<'_>) -> (usize, Vec<SocketAddr>) {
    let mut found: Vec<SocketAddr> = Vec::new();
    let items = node.list(findings);
    let count = items.len();
    for item in items {
        let Some(address) = address(&item, findings) else {
            continue;
        };
        if found.contains(&address) && address.port() != 0 {
            findings.refuse(&item.place, "it is listed twice", "remove one of them");
        }
        found.push(address);
    }
    (count, found)
}

fn address(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let text = node.word(findings)?;
    scalar::listen(&text)
        .map_err(|rule| {
            let fix = "write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for all interfaces";
            findings.refuse(&node.place, rule, fix);
        })
        .ok()
}

/// A header or cookie name.
fn token(node: &Node<'_>, findings: &mut Findings<'_>, what: &str) -> Option<String> {
    let text = node.word(findings)?;
    if scalar::is_token(&text) {
        return Some(text);
    }
    let fix = "use letters, digits, - and _";
    findings.refuse(&node.place, format!("it is not {what}"), fix);
    None
}
