//! What a request is told apart by: method, parameters, headers, cookies. What must not be kept is
//! a token already; a cause shows all the same, because equal values have equal tokens.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::redact::Redactor;
use crate::tap::{CapturedRequest, Exchange};

/// Features of one request; the first ones, where a client sends more.
const FEATURES_MAX: usize = 48;

/// Longer values are rarely what a server decides by; of these it only counts that they are there.
const VALUE_MAX: usize = 80;

/// Headers that each request has another value of, or that are no business of an application.
const NOT_LOOKED_AT: [&str; 26] = [
    "connection",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "date",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
    "x-correlation-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "if-none-match",
    "if-modified-since",
    "referer",
];

/// Where in a request a feature is. In the order in which they are believed, where two separate
/// failing requests from passing ones equally well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    Method,
    Operation,
    Query,
    Path,
    Header,
    Cookie,
    /// The side whose answer the client got.
    Primary,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "method",
            Self::Operation => "operation",
            Self::Query => "query",
            Self::Path => "path",
            Self::Header => "header",
            Self::Cookie => "cookie",
            Self::Primary => "primary",
        })
    }
}

/// One feature of one request. Without a value where only its presence is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Feature {
    pub(crate) part: Part,
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

impl Feature {
    pub(crate) fn new(part: Part, name: &str, value: Option<String>) -> Self {
        Self {
            part,
            name: name.to_owned(),
            value,
        }
    }
}

/// The features of an exchange's request.
pub(crate) fn of(exchange: &Exchange, redactor: &Redactor) -> Vec<Feature> {
    let request = &exchange.request;
    let mut found = vec![
        Feature::new(Part::Method, "", Some(request.method.to_string())),
        Feature::new(Part::Primary, "", Some(exchange.primary.to_string())),
    ];
    let mut add = |part, name: &str, value: &str| {
        let value = (value.chars().count() <= VALUE_MAX).then(|| redactor.named(name, value));
        found.push(Feature::new(part, name, value));
    };
    for (name, value) in parameters(request) {
        add(Part::Query, &name, &value);
    }
    // Of what the route leaves open, the endpoint may know the template.
    let template = match exchange.route.contains("{*") {
        true => &exchange.endpoint,
        false => &exchange.route,
    };
    for (name, value) in segments(template, request.target.path()) {
        add(Part::Path, name, value);
    }
    let operation = exchange.endpoint.strip_prefix(&*exchange.route);
    if let Some(name) = operation.and_then(|rest| rest.strip_prefix('#')) {
        add(Part::Operation, "", name);
    }
    for (name, value) in &request.headers {
        let name = name.as_str();
        let text = String::from_utf8_lossy(value.as_bytes());
        match name {
            "cookie" => {
                for pair in text.split(';') {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    // Whatever its name, a cookie's value is its client's.
                    add(
                        Part::Cookie,
                        name.trim(),
                        &redactor.hidden_text(value.trim()),
                    );
                }
            }
            // The product alone: versions are many.
            "user-agent" => add(
                Part::Header,
                name,
                text.split(['/', ' ']).next().unwrap_or_default(),
            ),
            _ if looked_at(name) => add(Part::Header, name, &text),
            _ => {}
        }
    }
    found.truncate(FEATURES_MAX);
    found
}

/// Whether an application may decide by this header.
pub(crate) fn looked_at(name: &str) -> bool {
    !NOT_LOOKED_AT.contains(&name)
}

fn parameters(request: &CapturedRequest) -> impl Iterator<Item = (String, String)> + '_ {
    let query = request.target.query().unwrap_or_default();
    let word = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (word(name), word(value))
    })
}

/// The parts of a path that its template leaves open. A route's label ends in its template.
pub(crate) fn segments<'a>(route: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    let template = route.rsplit(' ').next().unwrap_or_default();
    let template = template.get(template.find('/').unwrap_or(0)..);
    let wanted = template.unwrap_or_default().split('/');
    let open = |part: &'a str| part.strip_prefix('{')?.strip_suffix('}');
    wanted
        .zip(path.split('/'))
        .filter_map(|(wanted, seen)| Some((open(wanted)?, seen)))
        .filter(|(name, _)| !name.starts_with('*'))
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};

    use super::*;
    use crate::draft::Draft;
    use crate::raw::Raw;
    use crate::tap::Ticket;

    fn exchange(route: &str, target: &str, headers: &[(&'static str, &'static str)]) -> Exchange {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        let ticket = Ticket::of_nobody(0, route.into());
        let fields = headers.iter().map(pair).collect();
        let none = HeaderName::from_static("x-none");
        let raw = Raw::asked(target, &fields, &none);
        Draft::begin(ticket, Method::GET, raw).open().unwrap()
    }

    #[test]
    fn a_request_is_told_apart_and_no_secret_is_kept() {
        let headers = [
            ("accept-language", "de"),
            ("x-request-id", "1"),
            ("authorization", "Bearer s3cret"),
            ("cookie", "theme=dark; sid=s3cret"),
            ("user-agent", "curl/8.1"),
        ];
        let target = "/api/products/7/prices?currency=JPY&q=a%20b+c&token=s3cret&mail=a@b.example";
        let found = of(
            &exchange("GET /api/products/{id}/prices", target, &headers),
            &Redactor::new(&[]).unwrap(),
        );
        let text = |part, name: &str| {
            let mut all = found.iter().filter(|f| f.part == part && f.name == name);
            all.next().map(|f| f.value.clone().unwrap_or_default())
        };
        assert_eq!(text(Part::Query, "currency").as_deref(), Some("JPY"));
        assert_eq!(text(Part::Query, "q").as_deref(), Some("a b c"));
        assert_eq!(text(Part::Path, "id").as_deref(), Some("7"));
        assert_eq!(text(Part::Method, "").as_deref(), Some("GET"));
        assert_eq!(text(Part::Header, "accept-language").as_deref(), Some("de"));
        assert_eq!(text(Part::Header, "user-agent").as_deref(), Some("curl"));
        assert_eq!(text(Part::Header, "x-request-id"), None);
        let all = format!("{found:?}");
        assert!(!all.contains("s3cret") && !all.contains("b.example") && !all.contains("dark"));
        for hidden in [
            text(Part::Cookie, "sid"),
            text(Part::Query, "token"),
            text(Part::Header, "authorization"),
        ] {
            assert!(hidden.unwrap().starts_with("[hidden "));
        }
    }

    #[test]
    fn what_is_long_or_much_is_cut() {
        let many: Vec<String> = (0..100).map(|n| format!("p{n}=1")).collect();
        let target = format!("/x?long={}&{}", "y".repeat(500), many.join("&"));
        let found = of(
            &exchange("GET /x", &target, &[]),
            &Redactor::new(&[]).unwrap(),
        );
        assert_eq!(found.len(), FEATURES_MAX);
        assert!(found.contains(&Feature::new(Part::Query, "long", None)));
    }

    #[test]
    fn open_segments_have_their_templates_names() {
        assert_eq!(segments("GET /a/{id}/b", "/a/7/b"), [("id", "7")]);
        assert_eq!(segments("GET shop.example/a/{id}", "/a/7"), [("id", "7")]);
        assert_eq!(segments("GET /files/{*rest}", "/files/a/b"), []);
        assert_eq!(segments("/", "/a"), []);
    }
}
