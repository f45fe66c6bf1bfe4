//! Fields by which some servers take a request for another one.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use outgrow_proxy::{Filters, Overrides, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::{Answer, client};

use crate::harness::{Front, named, plain, sliced, start};
use crate::proving::{guarded, shown};

async fn ask(front: &Front, method: Method, path: &str, fields: &[(&str, &str)]) -> Answer {
    let request = client::request(method, &front.url(path), fields, Bytes::new());
    client::send(request).await
}

fn refused(answer: &Answer) -> bool {
    let code = answer.header("x-outgrow-error");
    (answer.status.as_u16(), code) == (400, Some("malformed"))
}

/// Routes of the slice are `GET` and `POST /api/items` and `GET /api/items/{id}`.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_could_be_another_routes_is_refused_and_no_other() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    let (get, post) = (Method::GET, Method::POST);
    for (method, path, field, value, good) in [
        // What concerns no slice is the monolith's own matter.
        (&post, "/login", "x-http-method-override", "DELETE", true),
        (&get, "/login", "x-original-url", "/admin?x=1", true),
        // A front that says what it was asked.
        (
            &get,
            "/api/items/7",
            "x-original-url",
            "/api/items/7?a=b",
            true,
        ),
        // Commas in it are its own.
        (
            &get,
            "/api/items/7",
            "x-original-url",
            "/api/items/7?ids=1,2,3,4,5,6",
            true,
        ),
        (&get, "/login", "x-original-url", "/of,1,2,3,4,5/x", true),
        (&get, "/login", "x-original-url", "/of,/api/items", false),
        (
            &get,
            "/api/items/7",
            "x-rewrite-url",
            "http://shop/api/items/8",
            true,
        ),
        (&post, "/api/items", "x-http-method-override", "POST", true),
        (&post, "/api/items", "x-http-method-override", "GET", true),
        // Past the slice's writer.
        (&get, "/login", "x-original-url", "/api/items", false),
        (&get, "/login", "X_Original_URL", "/api/items", false),
        (&get, "/login", "x-rewrite-url", "//api/./items", false),
        (
            &post,
            "/api/items/7",
            "x-http-method-override",
            "get",
            false,
        ),
        (&post, "/api/items/7", "x-method-override", "GET", false),
        // A write that looks like a read.
        (&get, "/api/items", "x-http-method-override", "POST", false),
        (&get, "/api/items", "x-http-method", "DELETE", false),
        // Nobody could tell.
        (&post, "/login", "x-http-method", "a b", false),
        (&get, "/login", "x-original-url", "/a,/b,/c,/d,/e", false),
    ] {
        let answer = ask(&front, method.clone(), path, &[(field, value)]).await;
        let said = format!("{method} {path} {field}: {value}: {}", answer.status);
        assert_eq!(refused(&answer), !good, "{said}");
        assert_eq!(answer.status == 200, good, "{said}");
    }
    let both = [("x-http-method", "POST"), ("x-original-url", "/api/items")];
    assert!(refused(&ask(&front, Method::PUT, "/login", &both).await));
    let seen = legacy.seen();
    assert_eq!(seen[0].header("x-http-method-override"), Some("DELETE"));
    assert_eq!(seen.len() + extracted.seen().len(), 8);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_past_who_may_ask() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut rule = shown(None);
    rule.optional = true;
    let mut settings = guarded(&legacy, &extracted, rule);
    // One route of the slice asks nobody.
    settings.slices[0].routes[0].filters = Some(Arc::new(Filters::default()));
    settings.auth.issuers = vec![crate::proving::issuer(
        outgrow_proxy::KeySource::Url(legacy.url("/keys").parse().unwrap()),
        crate::proving::LONG,
    )];
    let front = start(settings);
    let field = [("x-original-url", "/api/items/7")];
    let open = ask(&front, Method::GET, "/api/items", &field).await;
    assert!(refused(&open), "{}", open.status);
    let field = [("x-original-url", "/api/items")];
    let guarded = ask(&front, Method::GET, "/api/items/7", &field).await;
    assert_eq!(guarded.status, 200, "it is guarded more than what it names");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_may_take_them_off_or_let_them_pass() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let with = |overrides| Settings {
        overrides,
        ..sliced(&legacy, &extracted)
    };
    let fields = [
        ("x-original-url", "/api/items"),
        ("X_HTTP_Method", "POST"),
        ("x-other", "stays"),
    ];
    for (overrides, expected) in [
        (Overrides::Strip, [None, None, Some("stays")]),
        (
            Overrides::Pass,
            [Some("/api/items"), Some("POST"), Some("stays")],
        ),
    ] {
        let front = start(with(overrides));
        assert_eq!(
            ask(&front, Method::GET, "/login", &fields).await.status,
            200
        );
        let seen = legacy.seen();
        let names = ["x-original-url", "x_http_method", "x-other"];
        let had = names.map(|name| seen[seen.len() - 1].header(name));
        assert_eq!(had, expected);
        front.stop().await;
    }
    // Without slices there is nothing that could be got past.
    let front = start(plain(&legacy));
    let odd = [("x-http-method", "a b"), ("x-original-url", "/anything")];
    assert_eq!(ask(&front, Method::GET, "/", &odd).await.status, 200);
    front.stop().await;
}
