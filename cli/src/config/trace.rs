//! `[proxy.trace]`: request ids and the proxy's place in traces.

use outgrow_proxy::{Timing, TraceSettings};

use super::problem::Findings;
use super::section::{Node, Section};

pub(super) fn read(
    mut section: Section<'_>,
    has_secret: bool,
    findings: &mut Findings<'_>,
) -> TraceSettings {
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
    let server_timing = section.get("server_timing");
    let server_timing = server_timing.and_then(|node| timing(&node, has_secret, findings));
    section.finish(findings);
    TraceSettings {
        request_id,
        span,
        start: start.is_some_and(|(_, on)| on),
        server_timing,
    }
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
