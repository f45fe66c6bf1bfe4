//! Mismatches by cause: bugs that are seeded in a candidate come out as so many clusters, each with
//! the feature of the request that brings it about.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use outgrow_rollout::Side;
use outgrow_shadow::{Format, Report, Shadow, render};
use outgrow_testkit::{Upstream, eventually};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::harness::{Position, WAIT, admitted, settings, settled, shop, start};

/// A request of the scripted traffic.
struct Asked {
    route: &'static str,
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
}

/// One request of many kinds; each of its features is drawn by itself.
fn asked(n: usize) -> Asked {
    let mut drawn = 0;
    let mut draw = |most: usize| {
        drawn += 1;
        let mixed = xxh3_64_with_seed(&n.to_le_bytes(), drawn);
        usize::try_from(mixed % most as u64).unwrap()
    };
    let mut pick = |all: &[&str]| all[draw(all.len())].to_owned();
    let currency = pick(&["EUR", "USD", "JPY", "GBP", "CHF"]);
    let page = pick(&["1", "2", "3", "4"]);
    let language = pick(&["de", "en", "fr", "it"]);
    let tenant = pick(&["acme", "globex", "initech"]);
    let (route, path) = match n % 3 {
        0 => (
            "GET /api/products/{id}",
            format!("/api/products/{}", draw(7)),
        ),
        1 => ("GET /api/orders/{id}", format!("/api/orders/{}", draw(11))),
        _ => ("GET /api/search", "/api/search".to_owned()),
    };
    let sort = if draw(6) == 0 { "&sort=price" } else { "" };
    let limit = draw(120);
    let mut headers = vec![
        ("accept-language", language),
        ("x-tenant", tenant),
        ("cookie", format!("sid=s{n}; theme=dark")),
        ("x-request-id", format!("r-{n}")),
    ];
    if draw(8) == 0 {
        headers.push(("x-beta", "1".to_owned()));
    }
    let method = if draw(6) == 0 {
        Method::HEAD
    } else {
        Method::GET
    };
    Asked {
        route,
        method,
        target: format!("{path}?currency={currency}&page={page}&limit={limit}{sort}"),
        headers,
    }
}

/// What an answer depends on; without bugs, nothing is.
struct Facts<'a> {
    bugs: bool,
    method: &'a Method,
    uri: Uri,
    headers: &'a HeaderMap,
}

impl Facts<'_> {
    fn query(&self, pair: &str) -> bool {
        let query = self.uri.query().unwrap_or_default();
        self.bugs && query.split('&').any(|one| one == pair)
    }

    fn header(&self, name: &str, value: &str) -> bool {
        self.bugs && self.headers.get(name).is_some_and(|v| v == value)
    }

    fn large(&self) -> bool {
        let query = self.uri.query().unwrap_or_default();
        let limit = query.split('&').find_map(|one| one.strip_prefix("limit="));
        self.bugs && limit.is_some_and(|limit| limit.len() > 2)
    }

    /// 1: a price in JPY; 2: a name in Italian; 3: product 3 has lost its stock; 5: a tenant sees
    /// a field of others; 6: who is in the beta gets a number for a text; 7: sorting is upside
    /// down; 8: large limits are cut; 9: the same field as in 8 in CHF.
    fn body(&self) -> String {
        let choose = |bug, wrong: &'static str, right| if bug { wrong } else { right };
        let path = self.uri.path();
        if path.starts_with("/api/products") {
            let price = choose(self.query("currency=JPY"), "\"995.00\"", "\"9.95\"");
            let name = choose(self.header("accept-language", "it"), "null", "\"lamp\"");
            let stock = choose(self.bugs && path.ends_with("/3"), "", r#","stock":5"#);
            return format!(r#"{{"price":{price},"tax":{price},"name":{name}{stock}}}"#);
        }
        if path.starts_with("/api/orders") {
            let owner = choose(self.header("x-tenant", "globex"), r#","owner":"acme""#, "");
            let total = choose(self.header("x-beta", "1"), "7", "\"7\"");
            return format!(r#"{{"total":{total}{owner}}}"#);
        }
        let items = choose(self.query("sort=price"), "[3,2,1]", "[1,2,3]");
        let more = choose(self.large() || self.query("currency=CHF"), "true", "false");
        format!(r#"{{"items":{items},"more":{more}}}"#)
    }
}

/// The legacy answer, or with `bugs` that of a candidate which has ten of them.
fn answer(method: &Method, target: &str, headers: &HeaderMap, bugs: bool) -> Response<Bytes> {
    let facts = Facts {
        bugs,
        method,
        uri: target.parse().unwrap(),
        headers,
    };
    let (mut cache, mut status) = ("max-age=60", StatusCode::OK);
    let path = facts.uri.path();
    // 4: HEAD of a product has another cache; 10: the fourth page of orders is not found.
    if bugs && facts.method == Method::HEAD && path.starts_with("/api/products") {
        cache = "no-store";
    }
    if facts.query("page=4") && path.starts_with("/api/orders") {
        status = StatusCode::NOT_FOUND;
    }
    let body = match *method == Method::HEAD {
        true => String::new(),
        false => facts.body(),
    };
    let answer = Response::builder().status(status);
    let answer = answer.header("content-type", "application/json");
    let answer = answer.header("cache-control", cache);
    answer.body(Bytes::from(body)).unwrap()
}

fn offer(shadow: &Shadow, asked: Asked) {
    let pair = |(name, value): (&'static str, String)| {
        (
            HeaderName::from_static(name),
            HeaderValue::try_from(value).unwrap(),
        )
    };
    let headers: HeaderMap = asked.headers.into_iter().map(pair).collect();
    let given = answer(&asked.method, &asked.target, &headers, false);
    let request = (asked.method, asked.target.as_str(), &headers);
    let draft = admitted(shadow, asked.route, request, (Side::Legacy, &given));
    draft.unwrap().offer();
}

/// Compares so many requests with a candidate.
async fn compared(requests: usize, bugs: bool) -> Report {
    let side = |bugs| {
        Upstream::start(move |request: http::Request<Bytes>| {
            let target = request.uri().to_string();
            let answer = answer(request.method(), &target, request.headers(), bugs);
            async move { answer }
        })
    };
    let (legacy, extracted) = (side(false).await, side(bugs).await);
    let shadow = start(settings(&[&legacy], &[&extracted]), Position::default());
    for n in 0..requests {
        eventually("a place", WAIT, || async {
            (shadow.evidence(&shop()).unwrap().waiting < 100).then_some(())
        })
        .await;
        offer(&shadow, asked(n));
    }
    let seen = settled(&shadow).await;
    assert_eq!(seen.compared(), requests as u64, "{seen:?}");
    shadow.report(&shop()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_seeded_bugs_are_ten_clusters_with_their_cause() {
    let report = compared(1_500, true).await;
    let mut found: Vec<String> = report
        .clusters
        .iter()
        .map(|cluster| {
            let fields: Vec<&str> = cluster.fields.iter().map(|f| f.path.as_str()).collect();
            let features = cluster.features.join(" and ");
            // The least failing number of those that the sample has drawn.
            let features = match features.strip_prefix("query limit >= ").map(str::parse) {
                Some(Ok(100..=110)) => "query limit >= 100".to_owned(),
                _ => features,
            };
            format!("{} {}: {features}", cluster.route, fields.join(" "))
        })
        .collect();
    found.sort();
    let mut expected = [
        "GET /api/products/{id} $.price $.tax: query currency=JPY",
        "GET /api/products/{id} $.name: header accept-language=it",
        "GET /api/products/{id} $.stock: path id=3",
        "GET /api/products/{id} header:cache-control['max-age'] header:cache-control['no-store']: method HEAD",
        "GET /api/orders/{id} status: query page=4",
        "GET /api/orders/{id} $.owner: header x-tenant=globex",
        "GET /api/orders/{id} $.total: header x-beta=1",
        "GET /api/search $.items[*] $.items[*]: query sort=price",
        "GET /api/search $.more: query limit >= 100",
        "GET /api/search $.more: query currency=CHF",
    ];
    expected.sort_unstable();
    assert_eq!(
        found,
        expected,
        "{}",
        render(&report, Format::Table).unwrap()
    );
    for cluster in &report.clusters {
        // Of the orders that are sampled, about 107 could have shown a cluster's difference and have
        // not; which ones they are depends on the order in which pairs end.
        assert!(
            cluster.looked_at >= 3 && cluster.passing >= 60,
            "{cluster:?}"
        );
        // Some have no body that could show it: those to HEAD.
        assert!(cluster.passing_with * 10 < cluster.passing, "{cluster:?}");
        assert!(
            cluster.example.is_some() && cluster.curl.len() == 2,
            "{cluster:?}"
        );
        let lines: Vec<&str> = cluster.diff.lines().collect();
        assert!(
            lines.len() >= 4 && lines[2].starts_with("@@ "),
            "{cluster:?}"
        );
        assert!(cluster.curl[0].starts_with("curl ") && !cluster.curl[0].contains("sid="));
    }
    for format in [
        Format::Table,
        Format::Markdown,
        Format::Html,
        Format::Json,
        Format::Junit,
    ] {
        let text = render(&report, format).unwrap();
        assert!(text.contains("query currency=JPY"), "{format:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_right_has_no_clusters() {
    assert!(compared(100, false).await.clusters.is_empty());
}
