//! `[proxy.trace]`: request ids and the proxy's place in traces.

use outgrow_proxy::{SpanExport, Timing, TraceSettings};

use super::Surroundings;
use super::otlp;
use super::problem::Findings;
use super::section::Node;

pub(super) fn read(
    node: Option<Node<'_>>,
    has_secret: bool,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> (TraceSettings, Option<SpanExport>) {
    let section = node.and_then(|node| node.section(findings));
    let Some(mut section) = section else {
        return Default::default();
    };
    let mut flag = |key| {
        let node = section.get(key)?;
        let on = node.boolean(findings)?;
        Some((node, on))
    };
    let request_id = flag("request_id").is_none_or(|(_, on)| on);
    let span = flag("span").is_none_or(|(_, on)| on);
    let start = flag("start");
    if let Some((node, true)) = &start
        && !span
    {
        let fix = "leave `span` out, or `start`";
        findings.refuse(&node.place, "only a span begins a trace", fix);
    }
    let export = section.get("otlp");
    if let Some(node) = &export
        && !span
    {
        let fix = "leave `span` out, or this table";
        findings.refuse(&node.place, "there are no spans to tell of", fix);
    }
    // Who wants to see traces wants to see them from here on.
    let begins = start.map_or(export.is_some(), |(_, on)| on);
    let export = export.and_then(|node| node.section(findings));
    let export = export.and_then(|section| otlp::read(section, findings, around));
    let server_timing = section.get("server_timing");
    let server_timing = server_timing.and_then(|node| timing(&node, has_secret, findings));
    section.finish(findings);
    let settings = TraceSettings {
        request_id,
        span,
        start: begins,
        server_timing,
    };
    (settings, export)
}

fn timing(node: &Node<'_>, has_secret: bool, findings: &mut Findings<'_>) -> Option<Timing> {
    match node.word(findings)?.as_str() {
        "always" => Some(Timing::Everybody),
        "testers" if has_secret => Some(Timing::Testers),
        "testers" => {
            let fix = "set `override_secret_file` of [proxy], by which they are known";
            findings.refuse(&node.place, "testers have no secret", fix);
            None
        }
        _ => {
            let fix = "write \"testers\" or \"always\"";
            findings.refuse(&node.place, "nobody of that name is told", fix);
            None
        }
    }
}
