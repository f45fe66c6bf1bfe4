//! Ids that the extracted side gives anew: each side is asked by its own ones, once they are known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use outgrow_rollout::{ShadowEvidence, Side};
use outgrow_shadow::{
    Accept, ArrayBy, ArrayRule, Place, RouteShadow, Rule, Shadow, ShadowSettings, SideTargets,
    Writes,
};
use outgrow_testkit::Upstream;

use crate::harness::{Position, admitted, ignore, ok, settings, settled, shop, start};

const ONE: &str = "GET /api/orders/{id}";
const ALL: &str = "GET /api/orders";
const NEW: &str = "POST /api/orders";
const CHANGE: &str = "PUT /api/orders/{id}";

/// The extracted side: its orders have other ids, and one of them may answer for another one.
async fn extracted(swapped: bool) -> Upstream {
    Upstream::start(move |request: Request<Bytes>| {
        let uri = request.uri().clone();
        let is_put = *request.method() == Method::PUT;
        async move {
            match uri.path().trim_start_matches("/v2") {
                "/api/orders" => match uri.query() {
                    Some("order=a1") => ok(r#"[{"id":"a1","n":1}]"#),
                    _ => ok(r#"[{"id":"a1","n":1},{"id":"b/2","n":2}]"#),
                },
                "/api/orders/a1" if is_put => rolled_back(),
                "/api/orders/a1" if swapped => ok(r#"{"id":"b/2","n":1}"#),
                "/api/orders/a1" => ok(r#"{"id":"a1","n":1}"#),
                "/api/orders/b%2F2" => ok(r#"{"id":"b/2","n":2}"#),
                // New ids are out of the range of the old ones.
                "/api/orders/77" => ok(r#"{"id":77,"n":9}"#),
                path => match path.strip_prefix("/api/any/") {
                    Some(number) => ok(&format!(r#"{{"id":"c{number}"}}"#)),
                    None => not_found(path),
                },
            }
        }
    })
    .await
}

/// Every other answer to the same request has another id.
async fn legacy() -> Upstream {
    let asked: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    Upstream::start(move |request: Request<Bytes>| {
        let path = request.uri().path().to_owned();
        let times = {
            let mut asked = asked.lock().unwrap();
            let times = asked.entry(path.clone()).or_default();
            *times += 1;
            *times
        };
        async move {
            match path.as_str() {
                "/api/orders/18" => ok(r#"{"id":18,"n":2}"#),
                path => match path.strip_prefix("/api/any/") {
                    Some(number) if times % 2 == 1 => ok(&format!(r#"{{"id":{number}}}"#)),
                    Some(number) => ok(&format!(r#"{{"id":9{number}}}"#)),
                    None => not_found(path),
                },
            }
        }
    })
    .await
}

async fn sandbox() -> Upstream {
    Upstream::start(|request: Request<Bytes>| async move {
        match (request.method().as_str(), request.uri().path()) {
            ("POST", "/api/orders") => ok(r#"{"id":"s1"}"#),
            ("PUT", "/api/orders/s1") => ok(r#"{"id":"s1","n":7}"#),
            (_, path) => not_found(path),
        }
    })
    .await
}

fn not_found(path: &str) -> Response<Bytes> {
    let mut answer = ok(&format!(
        r#"{{"id":"{}"}}"#,
        path.replace("/api/orders/", "")
    ));
    *answer.status_mut() = http::StatusCode::NOT_FOUND;
    answer
}

fn rolled_back() -> Response<Bytes> {
    let mut answer = ok(r#"{"id":"a1","n":7,"change":{"id":"x1"}}"#);
    let said = http::HeaderValue::from_static("rolled-back");
    answer.headers_mut().insert("x-outgrow-dry-run", said);
    answer
}

struct Orders {
    legacy: Upstream,
    extracted: Upstream,
    shadow: Shadow,
}

/// What a client has asked, and was answered.
struct Client<'a> {
    route: &'a str,
    target: &'a str,
    sides: SideTargets,
    primary: Side,
    answer: Response<Bytes>,
    body: &'static str,
}

fn client<'a>(route: &'a str, target: &'a str, body: &str) -> Client<'a> {
    Client {
        route,
        target,
        sides: SideTargets::default(),
        primary: Side::Legacy,
        answer: ok(body),
        body: "",
    }
}

impl Orders {
    async fn new(swapped: bool) -> Self {
        Self::with(swapped, |_| {}).await
    }

    async fn with(swapped: bool, change: impl FnOnce(&mut ShadowSettings)) -> Self {
        let (legacy, extracted) = (legacy().await, extracted(swapped).await);
        let mut all = settings(&[&legacy], &[&extracted]);
        let slice = &mut all.slices[0];
        slice.rules = vec![Rule {
            accept: Accept::RenamedAs("order".to_owned()),
            ..ignore("$..id", None)
        }];
        // Elements are paired by what stays.
        slice.arrays = vec![ArrayRule {
            path: "$".to_owned(),
            by: ArrayBy::Key("n".to_owned()),
        }];
        for (route, keys) in [
            (ONE, &["id"][..]),
            (CHANGE, &["id", "$.id", "$.with[*]"]),
            (ALL, &["?order"]),
        ] {
            let ids = keys
                .iter()
                .map(|key| ((*key).to_owned(), "order".to_owned()));
            slice.flow.ids.insert(route.to_owned(), ids.collect());
        }
        change(&mut all);
        let shadow = start(all, Position::default());
        Self {
            legacy,
            extracted,
            shadow,
        }
    }

    /// How many have matched, differed, and could not be compared.
    async fn asked(&self, client: Client<'_>) -> (u64, u64, u64) {
        let seen = self.evidence(client).await;
        (seen.matched, seen.mismatched, seen.not_comparable)
    }

    async fn evidence(&self, client: Client<'_>) -> ShadowEvidence {
        let method: Method = client.route.split(' ').next().unwrap().parse().unwrap();
        let (none, answer) = (HeaderMap::new(), (client.primary, &client.answer));
        let asked = (method, client.target, &none);
        let mut draft = admitted(&self.shadow, client.route, asked, answer).unwrap();
        draft.asks(client.sides);
        draft.brought(Bytes::from_static(client.body.as_bytes()), true);
        draft.offer();
        settled(&self.shadow).await
    }

    /// Both orders, from which both ids are learnt.
    async fn list(&self) {
        let list = r#"[{"id":17,"n":1},{"id":18,"n":2}]"#;
        let seen = self.evidence(client(ALL, "/api/orders", list)).await;
        assert_eq!(seen.mismatched, 0, "{:?}", seen.top);
    }

    fn unknown(&self) -> u64 {
        let report = self.shadow.report(&shop()).unwrap();
        let reasons = &report.not_comparable;
        reasons.get("id-not-known-yet").copied().unwrap_or(0)
    }
}

fn targets(side: &Upstream) -> Vec<String> {
    side.seen().into_iter().map(|seen| seen.target).collect()
}

const OF_17: &str = r#"{"id":17,"n":1}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_side_is_asked_by_its_own_ids_once_they_are_known() {
    let orders = Orders::new(false).await;
    let one = |target| client(ONE, target, OF_17);
    assert_eq!(orders.asked(one("/api/orders/17")).await, (0, 0, 1));
    assert_eq!(orders.unknown(), 1);
    assert_eq!(targets(&orders.extracted), [""; 0], "not by another's id");
    orders.list().await;
    assert_eq!(orders.asked(one("/api/orders/17?x=1")).await, (2, 0, 1));
    let of_18 = client(ONE, "/api/orders/18", r#"{"id":18,"n":2}"#);
    assert_eq!(orders.asked(of_18).await, (3, 0, 1));
    // In the query, and in a path of the side's own.
    let some = client(ALL, "/api/orders?order=17", r#"[{"id":17,"n":1}]"#);
    assert_eq!(orders.asked(some).await, (4, 0, 1));
    let mut own = one("/api/orders/17");
    own.sides.extracted = Some("/v2/api/orders/17".parse().unwrap());
    assert_eq!(orders.asked(own).await, (5, 0, 1));
    let expected = [
        "/api/orders",
        "/api/orders/a1?x=1",
        "/api/orders/b%2F2",
        "/api/orders?order=a1",
        "/v2/api/orders/a1",
    ];
    assert_eq!(targets(&orders.extracted), expected);
    // After a flip clients have the new ids, and the legacy side is asked by the old ones.
    let mut new = client(ONE, "/api/orders/b%2F2", r#"{"id":"b/2","n":2}"#);
    new.primary = Side::Extracted;
    assert_eq!(orders.asked(new).await, (6, 0, 1));
    assert_eq!(targets(&orders.legacy), ["/api/orders/18"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_another_id_than_was_asked_is_a_difference() {
    let orders = Orders::new(true).await;
    orders.list().await;
    let seen = orders.evidence(client(ONE, "/api/orders/17", OF_17)).await;
    assert_eq!((seen.matched, seen.mismatched), (1, 1));
    assert_eq!(seen.top[0].path, "$.id");
    // Whoever looks into it asks each side as it was asked.
    let example = seen.top[0].example.clone().unwrap();
    let pair = orders.shadow.pair(&example).unwrap();
    assert_eq!(pair["request"], "GET /api/orders/17");
    for (line, path) in [(0, "/api/orders/17'"), (1, "/api/orders/a1'")] {
        let line = pair["curl"][line].as_str().unwrap();
        assert!(line.ends_with(path), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_asked_for_by_the_same_id_and_teaches_nothing() {
    let orders = Orders::new(false).await;
    let missing = |number: &'static str| Client {
        answer: not_found(number),
        ..client(ONE, number, "")
    };
    // Neither has it.
    assert_eq!(orders.asked(missing("/api/orders/99")).await, (1, 0, 0));
    // It names another one there.
    assert_eq!(orders.asked(missing("/api/orders/77")).await, (1, 0, 1));
    assert_eq!(orders.unknown(), 1);
    // The extracted side gives it to an order of a later day.
    let later = client("GET /api/any/{n}", "/api/any/1", r#"{"id":99}"#);
    assert_eq!(orders.asked(later).await, (2, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_writes_are_asked_by_the_ids_of_whom_they_go_to() {
    fn put(body: &str) -> Client<'_> {
        client(CHANGE, "/api/orders/17", body)
    }
    let at_sandbox = sandbox().await;
    let place = Place::Tcp(at_sandbox.addr().to_string().parse().unwrap());
    let writes = |settings: &mut ShadowSettings, how: Writes| {
        for route in [NEW, CHANGE] {
            let own = RouteShadow {
                writes: Some(how),
                ..RouteShadow::default()
            };
            let routes = &mut settings.slices[0].flow.routes;
            routes.insert(route.to_owned(), own);
        }
    };
    let orders = Orders::with(false, |settings| {
        settings.slices[0].sandbox = [place].into_iter().collect();
        writes(settings, Writes::Sandbox);
    })
    .await;
    orders.list().await;
    // What both sides know is not what the sandbox knows.
    let of_17 = || put(r#"{"id":17,"n":7}"#);
    assert_eq!(orders.asked(of_17()).await, (1, 0, 1));
    let new = client(NEW, "/api/orders", r#"{"id":17}"#);
    assert_eq!(orders.asked(new).await, (2, 0, 1));
    assert_eq!(orders.asked(of_17()).await, (3, 0, 1));
    assert_eq!(targets(&at_sandbox), ["/api/orders", "/api/orders/s1"]);
    assert_eq!(targets(&orders.extracted), ["/api/orders"]);
    // A dry run: of an order that both have, with an id that it takes back.
    let orders = Orders::with(false, |settings| writes(settings, Writes::DryRun)).await;
    assert_eq!(orders.asked(of_17()).await, (0, 0, 1));
    orders.list().await;
    for (change, expected) in [(1, (2, 0, 1)), (2, (3, 0, 1))] {
        let body = format!(r#"{{"id":17,"n":7,"change":{{"id":{change}}}}}"#);
        assert_eq!(orders.asked(put(&body)).await, expected);
    }
    let wrong = put(r#"{"id":18,"n":7,"change":{"id":3}}"#);
    assert_eq!(orders.asked(wrong).await, (3, 1, 1));
    let asked = targets(&orders.extracted);
    assert_eq!(asked[1..], ["/api/orders/a1"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_names_what_it_is_about_by_the_ids_of_whom_it_goes_to() {
    let orders = Orders::with(false, |settings| {
        let own = RouteShadow {
            writes: Some(Writes::DryRun),
            ..RouteShadow::default()
        };
        let routes = &mut settings.slices[0].flow.routes;
        routes.insert(CHANGE.to_owned(), own);
    })
    .await;
    orders.list().await;
    let put = |body| Client {
        body,
        ..client(
            CHANGE,
            "/api/orders/17",
            r#"{"id":17,"n":7,"change":{"id":1}}"#,
        )
    };
    let known = put(r#"{"id": 17, "with":[18, null], "n":7.0, "of":{"id":17}}"#);
    assert_eq!(orders.asked(known).await, (2, 0, 0));
    let seen = orders.extracted.seen();
    let body = String::from_utf8_lossy(&seen[1].body).into_owned();
    assert_eq!(
        body,
        r#"{"id": "a1", "with":["b/2", null], "n":7.0, "of":{"id":17}}"#
    );
    // One that is not known yet, and a form.
    assert_eq!(orders.asked(put(r#"{"with":[99]}"#)).await, (2, 0, 1));
    assert_eq!(orders.unknown(), 1);
    assert_eq!(orders.asked(put("id=17")).await, (2, 0, 2));
    let report = orders.shadow.report(&shop()).unwrap();
    assert_eq!(report.not_comparable["id-not-in-its-body"], 1);
    assert_eq!(orders.extracted.seen().len(), 2, "neither was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_legacy_side_by_itself_teaches_nothing_of_both() {
    let orders = Orders::with(false, |settings| settings.slices[0].noise_sample = 1.0).await;
    for number in 1..=8 {
        let target = format!("/api/any/{number}");
        let body = format!(r#"{{"id":{number}}}"#);
        let asked = client("GET /api/any/{n}", &target, &body);
        assert_eq!(orders.asked(asked).await, (number, 0, 0));
    }
    assert_eq!(orders.legacy.seen().len(), 16, "asked twice each");
}
