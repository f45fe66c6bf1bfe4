//! A service that says who may ask, and what its answers say of the caller, on the real process.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use outgrow_testkit::Upstream;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::site::{Fields, IDENTITY, Regular, Site, identity, told};

/// What it answers in place of what it knows.
type Odd = Option<u16>;

struct Gate {
    server: Upstream,
    odd: Arc<Mutex<Odd>>,
}

impl Gate {
    async fn start() -> Self {
        let odd: Arc<Mutex<Odd>> = Arc::default();
        let at = Arc::clone(&odd);
        let server = Upstream::start(move |request: Request<Bytes>| {
            let odd = *at.lock().unwrap();
            async move {
                match odd {
                    // Never, within the patience of anybody.
                    Some(0) => std::future::pending().await,
                    Some(status) => {
                        let mut answer = Response::new(Bytes::from("the gate's own page"));
                        *answer.status_mut() = status.try_into().unwrap();
                        say(&mut answer, "location", "/login");
                        say(&mut answer, "x-user", "7");
                        answer
                    }
                    None => knows(&request),
                }
            }
        })
        .await;
        Self { server, odd }
    }

    fn answers(&self, odd: Odd) {
        *self.odd.lock().unwrap() = odd;
    }
}

fn say(answer: &mut Response<Bytes>, name: &'static str, value: &'static str) {
    let value = HeaderValue::from_static(value);
    answer.headers_mut().insert(name, value);
}

/// Who has which session.
fn knows(request: &Request<Bytes>) -> Response<Bytes> {
    let session = request.headers().get("cookie");
    let session = session
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut answer = Response::new(Bytes::new());
    match session {
        "sid=ann" => {
            say(&mut answer, "x-user", "7");
            say(&mut answer, "x-groups", "guests, staff");
            say(&mut answer, "x-shown", "Ann");
        }
        "sid=eve" => {
            say(&mut answer, "x-user", "8");
            say(&mut answer, "x-groups", "guests");
        }
        // Let in, as nobody in particular.
        "sid=nobody" => {}
        _ => {
            *answer.status_mut() = http::StatusCode::UNAUTHORIZED;
            say(&mut answer, "www-authenticate", "Session");
        }
    }
    answer
}

/// No gate of these tests takes that long, where it answers.
const LONG: &str = "20s";
/// As long as one that does not is waited for.
const SHORT: &str = "500ms";

fn config(gate: &str, timeout: &str, require: &str) -> String {
    format!(
        "[services.gate]\nurls = [\"{gate}\"]\ntimeout = \"{timeout}\"\n\
         [slices.catalog.filters.auth]\nservice = \"gate\"\npath = \"/check?a=b\"\ncopy = [\"x-shown\"]\nidentity = \"sub\"\n\
         claims = {{ x-user = \"sub\", x-groups = {{ list = \"groups\" }} }}\n{require}"
    )
}

const STAFF: &str = "require = { groups = [\"staff\"] }";
const ANN: (&str, &str) = ("cookie", "sid=ann");
/// What outsiders say of themselves.
const FORGED: [(&str, &str); 8] = [
    (IDENTITY, "forged"),
    ("x_outgrow_identity", "forged"),
    ("x-user", "1"),
    ("x_user", "1"),
    ("x-groups", "staff"),
    ("X_Groups", "staff"),
    ("x-shown", "Root"),
    ("x_shown", "Root"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gate_says_of_a_caller_decides_and_nobody_else_says_it() {
    let gate = Gate::start().await;
    let site = Site::open("", &config(&gate.server.url(""), LONG, STAFF)).await;
    let as_forged = |cookie| [&FORGED[..], &[("cookie", cookie)]].concat();
    let answer = site
        .ask(
            Method::GET,
            "/api/products/7?x=1",
            &[
                &as_forged("sid=ann")[..],
                &[
                    ("x-forwarded-uri", "/public"),
                    ("x_forwarded_uri", "/public"),
                    ("x_forwarded_method", "HEAD"),
                ],
            ]
            .concat(),
        )
        .await;
    assert_eq!(answer.text(), "catalog");
    let question = &gate.server.seen()[0];
    assert_eq!(
        (question.method.as_str(), question.target.as_str()),
        ("GET", "/check?a=b")
    );
    let asked = ["x-forwarded-method", "x-forwarded-uri"].map(|name| question.header(name));
    assert_eq!(asked, [Some("GET"), Some("/api/products/7?x=1")]);
    // A gate that reads `_` as `-` is told of no other request.
    for twin in ["x_forwarded_uri", "x_forwarded_method"] {
        assert_eq!(question.header(twin), None, "{twin}");
    }
    for (name, _) in FORGED {
        assert_eq!(question.header(name), None, "{name}");
    }
    let seen = site.service.seen();
    let who = identity(&seen[0]).unwrap();
    assert_eq!(who["sub"], json!("7"));
    for (name, _) in &FORGED[1..] {
        let expected = (*name == "x-shown").then_some("Ann");
        assert_eq!(seen[0].header(name), expected, "{name}");
    }
    let before = site.asked();
    for cookie in ["sid=eve", "sid=nobody"] {
        let answer = site.get(&as_forged(cookie)).await;
        assert_eq!(told(&answer), (403, "forbidden"), "{cookie}");
    }
    // The gate's own word comes as it is.
    let answer = site.get(&as_forged("sid=unknown")).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.header("www-authenticate"),
            answer.header("x-outgrow-error")
        ),
        (401, Some("Session"), None)
    );
    assert_eq!(site.asked(), before);
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_gives_no_answer_lets_nobody_pass() {
    let gate = Gate::start().await;
    let site = Site::open("", &config(&gate.server.url(""), SHORT, "")).await;
    let unasked = async |why: &str| {
        let before = site.asked();
        let answer = site.get(&[ANN]).await;
        assert_eq!(told(&answer), (503, "auth-unavailable"), "{why}");
        assert_eq!(site.asked(), before, "{why}");
    };
    for (status, passes_on) in [
        (0, false),
        (500, false),
        (404, false),
        (302, true),
        (403, true),
        (429, true),
    ] {
        gate.answers(Some(status));
        match passes_on {
            false => unasked(&status.to_string()).await,
            true => {
                let answer = site.get(&[ANN]).await;
                assert_eq!(
                    (answer.status.as_u16(), answer.text()),
                    (status, "the gate's own page".to_owned())
                );
                assert_eq!(answer.header("location"), Some("/login"));
            }
        }
    }
    gate.answers(None);
    assert_eq!(site.get(&[ANN]).await.status, 200);
    drop(gate);
    unasked("nobody is there").await;
    for (outcome, expected) in [("passed", 1.0), ("refused", 3.0), ("failed", 4.0)] {
        let metric = format!(
            "outgrow_auth_questions_total{{kind=\"service\",name=\"gate\",outcome=\"{outcome}\"}}"
        );
        assert_eq!(site.figure(&metric).await, Some(expected), "{outcome}");
    }
    let times = "outgrow_auth_question_duration_seconds_count{kind=\"service\",name=\"gate\"}";
    assert_eq!(site.figure(times).await, Some(8.0));
    for said in [
        // Breaks off within its answer; says nothing more of it; is no HTTP at all.
        "HTTP/1.1 200 OK\r\nx-user: 7\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nx-user: 7\r\n",
        "what?\r\n\r\n",
    ] {
        let odd = Upstream::raw(move |mut stream| async move {
            let mut part = [0; 4_096];
            let _ = stream.read(&mut part).await;
            let _ = stream.write_all(said.as_bytes()).await;
        })
        .await;
        site.reload("", &config(&odd.url(""), SHORT, "")).await;
        unasked(said).await;
    }
    // It falls silent within its answer.
    let silent = Upstream::raw(|mut stream| async move {
        let mut part = [0; 4_096];
        let head = b"HTTP/1.1 200 OK\r\nx-user: 7\r\ncontent-length: 9\r\n\r\nhalf";
        while let Ok(1..) = stream.read(&mut part).await {
            let _ = stream.write_all(head).await;
        }
    })
    .await;
    site.reload("", &config(&silent.url(""), SHORT, "")).await;
    unasked("it falls silent").await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_a_gate_is_asked_for() {
    let gate = Gate::start().await;
    let url = gate.server.url("");
    let (everybody, staff) = (config(&url, LONG, ""), config(&url, LONG, STAFF));
    let site = Site::open("", &everybody).await;
    let eve: Fields<'_> = &[("cookie", "sid=eve")];
    let regular = Regular::begin(&site.url("/api/products"), &[ANN]);
    for _ in 0..2 {
        assert_eq!(site.get(eve).await.status, 200);
        regular.more().await;
        site.reload("", &staff).await;
        assert_eq!(told(&site.get(eve).await), (403, "forbidden"));
        regular.more().await;
        site.reload("", &everybody).await;
    }
    regular.end().await;
    // And whether it is asked at all.
    site.reload("", "").await;
    assert_eq!(site.get(&[]).await.status, 200);
    site.close().await;
}
