//! Fields that make another request of one, and those by which testers choose a side, on the real
//! process: `overrides` and `override_secret_file` of its config.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use http::Method;

use crate::harness::run_in;
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

/// White space around it is no part of it, and another one counts from the next reload.
#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_secret_of_a_file_chooses_a_side() {
    let key = "override_secret_file = \"testers.secret\"";
    let site = Site::open("", "").await;
    let file = site.dir.path().join("testers.secret");
    let side = async |secret: &str| {
        let fields = [("x-outgrow-side", "legacy"), ("x-outgrow-secret", secret)];
        site.get(&fields).await.text()
    };
    let [first, second] = ["the testers' first one", "the testers' second one"];
    assert_eq!(side(first).await, "catalog", "nobody has set one");
    std::fs::write(&file, format!("{first}\r\n")).unwrap();
    site.reload(key, "").await;
    assert_eq!(side(first).await, "legacy");
    for wrong in ["", second, &first[1..], &format!("{first}.")] {
        assert_eq!(side(wrong).await, "catalog", "{wrong}");
    }
    std::fs::write(&file, format!(" {second}")).unwrap();
    assert_eq!(
        side(first).await,
        "legacy",
        "nobody has said that there is another one"
    );
    site.reload(key, "").await;
    assert_eq!(side(first).await, "catalog");
    assert_eq!(side(second).await, "legacy");
    // What cannot be had is named, and what was before stays.
    for (bytes, why) in [
        (Some("short\n"), "the secret has 5 bytes, 16 is the least"),
        (None, "No such file"),
    ] {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        for order in ["reload", "check"] {
            let ended = run_in(site.dir.path(), &[order]).await;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert_ne!(ended.code, 0, "{order}: {said}");
            for part in ["proxy.override_secret_file", "testers.secret: ", why] {
                assert!(said.contains(part), "{order}: {said}");
            }
        }
        assert_eq!(side(second).await, "legacy");
    }
    for seen in [site.legacy.seen(), site.service.seen()].concat() {
        assert_eq!(seen.header("x-outgrow-secret"), None);
    }
    site.close().await;
}
