//! `[slices.ID.events]`: where the changes of a slice's rows are told, and how.

use std::fmt;
use std::path::PathBuf;

use super::Surroundings;
use super::problem::Findings;
use super::section::{Node, Section};

/// Some hundred megabytes of noted keys: days of a broker that is away, with the heartbeats
/// counted in, on any disk that a shop's database is on.
const KEEP: u64 = 2_000_000;
/// Fewer are reached while a broker restarts.
const KEEP_MIN: u64 = 1_000;
const KEEP_MAX: u64 = 1_000_000_000;
/// Each table has a subject of its own.
const SUBJECT: &str = "outgrow.{slice}.{table}";

/// Change events to NATS JetStream.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "nats"), allow(dead_code))] // Refused by such a build.
pub(crate) struct Events {
    pub(crate) server: BrokerUrl,
    /// Made when it is not there.
    pub(crate) stream: String,
    /// With `{slice}` and `{table}`.
    pub(crate) subject: String,
    /// Changes that are kept for a broker that is away.
    pub(crate) keep: u64,
    /// Whether events show the row from before a change, too.
    pub(crate) before: bool,
    /// A `.creds` file.
    pub(crate) credentials: Option<PathBuf>,
    /// A CA beside those of the machine.
    pub(crate) ca: Option<PathBuf>,
}

/// `nats://HOST:PORT` or `tls://..`; user, password and token in it are never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BrokerUrl(url::Url);

#[cfg_attr(not(feature = "nats"), allow(dead_code))] // As above.
impl BrokerUrl {
    pub(crate) fn url(&self) -> &url::Url {
        &self.0
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port().unwrap_or(4222);
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}:{port}", self.0.scheme())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `None` where the slice has no such section, or together with a finding.
pub(super) fn read(
    slice: &mut Section<'_>,
    name: &str,
    has_tables: bool,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Events> {
    let node = slice.get("events")?;
    if !cfg!(feature = "nats") {
        let fix = "build it with `--features nats`, or remove the section";
        findings.refuse(&node.place, "this outgrow was built without NATS", fix);
        return None;
    }
    let mut section = node.section(findings)?;
    if !has_tables {
        let fix = "remove it, or give the slice tables";
        findings.lack(
            &section.place,
            "a slice without tables has no changes to tell",
            fix,
        );
    }
    let fix = "write nats = \"nats://HOST:4222\", or \"env:VARIABLE\"";
    let server = section
        .need(findings, "nats", fix)
        .and_then(|node| broker(&node, findings, around));
    let stream = match section.get("stream") {
        None => Some(format!("outgrow-{name}")),
        Some(node) => token(&node, findings),
    };
    let subject = match section.get("subject") {
        None => Some(SUBJECT.to_owned()),
        Some(node) => subject(&node, findings),
    };
    let keep = section.get("keep").map_or(Some(KEEP), |node| {
        node.integer(findings, KEEP_MIN..=KEEP_MAX)
    });
    let before = section
        .get("before")
        .map_or(Some(false), |node| node.boolean(findings));
    let mut file = |key| {
        let node = section.get(key)?;
        node.word(findings).map(|path| around.dir.join(path))
    };
    let (credentials, ca) = (file("credentials"), file("ca"));
    section.finish(findings);
    Some(Events {
        server: server?,
        stream: stream?,
        subject: subject?,
        keep: keep?,
        before: before?,
        credentials,
        ca,
    })
}

fn broker(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<BrokerUrl> {
    let text = node.word(findings)?;
    let text = match text.strip_prefix("env:") {
        None => text,
        Some(name) => match (around.env)(name) {
            Some(found) => found,
            None => {
                let rule = format!("the variable `{name}` is not set");
                findings.refuse(&node.place, rule, "set it to the broker's URL");
                return None;
            }
        },
    };
    let found = url::Url::parse(text.trim())
        .ok()
        .filter(|url| ["nats", "tls"].contains(&url.scheme()))
        .filter(|url| url.host_str().is_some_and(|host| !host.is_empty()))
        .filter(|url| ["", "/"].contains(&url.path()) && url.query().is_none());
    if found.is_none() {
        let fix = "write \"nats://HOST:4222\", \"tls://HOST:4222\", or \"env:VARIABLE\"";
        findings.refuse(&node.place, "it is not the URL of a NATS server", fix);
    }
    found.map(BrokerUrl)
}

/// A stream's name.
fn token(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = node.word(findings)?;
    if text.chars().all(allowed) {
        return Some(text);
    }
    let fix = "leave spaces, `.`, `*`, `>`, `/` and `\\` out";
    findings.refuse(&node.place, "it is not the name of a stream", fix);
    None
}

fn allowed(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !".*>/\\".contains(c)
}

fn subject(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = node.word(findings)?;
    let plain = text.replace("{slice}", "s").replace("{table}", "t");
    let whole = |token: &str| !token.is_empty() && token.chars().all(allowed);
    if plain.split('.').all(whole) && !plain.contains(['{', '}']) {
        return Some(text);
    }
    let fix = "write words with points between, e.g. \"outgrow.{slice}.{table}\"";
    findings.refuse(&node.place, "it is not a subject", fix);
    None
}
