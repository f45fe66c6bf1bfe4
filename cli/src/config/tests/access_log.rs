//! Which requests are logged.

use outgrow_proxy::LogFormat;

use super::*;

/// The shop's config with this in `[proxy.access_log]`.
fn with(text: &str) -> String {
    let before = "[proxy.identity]";
    assert_eq!(SHOP.matches(before).count(), 1);
    SHOP.replace(before, &format!("[proxy.access_log]\n{text}\n\n{before}"))
}

#[test]
fn requests_are_logged_as_the_file_says() {
    assert_eq!(good(SHOP).proxy.access_log, None);
    let usual = good(&with("file = \"-\"")).proxy.access_log.unwrap();
    assert_eq!((usual.file, usual.format), (None, LogFormat::Json));
    assert_eq!((usual.slow, usual.query), (None, true));
    assert!((usual.sample - 1.0).abs() < f64::EPSILON);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("a.log");
    let rest = "format = \"combined\"\nsample = 0.01\nslow = \"500ms\"\nquery = false";
    let text = format!("file = \"{}\"\n{rest}", file.display());
    let own = good(&with(&text)).proxy.access_log.unwrap();
    assert_eq!(own.file.unwrap(), file);
    assert_eq!((own.format, own.query), (LogFormat::Combined, false));
    assert_eq!(own.slow, Some(Duration::from_millis(500)));
    assert!((own.sample - 0.01).abs() < f64::EPSILON);
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    golden("access_log_without_anything", &with("format = \"xml\""));
    let text = "file = \"/no/such/folder/a.log\"\nsample = 5\nslow = \"2h\"\nquery = \"no\"";
    golden("access_log", &with(text));
}

#[test]
fn every_key_of_the_log_is_in_the_reference() {
    let errors = parse(&with("file = \"-\"\nQQQQ = 1")).unwrap_err();
    let unknown = &errors.problems[0];
    let keys = unknown.fix.split_once("the keys here are ").unwrap().1;
    let part = REFERENCE.split("### `[proxy.access_log]`").nth(1).unwrap();
    let part = part.split("\n### ").next().unwrap();
    for key in keys.split(", ") {
        assert!(part.contains(&format!("| `{key}` |")), "{key}");
    }
}
