//! Fields that make another request of one, on the real process: `overrides` of its config.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use http::Method;

use crate::site::{Fields, Regular, Site, told};

/// Slice and fields as they come to the monolith.
const FIELDS: [(&str, &str); 3] = [
    ("x-original-url", "/api/products"),
    ("X_HTTP_Method", "POST"),
    ("x-other", "stays"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_becomes_of_them() {
    let [check, strip, pass] =
        ["check", "strip", "pass"].map(|word| format!("overrides = \"{word}\""));
    // Nobody without credentials is on a route of the slice.
    let auth = "[slices.catalog.filters.auth]\nservice = \"catalog\"\npath = \"/gate\"\n";
    let site = Site::open("", auth).await;
    let harmless: Fields<'_> = &[("x-http-method-override", "PUT")];
    let regulars = [
        Regular::begin(&site.url("/login"), harmless),
        Regular::begin(&site.url("/api/products"), &[]),
    ];
    let get = async || site.ask(Method::GET, "/login", &FIELDS).await;
    let had = || {
        let seen = site.legacy.seen();
        let last = seen
            .iter()
            .rev()
            .find(|seen| seen.headers.contains_key("x-other"));
        let last = last.unwrap().clone();
        ["x-original-url", "x_http_method", "x-other"]
            .map(|name| last.header(name).map(str::to_owned))
    };
    for _ in 0..2 {
        // The default, and said.
        assert_eq!(told(&get().await), (400, "malformed"));
        let read: Fields<'_> = &[("x-http-method-override", "DELETE")];
        assert_eq!(told(&site.get(read).await), (400, "malformed"));
        site.reload(&strip, auth).await;
        assert_eq!(get().await.text(), "legacy");
        assert_eq!(had(), [None, None, Some("stays".to_owned())]);
        assert_eq!(site.get(read).await.text(), "catalog");
        site.reload(&pass, auth).await;
        assert_eq!(get().await.text(), "legacy");
        assert_eq!(had(), FIELDS.map(|(_, value)| Some(value.to_owned())));
        for regular in &regulars {
            regular.more().await;
        }
        site.reload(&check, auth).await;
    }
    for regular in regulars {
        regular.end().await;
    }
    site.close().await;
}
