//! Two answers to one request: status, headers, body by its content type.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION, VARY};
use http::{HeaderMap, HeaderName, StatusCode};
use similar::{ChangeTag, TextDiff};
use time::Date;

use crate::body::{self, Body, hash};
use crate::diff::{self, Change, Difference, diff, sides};
use crate::fields;
use crate::json::Json;
use crate::path::{Place, Root};
use crate::rules::Rules;
use crate::twin;

/// The headers that say something about the content.
const HEADERS: [HeaderName; 5] = [CONTENT_TYPE, CACHE_CONTROL, LOCATION, ETAG, VARY];

/// How a call of gRPC has ended.
const GRPC_ENDS: [&str; 2] = ["grpc-message", "grpc-status"];

/// A text diff takes no longer; what is left then is one large change.
const TEXT_TIME: Duration = Duration::from_millis(50);

/// Of a line. Longer than what is shown, so that no secret is cut before it is known.
const LINE_MAX: usize = 1_000;

/// An answer of one side.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Why two answers cannot be compared.
pub(crate) type Incomparable = &'static str;

/// How answers are compared today.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By<'a> {
    pub(crate) headers: Option<&'a [String]>,
    pub(crate) rules: &'a Rules,
    /// The bound of a copied body.
    pub(crate) body_cap: usize,
    pub(crate) today: Date,
}

/// The headers that an answer must be kept with, to be compared again.
pub(crate) fn names(own: Option<&[String]>) -> Vec<String> {
    let own = own.unwrap_or_default().iter();
    let mut names: Vec<String> = own.map(|name| name.to_ascii_lowercase()).collect();
    names.extend(HEADERS.iter().map(|name| name.as_str().to_owned()));
    names.sort();
    names.dedup();
    names
}

/// All differences that no rule accepts.
pub(crate) fn compare(
    legacy: &Answer,
    extracted: &Answer,
    by: By<'_>,
) -> Result<Vec<Difference>, Incomparable> {
    let mut found = Vec::new();
    if legacy.status != extracted.status && !by.rules.accept_status(by.today) {
        found.push(Difference {
            place: Place::Status,
            kind: "value",
            legacy: legacy.status.as_u16().to_string(),
            extracted: extracted.status.as_u16().to_string(),
        });
    }
    match by.headers {
        None => HEADERS
            .iter()
            .for_each(|name| header(name.as_str(), legacy, extracted, by, &mut found)),
        Some(names) => names
            .iter()
            .for_each(|name| header(name, legacy, extracted, by, &mut found)),
    }
    trailers(legacy, extracted, by, &mut found);
    match body(legacy, extracted, by, &mut found) {
        // What the heads say stands, whatever the bodies hide.
        Err(reason) if found.is_empty() => Err(reason),
        _ => Ok(found),
    }
}

fn header(
    name: &str,
    legacy: &Answer,
    extracted: &Answer,
    by: By<'_>,
    found: &mut Vec<Difference>,
) {
    let ours = legacy.headers.get_all(name);
    let is_same = ours.iter().eq(extracted.headers.get_all(name).iter());
    if is_same && !by.rules.about_ids() {
        return;
    }
    let name = name.to_ascii_lowercase();
    let a = fields::value(&legacy.headers, &name);
    let b = fields::value(&extracted.headers, &name);
    let root = Root::Header(name);
    found.extend(sides(a.as_ref(), b.as_ref(), &root, by.rules, by.today));
}

/// Trailers are few, and each was sent on purpose: all are compared. How a call of gRPC has ended is
/// said in trailers, or in the head where there is no message.
fn trailers(legacy: &Answer, extracted: &Answer, by: By<'_>, found: &mut Vec<Difference>) {
    let is_call = [legacy, extracted].map(|side| body::kind(&side.headers) == "grpc");
    let mut names: BTreeSet<&str> = [legacy, extracted]
        .into_iter()
        .flat_map(|side| side.trailers.keys().map(HeaderName::as_str))
        .collect();
    if is_call == [true; 2] {
        names.extend(GRPC_ENDS);
    }
    for name in names {
        let value = |side: &Answer| {
            let told = fields::value(&side.trailers, name);
            let in_head =
                || fields::value(&side.headers, name).filter(|_| GRPC_ENDS.contains(&name));
            told.or_else(in_head)
        };
        let (a, b) = (value(legacy), value(extracted));
        let root = Root::Trailer(name.to_owned());
        found.extend(sides(a.as_ref(), b.as_ref(), &root, by.rules, by.today));
    }
}

fn body(
    legacy: &Answer,
    extracted: &Answer,
    by: By<'_>,
    found: &mut Vec<Difference>,
) -> Result<(), Incomparable> {
    let all = by.rules.look_at_equal(&Root::Body, by.today);
    if legacy.body == extracted.body && !all {
        return Ok(());
    }
    let plain = |side: &Answer| body::decoded(&side.headers, &side.body, by.body_cap);
    let (ours, theirs) = match (plain(legacy), plain(extracted)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        // Whatever they say, they say the same.
        _ if legacy.body == extracted.body => return Ok(()),
        (Err(reason), _) | (_, Err(reason)) => return Err(reason),
    };
    let are_equal = ours == theirs;
    if are_equal && !all {
        return Ok(());
    }
    let (kind, other) = (body::kind(&legacy.headers), body::kind(&extracted.headers));
    let kind = if kind == other { kind } else { "other" };
    if kind == "json"
        && !all
        && let Some(twin) = twin::read(&ours, &theirs, by.rules)
    {
        found.extend(diff::twins(&twin, &Root::Body, by.rules, by.today));
        return Ok(());
    }
    // Of equal pages nothing has to be left out.
    let left_out = match are_equal {
        true => Vec::new(),
        false => by.rules.left_out(by.today),
    };
    let (read, other) = (
        body::read(kind, &legacy.headers, &ours, &left_out),
        body::read(kind, &extracted.headers, &theirs, &left_out),
    );
    if let (Body::Tree(a), Body::Tree(b)) = (&read, &other) {
        found.extend(diff(a, b, &Root::Body, by.rules, by.today));
        return Ok(());
    }
    let binary = matches!(read, Body::Bytes(_)) || matches!(other, Body::Bytes(_));
    let whole = |bytes: &Bytes| match std::str::from_utf8(bytes) {
        Ok(text) if !binary => text.to_owned(),
        _ => hash(bytes),
    };
    let (a, b) = (whole(&ours), whole(&theirs));
    let (json, other) = (Json::String(a.clone()), Json::String(b.clone()));
    if are_equal {
        if !binary {
            found.extend(diff(&json, &other, &Root::Body, by.rules, by.today));
        }
        return Ok(());
    }
    let change = Change::Value(&json, &other);
    if by.rules.accept(&Root::Body, &[], &change, by.today) {
        return Ok(());
    }
    let (legacy, extracted) = if binary {
        (a, b)
    } else {
        changed_lines(&a, &b)
    };
    found.push(Difference {
        place: Place::Body(Vec::new()),
        kind: "value",
        legacy,
        extracted,
    });
    Ok(())
}

/// The body as a document, where it is one.
pub(crate) fn document(answer: &Answer, body_cap: usize) -> Option<Json> {
    let body = body::decoded(&answer.headers, &answer.body, body_cap).ok()?;
    match body::read(body::kind(&answer.headers), &answer.headers, &body, &[]) {
        Body::Tree(json) => Some(json),
        Body::Text(_) | Body::Bytes(_) => None,
    }
}

/// The first changed line of each side.
fn changed_lines(legacy: &str, extracted: &str) -> (String, String) {
    let diff = TextDiff::configure()
        .timeout(TEXT_TIME)
        .diff_lines(legacy, extracted);
    let first = |tag| {
        let line = diff.iter_all_changes().find(|change| change.tag() == tag);
        let line = line.map(|change| change.value().trim_end().chars().take(LINE_MAX).collect());
        line.unwrap_or_else(|| "absent".to_owned())
    };
    (first(ChangeTag::Delete), first(ChangeTag::Insert))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer(status: u16, kind: &'static str, body: &'static str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]),
            body: Bytes::from_static(body.as_bytes()),
            trailers: HeaderMap::new(),
        }
    }

    fn found(a: &Answer, b: &Answer) -> Vec<String> {
        let by = By {
            headers: None,
            rules: &Rules::default(),
            body_cap: 1 << 20,
            today: crate::rules::today(),
        };
        let all = compare(a, b, by).unwrap();
        all.iter()
            .map(|d| format!("{} {}: {} / {}", d.kind, d.place, d.legacy, d.extracted))
            .collect()
    }

    #[test]
    fn each_part_is_compared_in_its_own_way() {
        let json = answer(200, "application/json", r#"{"price":"1.05"}"#);
        let other = answer(404, "Application/JSON", r#"{"price":"1.04"}"#);
        assert_eq!(
            found(&json, &other),
            [
                "value status: 200 / 404",
                r#"value $.price: "1.05" / "1.04""#
            ]
        );
        let page = answer(200, "text/plain; charset=utf-8", "a\nb\nc");
        let late = answer(200, "text/plain;charset=utf-8", "a\nx\nc");
        assert_eq!(found(&page, &late), ["value $: b / x"]);
        assert!(found(&page, &page).is_empty());
    }

    #[test]
    fn ids_are_one_renaming_in_bodies_links_and_headers() {
        let rule = |path: &str| crate::settings::Rule {
            path: path.to_owned(),
            reason: "given anew".to_owned(),
            until: None,
            owner: None,
            accept: crate::settings::Accept::RenamedAs("order".to_owned()),
        };
        let paths = ["$.id", "$.self", "header:location"].map(rule);
        let rules = Rules::new(&paths, &[]).unwrap();
        let side = |id: &str, link: &str, location: &str| {
            let mut made = answer(201, "application/json", "");
            made.body = Bytes::from(format!(
                r#"{{"id":{id},"self":"/orders/{link}/lines?of={link}"}}"#
            ));
            let location = format!("https://shop.example/orders/{location}");
            made.headers
                .insert(LOCATION, HeaderValue::try_from(location).unwrap());
            made
        };
        let differ = |a: &Answer, b: &Answer| {
            let by = By {
                headers: None,
                rules: &rules,
                body_cap: 1 << 20,
                today: crate::rules::today(),
            };
            let found = compare(a, b, by).unwrap();
            found
                .iter()
                .map(|one| one.place.to_string())
                .collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(
            differ(&side("17", "17", "17"), &side("\"a9\"", "a9", "a9")),
            none
        );
        assert_eq!(
            differ(&side("17", "17", "17"), &side("901", "a9", "a9")),
            ["$.id"]
        );
        assert_eq!(
            differ(&side("18", "18", "18"), &side("902", "902", "902")),
            none
        );
        assert_eq!(
            differ(&side("19", "19", "19"), &side("903", "903", "903")),
            none
        );
        // One swapped id, wherever it is.
        assert_eq!(
            differ(&side("18", "18", "18"), &side("902", "903", "902")),
            ["$.self"]
        );
        assert_eq!(
            differ(&side("18", "18", "18"), &side("902", "902", "903")),
            ["header:location"]
        );
        assert_eq!(
            differ(&side("18", "18", "18"), &side("903", "902", "902")),
            ["$.id"]
        );
        // Other paths are no renaming.
        let mut moved = side("902", "902", "902");
        moved.headers.insert(
            LOCATION,
            HeaderValue::from_static("https://shop.example/902"),
        );
        assert_eq!(differ(&side("18", "18", "18"), &moved), ["header:location"]);
    }

    #[test]
    fn trailers_are_compared_and_a_call_may_end_in_its_head() {
        let trailer = |answer: &Answer, name: &'static str, value: &'static str| {
            let mut answer = answer.clone();
            let value = HeaderValue::from_static(value);
            answer.trailers.insert(name, value);
            answer
        };
        let page = answer(200, "text/plain", "a");
        let summed = trailer(&page, "x-sum", "1");
        assert_eq!(
            found(&page, &summed),
            ["extra trailer:x-sum: absent / \"1\""]
        );
        assert!(found(&summed, &summed).is_empty());
        let call = answer(200, "application/grpc+proto", "\0\0\0\0\0");
        let well = trailer(&call, "grpc-status", "0");
        let lost = trailer(&trailer(&call, "grpc-status", "5"), "grpc-message", "none");
        assert_eq!(
            found(&well, &lost),
            [
                "extra trailer:grpc-message: absent / \"none\"",
                "value trailer:grpc-status: \"0\" / \"5\""
            ]
        );
        let mut in_head = call.clone();
        for (name, value) in [("grpc-status", "5"), ("grpc-message", "none")] {
            in_head
                .headers
                .insert(name, HeaderValue::from_static(value));
        }
        assert!(found(&lost, &in_head).is_empty());
        let other = answer(200, "application/grpc+proto", "\0\0\0\0\u{2}\u{8}\u{7}");
        let one = answer(200, "application/grpc+proto", "\0\0\0\0\u{2}\u{8}\u{6}");
        assert_eq!(found(&one, &other), ["value $[0].1[0]: 6 / 7"]);
    }

    #[test]
    fn a_header_that_one_side_lacks_is_named() {
        let json = answer(200, "application/json", "{}");
        let mut bare = json.clone();
        bare.headers.clear();
        assert_eq!(
            found(&json, &bare)[0],
            "missing header:content-type: \"application/json\" / absent"
        );
    }
}
