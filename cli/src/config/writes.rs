//! Copies of writes: which routes have them, how, and whom they go to.

use outgrow_proxy::{Address, Source};
use outgrow_shadow::{RouteShadow, Writes};

use super::model::SliceShadow;
use super::problem::{Findings, Place};
use super::scalar;
use super::section::{Node, Section};

const WORDS: &str = "write \"dry-run\", \"sandbox\" or \"record\"";
const URLS: &str = "write sandbox_urls = [\"http://HOST:PORT\"] or [\"unix:/PATH\"]";

/// `writes` and `writes_reverse` of an entry of `by_route`.
pub(super) fn of_routes(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    own: &mut RouteShadow,
) {
    let node = section.get("writes");
    own.writes = node.as_ref().and_then(|node| word(node, findings));
    if let (Some(node), Some(_)) = (&node, own.posts) {
        let rule = "its POSTs are reads already, by `posts`";
        findings.refuse(&node.place, rule, "keep one of the two");
    }
    let Some(reverse) = section.get("writes_reverse") else {
        return;
    };
    own.writes_reverse = reverse.boolean(findings).unwrap_or_default();
    if own.writes_reverse && own.writes != Some(Writes::DryRun) {
        let rule = "only dry runs can go to the legacy side";
        let fix = "write writes = \"dry-run\" beside it, or remove it";
        findings.refuse(&reverse.place, rule, fix);
    }
}

fn word(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Writes> {
    match node.word(findings)?.as_str() {
        "dry-run" => Some(Writes::DryRun),
        "sandbox" => Some(Writes::Sandbox),
        "record" => Some(Writes::Record),
        _ => {
            findings.refuse(&node.place, "it is no way to copy writes", WORDS);
            None
        }
    }
}

/// Refuses a route that has no writes.
pub(super) fn check_route(
    place: &Place,
    route: &str,
    own: RouteShadow,
    findings: &mut Findings<'_>,
) {
    let method = route.split(' ').next().unwrap_or_default();
    if own.writes.is_some() && !matches!(method, "POST" | "PUT" | "PATCH" | "DELETE") {
        let fix = "name routes of POST, PUT, PATCH or DELETE, or remove `writes`";
        findings.refuse(place, "it has no writes", fix);
    }
}

/// `sandbox_urls`.
pub(super) fn sandbox(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Vec<Address> {
    let Some(node) = section.get("sandbox_urls") else {
        return Vec::new();
    };
    let words = node.words(findings);
    if words.is_empty() && node.is_list() {
        findings.refuse(&node.place, "it names no upstream", URLS);
    }
    let mut found = Vec::new();
    for (place, text) in words {
        match scalar::upstream(&text) {
            Ok((Source::At(address), Some(false))) if !found.contains(&address) => {
                found.push(address);
            }
            Ok((Source::At(_), Some(false))) => {
                findings.refuse(&place, "it is listed twice", "remove one of them");
            }
            Ok(_) => findings.refuse(&place, "the shadow does not ask a sandbox so", URLS),
            Err(rule) => findings.refuse(&place, rule, URLS),
        }
    }
    found
}

/// What the rest of the slice says of its writes. `is_fenced`: it has tables, and one side at a
/// time may write them.
pub(super) fn check(
    shadow: &SliceShadow,
    at: &Place,
    is_fenced: bool,
    findings: &mut Findings<'_>,
) {
    let first = |writes| {
        let mut routes = shadow.flow.routes.iter();
        routes.find(|(_, own)| own.writes == Some(writes))
    };
    if let Some((route, _)) = first(Writes::DryRun).filter(|_| is_fenced) {
        let rule = format!(
            "`{route}` has dry runs, and the fence refuses every write of the slice's tables that \
             is not the bridge's, also one that is taken back"
        );
        let fix = "write writes = \"sandbox\" or \"record\" for the route";
        findings.lack(at, rule, fix);
    }
    match (first(Writes::Sandbox), shadow.sandbox.is_empty()) {
        (Some((route, _)), true) => {
            let rule = format!("the writes of `{route}` go to a sandbox, and there is none");
            findings.lack(at, rule, URLS);
        }
        (None, false) => {
            let rule = "no route has writes for the sandbox";
            let fix = "remove sandbox_urls, or write writes = \"sandbox\" in by_route";
            findings.lack(at, rule.to_owned(), fix);
        }
        _ => {}
    }
}

/// A sandbox that answers clients is none.
pub(super) fn check_sandbox<'a>(
    shadow: &SliceShadow,
    at: &Place,
    mut upstreams: impl Iterator<Item = (String, &'a Source)>,
    findings: &mut Findings<'_>,
) {
    if shadow.sandbox.is_empty() {
        return;
    }
    let known = |address: &Address| here(address.as_str());
    let own: Vec<String> = shadow.sandbox.iter().map(known).collect();
    let taken = upstreams.find(|(_, source)| match source {
        Source::At(address) => own.contains(&here(address.as_str())),
        _ => false,
    });
    if let Some((whose, source)) = taken {
        let rule =
            format!("the sandbox {source} is an upstream of {whose}: copies would be writes");
        let fix = "start another instance of the service, with a database of its own";
        findings.lack(at, rule, fix);
    }
}

/// This machine has several names for itself.
fn here(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("localhost" | "127.0.0.1" | "[::1]", port)) => format!("localhost:{port}"),
        _ => address.to_owned(),
    }
}
