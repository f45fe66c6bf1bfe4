//! `[slices.ID.shadow.legacy_request]` and `extracted_request`: what copies for one side have of
//! their own.

use http::{HeaderName, HeaderValue};
use outgrow_proxy::{Edit, Edits};
use outgrow_rollout::Side;
use outgrow_shadow::{Cookies, Pass, Query, Rewrite};

use super::Surroundings;
use super::problem::{Findings, Place};
use super::process::secret;
use super::scalar;
use super::section::{Node, Section};

const VALUE: &str = "write text, { env = \"VARIABLE\" } or { file = \"PATH\" }";

pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
    side: Side,
) -> Rewrite {
    let mut found = Rewrite::usual(side);
    let key = match side {
        Side::Legacy => "legacy_request",
        Side::Extracted => "extracted_request",
    };
    let Some(mut section) = section.get(key).and_then(|node| node.section(findings)) else {
        return found;
    };
    if let Some(node) = section.get("remove") {
        let words = node.words(findings).into_iter();
        let name = |(place, name): (Place, String)| field(&place, &name, findings);
        found.remove = words.filter_map(name).collect();
    }
    found.set = fields(section.get("set"), findings, around);
    found.add = fields(section.get("add"), findings, around);
    if let Some(node) = section.get("authorization") {
        match node.word(findings).as_deref() {
            Some("pass") => found.authorization = true,
            Some("drop") => found.authorization = false,
            None => {}
            Some(_) => {
                let fix = "write \"pass\" or \"drop\"; `set` puts another in its place";
                findings.refuse(&node.place, "it is not what can be done with it", fix);
            }
        }
    }
    if let Some(section) = section.get("cookies").and_then(|n| n.section(findings)) {
        cookies(section, &mut found.cookies, findings, around);
    }
    if let Some(section) = section.get("query").and_then(|n| n.section(findings)) {
        found.query = query(section, findings);
    }
    section.finish(findings);
    found
}

/// A field that is the config's to change, by the rules of the proxy's filters.
fn field(place: &Place, name: &str, findings: &mut Findings<'_>) -> Option<HeaderName> {
    let Ok(header) = name.parse::<HeaderName>() else {
        let rule = format!("`{name}` is not a header name");
        findings.lack(place, rule, "use letters, digits, - and _");
        return None;
    };
    if header == http::header::COOKIE {
        let rule = "cookies go on by their names".to_owned();
        findings.lack(place, rule, "write cookies = { .. }");
        return None;
    }
    if let Err(why) = Edits::default().push(header.clone(), Edit::Remove) {
        let rule = format!("`{name}` cannot be changed: {why}");
        findings.lack(place, rule, "remove it here");
        return None;
    }
    Some(header)
}

fn fields(
    node: Option<Node<'_>>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let section = node.and_then(|node| node.section(findings));
    let entries = section.map(|section| section.entries()).unwrap_or_default();
    let one = |(name, place, node): (String, Place, Node<'_>)| {
        let name = field(&place, &name, findings);
        let value = value(&node, findings, around);
        Some((name?, value?))
    };
    entries.into_iter().filter_map(one).collect()
}

/// As it is written, or a secret.
fn value(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<HeaderValue> {
    let read = if node.is_text() {
        HeaderValue::from_str(node.text(findings)?)
    } else {
        let mut section = node.section(findings)?;
        let found = secret(&mut section, findings, around, ["file", "env"]);
        section.finish(findings);
        let Some(found) = found.ok()? else {
            findings.refuse(&node.place, "it says no value", VALUE);
            return None;
        };
        HeaderValue::from_bytes(found.bytes())
    };
    match read {
        Ok(mut value) => {
            value.set_sensitive(true);
            Some(value)
        }
        Err(_) => {
            findings.refuse(&node.place, "it is not the value of a header", VALUE);
            None
        }
    }
}

fn cookies(
    mut section: Section<'_>,
    found: &mut Cookies,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) {
    if let Some(node) = section.get("pass") {
        found.pass = match node.is_text() {
            true if node.text(findings) == Some("all") => Pass::All,
            true => {
                let fix = "write \"all\", or a list of names";
                findings.refuse(&node.place, "it is not which cookies go on", fix);
                Pass::default()
            }
            false => Pass::These(tokens(&node, findings)),
        };
    }
    if let Some(node) = section.get("drop") {
        found.drop = tokens(&node, findings);
    }
    found.rename = pairs(section.get("rename"), true, findings);
    let set = section.get("set").and_then(|node| node.section(findings));
    for (name, place, node) in set.map(|set| set.entries()).unwrap_or_default() {
        let Some(value) = value(&node, findings, around) else {
            continue;
        };
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b";,\"\\".contains(byte);
        if !value.as_bytes().iter().all(plain) {
            let fix = "write it without spaces, commas, semicolons, quotes and backslashes";
            findings.refuse(&node.place, "it is not the value of a cookie", fix);
        } else if is_cookie(&place, &name, findings) {
            found.set.push((name, value));
        }
    }
    section.finish(findings);
}

fn is_cookie(place: &Place, name: &str, findings: &mut Findings<'_>) -> bool {
    if !scalar::is_token(name) {
        let rule = format!("`{name}` is not the name of a cookie");
        findings.lack(place, rule, "write the bare name");
    }
    scalar::is_token(name)
}

fn tokens(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<String> {
    let words = node.words(findings).into_iter();
    let token = |(place, name): (Place, String)| is_cookie(&place, &name, findings).then_some(name);
    words.filter_map(token).collect()
}

/// Names and texts; both are names of cookies, or any.
fn pairs(
    node: Option<Node<'_>>,
    are_cookies: bool,
    findings: &mut Findings<'_>,
) -> Vec<(String, String)> {
    let section = node.and_then(|node| node.section(findings));
    let entries = section.map(|section| section.entries()).unwrap_or_default();
    let one = |(from, place, node): (String, Place, Node<'_>)| {
        let to = node.text(findings)?.to_owned();
        let are_good = !are_cookies
            || is_cookie(&place, &from, findings) && is_cookie(&node.place, &to, findings);
        are_good.then_some((from, to))
    };
    entries.into_iter().filter_map(one).collect()
}

fn query(mut section: Section<'_>, findings: &mut Findings<'_>) -> Query {
    let remove = section.get("remove").map(|node| node.words(findings));
    let remove = remove.unwrap_or_default().into_iter();
    let found = Query {
        remove: remove.map(|(_, name)| name).collect(),
        rename: pairs(section.get("rename"), false, findings),
        set: pairs(section.get("set"), false, findings),
    };
    section.finish(findings);
    found
}
