//! Tokens that say nothing by themselves: whoever knows them is asked.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderValue, Request, Response, StatusCode};
use outgrow_proxy::{
    AuthRule, Credentials, Demand, IntrospectionSettings, KeySource, Means, Proxy, Secret,
    ServiceSettings, Settings, Way,
};
use outgrow_rollout::Weight;
use outgrow_testkit::{Answer, Upstream, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::{
    Front, WAIT, authority, named, read_until, say, sessions, start, take_head, text,
};
use crate::proving::{LONG, Signer, guarded, issuer};

const MINUTE: Duration = Duration::from_secs(60);

fn asked() -> IntrospectionSettings {
    IntrospectionSettings {
        name: "sessions".to_owned(),
        service: "login".to_owned(),
        path: "/introspect?tenant=1".parse().unwrap(),
        host: None,
        credentials: Credentials::Basic {
            id: "shop:1".to_owned(),
            secret: Secret::new("s3cret/of the shop"),
        },
        hint: "access_token".to_owned(),
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::from_secs(5),
        timeout: Duration::from_secs(10),
        keep: MINUTE,
        keep_inactive: MINUTE,
        size: 1 << 20,
    }
}

fn means() -> Means {
    Means {
        introspection: Some("sessions".to_owned()),
        ..Means::default()
    }
}

fn shown(means: Means) -> AuthRule {
    AuthRule {
        way: Way::Shown(means),
        optional: false,
        demands: Vec::new(),
        identity: None,
    }
}

/// All routes of the slice ask for a token, of which `login` is asked.
fn settings(
    (legacy, extracted): (&Upstream, &Upstream),
    login: &Upstream,
    rule: AuthRule,
    asked: IntrospectionSettings,
) -> Settings {
    let mut settings = guarded(legacy, extracted, rule);
    let service = ServiceSettings::new("login", vec![authority(login)]);
    settings.services.push(service);
    settings.auth.introspection = vec![asked];
    settings
}

/// A server that knows these tokens.
async fn knowing(tokens: Value) -> Upstream {
    Upstream::start(move |request: Request<bytes::Bytes>| {
        let body = String::from_utf8(request.body().to_vec()).unwrap();
        let token = body.strip_prefix("token=").unwrap_or_default();
        let token = token.split('&').next().unwrap_or_default();
        let said = tokens.get(token).cloned();
        async move { said_of(said.unwrap_or(json!({"active": false})).to_string()) }
    })
    .await
}

fn said_of(body: String) -> Response<bytes::Bytes> {
    let mut answer = text(body);
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert("content-type", json);
    answer
}

async fn ask(front: &Front, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    front.get("/api/items", &[("authorization", &bearer)]).await
}

fn told(answer: &Answer) -> (u16, &str, &str) {
    (
        answer.status.as_u16(),
        answer.header("x-outgrow-error").unwrap_or_default(),
        answer.header("www-authenticate").unwrap_or_default(),
    )
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

const WRONG: &str = "Bearer realm=\"outgrow\", error=\"invalid_token\", error_description=";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_a_token_decides_and_is_asked_once() {
    let sides = (named("legacy").await, named("extracted").await);
    let login = knowing(json!({
        "good": {"active": true, "sub": "7", "exp": now() + 600},
        "a%2Bb%2F%3D%3D": {"active": true},
    }))
    .await;
    let settings = settings((&sides.0, &sides.1), &login, shown(means()), asked());
    let front = start(settings);
    for _ in 0..3 {
        assert_eq!(ask(&front, "good").await.text(), "legacy");
        let refused = ask(&front, "unknown").await;
        let why = format!("{WRONG}\"the token is not in force\"");
        assert_eq!(told(&refused), (401, "unauthorized", why.as_str()));
    }
    assert_eq!(ask(&front, "a+b/==").await.status, 200);
    let seen = login.seen();
    assert_eq!(seen.len(), 3, "one question a token");
    let question = &seen[0];
    assert_eq!(question.method, "POST");
    assert_eq!(question.target, "/introspect?tenant=1");
    assert_eq!(
        &question.body[..],
        b"token=good&token_type_hint=access_token"
    );
    let pair = STANDARD.encode("shop%3A1:s3cret%2Fof%20the%20shop");
    let basic = format!("Basic {pair}");
    for (name, value) in [
        ("authorization", basic.as_str()),
        ("content-type", "application/x-www-form-urlencoded"),
        ("accept", "application/json"),
        ("host", &login.addr().to_string()),
    ] {
        assert_eq!(question.header(name), Some(value), "{name}");
    }
    assert_eq!(question.header("cookie"), None);
    assert_eq!(sides.0.seen().len(), 4, "what is refused is not forwarded");
    let bare = front.get("/api/items", &[]).await;
    assert_eq!(
        told(&bare),
        (401, "unauthorized", "Bearer realm=\"outgrow\"")
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_token_is_refused_unasked() {
    let sides = (named("legacy").await, named("extracted").await);
    let login = knowing(json!({"good": {"active": true}})).await;
    let mut rule = shown(means());
    rule.optional = true;
    let front = start(settings((&sides.0, &sides.1), &login, rule, asked()));
    let long = format!("Bearer {}", "a".repeat(16 * 1_024 + 1));
    for odd in [
        "good",
        "Bearer",
        "Bearer a b",
        "Bearer \"good\"",
        "Bearer good, Bearer other",
        "Basic eDp5, Bearer good",
        "Bearer a=b",
        long.as_str(),
    ] {
        let answer = front.get("/api/items", &[("authorization", odd)]).await;
        assert_eq!(answer.status, 401, "{odd}");
    }
    assert!(login.seen().is_empty());
    let basic = [("authorization", "Basic eDp5")];
    assert_eq!(front.get("/api/items", &basic).await.status, 200);
    assert_eq!(front.get("/api/items", &[]).await.status, 200, "optional");
    assert_eq!(ask(&front, "wrong").await.status, 401, "never optional");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_must_be_in_its_time_and_for_us() {
    let sides = (named("legacy").await, named("extracted").await);
    let ours = |change: Value| {
        let mut said = json!({
            "active": true, "iss": "https://login.example", "aud": ["shop", "other"],
        });
        for (name, value) in change.as_object().unwrap() {
            said[name] = value.clone();
        }
        said
    };
    let login = knowing(json!({
        "good": ours(json!({"exp": now() + 600, "nbf": now() - 1})),
        "expired": ours(json!({"exp": now() - 6})),
        "early": ours(json!({"nbf": now() + 60})),
        "odd": ours(json!({"exp": "tomorrow"})),
        "aud": ours(json!({"aud": "other"})),
        "no-aud": {"active": true, "iss": "https://login.example"},
        "iss": ours(json!({"iss": "https://evil.example"})),
        "no-iss": {"active": true, "aud": "shop"},
        "renews": ours(json!({"token_use": "refresh_token"})),
    }))
    .await;
    let one = IntrospectionSettings {
        issuer: Some("https://login.example".to_owned()),
        audience: vec!["shop".to_owned()],
        ..asked()
    };
    let front = start(settings((&sides.0, &sides.1), &login, shown(means()), one));
    assert_eq!(ask(&front, "good").await.status, 200);
    for (token, why) in [
        ("expired", "the token has expired"),
        ("early", "the token is not valid yet"),
        ("odd", "the token is malformed"),
        ("aud", "the token is for another audience"),
        ("no-aud", "the token is for another audience"),
        ("iss", "the token is of another issuer"),
        ("no-iss", "the token is of another issuer"),
        ("renews", "the token is not in force"),
    ] {
        let answer = ask(&front, token).await;
        let why = format!("{WRONG}\"{why}\"");
        assert_eq!(
            told(&answer),
            (401, "unauthorized", why.as_str()),
            "{token}"
        );
    }
    assert_eq!(sides.0.seen().len(), 1);
    front.stop().await;
}

/// What each is told, whatever else is wrong with it: 503, and nothing goes further.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_and_one_that_is_none_is_a_no() {
    let sides = (named("legacy").await, named("extracted").await);
    let good = r#"{"active":true}"#;
    let of = |kind: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        )
    };
    let json = "application/json";
    let huge = format!("{{\"active\":true,\"a\":\"{}\"}}", "a".repeat(65_536));
    let says = Arc::new(Mutex::new(String::new()));
    let script = says.clone();
    let login = Upstream::raw(move |mut stream| {
        let says = script.lock().unwrap().clone();
        async move {
            take_head(&mut stream).await;
            say(&mut stream, &says).await;
            // The rest of the question, so that no reset overtakes the answer.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let front = start(settings(
        (&sides.0, &sides.1),
        &login,
        shown(means()),
        asked(),
    ));
    for (answer, what) in [
        (of("text/html", good), "another type"),
        (of(json, ""), "nothing"),
        (of(json, "[true]"), "no object"),
        (of(json, r#"{"active":"true"}"#), "no truth value"),
        (of(json, r#"{"sub":"7"}"#), "nothing of it"),
        (of(json, &huge), "too much"),
        (of(json, good).replace("length: 15", "length: 16"), "a part"),
        (
            of(json, good).replace("200 OK", "201 Created"),
            "another status",
        ),
        (
            of(json, good).replace("200 OK", "401 Unauthorized"),
            "us nothing",
        ),
        (of(json, good).replace("200 OK", "500 Oops"), "a failure"),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "elsewhere",
        ),
        ("no HTTP\r\n\r\n".to_owned(), "no HTTP"),
        (String::new(), "an end"),
    ] {
        *says.lock().unwrap() = answer;
        let refused = ask(&front, "good").await;
        assert_eq!(told(&refused), (503, "auth-unavailable", ""), "{what}");
    }
    assert!(sides.0.seen().is_empty());
    // Nothing of all that is kept.
    *says.lock().unwrap() = of(json, good);
    assert_eq!(ask(&front, "good").await.status, 200);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_long_or_is_down_is_a_no() {
    let sides = (named("legacy").await, named("extracted").await);
    let hangs = Upstream::raw(|mut stream| async move {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{";
        take_head(&mut stream).await;
        say(&mut stream, head).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let silent = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gone = named("gone").await;
    let address = authority(&gone);
    drop(gone);
    for (login, what) in [
        (authority(&hangs), "in the middle"),
        (authority(&silent), "silent"),
        (address, "down"),
    ] {
        let one = IntrospectionSettings {
            timeout: Duration::from_millis(100),
            ..asked()
        };
        let mut settings = settings((&sides.0, &sides.1), &silent, shown(means()), one);
        settings.services[1] = ServiceSettings::new("login", vec![login]);
        let front = start(settings);
        let refused = ask(&front, "good").await;
        assert_eq!(told(&refused), (503, "auth-unavailable", ""), "{what}");
        front.stop().await;
    }
    assert!(sides.0.seen().is_empty());
}

/// A server that says what it knows when it is let.
struct Held {
    login: Upstream,
    open: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

async fn held() -> Held {
    let (open, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (open.clone(), asked.clone());
    let login = Upstream::start(move |_| {
        count.fetch_add(1, SeqCst);
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            said_of(json!({"active": true}).to_string())
        }
    })
    .await;
    Held { login, open, asked }
}

async fn asks(front: &Front) -> TcpStream {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let get = "GET /api/items HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer good\r\n\r\n";
    stream.write_all(get.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_with_one_token_one_asks_also_where_it_leaves() {
    let sides = (named("legacy").await, named("extracted").await);
    let held = held().await;
    let mut settings = settings((&sides.0, &sides.1), &held.login, shown(means()), asked());
    settings.workers = NonZeroUsize::new(2).unwrap();
    let front = start(settings);
    let first = asks(&front).await;
    let asked = |n: usize| {
        let asked = held.asked.clone();
        eventually("a question", WAIT, move || {
            let there = asked.load(SeqCst) == n;
            async move { there.then_some(()) }
        })
    };
    asked(1).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(asks(&front).await);
    }
    // The one that has asked goes away: another one asks, and only one.
    drop(first);
    asked(2).await;
    held.open.add_permits(10);
    for mut stream in others {
        let answer = read_until(&mut stream, "legacy").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(held.asked.load(SeqCst), 2);
    assert_eq!(ask(&front, "good").await.status, 200);
    assert_eq!(
        held.asked.load(SeqCst),
        2,
        "it is known by now, on all cores"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_back_passes_no_longer_than_its_answer_is_kept() {
    let sides = (named("legacy").await, named("extracted").await);
    let (active, asked_for) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (is, count) = (active.clone(), asked_for.clone());
    let login = Upstream::start(move |_| {
        count.fetch_add(1, SeqCst);
        let said = said_of(json!({"active": is.load(SeqCst)}).to_string());
        async move { said }
    })
    .await;
    for keep in [Duration::ZERO, Duration::from_millis(50)] {
        let one = IntrospectionSettings {
            keep,
            keep_inactive: Duration::ZERO,
            ..asked()
        };
        let front = start(settings((&sides.0, &sides.1), &login, shown(means()), one));
        active.store(true, SeqCst);
        assert_eq!(ask(&front, "good").await.status, 200);
        active.store(false, SeqCst);
        if keep.is_zero() {
            assert_eq!(ask(&front, "good").await.status, 401);
        }
        eventually("a no", WAIT, || async {
            (ask(&front, "good").await.status == 401).then_some(())
        })
        .await;
        active.store(true, SeqCst);
        assert_eq!(
            ask(&front, "good").await.status,
            200,
            "a no is not kept here"
        );
        front.stop().await;
    }
    // What is beyond its `exp` is asked for again, however long answers are kept.
    let before = asked_for.load(SeqCst);
    let ends = knowing(json!({"good": {"active": true, "exp": now() - 1}})).await;
    let front = start(settings(
        (&sides.0, &sides.1),
        &ends,
        shown(means()),
        asked(),
    ));
    for _ in 0..2 {
        assert_eq!(ask(&front, "good").await.status, 200, "within the leeway");
    }
    assert_eq!((ends.seen().len(), asked_for.load(SeqCst)), (2, before));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_an_answer_decide_and_are_told_as_those_of_a_token() {
    let sides = (named("legacy").await, named("extracted").await);
    let login = knowing(json!({
        "staff": {"active": true, "sub": "7", "username": "ann", "name": "Ann", "role": "staff",
            "scope": "read write", "client_id": "app", "realm": {"roles": ["admin"]}},
        "guest": {"active": true, "sub": "8", "scope": "read", "client_id": "app"},
        "other": {"active": true, "sub": "9", "scope": "write", "client_id": "other"},
    }))
    .await;
    let demand = |claim: &str, value: &str| Demand {
        claim: claim.to_owned(),
        values: vec![value.to_owned()],
    };
    let rule = AuthRule {
        demands: vec![demand("client_id", "app"), demand("scope", "write")],
        identity: Some("username".to_owned()),
        ..shown(means())
    };
    let mut settings = settings((&sides.0, &sides.1), &login, rule, asked());
    settings.identity = Some(sessions("/me"));
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    assert_eq!(ask(&front, "staff").await.text(), "extracted");
    let seen = sides.1.seen();
    let identity = seen[0].header("x-outgrow-identity").unwrap();
    let payload = identity.split('.').nth(1).unwrap();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let told_of = ["sub", "name", "role"].map(|name| &payload[name]);
    assert_eq!(told_of, [&json!("ann"), &json!("Ann"), &json!("staff")]);
    let scope = "Bearer realm=\"outgrow\", error=\"insufficient_scope\"";
    let lacks = format!("{scope}, scope=\"write\"");
    assert_eq!(
        told(&ask(&front, "guest").await),
        (403, "forbidden", lacks.as_str())
    );
    assert_eq!(told(&ask(&front, "other").await), (403, "forbidden", scope));
    assert!(
        sides.0.seen().is_empty(),
        "the monolith is not asked who it is"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_a_token_and_all_that_is_shown_must_be_right() {
    let sides = (named("legacy").await, named("extracted").await);
    let login = knowing(json!({
        "s1": {"active": true, "sub": "7"},
        "good": {"active": true, "sub": "8"},
    }))
    .await;
    let one = IntrospectionSettings {
        credentials: Credentials::Bearer(Secret::new("of-the-proxy")),
        hint: String::new(),
        host: Some(HeaderValue::from_static("login.example")),
        ..asked()
    };
    let rule = shown(Means {
        cookie: Some("sid".to_owned()),
        ..means()
    });
    let front = start(settings((&sides.0, &sides.1), &login, rule, one));
    let get = async |fields: &[(&str, &str)]| front.get("/api/items", fields).await.status.as_u16();
    let (good, bad) = (
        ("authorization", "Bearer good"),
        ("authorization", "Bearer bad"),
    );
    for (fields, status) in [
        (&[("cookie", "a=b; sid=s1")][..], 200),
        (&[("cookie", "sid=s2")], 401),
        (&[("cookie", "sid=s1; sid=s2")], 401),
        (&[("cookie", "sid=\"s1\"")], 401),
        (&[("cookie", "a=b")], 401),
        (&[("cookie", "sid=s1"), good], 200),
        (&[("cookie", "sid=s2"), good], 401),
        (&[("cookie", "sid=s1"), bad], 401),
        (&[good], 200),
    ] {
        assert_eq!(get(fields).await, status, "{fields:?}");
    }
    assert_eq!(sides.0.seen()[0].header("cookie"), Some("a=b; sid=s1"));
    let seen = login.seen();
    assert_eq!(&seen[0].body[..], b"token=s1");
    assert_eq!(seen[0].header("authorization"), Some("Bearer of-the-proxy"));
    assert_eq!(seen[0].header("host"), Some("login.example"));
    front.stop().await;
}

/// A token that an issuer has signed is believed by its signature; all others are asked about.
#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_are_not_asked_about_and_strange_ones_are() {
    let sides = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, signer.jwks()).unwrap();
    let login = knowing(json!({"good": {"active": true}})).await;
    let rule = shown(Means {
        issuers: vec!["login".to_owned()],
        ..means()
    });
    let mut settings = settings((&sides.0, &sides.1), &login, rule, asked());
    settings.auth.issuers = vec![issuer(KeySource::File(file), LONG)];
    let front = start(settings.clone());
    assert_eq!(
        ask(&front, &signer.token("ES256", &json!({}))).await.status,
        200
    );
    let forged = Signer::new().token("ES256", &json!({}));
    assert_eq!(ask(&front, &forged).await.status, 401);
    assert!(login.seen().is_empty());
    assert_eq!(ask(&front, "good").await.status, 200);
    let strange = signer.token("ES256", &json!({"iss": "https://evil.example"}));
    assert_eq!(ask(&front, &strange).await.status, 401);
    assert_eq!(login.seen().len(), 2);
    front.stop().await;
    settings.auth.introspection.clear();
    let refused = Proxy::bind(settings.clone(), None).unwrap_err().to_string();
    assert!(
        refused.contains("the introspection `sessions`"),
        "{refused}"
    );
    settings.auth.introspection = vec![IntrospectionSettings {
        service: "nobody".to_owned(),
        ..asked()
    }];
    let refused = Proxy::bind(settings, None).unwrap_err().to_string();
    assert!(refused.contains("no service `nobody`"), "{refused}");
}

/// A connection that has died at rest is no failure of whoever is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_at_rest_is_made_anew() {
    let sides = (named("legacy").await, named("extracted").await);
    let seen = Arc::new(Mutex::new(HashMap::<usize, usize>::new()));
    let (turns, connections) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
    let login = Upstream::raw(move |mut stream| {
        let (turns, n) = (turns.clone(), connections.fetch_add(1, SeqCst));
        async move {
            // It answers one question, and hangs up over the second.
            read_until(&mut stream, "access_token").await;
            *turns.lock().unwrap().entry(n).or_default() += 1;
            let says = "content-type: application/json\r\ncontent-length: 15\r\n\r\n";
            let answer = format!("HTTP/1.1 200 OK\r\n{says}{{\"active\":true}}");
            say(&mut stream, &answer).await;
            let mut part = [0; 1];
            let _ = stream.read(&mut part).await;
            *turns.lock().unwrap().entry(n).or_default() += 1;
        }
    })
    .await;
    let front = start(settings(
        (&sides.0, &sides.1),
        &login,
        shown(means()),
        asked(),
    ));
    for token in ["one", "two", "three"] {
        assert_eq!(ask(&front, token).await.status, StatusCode::OK, "{token}");
    }
    let turns = seen.lock().unwrap().clone();
    assert_eq!(
        turns.values().filter(|turns| **turns == 2).count(),
        2,
        "{turns:?}"
    );
    front.stop().await;
}
