//! `cors`: whose pages may read answers.

use std::time::Duration;

use http::{HeaderName, Method};
use outgrow_proxy::{Cors, CorsRule, Origin};

use super::super::problem::Findings;
use super::super::section::{Node, Section};

/// What browsers send without asking.
const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];
/// Longer than any browser remembers it.
const MAX_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

pub(super) fn read(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Option<Cors> {
    let mut section = node?.section(findings)?;
    let place = section.place.clone();
    let fix = "write origins = [\"https://shop.example\"]";
    let listed = section.need(findings, "origins", fix);
    let listed = listed.map(|node| node.words(findings));
    // Where the key is missing or its origins are none that is said already.
    let empty = listed.as_ref().is_some_and(Vec::is_empty);
    let listed = listed.unwrap_or_default();
    let mut origins = Vec::new();
    for (place, text) in listed {
        match text.parse::<Origin>() {
            Ok(origin) => origins.push(origin),
            Err(rule) => {
                let fix = "write \"https://HOST\", \"https://*.HOST\" or \"*\"";
                findings.refuse(&place, rule, fix);
            }
        }
    }
    let methods = names(
        &mut section,
        findings,
        "methods",
        "an HTTP method",
        |text| Method::from_bytes(text.as_bytes()).ok(),
    );
    let header = |text: &str| text.parse::<HeaderName>().ok().filter(|_| text != "*");
    let headers = names(&mut section, findings, "headers", "a header name", header);
    let expose = names(&mut section, findings, "expose", "a header name", header);
    let credentials = section.get("credentials");
    let credentials = credentials.and_then(|node| node.boolean(findings));
    let max_age = section.get("max_age");
    let max_age = max_age.and_then(|node| node.duration(findings, Duration::ZERO..=MAX_AGE_MAX));
    section.finish(findings);
    if origins.is_empty() && !empty {
        return None;
    }
    let made = Cors::new(CorsRule {
        origins,
        methods: methods.unwrap_or(METHODS.to_vec()),
        headers: headers.unwrap_or_default(),
        expose: expose.unwrap_or_default(),
        credentials: credentials.unwrap_or_default(),
        max_age,
    });
    let refused = |rule| findings.lack(&place, rule, "name the origins whose pages may ask");
    made.map_err(refused).ok()
}

fn names<T>(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    key: &'static str,
    wanted: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Option<Vec<T>> {
    let words = section.get(key)?.words(findings);
    let mut found = Vec::new();
    for (place, text) in words {
        match read(&text) {
            Some(one) => found.push(one),
            None => findings.refuse(&place, format!("it is not {wanted}"), "name each by itself"),
        }
    }
    Some(found)
}
