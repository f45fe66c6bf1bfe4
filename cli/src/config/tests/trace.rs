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
