//! Tokens and sessions that say nothing by themselves, on the real process: who is let in, who is told of whom, and
//! what becomes of it when whoever knows them is away, or the config changes.

#![allow(clippy::unwrap_used, clippy::panic)] // Set-up that fails is a failed test.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use outgrow_testkit::Upstream;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::site::{Fields, IDENTITY, Regular, Site, identity, told};

/// How a server that knows tokens answers.
#[derive(Debug, Clone)]
enum Manner {
    Knows,
    /// Never, within the patience of anybody.
    Waits,
    /// Whatever it is asked.
    Says(u16, &'static str, String),
}

struct Login {
    server: Upstream,
    manner: Arc<Mutex<Manner>>,
}

impl Login {
    async fn start() -> Self {
        let manner = Arc::new(Mutex::new(Manner::Knows));
        let at = Arc::clone(&manner);
        let server = Upstream::start(move |request: Request<Bytes>| {
            let manner = at.lock().unwrap().clone();
            async move {
                match manner {
                    Manner::Knows => said(200, "application/json", known(&request)),
                    Manner::Waits => std::future::pending().await,
                    Manner::Says(status, kind, body) => said(status, kind, body),
                }
            }
        })
        .await;
        Self { server, manner }
    }

    fn is(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }
}

fn said(status: u16, kind: &'static str, body: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status.try_into().unwrap();
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert("content-type", kind);
    answer
}

/// Of whom a token is. To somebody who does not show who it is nothing is said.
fn known(request: &Request<Bytes>) -> String {
    let shown = request.headers().get("authorization");
    let form = std::str::from_utf8(request.body()).unwrap();
    let token = form.split('&').find_map(|part| part.strip_prefix("token="));
    let user = |sub: &str, groups: &[&str], aud: &str| {
        json!({"active": true, "sub": sub, "name": sub, "aud": aud, "scope": "read write",
               "profile": {"groups": groups}})
    };
    let of = match token {
        _ if shown.is_none() => json!({"active": false}),
        Some("ann") => user("7", &["guests", "staff"], "shop"),
        Some("eve") => user("8", &["guests"], "shop"),
        Some("elsewhere") => user("9", &["staff"], "bank"),
        Some("renewal") => json!({"active": true, "sub": "7", "token_use": "refresh_token"}),
        _ => json!({"active": false}),
    };
    of.to_string()
}

/// No server of these tests takes that long, where it answers.
const LONG: &str = "20s";
/// As long as one that does not is waited for.
const SHORT: &str = "500ms";

/// Somebody who is asked about tokens, for how long, and how long its word is good; and what routes ask for.
fn config(login: &str, (timeout, keep): (&str, &str), auth: &str) -> String {
    format!(
        "[services.login]\nurls = [\"{login}\"]\n\
         [proxy.introspection.sessions]\nservice = \"login\"\npath = \"/introspect\"\n\
         client_id = \"outgrow\"\nclient_secret_file = \"login.secret\"\naudience = [\"shop\"]\n\
         timeout = \"{timeout}\"\nkeep = \"{keep}\"\n\
         [slices.catalog.filters.auth]\nintrospection = \"sessions\"\ncookie = \"sid\"\nidentity = \"sub\"\n{auth}"
    )
}

const FORGED: (&str, &str) = (IDENTITY, "forged");

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_known_by_a_token_or_a_session_and_the_service_is_told() {
    let login = Login::start().await;
    let url = login.server.url("");
    let site = Site::open(
        "",
        &config(&url, (LONG, "0s"), "require = { scope = [\"read\"] }"),
    )
    .await;
    let (ann, session) = (("authorization", "Bearer ann"), ("cookie", "a=b; sid=ann"));
    for fields in [&[ann, FORGED][..], &[session, FORGED], &[ann, session]] {
        assert_eq!(site.get(fields).await.text(), "catalog");
        let seen = site.service.seen();
        let who = identity(&seen[seen.len() - 1]).unwrap();
        assert_eq!((&who["sub"], &who["name"]), (&json!("7"), &json!("7")));
    }
    // What belongs to no slice asks nobody, and yet nobody says there who asks.
    let elsewhere = site.ask(Method::GET, "/elsewhere", &[FORGED]).await;
    assert_eq!(elsewhere.text(), "legacy");
    assert_eq!(identity(&site.legacy.seen()[0]), None);
    let seen = login.server.seen();
    assert_eq!((seen[0].target.as_str(), seen.len()), ("/introspect", 4));
    for question in &seen {
        assert_eq!(question.header("x-outgrow-identity"), None);
        let basic = question.header("authorization").unwrap();
        assert!(basic.starts_with("Basic "), "{basic}");
    }
    let before = site.asked();
    for fields in [
        &[FORGED][..],
        &[("authorization", "Bearer unknown")],
        &[("authorization", "Bearer renewal")],
        &[("authorization", "Bearer elsewhere")],
        &[("authorization", "ann")],
        &[("cookie", "sid=unknown")],
        &[("cookie", "sid=ann; sid=eve")],
        // What else is there must be right, too.
        &[ann, ("cookie", "sid=unknown")],
        &[("authorization", "Bearer unknown"), session],
    ] {
        let answer = site.get(fields).await;
        assert_eq!(told(&answer), (401, "unauthorized"), "{fields:?}");
        assert!(answer.header("www-authenticate").is_some(), "{fields:?}");
    }
    assert_eq!(site.asked(), before, "who is refused reaches no side");
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_passes_unasked() {
    let login = Login::start().await;
    let url = login.server.url("");
    let site = Site::open("", &config(&url, (SHORT, "0s"), "optional = true")).await;
    let token: Fields<'_> = &[("authorization", "Bearer ann")];
    let session: Fields<'_> = &[("cookie", "sid=ann")];
    let unasked = async |why: &str| {
        let before = site.asked();
        for fields in [token, session] {
            let answer = site.get(fields).await;
            assert_eq!(told(&answer), (503, "auth-unavailable"), "{why}");
            assert!(!answer.text().contains("active"), "{}", answer.text());
        }
        assert_eq!(site.asked(), before, "{why}");
        assert_eq!(site.get(&[FORGED]).await.status, 200, "who brings none");
    };
    let (json, good) = ("application/json", known_to_be_active());
    let says = |status, kind, body: &str| Manner::Says(status, kind, body.to_owned());
    let long = good.replace('}', &format!(",\"x\":\"{}\"}}", "x".repeat(70_000)));
    for (manner, why) in [
        (Manner::Waits, "no answer in time"),
        (says(500, json, &good), "a failure"),
        (says(401, json, &good), "it does not believe us"),
        (says(302, json, &good), "another place"),
        (says(200, "text/html", &good), "a page"),
        (
            says(200, json, &good.replace("true", "\"true\"")),
            "another word",
        ),
        (says(200, json, "[]"), "no object"),
        (says(200, json, ""), "nothing"),
        (says(200, json, &long), "too much"),
    ] {
        login.is(manner);
        unasked(why).await;
    }
    login.is(Manner::Knows);
    assert_eq!(site.get(token).await.status, 200);
    drop(login);
    unasked("nobody is there").await;
    // One that breaks off within its answer, and at last one that knows.
    let breaks = Upstream::raw(|mut stream| async move {
        let mut part = [0; 4_096];
        let _ = stream.read(&mut part).await;
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
        let _ = stream.write_all(head.as_bytes()).await;
    })
    .await;
    let (own, another) = (breaks.url(""), Login::start().await);
    site.reload("", &config(&own, (SHORT, "0s"), "optional = true"))
        .await;
    unasked("it breaks off").await;
    let own = another.server.url("");
    site.reload("", &config(&own, (SHORT, "0s"), "optional = true"))
        .await;
    assert_eq!(site.get(token).await.status, 200);
    site.close().await;
}

fn known_to_be_active() -> String {
    json!({"active": true, "sub": "7", "aud": "shop"}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_who_may_ask_and_nobody_who_may_is_refused() {
    let login = Login::start().await;
    let url = login.server.url("");
    let everybody = config(&url, (LONG, "0s"), "");
    let staff = "require = { \"profile.groups\" = [\"staff\", \"owners\"] }";
    let staff = config(&url, (LONG, "1m"), staff);
    let site = Site::open("", &everybody).await;
    let (ann, eve) = (("authorization", "Bearer ann"), ("cookie", "sid=eve"));
    let regulars = [
        Regular::begin(&site.url("/api/products"), &[ann]),
        Regular::begin(&site.url("/api/products/7"), &[("cookie", "sid=ann")]),
        Regular::begin(&site.url("/elsewhere"), &[]),
    ];
    let more = async || {
        for regular in &regulars {
            regular.more().await;
        }
    };
    for _ in 0..2 {
        more().await;
        assert_eq!(site.get(&[eve]).await.status, 200);
        site.reload("", &staff).await;
        assert_eq!(told(&site.get(&[eve]).await), (403, "forbidden"));
        // Its word is good for a while now.
        more().await;
        let before = login.server.seen().len();
        more().await;
        assert_eq!(told(&site.get(&[eve]).await), (403, "forbidden"));
        assert_eq!(login.server.seen().len(), before);
        // Ann's token and Eve's, once each since the reload.
        for (metric, expected) in [
            (
                "questions_total{kind=\"introspection\",name=\"sessions\",outcome=\"passed\"}",
                2.0,
            ),
            (
                "questions_total{kind=\"introspection\",name=\"sessions\",outcome=\"failed\"}",
                0.0,
            ),
            (
                "question_duration_seconds_count{kind=\"introspection\",name=\"sessions\"}",
                2.0,
            ),
            ("tokens_total{name=\"sessions\",source=\"asked\"}", 2.0),
            ("kept_answers{name=\"sessions\"}", 2.0),
        ] {
            let told = site.figure(&format!("outgrow_auth_{metric}")).await;
            assert_eq!(told, Some(expected), "{metric}");
        }
        let kept = "outgrow_auth_tokens_total{name=\"sessions\",source=\"kept\"}";
        assert!(site.figure(kept).await.unwrap() > 20.0);
        site.reload("", &everybody).await;
    }
    // What is taken back is taken back at once where each request asks.
    let gone = said_inactive();
    for regular in regulars {
        regular.end().await;
    }
    login.is(gone);
    assert_eq!(told(&site.get(&[ann]).await), (401, "unauthorized"));
    site.close().await;
}

fn said_inactive() -> Manner {
    Manner::Says(200, "application/json", "{\"active\":false}".to_owned())
}
