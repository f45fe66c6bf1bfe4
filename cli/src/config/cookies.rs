//! `[proxy.cookies]`: what the proxy's own cookies are signed with.

use super::Surroundings;
use super::problem::Findings;
use super::process::secret;
use super::secret::Secret;
use super::section::Node;

/// The keys, the one that signs first; empty where the program has one of its own. `None` is a problem.
pub(super) fn read(
    node: Option<Node<'_>>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Vec<Secret>> {
    let Some(node) = node else {
        return Some(Vec::new());
    };
    let mut section = node.section(findings)?;
    let place = section.place.clone();
    let key = secret(&mut section, findings, around, ["key_file", "key_env"]);
    let names = ["former_key_file", "former_key_env"];
    let former = secret(&mut section, findings, around, names);
    if let Ok(None) = key {
        findings.lack(
            &place,
            "the key that signs cookies is missing",
            "add key_file = \"cookies.key\", or key_env with the name of a variable; without \
             [proxy.cookies] the program makes a key of its own",
        );
    }
    section.finish(findings);
    Some(
        [Some(key.ok()??), former.ok()?]
            .into_iter()
            .flatten()
            .collect(),
    )
}
