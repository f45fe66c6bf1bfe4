//! What a service that is asked says of the caller.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use outgrow_proxy::{AuthRule, Demand, Saying, ServiceSettings, Settings, Way};
use outgrow_rollout::Weight;
use outgrow_testkit::Upstream;
use serde_json::{Value, json};

use crate::harness::{authority, named, sessions, start, text};
use crate::proving::guarded;

/// A gate that lets the user of a cookie pass, with groups, and echoes what it is told of one.
async fn gate() -> Upstream {
    Upstream::start(|request: Request<Bytes>| async move {
        let fields = request.headers();
        let of = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
        let mut answer = text("");
        let groups = match of("cookie") {
            Some("sid=1") => "staff, admin",
            Some("sid=2") => "guests",
            _ => "",
        };
        let user = of("x-user").unwrap_or("ann").to_owned();
        let said = answer.headers_mut();
        for (name, value) in [
            ("x-user", user.as_str()),
            ("x-groups", groups),
            ("x-name", "Ann"),
        ] {
            said.insert(name, HeaderValue::from_str(value).unwrap());
        }
        answer
    })
    .await
}

fn settings(legacy: &Upstream, extracted: &Upstream, gate: &Upstream) -> Settings {
    let saying = |field: &'static str, claim: &str, list| Saying {
        field: HeaderName::from_static(field),
        claim: claim.to_owned(),
        list,
    };
    let rule = AuthRule {
        way: Way::Asked {
            service: "gate".to_owned(),
            path: "/check".parse().unwrap(),
            copy: vec![HeaderName::from_static("x-name")],
            claims: vec![
                saying("x-user", "sub", false),
                saying("x-groups", "groups", true),
                saying("x-name", "name", false),
            ],
        },
        optional: false,
        demands: vec![Demand {
            claim: "groups".to_owned(),
            values: vec!["admin".to_owned(), "owner".to_owned()],
        }],
        identity: Some("sub".to_owned()),
    };
    let mut settings = guarded(legacy, extracted, rule);
    let service = ServiceSettings::new("gate", vec![authority(gate)]);
    settings.services.push(service);
    settings.identity = Some(sessions("/me"));
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_decides_and_is_told_and_nobody_else_says_it() {
    let (legacy, extracted, gate) = (
        named("legacy").await,
        named("extracted").await,
        gate().await,
    );
    let front = start(settings(&legacy, &extracted, &gate));
    front.weigh(1, Weight::FULL);
    let get = async |cookie: &str| {
        let forged = [
            ("cookie", cookie),
            ("x-user", "root"),
            ("x_user", "root"),
            ("x-groups", "admin"),
            ("x-name", "Root"),
        ];
        front.get("/api/items", &forged).await
    };
    assert_eq!(get("sid=1").await.text(), "extracted");
    let seen = extracted.seen();
    let had = ["x-user", "x_user", "x-groups", "x-name"].map(|name| seen[0].header(name));
    assert_eq!(had, [None, None, None, Some("Ann")]);
    let identity = seen[0].header("x-outgrow-identity").unwrap();
    let payload = identity.split('.').nth(1).unwrap();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(
        (&payload["sub"], &payload["name"]),
        (&json!("ann"), &json!("Ann"))
    );
    for (cookie, status) in [("sid=2", 403), ("sid=3", 403), ("sid=1", 200)] {
        assert_eq!(get(cookie).await.status, status, "{cookie}");
    }
    assert_eq!((extracted.seen().len(), legacy.seen().len()), (2, 0));
    front.stop().await;
}
