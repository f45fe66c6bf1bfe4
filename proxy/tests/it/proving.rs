//! Who may ask: tokens, API keys, and services that are asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, StatusCode};
use outgrow_proxy::{
    AccessLog, Algorithm, AuthRule, AuthSettings, Demand, Filters, IssuerSettings, KeySource,
    LogFormat, Means, Proxy, ServiceSettings, Settings, TokenRule, Way,
};
use outgrow_rollout::Weight;
use outgrow_testkit::certificates::{Authority, Signed};
use outgrow_testkit::{Answer, Upstream};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Front, authority, named, plain, read_until, sessions, sliced, start, text};

/// Made for these tests, and of no use anywhere else.
const RSA: &str = include_str!("proving/rsa.pem");

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One key of each kind.
pub(crate) struct Signer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let pem: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let p256 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            rsa: RsaKeyPair::from_pkcs8(&STANDARD.decode(pem).unwrap()).unwrap(),
            p256: EcdsaKeyPair::from_pkcs8(kind, p256.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            random,
        }
    }

    fn modulus(&self) -> Vec<u8> {
        PublicKeyComponents::<Vec<u8>>::from(self.rsa.public()).n
    }

    /// The public halves; each is named as its algorithm.
    pub(crate) fn jwks(&self) -> String {
        let rsa = PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let (x, y) = self.p256.public_key().as_ref()[1..].split_at(32);
        let keys = json!([
            {"kty": "RSA", "kid": "RS256", "use": "sig", "n": encode(rsa.n), "e": encode(rsa.e)},
            {"kty": "EC", "kid": "ES256", "crv": "P-256", "x": encode(x), "y": encode(y)},
            {"kty": "OKP", "kid": "EdDSA", "crv": "Ed25519", "x": encode(self.ed.public_key())},
            {"kty": "oct", "kid": "HS256", "k": "c2VjcmV0"},
        ]);
        json!({ "keys": keys }).to_string()
    }

    fn token_of(&self, alg: &str, kid: &str, claims: &Value) -> String {
        let head = json!({"alg": alg, "kid": kid});
        let signed = format!(
            "{}.{}",
            encode(head.to_string()),
            encode(claims.to_string())
        );
        let bytes = signed.as_bytes();
        let signature = match alg {
            "RS256" => {
                let mut into = vec![0; self.rsa.public().modulus_len()];
                self.rsa
                    .sign(&RSA_PKCS1_SHA256, &self.random, bytes, &mut into)
                    .unwrap();
                into
            }
            "ES256" => self
                .p256
                .sign(&self.random, bytes)
                .unwrap()
                .as_ref()
                .to_vec(),
            "EdDSA" => self.ed.sign(bytes).as_ref().to_vec(),
            // What a checker would compute that took the public key for a shared secret.
            "HS256" => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &self.modulus());
                hmac::sign(&key, bytes).as_ref().to_vec()
            }
            _ => Vec::new(),
        };
        format!("{signed}.{}", encode(signature))
    }

    pub(crate) fn token(&self, alg: &str, change: &Value) -> String {
        self.token_of(alg, alg, &claims(change))
    }
}

fn claims(change: &Value) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut claims = json!({
        "iss": "https://login.example", "aud": "shop", "sub": "7", "name": "Ann",
        "scope": "items.read items.write", "exp": now.as_secs() + 600,
    });
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub(crate) fn issuer(keys: KeySource, pause: Duration) -> IssuerSettings {
    IssuerSettings {
        name: "login".to_owned(),
        rule: TokenRule {
            issuer: "https://login.example".to_owned(),
            audience: vec!["shop".to_owned()],
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
            leeway: Duration::from_secs(5),
        },
        keys,
        ca: None,
        refresh: Duration::from_secs(3_600),
        pause,
    }
}

pub(crate) const LONG: Duration = Duration::from_secs(3_600);

pub(crate) fn shown(key: Option<&'static str>) -> AuthRule {
    AuthRule {
        way: Way::Shown(Means {
            issuers: vec!["login".to_owned()],
            key: key.map(HeaderName::from_static),
            ..Means::default()
        }),
        optional: false,
        demands: Vec::new(),
        identity: None,
    }
}

/// All routes of the slice ask for this.
pub(crate) fn guarded(legacy: &Upstream, extracted: &Upstream, rule: AuthRule) -> Settings {
    let mut settings = sliced(legacy, extracted);
    let filters = Arc::new(Filters {
        auth: Some(rule),
        ..Filters::default()
    });
    for route in &mut settings.slices[0].routes {
        route.filters = Some(filters.clone());
    }
    settings
}

async fn ask(front: &Front, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    front.get("/api/items", &[("authorization", &bearer)]).await
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_every_kind_are_believed_and_forged_ones_are_not() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let login = Upstream::always(200, signer.jwks()).await;
    let mut settings = guarded(&legacy, &extracted, shown(None));
    let url = KeySource::Url(login.url("/keys").parse().unwrap());
    settings.auth.issuers = vec![issuer(url, LONG)];
    let front = start(settings);
    for alg in ["RS256", "ES256", "EdDSA"] {
        let answer = ask(&front, &signer.token(alg, &json!({}))).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, "legacy".to_owned()),
            "{alg}"
        );
    }
    let bare = front.get("/api/items", &[]).await;
    assert_eq!(bare.header("x-outgrow-error"), Some("unauthorized"));
    assert_eq!(
        (bare.status.as_u16(), challenge(&bare)),
        (401, "Bearer realm=\"outgrow\"")
    );
    refuse_forged(&front, &signer).await;
    assert_eq!(front.get("/elsewhere", &[]).await.status, 200);
    assert_eq!(legacy.seen().len(), 4, "what is refused is not forwarded");
    front.stop().await;
}

async fn refuse_forged(front: &Front, signer: &Signer) {
    let good = signer.token("RS256", &json!({}));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    for (forged, why) in [
        (
            signer.token("none", &json!({})),
            "in a way that is not accepted",
        ),
        (format!("{signed}."), "signature"),
        (
            signer.token_of("HS256", "RS256", &claims(&json!({}))),
            "not accepted",
        ),
        (
            signer.token_of("HS256", "HS256", &claims(&json!({}))),
            "not accepted",
        ),
        (
            signer.token_of("EdDSA", "RS256", &claims(&json!({}))),
            "unknown key",
        ),
        (signer.token("ES256", &json!({"exp": now - 6})), "expired"),
        (
            signer.token("ES256", &json!({"nbf": now + 60})),
            "not valid yet",
        ),
        (
            signer.token("ES256", &json!({"aud": "other"})),
            "another audience",
        ),
        (
            signer.token("ES256", &json!({"iss": "https://evil.example"})),
            "another issuer",
        ),
        (Signer::new().token("ES256", &json!({})), "signature"),
        ("abc".to_owned(), "malformed"),
        (String::new(), "malformed"),
    ] {
        let answer = ask(front, &forged).await;
        assert_eq!(answer.status, 401, "{why}");
        let said = challenge(&answer);
        assert!(
            said.starts_with("Bearer realm=\"outgrow\", error=\"invalid_token\""),
            "{said}"
        );
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_key_names_cost_the_issuer_nothing() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let login = Upstream::always(200, signer.jwks()).await;
    let mut settings = guarded(&legacy, &extracted, shown(None));
    let url = KeySource::Url(login.url("/keys").parse().unwrap());
    settings.auth.issuers = vec![issuer(url, LONG)];
    let front = start(settings);
    assert_eq!(
        ask(&front, &signer.token("EdDSA", &json!({}))).await.status,
        200
    );
    for made_up in 0..50 {
        let token = signer.token_of("EdDSA", &format!("k{made_up}"), &claims(&json!({})));
        let answer = ask(&front, &token).await;
        assert_eq!(answer.status, 401);
        assert!(challenge(&answer).contains("unknown key"));
    }
    assert_eq!(login.seen().len(), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_changed_under_way_and_stay_while_the_issuer_is_down() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let (old, new) = (Signer::new(), Signer::new());
    let (changed, down) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
    );
    let mut renamed: Value = serde_json::from_str(&new.jwks()).unwrap();
    renamed["keys"][2]["kid"] = json!("new");
    let keys = (old.jwks(), renamed.to_string());
    let (is_changed, is_down) = (changed.clone(), down.clone());
    let login = Upstream::start(move |_| {
        let body = if is_changed.load(SeqCst) {
            &keys.1
        } else {
            &keys.0
        };
        let mut answer = text(body.clone());
        if is_down.load(SeqCst) {
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        async move { answer }
    })
    .await;
    let mut settings = guarded(&legacy, &extracted, shown(None));
    let url = KeySource::Url(login.url("/keys").parse().unwrap());
    settings.auth.issuers = vec![issuer(url, Duration::from_millis(20))];
    let front = start(settings);
    let (before, after) = (
        old.token("EdDSA", &json!({})),
        new.token_of("EdDSA", "new", &claims(&json!({}))),
    );
    let unknown = ask(&front, &before).await;
    assert_eq!(unknown.status, 503);
    assert_eq!(unknown.header("x-outgrow-error"), Some("auth-unavailable"));
    down.store(false, SeqCst);
    // The look under way may still have found it down.
    outgrow_testkit::eventually("keys", crate::harness::WAIT, || async {
        (ask(&front, &before).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(ask(&front, &after).await.status, 401);
    changed.store(true, SeqCst);
    outgrow_testkit::eventually("the new key", crate::harness::WAIT, || async {
        (ask(&front, &after).await.status == 200).then_some(())
    })
    .await;
    down.store(true, SeqCst);
    assert_eq!(
        ask(&front, &before).await.status,
        401,
        "it has been taken back"
    );
    assert_eq!(ask(&front, &after).await.status, 200, "stale, but known");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_decide_what_a_caller_may() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, signer.jwks()).unwrap();
    let rule = AuthRule {
        optional: true,
        demands: vec![Demand {
            claim: "scope".to_owned(),
            values: vec!["items.read".to_owned(), "admin".to_owned()],
        }],
        ..shown(None)
    };
    let mut settings = guarded(&legacy, &extracted, rule);
    settings.auth.issuers = vec![issuer(KeySource::File(file.clone()), LONG)];
    let front = start(settings.clone());
    for (scope, status) in [
        ("x items.read", 200),
        ("admin", 200),
        ("items", 403),
        ("", 403),
    ] {
        let answer = ask(&front, &signer.token("EdDSA", &json!({ "scope": scope }))).await;
        assert_eq!(answer.status, status, "{scope}");
        if status == 403 {
            let said = "Bearer realm=\"outgrow\", error=\"insufficient_scope\", \
                scope=\"items.read admin\"";
            assert_eq!(challenge(&answer), said);
        }
    }
    assert_eq!(front.get("/api/items", &[]).await.status, 200, "optional");
    assert_eq!(
        ask(&front, "wrong").await.status,
        401,
        "wrong is never optional"
    );
    front.stop().await;
    std::fs::write(&file, "{}").unwrap();
    let refused = Proxy::bind(settings, None).unwrap_err().to_string();
    assert!(refused.contains("keys.json: it is no JWK set"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_has_a_name_and_goes_no_further() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api-keys");
    // SHA-256 of `abc` (FIPS 180-2, appendix B.1).
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    std::fs::write(&file, format!("ann sha256:{abc} read\n")).unwrap();
    let mut rule = shown(Some("x-api-key"));
    rule.way = Way::Shown(Means {
        key: Some(HeaderName::from_static("x-api-key")),
        ..Means::default()
    });
    let mut settings = guarded(&legacy, &extracted, rule);
    let refused = Proxy::bind(settings.clone(), None).unwrap_err().to_string();
    assert!(refused.contains("a file of API keys"), "{refused}");
    settings.auth = AuthSettings {
        api_keys: Some(file),
        ..AuthSettings::default()
    };
    let log = dir.path().join("access.log");
    settings.access_log = Some(AccessLog {
        file: Some(log.clone()),
        format: LogFormat::Json,
        sample: 1.0,
        slow: None,
        query: true,
    });
    let front = start(settings);
    assert_eq!(
        front
            .get("/api/items", &[("x-api-key", "abc")])
            .await
            .status,
        200
    );
    for wrong in [
        &[("x-api-key", "abd")][..],
        &[("authorization", "Bearer abc")],
        &[],
    ] {
        let answer = front.get("/api/items", wrong).await;
        assert_eq!(answer.status, 401, "{wrong:?}");
        assert_eq!(challenge(&answer), "ApiKey realm=\"outgrow\"");
    }
    assert_eq!(legacy.seen().len(), 1);
    assert_eq!(legacy.seen()[0].header("x-api-key"), None);
    front.stop().await;
    let log = std::fs::read_to_string(log).unwrap();
    let callers: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["caller"].clone())
        .collect();
    assert_eq!(callers.iter().filter(|caller| *caller == "ann").count(), 1);
    assert_eq!(callers.iter().filter(|caller| caller.is_null()).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_be_asked_and_no_answer_is_a_no() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let gate = Upstream::start(|request| async move {
        let mut answer = text("says the gate");
        let cookie = request.headers().get("cookie").map(HeaderValue::as_bytes);
        *answer.status_mut() = match cookie {
            Some(b"sid=1") => StatusCode::NO_CONTENT,
            Some(b"sid=2") => StatusCode::FOUND,
            Some(b"sid=3") => StatusCode::NOT_FOUND,
            _ => StatusCode::UNAUTHORIZED,
        };
        if answer.status() == StatusCode::NO_CONTENT {
            *answer.body_mut() = bytes::Bytes::new();
        }
        let fields = answer.headers_mut();
        fields.insert("x-user", HeaderValue::from_static("ann"));
        fields.insert("location", HeaderValue::from_static("/login"));
        answer
    })
    .await;
    let rule = AuthRule {
        way: Way::Asked {
            service: "gate".to_owned(),
            path: "/check?a=b".parse().unwrap(),
            copy: vec![
                HeaderName::from_static("x-user"),
                HeaderName::from_static("x-role"),
            ],
            claims: Vec::new(),
        },
        ..shown(None)
    };
    let mut settings = guarded(&legacy, &extracted, rule);
    let service = ServiceSettings::new("gate", vec![authority(&gate)]);
    settings.services.push(service);
    let front = start(settings);
    let get = async |session: &str| {
        let forged = [("cookie", session), ("x-user", "root"), ("x-role", "root")];
        front.get("/api/items?page=2", &forged).await
    };
    assert_eq!(get("sid=1").await.text(), "legacy");
    let seen = &legacy.seen()[0];
    assert_eq!(
        (seen.header("x-user"), seen.header("x-role")),
        (Some("ann"), None)
    );
    let asked = &gate.seen()[0];
    assert_eq!(asked.header("x-forwarded-uri"), Some("/api/items?page=2"));
    assert_eq!(asked.header("x-forwarded-method"), Some("GET"));
    assert_eq!(
        (asked.header("x-user"), asked.target.as_str()),
        (None, "/check?a=b")
    );
    let moved = get("sid=2").await;
    assert_eq!(
        (moved.status.as_u16(), moved.header("location")),
        (302, Some("/login"))
    );
    let denied = get("sid=4").await;
    assert_eq!(
        (denied.status.as_u16(), denied.text()),
        (401, "says the gate".to_owned())
    );
    let lost = get("sid=3").await;
    assert_eq!(lost.status, 503);
    assert_eq!(lost.header("x-outgrow-error"), Some("auth-unavailable"));
    assert_eq!(legacy.seen().len(), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_told_who_asks_by_the_proxy_alone() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, signer.jwks()).unwrap();
    let rule = AuthRule {
        identity: Some("sub".to_owned()),
        ..shown(None)
    };
    let mut settings = guarded(&legacy, &extracted, rule);
    settings.auth.issuers = vec![issuer(KeySource::File(file), LONG)];
    settings.identity = Some(sessions("/me"));
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    let bearer = format!("Bearer {}", signer.token("RS256", &json!({})));
    let sent = [
        ("authorization", bearer.as_str()),
        ("x-outgrow-identity", "forged"),
    ];
    assert_eq!(front.get("/api/items", &sent).await.text(), "extracted");
    let seen = extracted.seen();
    let identity = seen[0].header("x-outgrow-identity").unwrap();
    let payload = identity.split('.').nth(1).unwrap();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(
        (&payload["sub"], &payload["name"]),
        (&json!("7"), &json!("Ann"))
    );
    assert!(
        legacy.seen().is_empty(),
        "the monolith is not asked who it is"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_discovered() {
    let legacy = named("legacy").await;
    let signer = Signer::new();
    let jwks = signer.jwks();
    let login = Upstream::start(move |request| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let body = match request.uri().path() {
            "/.well-known/openid-configuration" => {
                let jwks = format!("http://{host}/keys");
                json!({"issuer": "https://login.example", "jwks_uri": jwks}).to_string()
            }
            _ => jwks.clone(),
        };
        async move { text(body) }
    })
    .await;
    let mut settings = plain(&legacy);
    settings.filters = Some(Arc::new(Filters {
        auth: Some(shown(None)),
        ..Filters::default()
    }));
    let about = login.url("/.well-known/openid-configuration");
    settings.auth.issuers = vec![issuer(KeySource::Discover(about.parse().unwrap()), LONG)];
    let front = start(settings);
    assert_eq!(
        ask(&front, &signer.token("RS256", &json!({}))).await.status,
        200
    );
    assert_eq!(
        ask(&front, &signer.token("none", &json!({}))).await.status,
        401
    );
    front.stop().await;
}

/// Says this over TLS, to whoever asks.
async fn over_tls(signed: &Signed, body: String) -> SocketAddr {
    let chain = CertificateDer::pem_file_iter(&signed.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&signed.key).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not believe the certificate leaves.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            read_until(&mut stream, "\r\n\r\n").await;
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_over_tls_from_whom_the_config_believes() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let signer = Signer::new();
    let authority = Authority::new("ours");
    let at = over_tls(&authority.server(&["127.0.0.1"]), signer.jwks()).await;
    let another = Authority::new("another");
    for (ca, status) in [(authority.file(), 200), (another.file(), 503)] {
        let mut settings = guarded(&legacy, &extracted, shown(None));
        let url = format!("https://{at}/keys").parse().unwrap();
        let mut login = issuer(KeySource::Url(url), LONG);
        login.ca = Some(ca);
        settings.auth.issuers = vec![login];
        let front = start(settings);
        let answer = ask(&front, &signer.token("ES256", &json!({}))).await;
        assert_eq!(answer.status, status);
        front.stop().await;
    }
}
