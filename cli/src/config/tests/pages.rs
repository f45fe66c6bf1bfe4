//! Pages in place of the proxy's own answers.

use super::*;

fn with(text: &str) -> String {
    let before = "[proxy.identity]";
    assert_eq!(SHOP.matches(before).count(), 1);
    SHOP.replace(before, &format!("{text}\n\n{before}"))
}

#[test]
fn answers_of_the_proxys_own_may_have_pages() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (html, json) = (
        file("a.html", "<p>down"),
        file("a.json", "{\"down\": true}"),
    );
    let text = format!(
        "[[proxy.error_pages]]\nstatus = 503\ncode = \"maintenance\"\nhtml = \"{html}\"\n\
         [[proxy.error_pages]]\nstatus = 503\nhtml = \"{html}\"\njson = \"{json}\""
    );
    let pages = good(&with(&text)).proxy.error_pages;
    assert_eq!(pages[0].code.as_deref(), Some("maintenance"));
    assert!(pages[0].json.is_none());
    assert_eq!(pages[1].html.as_deref(), Some(&b"<p>down"[..]));
    let swapped = with(&text.replace(&json, &html));
    let refused = parse(&swapped).unwrap_err().to_string();
    assert!(refused.contains("it is not JSON"), "{refused}");
    golden(
        "error_pages",
        &with(
            "[[proxy.error_pages]]\nstatus = 200\nhtml = \"no.html\"\n\
             [[proxy.error_pages]]\nstatus = 503\ncode = \"maintenence\"\npage = \"x\"",
        ),
    );
}
