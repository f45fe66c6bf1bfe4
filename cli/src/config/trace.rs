//! `[proxy.trace]`: request ids and the proxy's place in traces.

use outgrow_proxy::TraceSettings;

use super::problem::Findings;
use super::section::Section;

pub(super) fn read(mut section: Section<'_>, findings: &mut Findings<'_>) -> TraceSettings {
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
    section.finish(findings);
    TraceSettings {
        request_id,
        span,
        start: start.is_some_and(|(_, on)| on),
    }
}
