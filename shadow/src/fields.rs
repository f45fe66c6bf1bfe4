//! Response headers by what they mean: two that say the same are equal, however they are written.

use http::HeaderMap;
use time::format_description::BorrowedFormatItem;
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use crate::json::Json;

/// The three forms of a date (RFC 9110 5.6.7).
const DATES: [&[BorrowedFormatItem<'_>]; 3] = [
    format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    ),
    format_description!(
        "[weekday], [day]-[month repr:short]-[year repr:last_two] [hour]:[minute]:[second] GMT"
    ),
    format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    ),
];

/// The values of a header as a tree; `None` where it is not there.
pub(crate) fn value(headers: &HeaderMap, name: &str) -> Option<Json> {
    let all: Vec<String> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    if all.is_empty() {
        return None;
    }
    let joined = all.join(", ");
    Some(match name {
        "set-cookie" => cookies(&all),
        "date" | "last-modified" | "expires" => moment(&joined),
        "vary" | "allow" | "accept-ranges" | "content-language" => names(&joined),
        "cache-control" => directives(&joined),
        // Weak or strong, the content is meant to be the same for a reader (RFC 9110 8.8.3.2).
        "etag" => text(joined.strip_prefix("W/").unwrap_or(&joined)),
        "link" => links(&joined),
        // Names of types and charsets have no case, and spaces mean nothing (RFC 9110 8.3.1).
        "content-type" => text(&media_type(&joined)),
        _ => text(&joined),
    })
}

fn text(text: &str) -> Json {
    Json::String(text.to_owned())
}

/// Case is kept in what may be a boundary.
fn media_type(text: &str) -> String {
    let parts = text.split(';').map(|part| {
        let part = part.trim();
        match part.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                format!("charset={}", value.trim_matches('"').to_ascii_lowercase())
            }
            Some((name, value)) => format!("{}={value}", name.to_ascii_lowercase()),
            None => part.to_ascii_lowercase(),
        }
    });
    parts.collect::<Vec<_>>().join(";")
}

/// Each cookie by its name, with its value and attributes.
fn cookies(all: &[String]) -> Json {
    let one = |line: &String| {
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = split(parts.next().unwrap_or_default());
        let mut members = vec![("value".to_owned(), text(value))];
        for part in parts.filter(|part| !part.is_empty()) {
            let (attribute, value) = split(part);
            let attribute = attribute.to_ascii_lowercase();
            let value = match (attribute.as_str(), value) {
                ("expires", date) => moment(date),
                ("samesite", value) => text(&value.to_ascii_lowercase()),
                ("domain", value) => text(&value.trim_start_matches('.').to_ascii_lowercase()),
                ("secure" | "httponly" | "partitioned", _) => Json::Bool(true),
                (_, value) => text(value),
            };
            members.push((attribute, value));
        }
        (name.to_owned(), Json::object(members))
    };
    Json::object(all.iter().map(one).collect())
}

fn split(part: &str) -> (&str, &str) {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    (name.trim(), value.trim())
}

/// A moment in one way of writing; other text stays as it is (`Expires: 0` is none).
fn moment(date: &str) -> Json {
    let date = date.trim();
    let parsed = DATES.iter().find_map(|form| parse_date(date, form));
    match parsed.and_then(|at| {
        at.format(&time::format_description::well_known::Rfc3339)
            .ok()
    }) {
        Some(at) => Json::String(at),
        None => text(date),
    }
}

fn parse_date(date: &str, form: &[BorrowedFormatItem<'_>]) -> Option<OffsetDateTime> {
    Some(PrimitiveDateTime::parse(date, form).ok()?.assume_utc())
}

/// A list of names, whose order and case mean nothing.
fn names(all: &str) -> Json {
    let names = all.split(',').map(|name| name.trim().to_ascii_lowercase());
    let names: std::collections::BTreeSet<String> = names.filter(|name| !name.is_empty()).collect();
    Json::object(
        names
            .into_iter()
            .map(|name| (name, Json::Bool(true)))
            .collect(),
    )
}

/// Directives by name (RFC 9111 5.2); numbers as such.
fn directives(all: &str) -> Json {
    let parts = outside_quotes(all, ',').into_iter().map(str::trim);
    let one = |part: &str| {
        let (name, value) = split(part);
        let value = value.trim_matches('"');
        let value = match value.parse::<u64>() {
            Ok(_) => crate::json::parse(value.as_bytes()).unwrap_or_else(|| text(value)),
            Err(_) if value.is_empty() => Json::Bool(true),
            Err(_) => text(value),
        };
        (name.to_ascii_lowercase(), value)
    };
    Json::object(parts.filter(|part| !part.is_empty()).map(one).collect())
}

/// Links by their relation (RFC 8288), with the target and the other parameters.
fn links(all: &str) -> Json {
    let mut found = Vec::new();
    for part in outside_quotes(all, ',') {
        let mut parts = outside_quotes(part, ';').into_iter().map(str::trim);
        let target = parts.next().unwrap_or_default();
        let target = target.trim_start_matches('<').trim_end_matches('>');
        let mut members = vec![("href".to_owned(), text(target))];
        let mut rel = String::new();
        for part in parts {
            let (name, value) = split(part);
            let value = value.trim_matches('"');
            if name.eq_ignore_ascii_case("rel") {
                rel = value.to_ascii_lowercase();
            } else {
                members.push((name.to_ascii_lowercase(), text(value)));
            }
        }
        found.push((rel, Json::object(members)));
    }
    Json::object(found)
}

/// Parts between these signs that are neither in quotes nor in `<>`.
fn outside_quotes(all: &str, sign: char) -> Vec<&str> {
    let (mut quoted, mut target) = (false, false);
    all.split(|c| {
        match c {
            '"' => quoted = !quoted,
            '<' if !quoted => target = true,
            '>' if !quoted => target = false,
            _ => {}
        }
        c == sign && !quoted && !target
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn of(name: &'static str, values: &[&str]) -> Option<Json> {
        let pair = |value: &&str| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            (HeaderName::from_static(name), value)
        };
        value(&values.iter().map(pair).collect(), name)
    }

    #[test]
    fn what_means_the_same_is_equal() {
        for (name, a, b, equal) in [
            ("vary", "Accept, Origin", "origin,accept", true),
            ("vary", "Accept", "Accept, Origin", false),
            (
                "cache-control",
                "max-age=60, private",
                "private,max-age=\"60\"",
                true,
            ),
            ("cache-control", "max-age=60", "max-age=61", false),
            ("cache-control", "private=\"a, b\"", "private=\"a\"", false),
            ("etag", "W/\"a\"", "\"a\"", true),
            ("etag", "\"a\"", "\"b\"", false),
            (
                "last-modified",
                "Sun, 06 Nov 1994 08:49:37 GMT",
                "Sun Nov  6 08:49:37 1994",
                true,
            ),
            ("expires", "0", "-1", false),
            (
                "link",
                "</a>; rel=next, </b>; rel=\"prev\"",
                "</b>;rel=prev, </a>;rel=\"next\"",
                true,
            ),
            ("link", "</a,b>; rel=next", "</a>; rel=next", false),
            (
                "content-type",
                "text/HTML; charset=UTF-8",
                "text/html;charset=utf-8",
                true,
            ),
            (
                "content-type",
                "multipart/mixed; boundary=A",
                "multipart/mixed; boundary=a",
                false,
            ),
            (
                "set-cookie",
                "a=1; Path=/; HttpOnly",
                "a=1; httponly; path=/",
                true,
            ),
            ("set-cookie", "a=1; Secure", "a=1", false),
        ] {
            assert_eq!(of(name, &[a]) == of(name, &[b]), equal, "{name}: {a} | {b}");
        }
        assert_eq!(of("vary", &["a", "b"]), of("vary", &["b, a"]));
        assert_eq!(
            of("set-cookie", &["a=1", "b=2"]),
            of("set-cookie", &["b=2", "a=1"])
        );
        assert_eq!(of("vary", &[]), None);
    }

    proptest! {
        #[test]
        fn any_value_is_read(value in "[ -~]{0,80}") {
            for name in ["set-cookie", "date", "vary", "cache-control", "etag", "link", "content-type", "x-own"] {
                let again = of(name, &[&value]);
                prop_assert!(again.is_some() && again == of(name, &[&value]));
            }
        }
    }
}
