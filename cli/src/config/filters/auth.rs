//! `auth`: who may ask.

use http::HeaderName;
use http::uri::PathAndQuery;
use outgrow_proxy::{AuthRule, Demand, Edit, Edits, Means, Saying, Way};

use super::super::problem::{Findings, Place};
use super::super::section::{Node, Section};

pub(super) fn read(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Option<AuthRule> {
    let mut section = node?.section(findings)?;
    let place = section.place.clone();
    let words = |words: Vec<(Place, String)>| -> Vec<String> {
        words.into_iter().map(|(_, text)| text).collect()
    };
    let issuers = section
        .get("issuers")
        .map(|node| words(node.words(findings)));
    let key = section
        .get("api_key")
        .map(|node| header(&node.place, &node.word(findings)?, findings));
    let introspection = section
        .get("introspection")
        .and_then(|node| node.word(findings));
    let cookie = section.get("cookie");
    let cookie = cookie.and_then(|node| session(&node, introspection.is_some(), findings));
    let certificate = section.get("certificate");
    let certificate = certificate.and_then(|node| node.boolean(findings)) == Some(true);
    let asked = asked(&mut section, findings);
    let optional = section.get("optional");
    let optional = optional.and_then(|node| node.boolean(findings));
    let demands = demands(section.get("require"), findings);
    let identity = section.get("identity");
    let identity = identity.and_then(|node| node.word(findings));
    section.finish(findings);
    let shown = key.is_some()
        || certificate
        || introspection.is_some()
        || issuers.as_ref().is_some_and(|names| !names.is_empty());
    let alone = demands.is_empty() && identity.is_none();
    let fix = "write issuers = [\"NAME\"], introspection = \"NAME\", api_key = \"x-api-key\", certificate = true, or service = \"NAME\"";
    let way = match (shown, asked) {
        (false, None) => {
            findings.lack(&place, "nobody could show who they are", fix);
            return None;
        }
        (true, Some(_)) => {
            let rule = "`service` decides alone, without tokens, keys and certificates";
            findings.lack(&place, rule, "keep one of the two ways");
            return None;
        }
        (true, None) => Way::Shown(Means {
            issuers: issuers.unwrap_or_default(),
            introspection,
            cookie,
            key: key.flatten(),
            certificate,
        }),
        (false, Some(asked)) => {
            let says = matches!(&asked, Some(Way::Asked { claims, .. }) if !claims.is_empty());
            if optional == Some(true) {
                let rule = "`service` decides alone: `optional` is for tokens";
                findings.lack(&place, rule, "leave it out");
            }
            if !alone && !says {
                let rule = "`service` decides alone: without `claims` there is nothing for `require` and `identity`";
                let fix = "add claims = { x-user = \"sub\" }, or leave them out";
                findings.lack(&place, rule, fix);
            }
            asked?
        }
    };
    Some(AuthRule {
        way,
        optional: optional.unwrap_or_default(),
        demands,
        identity,
    })
}

/// The name of a cookie whose value is a token.
fn session(node: &Node<'_>, asked: bool, findings: &mut Findings<'_>) -> Option<String> {
    let text = node.word(findings)?;
    if !asked {
        let rule = "nobody is asked whose session it is";
        findings.refuse(&node.place, rule, "add introspection = \"NAME\"");
    }
    // The name of a cookie is written as one of a header is (RFC 6265 section 4.1.1).
    if text.parse::<HeaderName>().is_err() {
        let fix = "use letters, digits, - and _";
        findings.refuse(&node.place, "it is not the name of a cookie", fix);
        return None;
    }
    Some(text)
}

/// A service, if one is to be asked; `Some(None)` where what is said of it is wrong.
fn asked(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Option<Option<Way>> {
    let service = section.get("service");
    let path = section.get("path").map(|node| {
        let text = node.word(findings)?;
        let path: Option<PathAndQuery> = text.parse().ok().filter(|_| text.starts_with('/'));
        if path.is_none() {
            findings.refuse(&node.place, "it is not a path", "write \"/check\"");
        }
        path
    });
    let copy = section.get("copy").map(|node| node.words(findings));
    let read = |(place, text): (Place, String)| header(&place, &text, findings);
    let copy = copy
        .unwrap_or_default()
        .into_iter()
        .filter_map(read)
        .collect();
    let claims = section.get("claims");
    if let (Some(node), None) = (&claims, &service) {
        let rule = "no service is asked for what it says of the caller";
        findings.refuse(&node.place, rule, "add service = \"NAME\", or leave it out");
    }
    let claims = sayings(claims, findings);
    let service = service?.word(findings);
    let way = |service, path| Way::Asked {
        service,
        path,
        copy,
        claims,
    };
    let path = path.unwrap_or(Some(PathAndQuery::from_static("/")));
    Some(service.zip(path).map(|(service, path)| way(service, path)))
}

/// What fields of its answer say of the caller.
fn sayings(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Vec<Saying> {
    let fields = node.and_then(|node| node.section(findings));
    let fields = fields.map(|section| section.entries()).unwrap_or_default();
    let mut found: Vec<Saying> = Vec::new();
    for (name, place, node) in fields {
        let list = !node.is_text();
        let claim = match list {
            false => node.word(findings),
            true => node.section(findings).and_then(|mut section| {
                let fix = "write \"CLAIM\", or { list = \"CLAIM\" } for values with commas";
                let claim = section.need(findings, "list", fix);
                let claim = claim.and_then(|node| node.word(findings));
                section.finish(findings);
                claim
            }),
        };
        let (Some(field), Some(claim)) = (header(&place, &name, findings), claim) else {
            continue;
        };
        if found.iter().any(|said| said.claim == claim) {
            let rule = format!("two fields would say `{claim}`");
            findings.refuse(&place, rule, "keep one of them");
        }
        found.push(Saying { field, claim, list });
    }
    found
}

/// A field that is not one of the proxy's own.
fn header(place: &Place, text: &str, findings: &mut Findings<'_>) -> Option<HeaderName> {
    let Ok(name) = text.parse::<HeaderName>() else {
        findings.refuse(
            place,
            "it is not a header name",
            "use letters, digits, - and _",
        );
        return None;
    };
    if let Err(why) = Edits::default().push(name.clone(), Edit::Remove) {
        findings.refuse(
            place,
            format!("it cannot be that one: {why}"),
            "choose another",
        );
        return None;
    }
    Some(name)
}

fn demands(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Vec<Demand> {
    let claims = node.and_then(|node| node.section(findings));
    let claims = claims.map(|section| section.entries()).unwrap_or_default();
    let mut found = Vec::new();
    for (claim, place, node) in claims {
        let values = node.words(findings);
        if values.is_empty() && node.is_list() {
            findings.refuse(&place, "nobody could have one of none", "name its values");
        }
        found.push(Demand {
            claim,
            values: values.into_iter().map(|(_, text)| text).collect(),
        });
    }
    found
}
