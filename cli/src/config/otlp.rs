//! `[proxy.trace.otlp]`: who is told of spans.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use outgrow_proxy::{SpanExport, endpoint};

use super::Surroundings;
use super::problem::{Findings, Place};
use super::secret::Secret;
use super::section::{Node, Section};

/// What exporters of OpenTelemetry wait by default.
const TIMEOUT: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn read(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<SpanExport> {
    let fix = "add endpoint = \"http://127.0.0.1:4318\"";
    let endpoint = section
        .need(findings, "endpoint", fix)
        .and_then(|node| collector(&node, findings));
    let headers = pairs(section.get("headers"), findings)
        .into_iter()
        .filter_map(|(name, place, node)| header(&name, &place, &node, findings, around));
    let headers = headers.collect();
    let ca = section.get("ca");
    let ca = ca.and_then(|node| Some((around.dir.join(node.word(findings)?), node.place)));
    let sample = section.share(findings, "sample", 1.0);
    let timeout = section.duration(findings, "timeout", TIMEOUT, 10 * MS..=MINUTE);
    let query = section.get("query").and_then(|node| node.boolean(findings));
    let resource = pairs(section.get("resource"), findings)
        .into_iter()
        .filter_map(|(name, _, node)| Some((name, node.word(findings)?)));
    let resource = resource.collect();
    section.finish(findings);
    let (ca, place) = ca.unzip();
    let export = SpanExport {
        endpoint: endpoint?,
        headers,
        ca,
        sample,
        timeout,
        query: query.unwrap_or(false),
        resource,
    };
    if let (Some(place), Err(why)) = (place, export.check()) {
        let fix = "name a file of certificates in PEM, for an endpoint of https";
        findings.refuse(&place, why, fix);
        return None;
    }
    Some(export)
}

fn collector(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Uri> {
    let text = node.word(findings)?;
    let refused = |rule| {
        let fix = "write \"http://HOST:4318\", where the collector takes OTLP over HTTP";
        findings.refuse(&node.place, rule, fix);
    };
    endpoint(&text).map_err(refused).ok()
}

fn pairs<'d>(
    node: Option<Node<'d>>,
    findings: &mut Findings<'_>,
) -> Vec<(String, Place, Node<'d>)> {
    let section = node.and_then(|node| node.section(findings));
    section.map(|section| section.entries()).unwrap_or_default()
}

/// A header of each export. What it says is in the config, in a file, or in a variable.
fn header(
    name: &str,
    place: &Place,
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<(HeaderName, HeaderValue)> {
    let parsed = HeaderName::try_from(name);
    if parsed.is_err() {
        findings.refuse(place, "it is no header", "use letters, digits and -");
    }
    let text = match node.is_text() {
        true => node.word(findings)?,
        false => kept(node, findings, around)?,
    };
    let value = HeaderValue::try_from(text);
    if value.is_err() {
        let fix = "write one line of letters, digits and signs";
        findings.refuse(&node.place, "no header can say that", fix);
    }
    let (name, mut value) = (parsed.ok()?, value.ok()?);
    value.set_sensitive(true);
    Some((name, value))
}

/// What is kept elsewhere.
fn kept(node: &Node<'_>, findings: &mut Findings<'_>, around: Surroundings<'_>) -> Option<String> {
    let mut section = node.section(findings)?;
    let (file, env) = (section.get("file"), section.get("env"));
    section.finish(findings);
    let (named, found) = match (file, env) {
        (Some(file), None) => {
            let path = around.dir.join(file.word(findings)?);
            let found = Secret::read(&path);
            let found = found.map_err(|why| format!("no secret in {}: {why}", path.display()));
            (file, found)
        }
        (None, Some(env)) => {
            let found = (around.env)(&env.word(findings)?);
            let found = found.ok_or_else(|| "the environment has no such variable".to_owned());
            (env, found.and_then(Secret::new))
        }
        _ => {
            let fix = "write { file = \"FILE\" }, { env = \"VARIABLE\" }, or the text itself";
            findings.refuse(&node.place, "it says nothing, or twice", fix);
            return None;
        }
    };
    let text = found.and_then(|secret| {
        let text = secret.text().map(str::to_owned);
        text.ok_or_else(|| "it is no text".to_owned())
    });
    let refused = |rule| {
        let fix = "put the whole value there, e.g. `Bearer TOKEN`";
        findings.refuse(&named.place, rule, fix);
    };
    text.map_err(refused).ok()
}
