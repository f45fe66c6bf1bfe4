//! POSTs that only read: what of them is mirrored, and as what it is counted.

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use outgrow_rollout::Side;
use outgrow_shadow::{Flow, Format, Posts, RouteShadow, Shadow, render};
use outgrow_testkit::Upstream;

use crate::harness::{Position, admitted, header, ok, settings, settled, shop, start};

const ROUTE: &str = "POST /graphql";

fn flow(posts: Posts) -> Flow {
    let mut flow = Flow::default();
    let apart = RouteShadow {
        posts: Some(posts),
        ..RouteShadow::default()
    };
    flow.routes.insert(ROUTE.to_owned(), apart);
    flow
}

/// A client has got this answer to this body.
fn post(shadow: &Shadow, body: &str, answer: &Response<Bytes>, whole: bool) {
    let fields = HeaderMap::from_iter([header("content-type", "application/json")]);
    let asked = (Method::POST, "/graphql", &fields);
    let mut draft = admitted(shadow, ROUTE, asked, (Side::Legacy, answer)).unwrap();
    draft.brought(Bytes::from(body.to_owned()), whole);
    draft.offer();
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_of_graphql_are_compared_by_operation_and_mutations_never_asked() {
    let legacy = Upstream::always(200, "{}").await;
    // A candidate whose prices are wrong.
    let extracted = Upstream::start(|request: http::Request<Bytes>| async move {
        let asked = String::from_utf8_lossy(request.body()).into_owned();
        match asked.contains("Price") {
            true => ok(r#"{"data":{"price":9}}"#),
            false => ok(r#"{"data":{"name":"lamp"}}"#),
        }
    })
    .await;
    let mut settings = settings(&[&legacy], &[&extracted]);
    settings.slices[0].flow = flow(Posts::Graphql);
    let shadow = start(settings, Position::default());
    let name = ok(r#"{"data":{"name":"lamp"}}"#);
    let price = ok(r#"{"data":{"price":10}}"#);
    for _ in 0..12 {
        post(&shadow, r#"{"query":"query Name { name }"}"#, &name, true);
        post(
            &shadow,
            r#"{"query":"query Price { price }"}"#,
            &price,
            true,
        );
        post(&shadow, r#"{"query":"mutation Buy { buy }"}"#, &name, true);
        post(&shadow, r#"{"query":"query Name { na"#, &name, false);
        settled(&shadow).await;
    }
    let seen = settled(&shadow).await;
    assert_eq!(
        (seen.matched, seen.mismatched, seen.ineligible),
        (12, 12, 24)
    );
    let asked = extracted.seen();
    assert_eq!(asked.len(), 24);
    let one = |seen: &outgrow_testkit::Seen| String::from_utf8_lossy(&seen.body).into_owned();
    assert!(asked.iter().map(one).all(|body| !body.contains("Buy")));
    assert_eq!(asked[0].header("content-type"), Some("application/json"));
    let report = shadow.report(&shop()).unwrap();
    assert_eq!(report.ineligible["graphql-mutation"], 12);
    assert_eq!(report.ineligible["long-request"], 12);
    let rows: Vec<(&str, u64, u64)> = report
        .endpoints
        .iter()
        .map(|row| (&*row.route, row.compared, row.against))
        .collect();
    assert_eq!(
        rows,
        [
            ("POST /graphql#Name 2xx", 12, 0),
            ("POST /graphql#Price 2xx", 12, 12)
        ]
    );
    assert_eq!(report.routes.len(), 1, "gates go by the route");
    assert_eq!(report.clusters.len(), 1, "{:?}", report.clusters);
    assert_eq!(report.clusters[0].route, "POST /graphql#Price");
    let curl = &report.clusters[0].curl[1];
    assert!(
        curl.contains("--data-binary") && curl.contains("query Price"),
        "{curl}"
    );
    let page = render(&report, Format::Html).unwrap();
    assert!(page.contains("graphql#Price 2xx"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_grpc_are_compared_by_messages_and_by_how_they_ended() {
    let legacy = Upstream::always(200, "{}").await;
    let call = |message: &'static [u8], status: &'static str| {
        Response::builder()
            .header("content-type", "application/grpc-web+proto")
            .header("grpc-status", status)
            .body(Bytes::from_static(message))
            .unwrap()
    };
    let extracted =
        Upstream::start(move |_| async move { call(b"\0\0\0\0\x02\x08\x07", "0") }).await;
    let mut settings = settings(&[&legacy], &[&extracted]);
    settings.slices[0].flow = flow(Posts::Reads);
    let shadow = start(settings, Position::default());
    let same = call(b"\0\0\0\0\x02\x08\x07", "0");
    post(&shadow, "\0\0\0\0\0", &same, true);
    assert_eq!(settled(&shadow).await.matched, 1);
    let other = call(b"\0\0\0\0\x02\x08\x06", "5");
    post(&shadow, "\0\0\0\0\0", &other, true);
    let seen = settled(&shadow).await;
    assert_eq!((seen.matched, seen.mismatched), (1, 1));
    let mut places: Vec<&str> = seen.top.iter().map(|top| &*top.path).collect();
    places.sort_unstable();
    assert_eq!(places, ["$[*].1[*]", "trailer:grpc-status"]);
    assert_eq!(&extracted.seen()[0].body[..], b"\0\0\0\0\0");
}
