//! Clients that write a request so that a filter, or a service, takes it for another one.

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderValue, Method};
use outgrow_proxy::{
    AuthRule, CacheRule, CacheSettings, Edit, Edits, Filters, KeySource, Means, PathRule, Saying,
    Secret, ServiceSettings, Way,
};
use outgrow_testkit::Upstream;

use crate::harness::{WAIT, authority, named, plain, read_until, say, sliced, start, take_head};
use crate::proving::{LONG, Signer, guarded, issuer, shown};

/// Asks a service, which says who it is.
fn by_the_gate() -> AuthRule {
    AuthRule {
        way: Way::Asked {
            service: "gate".to_owned(),
            path: "/check".parse().unwrap(),
            copy: vec![HeaderName::from_static("x-user")],
            claims: Vec::new(),
        },
        optional: false,
        demands: Vec::new(),
        identity: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_names_a_host_and_nobody() {
    let upstream = named("upstream").await;
    let front = start(plain(&upstream));
    for bad in [
        "GET http://x@shop/ HTTP/1.1\r\nhost: shop\r\n\r\n",
        "GET http://x:y@shop:80/ HTTP/1.1\r\nhost: shop\r\n\r\n",
        "GET http://:80/ HTTP/1.1\r\nhost: shop\r\n\r\n",
        "GET http://sh%6fp/ HTTP/1.1\r\nhost: shop\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: :80\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x@shop\r\n\r\n",
    ] {
        let answer = front.raw(bad).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad}: {answer}");
    }
    assert!(upstream.seen().is_empty());
    let good = "GET http://shop:80/ HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";
    assert!(front.raw(good).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(upstream.seen()[0].header("host"), Some("shop:80"));
    front.stop().await;
}

/// A name with a dot at its end is the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_the_same_however_it_is_written() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.slices[0].routes[0].host = Some("shop".to_owned());
    let front = start(settings);
    front.weigh(1, outgrow_rollout::Weight::FULL);
    for host in ["shop", "SHOP", "shop:80", "shop.", "Shop.:80", "shop:"] {
        let answer = front.get("/api/items", &[("host", host)]).await;
        assert_eq!(answer.text(), "extracted", "{host}");
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_known_may_say_that_it_is_a_shadow() {
    let upstream = named("upstream").await;
    let marks = ["x-outgrow-shadow", "x-outgrow-dry-run"];
    let mut settings = plain(&upstream);
    settings.override_secret = Some(Secret::new("0123456789abcdef"));
    let front = start(settings.clone());
    let sent = marks.map(|name| (name, "1"));
    front.get("/", &sent).await;
    let twins = [("X_Outgrow_Shadow", "1"), ("x-outgrow_dry_run", "1")];
    front.get("/", &twins).await;
    let mut known = sent.to_vec();
    known.push(("x-outgrow-secret", "0123456789abcdef"));
    front.get("/", &known).await;
    front.stop().await;
    settings.trust.forwarded = Some(vec!["127.0.0.0/8".parse().unwrap()]);
    let front = start(settings);
    front.get("/", &sent).await;
    front.stop().await;
    let told = |index: usize| marks.map(|name| upstream.seen()[index].header(name).is_some());
    assert_eq!(told(0), [false; 2]);
    assert_eq!(told(2), [true; 2], "it has the secret");
    assert_eq!(told(3), [true; 2], "it is of a network that is believed");
    let names: Vec<String> = upstream.seen()[1]
        .headers
        .keys()
        .map(ToString::to_string)
        .collect();
    assert!(!names.iter().any(|name| name.contains('_')), "{names:?}");
}

/// CGI and its like take `X_User` and `X-User` for one field.
#[tokio::test(flavor = "multi_thread")]
async fn fields_of_the_proxy_have_no_twins() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let gate = Upstream::always(200, "").await;
    let mut request = Edits::default();
    let internal = HeaderName::from_static("x-internal");
    let no = Edit::Set(HeaderValue::from_static("no"));
    request.push(internal, no).unwrap();
    let filters = Arc::new(Filters {
        auth: Some(by_the_gate()),
        request,
        ..Filters::default()
    });
    let mut settings = sliced(&legacy, &extracted);
    settings
        .services
        .push(ServiceSettings::new("gate", vec![authority(&gate)]));
    for route in &mut settings.slices[0].routes {
        route.filters = Some(filters.clone());
    }
    let front = start(settings);
    let forged = [
        ("X_User", "root"),
        ("x_internal", "yes"),
        ("X_Outgrow_Identity", "v1.forged.x"),
        ("X_Forwarded-For", "9.9.9.9"),
        ("x_other", "stays"),
    ];
    assert_eq!(front.get("/api/items", &forged).await.text(), "legacy");
    let seen = legacy.seen();
    for (name, _) in &forged[..4] {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
    assert_eq!(seen[0].header("x_other"), Some("stays"));
    assert_eq!(seen[0].header("x-internal"), Some("no"));
    assert_eq!(gate.seen()[0].header("x_user"), None);
    front.stop().await;
}

/// Some servers take what follows a body for fields of the head.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_behind_a_body_who_they_are() {
    let upstream = Upstream::raw(|mut stream| async move {
        let seen = read_until(&mut stream, "x-sum: 42\r\n").await;
        let forged = [
            "x-outgrow-identity:",
            "x_outgrow_side",
            "x-user",
            "x_user",
            "cookie",
            "x-forwarded-for: 9",
        ];
        // What was announced in the head is no field.
        let behind = seen
            .split_once("\r\n0\r\n")
            .map_or("", |(_, behind)| behind)
            .to_lowercase();
        let clean = !forged.iter().any(|name| behind.contains(name));
        let answer = if clean { "yes" } else { "no!" };
        say(
            &mut stream,
            &format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{answer}"),
        )
        .await;
    })
    .await;
    let gate = Upstream::always(200, "").await;
    let mut settings = plain(&upstream);
    settings
        .services
        .push(ServiceSettings::new("gate", vec![authority(&gate)]));
    let mut claiming = by_the_gate();
    if let Way::Asked { copy, claims, .. } = &mut claiming.way {
        let said = copy.drain(..).map(|field| Saying {
            field,
            claim: "sub".to_owned(),
            list: false,
        });
        claims.extend(said);
    }
    for rule in [by_the_gate(), claiming] {
        settings.filters = Some(Arc::new(Filters {
            auth: Some(rule),
            ..Filters::default()
        }));
        let front = start(settings.clone());
        let answer = front
            .raw(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\
                 trailer: x-sum, x-outgrow-identity, x_outgrow_side, x-user, X_User, cookie, x-forwarded-for\r\n\
                 connection: close\r\n\r\n3\r\nabc\r\n0\r\nx-outgrow-identity: v1.forged.x\r\n\
                 x_outgrow_side: extracted\r\nx-user: root\r\nX_User: root\r\ncookie: a=b\r\n\
                 x-forwarded-for: 9.9.9.9\r\nx-sum: 42\r\n\r\n",
            )
            .await;
        assert!(answer.ends_with("yes"), "{answer}");
        front.stop().await;
    }
}

/// A write is of the URL that its client has asked, whatever a side calls that.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_changed_paths_takes_its_url_out_of_what_is_kept() {
    let legacy = Upstream::start(|_| async {
        let mut answer = crate::harness::text("kept");
        let long = HeaderValue::from_static("max-age=600");
        answer.headers_mut().insert("cache-control", long);
        answer
    })
    .await;
    let mut settings = sliced(&legacy, &legacy);
    settings.cache = Some(CacheSettings {
        size: 1 << 20,
        body_max: 100_000,
        wait: WAIT,
    });
    let kept = Arc::new(Filters {
        cache: Some(CacheRule::default()),
        ..Filters::default()
    });
    settings.slices[0].routes[0].filters = Some(kept);
    settings.filters = Some(Arc::new(Filters {
        paths: vec![PathRule::new(None, "/api/{*rest}", "/app/{*rest}").unwrap()],
        ..Filters::default()
    }));
    let front = start(settings);
    for _ in 0..2 {
        front.get("/api/items", &[]).await;
    }
    assert_eq!(legacy.seen().len(), 1, "it is kept");
    let delete = outgrow_testkit::client::request(
        Method::DELETE,
        &front.url("/api/items"),
        &[],
        bytes::Bytes::new(),
    );
    outgrow_testkit::client::send(delete).await;
    assert_eq!(legacy.seen()[1].target, "/app/items");
    front.get("/api/items", &[]).await;
    assert_eq!(legacy.seen().len(), 3, "it is asked for anew");
    front.stop().await;
}

/// No content has no length (RFC 9110 section 8.6).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_content_says_no_length() {
    let upstream = Upstream::raw(|mut stream| async move {
        while !take_head(&mut stream).await.is_empty() {
            say(
                &mut stream,
                "HTTP/1.1 204 No Content\r\nx: 1\r\ncontent-length: 7\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let out = tokio::process::Command::new("curl")
            .args(["-sSi", "--max-time", "20", version, &front.url("/")])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap().to_lowercase();
        assert!(said.contains(" 204"), "{said}");
        assert!(said.contains("x: 1"), "{said}");
        assert!(!said.contains("content-length"), "{said}");
    }
    front.stop().await;
}

/// Either credential may let a caller in; neither goes on unless it was shown to be right.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_goes_on_that_was_not_checked() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let dir = tempfile::tempdir().unwrap();
    let (jwks, keys) = (dir.path().join("keys.json"), dir.path().join("api-keys"));
    std::fs::write(&jwks, signer.jwks()).unwrap();
    // SHA-256 of `abc` (FIPS 180-2, appendix B.1).
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    std::fs::write(&keys, format!("ann sha256:{abc} read\n")).unwrap();
    let rule = AuthRule {
        optional: true,
        ..shown(Some("x-api-key"))
    };
    let mut settings = guarded(&legacy, &extracted, rule);
    settings.auth.issuers = vec![issuer(KeySource::File(jwks), LONG)];
    settings.auth.api_keys = Some(keys);
    let front = start(settings.clone());
    let good = format!("Bearer {}", signer.token("EdDSA", &serde_json::json!({})));
    let forged = format!("Bearer {}", signer.token("none", &serde_json::json!({})));
    let tab = forged.replace(' ', "\t");
    let bare = forged.replace("Bearer ", "");
    let second = format!("Basic eDp5, {forged}");
    let quoted = format!("\"{forged}\"");
    let other = forged.replace("Bearer", "JWT");
    for wrong in [
        &forged,
        &tab,
        &bare,
        &second,
        &quoted,
        &other,
        "Bearer",
        "bearer:abc",
    ] {
        for key in [Some("abc"), None] {
            let mut sent = vec![("authorization", wrong)];
            sent.extend(key.map(|key| ("x-api-key", key)));
            let answer = front.get("/api/items", &sent).await;
            assert_eq!(answer.status, 401, "{wrong:?} {key:?}");
        }
    }
    assert!(legacy.seen().is_empty());
    for right in [&good, "Basic eDp5", "Negotiate"] {
        let sent = [("authorization", right), ("x-api-key", "abc")];
        assert_eq!(front.get("/api/items", &sent).await.status, 200, "{right}");
        let seen = legacy.seen();
        assert_eq!(seen.last().unwrap().header("authorization"), Some(right));
    }
    front.stop().await;
    unchecked_tokens_are_taken_off(settings, &legacy, &[&forged, &tab, &bare]).await;
}

/// Where no issuer is named nobody can check a token.
async fn unchecked_tokens_are_taken_off(
    mut settings: outgrow_proxy::Settings,
    legacy: &Upstream,
    forged: &[&str],
) {
    for route in &mut settings.slices[0].routes {
        let rule = AuthRule {
            way: Way::Shown(Means {
                key: Some(HeaderName::from_static("x-api-key")),
                ..Means::default()
            }),
            optional: true,
            ..shown(None)
        };
        route.filters = Some(Arc::new(Filters {
            auth: Some(rule),
            ..Filters::default()
        }));
    }
    let front = start(settings);
    for token in forged {
        for key in [Some("abc"), None] {
            let mut sent = vec![("authorization", *token)];
            sent.extend(key.map(|key| ("x-api-key", key)));
            assert_eq!(front.get("/api/items", &sent).await.status, 200);
            let seen = legacy.seen();
            assert_eq!(
                seen.last().unwrap().header("authorization"),
                None,
                "{token}"
            );
        }
    }
    let basic = [("authorization", "Basic eDp5")];
    front.get("/api/items", &basic).await;
    let seen = legacy.seen();
    assert_eq!(
        seen.last().unwrap().header("authorization"),
        Some("Basic eDp5")
    );
    front.stop().await;
}

/// What a lenient upstream takes for a route of the slice is one, and goes on as it was written.
#[tokio::test(flavor = "multi_thread")]
async fn no_way_to_write_a_path_gets_past_its_route() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    let deny = AuthRule {
        way: Way::Shown(Means {
            key: Some(HeaderName::from_static("x-api-key")),
            ..Means::default()
        }),
        optional: false,
        demands: Vec::new(),
        identity: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("api-keys");
    std::fs::write(&keys, "").unwrap();
    settings.auth.api_keys = Some(keys);
    let closed = Arc::new(Filters {
        auth: Some(deny),
        ..Filters::default()
    });
    // GET and POST of /api/items; /api/items/{id} is open.
    settings.slices[0].routes[0].filters = Some(closed.clone());
    settings.slices[0].routes[2].filters = Some(closed);
    let front = start(settings);
    let ask = async |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = front.raw(&head).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for path in [
        "/api/items",
        "/%61pi/items",
        "//api/items",
        "/api/./items",
        "/api/items;jsessionid=1",
        "/x/../api/items",
        "/api/items/..%2fitems",
        "/api\\items",
        "/api/%2569tems",
    ] {
        for method in ["GET", "POST", "HEAD"] {
            let status = ask(method, path).await;
            assert!(
                matches!(&*status, "401" | "400"),
                "{method} {path}: {status}"
            );
        }
    }
    assert!(legacy.seen().is_empty());
    for path in [
        "/api/items/7",
        "/api/items/%37",
        "/api/items/a%2Fb",
        "/else//where/../x;y",
    ] {
        assert_eq!(ask("GET", path).await, "200", "{path}");
        assert_eq!(
            legacy.seen().last().unwrap().target,
            path,
            "as it was written"
        );
    }
    let explained = front.handle.explain("GET", "//api/items", &[]).unwrap();
    assert_eq!(explained.route.as_deref(), Some("GET /api/items"));
    front.stop().await;
}
