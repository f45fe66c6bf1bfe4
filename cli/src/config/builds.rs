//! `[services.NAME.builds.BUILD]`: several builds of one service.

use outgrow_rollout::BuildName;

use super::Surroundings;
use super::model::Build;
use super::problem::Findings;
use super::section::{Node, Section};
use super::sources;

/// Each has upstreams, checks and connections of its own.
const BUILDS_MAX: usize = 16;

/// The builds, and what the schemes of all their URLs say, where they say anything.
pub(super) fn read(
    node: &Node<'_>,
    service: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<(Vec<Build>, Option<bool>)> {
    for key in ["urls", "discovery"] {
        if let Some(node) = service.get(key) {
            let rule = "the service has `builds`, each with upstreams of its own";
            findings.refuse(&node.place, rule, "move it into one of the builds");
        }
    }
    let entries = node.section(findings)?.entries();
    let fix = "write [services.NAME.builds.blue] with urls";
    if entries.is_empty() {
        findings.refuse(&node.place, "it names no build", fix);
    }
    if entries.len() > BUILDS_MAX {
        let rule = format!("there are more than {BUILDS_MAX} builds");
        findings.refuse(&node.place, rule, "remove those that nobody goes back to");
    }
    let (count, mut said, mut found) = (entries.len(), None, Vec::new());
    for (name, place, node) in entries {
        let name = BuildName::new(name).map_err(|error| {
            findings.refuse(&place, error.to_string(), "call it \"blue\" or \"v42\"");
        });
        let Some(mut section) = node.section(findings) else {
            continue;
        };
        let urls = sources::read(&mut section, findings, around);
        section.finish(findings);
        let (Ok(name), Some(urls)) = (name, urls) else {
            continue;
        };
        if let (Some(said), Some(safe)) = (said, urls.safe)
            && said != safe
        {
            let rule = "some builds are asked over TLS and others are not";
            findings.refuse(&place, rule, "write the `urls` of all of them alike");
        }
        said = said.or(urls.safe);
        found.push(Build {
            name,
            urls: urls.all,
        });
    }
    (count > 0 && found.len() == count).then_some((found, said))
}
