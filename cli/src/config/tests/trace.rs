//! Request ids and traces.

use outgrow_proxy::{Timing, TraceSettings};

use super::*;

/// The shop's config with this in `[proxy.trace]`.
fn with(text: &str) -> String {
    let before = "[proxy.identity]";
    assert_eq!(SHOP.matches(before).count(), 1);
    SHOP.replace(before, &format!("[proxy.trace]\n{text}\n\n{before}"))
}

#[test]
fn requests_are_marked_as_the_file_says() {
    let of = |request_id, span, start| TraceSettings {
        request_id,
        span,
        start,
        server_timing: None,
    };
    assert_eq!(good(SHOP).proxy.trace, of(false, false, false));
    assert_eq!(good(&with("")).proxy.trace, of(true, true, false));
    let told = good(&with("request_id = false\nstart = true")).proxy.trace;
    assert_eq!(told, of(false, true, true));
    assert_eq!(
        good(&with("span = false")).proxy.trace,
        of(true, false, false)
    );
    let timed = good(&with("server_timing = \"always\"")).proxy.trace;
    assert_eq!(timed.server_timing, Some(Timing::Everybody));
    golden("trace_timing", &with("server_timing = \"me\""));
    golden(
        "trace_timing_of_testers",
        &with("server_timing = \"testers\""),
    );
    golden("trace", &with("span = false\nstart = true"));
    golden("trace_words", &with("request_id = 1\nspan = \"yes\""));
}

#[test]
fn spans_are_told_to_whom_the_file_says() {
    let read = |text: &str| good(&with(&format!("[proxy.trace.otlp]\n{text}"))).proxy;
    let proxy = read("endpoint = \"http://tempo:4318\"");
    assert!(proxy.trace.span && proxy.trace.start);
    let told = proxy.spans.unwrap();
    assert_eq!(told.endpoint, "http://tempo:4318/v1/traces");
    assert_eq!((told.sample, told.query), (1.0, false));
    let told = read(
        "endpoint = \"https://api.example/otlp\"\nsample = 0.1\nquery = true\ntimeout = \"2s\"\n\
         headers = { x-team = \"shop\", authorization = { env = \"IDENTITY\" } }\n\
         resource = { \"service.name\" = \"front\" }",
    );
    let told = told.spans.unwrap();
    assert_eq!(told.endpoint.path(), "/otlp");
    assert_eq!((told.sample, told.timeout), (0.1, Duration::from_secs(2)));
    let fields: Vec<_> = told
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    assert_eq!(
        fields[0],
        ("x-team", &http::HeaderValue::from_static("shop"))
    );
    assert_eq!(fields[1].1, "0123456789abcdef0123456789abcdef");
    assert!(!format!("{told:?}").contains("0123"), "nobody prints it");
    assert_eq!(
        told.resource,
        [("service.name".to_owned(), "front".to_owned())]
    );
    let quiet = "start = false\n[proxy.trace.otlp]\nendpoint = \"http://tempo:4318\"";
    assert!(!good(&with(quiet)).proxy.trace.start);
    golden("otlp_nowhere", &with("[proxy.trace.otlp]\nsample = 10"));
    golden(
        "otlp_wrong",
        &with(
            "span = false\n[proxy.trace.otlp]\nendpoint = \"tempo:4318\"\nquery = 1\n\
             headers = { \"a b\" = \"c\", d = { env = \"NOT_SET\" }, e = {}, f = \"\\n\" }\n\
             resource = { \"service.name\" = 1 }",
        ),
    );
    golden(
        "otlp_authorities",
        &with("[proxy.trace.otlp]\nendpoint = \"https://tempo\"\nca = \"none.pem\""),
    );
}

#[test]
fn every_key_of_spans_is_in_the_reference() {
    let errors = parse(&with(
        "[proxy.trace.otlp]\nendpoint = \"http://a\"\nQQQQ = 1",
    ));
    let errors = errors.unwrap_err();
    let keys = errors.problems[0]
        .fix
        .split_once("the keys here are ")
        .unwrap()
        .1;
    let part = REFERENCE.split("### `[proxy.trace.otlp]`").nth(1).unwrap();
    let part = part.split("\n### ").next().unwrap();
    for key in keys.split(", ") {
        assert!(part.contains(&format!("| `{key}` |")), "{key}");
    }
}

#[test]
fn every_key_of_traces_is_in_the_reference() {
    let errors = parse(&with("QQQQ = 1")).unwrap_err();
    let unknown = &errors.problems[0];
    let keys = unknown.fix.split_once("the keys here are ").unwrap().1;
    let part = REFERENCE.split("### `[proxy.trace]`").nth(1).unwrap();
    let part = part.split("\n### ").next().unwrap();
    for key in keys.split(", ") {
        assert!(part.contains(&format!("| `{key}` |")), "{key}");
    }
}
