//! `[[proxy.error_pages]]`: pages in place of the proxy's own answers, read with the config.

use bytes::Bytes;
use http::StatusCode;
use outgrow_proxy::{ERROR_CODES, ErrorPage};

use super::Surroundings;
use super::problem::{Findings, nearest};
use super::section::{Node, Section};

pub(super) fn read(
    node: Option<Node<'_>>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Vec<ErrorPage> {
    let items = node.map(|node| node.list(findings)).unwrap_or_default();
    let read = |node: Node<'_>| page(node.section(findings)?, findings, around);
    items.into_iter().filter_map(read).collect()
}

fn page(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<ErrorPage> {
    let place = section.place.clone();
    let fix = "write the status of the answers that it is for, e.g. 503";
    let status = section.need(findings, "status", fix);
    let status = status.and_then(|node| node.integer(findings, 400..=599));
    let code = section.get("code").and_then(|node| {
        let code = node.word(findings)?;
        if !ERROR_CODES.contains(&code.as_str()) {
            let fix = match nearest(&code, ERROR_CODES) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the codes are {}", ERROR_CODES.join(", ")),
            };
            findings.refuse(&node.place, "the proxy never says that", fix);
        }
        Some(code)
    });
    let mut file = |key, read: fn(&std::path::Path) -> Result<Bytes, String>| {
        let node = section.get(key)?;
        let path = around.dir.join(node.word(findings)?);
        let refused = |why| {
            let rule = format!("no page in {}: {why}", path.display());
            findings.refuse(&node.place, rule, "put a page there, or leave the key out");
        };
        Some(read(&path).map_err(refused).ok())
    };
    let html = file("html", ErrorPage::html);
    let json = file("json", ErrorPage::json);
    section.finish(findings);
    if html.is_none() && json.is_none() {
        findings.lack(
            &place,
            "it has no page",
            "add html = \"FILE\" or json = \"FILE\"",
        );
    }
    let status = u16::try_from(status?).ok()?;
    Some(ErrorPage {
        status: StatusCode::from_u16(status).ok()?,
        code,
        html: html.flatten(),
        json: json.flatten(),
    })
}
