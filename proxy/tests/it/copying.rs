//! What the shadow is offered of requests with bodies, and of writes: who asks included.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use outgrow_proxy::{IdentitySettings, RouteSettings, Secret, Settings};
use outgrow_rollout::{Live, Weight};
use outgrow_shadow::{Exchange, Lost};
use outgrow_testkit::{Upstream, client, eventually};
use tokio::sync::Notify;

use crate::harness::{Front, WAIT, live, named, slice_id, sliced, start_with, text};
use crate::keeper::Keeper;

/// What a copy says of its request, and who asks.
fn asked(of: &Exchange) -> (Method, Bytes, bool, Option<String>) {
    let identity = of.identity.as_ref();
    let identity = identity.map(|value| value.to_str().unwrap().to_owned());
    let request = &of.request;
    let (method, body) = (request.method.clone(), request.body.clone());
    (method, body, request.whole, identity)
}

fn settings(legacy: &Upstream, extracted: &Upstream) -> Settings {
    let mut settings = sliced(legacy, extracted);
    let more = [Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let more = more.map(|method| RouteSettings {
        method,
        host: None,
        template: "/api/items/{id}".to_owned(),
        filters: None,
    });
    settings.slices[0].routes.extend(more);
    settings.override_secret = Some(Secret::new("0123456789abcdef"));
    settings
}

fn mirrored(settings: Settings, keeper: &Arc<Keeper>) -> Front {
    let front = start_with(settings, Some(keeper.clone()));
    let mirrored = Live {
        mirror: true,
        ..live(1, Weight::ZERO)
    };
    front.handle.apply(&slice_id(), mirrored);
    front
}

async fn send(
    front: &Front,
    method: Method,
    fields: &[(&str, &str)],
    body: &'static str,
) -> String {
    let url = front.url("/api/items/7");
    let request = client::request(method, &url, fields, Bytes::from_static(body.as_bytes()));
    client::send(request).await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_copied_with_its_body() {
    let legacy = Upstream::start(|request: Request<Bytes>| async move {
        let body = String::from_utf8(request.body().to_vec()).unwrap();
        text(format!("{} {body}", request.method()))
    })
    .await;
    let extracted = named("extracted").await;
    let keeper = Keeper::of_all(100);
    let front = mirrored(settings(&legacy, &extracted), &keeper);
    let all = [
        (Method::PUT, "{\"a\":1}"),
        (Method::PATCH, "[1]"),
        (Method::DELETE, ""),
        (Method::DELETE, "why"),
        (Method::OPTIONS, ""),
        (Method::OPTIONS, "body"),
        // Rare, and allowed (RFC 9110, 9.3.1); a copy without it would ask for something else.
        (Method::GET, "{\"query\":1}"),
    ];
    for (count, (method, body)) in all.into_iter().enumerate() {
        let answer = send(&front, method.clone(), &[], body).await;
        assert_eq!(answer, format!("{method} {body}"), "the client's own");
        let kept = keeper.nth(count, asked).await;
        assert_eq!(
            kept,
            (method, Bytes::from_static(body.as_bytes()), true, None)
        );
    }
    let known = [
        ("x-outgrow-shadow", "1"),
        ("x-outgrow-secret", "0123456789abcdef"),
    ];
    send(&front, Method::PUT, &known, "{}").await;
    send(&front, Method::PATCH, &[], "[2]").await;
    let (method, _, _, _) = keeper.nth(7, asked).await;
    assert_eq!(method, Method::PATCH, "a copy is not copied");
    let long = "x".repeat(1_000).leak();
    send(&front, Method::PUT, &[], long).await;
    let (_, body, whole, _) = keeper.nth(8, asked).await;
    assert!(body.is_empty() && !whole);
    assert!(extracted.seen().is_empty());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_is_asked_of_the_monolith_and_no_client_waits_for_it() {
    let told = Arc::new(Notify::new());
    let waits = told.clone();
    let legacy = Upstream::start(move |request: Request<Bytes>| {
        let waits = waits.clone();
        async move {
            if request.uri().path() != "/api/me" {
                return text("written".to_owned());
            }
            waits.notified().await;
            let cookie = request
                .headers()
                .get("cookie")
                .map(|value| value.to_str().unwrap());
            match cookie {
                Some("sid=ann") => text(r#"{"user_id": 7, "role": "staff"}"#.to_owned()),
                Some("sid=old") => Response::builder().status(401).body(Bytes::new()).unwrap(),
                _ => Response::builder().status(500).body(Bytes::new()).unwrap(),
            }
        }
    })
    .await;
    let extracted = named("extracted").await;
    let keeper = Keeper::of_all(100);
    let mut settings = settings(&legacy, &extracted);
    settings.identity = Some(IdentitySettings {
        cookie: "sid".to_owned(),
        whoami: "/api/me".to_owned(),
        secret: Secret::new("a secret of the tests, long enough"),
        ttl: Duration::from_mins(5),
    });
    let front = mirrored(settings, &keeper);
    // The answer is there before anybody knows who asked.
    assert_eq!(
        send(&front, Method::PUT, &[("cookie", "sid=ann")], "{}").await,
        "written"
    );
    assert_eq!(keeper.len(), 0);
    told.notify_one();
    let (_, body, _, identity) = keeper.nth(0, asked).await;
    assert_eq!(&body[..], b"{}");
    assert!(identity.unwrap().starts_with("v1."));
    told.notify_one();
    send(&front, Method::PUT, &[("cookie", "sid=old")], "{}").await;
    assert_eq!(
        keeper.nth(1, asked).await.3,
        None,
        "the monolith says: nobody"
    );
    send(&front, Method::PUT, &[], "{}").await;
    assert_eq!(
        keeper.nth(2, asked).await.3,
        None,
        "without a session nobody is asked"
    );
    told.notify_one();
    send(&front, Method::PUT, &[("cookie", "sid=odd")], "{}").await;
    eventually("the loss", WAIT, || async {
        let lost = keeper.lost();
        lost.contains(&Lost::Shed("identity")).then_some(())
    })
    .await;
    assert_eq!(keeper.len(), 3);
    front.stop().await;
}
