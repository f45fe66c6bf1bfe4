//! Clients that show certificates, with curl and with rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outgrow_proxy::{
    AuthRule, ClientAuth, Demand, Filters, Means, Proxy, Revocation, Settings, Way,
};
use outgrow_rollout::Weight;
use outgrow_testkit::certificates::{Authority, Signed};
use outgrow_testkit::{Upstream, client, eventually};
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::counting::refused;
use crate::encrypted::{curl, over_tls};
use crate::harness::{Front, WAIT, named, read_until, sessions, sliced, start};

const FIELD: &str = "x-forwarded-client-cert";

/// The proxy's own certificate, and whose its clients show.
struct Set {
    server: Authority,
    signed: Signed,
    clients: Authority,
}

impl Set {
    fn new() -> Self {
        let server = Authority::new("ca");
        let signed = server.server(&["shop.example"]);
        Self {
            server,
            signed,
            clients: Authority::new("clients"),
        }
    }

    fn settings(&self, upstream: &Upstream, required: bool) -> Settings {
        let mut settings = over_tls(upstream, &[&self.signed]);
        if let Some(tls) = &mut settings.tls {
            tls.clients = Some(ClientAuth {
                ca: self.clients.file(),
                required,
                revocation: None,
            });
        }
        settings
    }

    async fn ask(
        &self,
        front: &Front,
        own: Option<&Signed>,
        more: &[&str],
    ) -> Result<String, String> {
        let own: Vec<PathBuf> = own
            .map(|own| {
                vec![
                    "--cert".into(),
                    own.certificate.clone(),
                    "--key".into(),
                    own.key.clone(),
                ]
            })
            .unwrap_or_default();
        let own: Vec<&str> = own.iter().map(|path| path.to_str().unwrap()).collect();
        let all = [&own, more].concat();
        curl(front, &self.server.file(), "shop.example", &all).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_of_ours_is_not_served() {
    let (upstream, set) = (named("upstream").await, Set::new());
    let front = start(set.settings(&upstream, true));
    let ann = set.clients.client("ann");
    let others = Authority::new("clients");
    let other = others.client("ann");
    for (more, version) in [
        (&[][..], "2"),
        (&["--http1.1"], "1.1"),
        (&["--tls-max", "1.2"], "2"),
    ] {
        let answer = set.ask(&front, Some(&ann), more).await.unwrap();
        assert_eq!(answer, format!("upstream {version}"));
        assert!(set.ask(&front, None, more).await.is_err(), "{more:?}");
        assert!(
            set.ask(&front, Some(&other), more).await.is_err(),
            "{more:?}"
        );
    }
    let forged = [
        "-H",
        "X-Forwarded-Client-Cert: Subject=\"CN=root\"",
        "-H",
        "x_forwarded_client_cert: a",
    ];
    set.ask(&front, Some(&ann), &forged).await.unwrap();
    assert_eq!(upstream.seen().len(), 4);
    eventually("each is a handshake that failed", WAIT, || async {
        (refused(&front) == [("handshake", 6)]).then_some(())
    })
    .await;
    for seen in upstream.seen() {
        let told: Vec<_> = seen.headers.get_all(FIELD).iter().collect();
        assert_eq!(told.len(), 1);
        let told = told[0].to_str().unwrap();
        assert!(
            told.starts_with("Hash=") && told.ends_with(";Subject=\"CN=ann\""),
            "{told}"
        );
        assert_eq!(seen.header("x_forwarded_client_cert"), None);
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_be_left_out_and_never_be_wrong() {
    let (upstream, set) = (named("upstream").await, Set::new());
    let mut settings = set.settings(&upstream, false);
    settings.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let proxy = Proxy::bind(settings, None).unwrap();
    let [plain, safe] = proxy.addresses()[..] else {
        panic!("two addresses");
    };
    let front = Front {
        at: safe,
        handle: proxy.handle(),
        running: proxy.start(),
    };
    let forged = ["-H", "X-Forwarded-Client-Cert: Subject=\"CN=root\""];
    set.ask(&front, None, &forged).await.unwrap();
    let ann = set.clients.client("ann");
    set.ask(&front, Some(&ann), &forged).await.unwrap();
    let others = Authority::new("others");
    let other = others.client("ann");
    assert!(set.ask(&front, Some(&other), &[]).await.is_err());
    let sent = [(FIELD, "Subject=\"CN=root\"")];
    let url = format!("http://{plain}/");
    let request = client::request(http::Method::GET, &url, &sent, bytes::Bytes::new());
    assert_eq!(client::send(request).await.status, 200);
    let seen = upstream.seen();
    assert_eq!((seen[0].header(FIELD), seen[2].header(FIELD)), (None, None));
    assert!(seen[1].header(FIELD).unwrap().contains("CN=ann"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_ask_for_certificates_and_services_are_told_by_whom() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let set = Set::new();
    let mut settings = set.settings(&legacy, false);
    let sliced = sliced(&legacy, &extracted);
    (settings.slices, settings.services) = (sliced.slices, sliced.services);
    settings.slices[0].routes[0].template = "/x".to_owned();
    let way = Way::Shown(Means {
        certificate: true,
        ..Means::default()
    });
    settings.slices[0].routes[0].filters = Some(Arc::new(Filters {
        auth: Some(AuthRule {
            way,
            optional: false,
            demands: vec![Demand {
                claim: "cn".to_owned(),
                values: vec!["ann".to_owned()],
            }],
            identity: Some("cn".to_owned()),
        }),
        ..Filters::default()
    }));
    settings.identity = Some(sessions("/me"));
    let mut without = settings.clone();
    if let Some(tls) = &mut without.tls {
        tls.clients = None;
    }
    let refused = Proxy::bind(without, None).unwrap_err().to_string();
    assert!(
        refused.contains("authorities of client certificates"),
        "{refused}"
    );
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    let (ann, bob) = (set.clients.client("ann"), set.clients.client("bob"));
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(set.ask(&front, None, &status).await.unwrap(), "403");
    assert_eq!(set.ask(&front, Some(&bob), &status).await.unwrap(), "403");
    let answer = set.ask(&front, Some(&ann), &["--http1.1"]).await.unwrap();
    assert_eq!(answer, "extracted 1.1");
    let seen = extracted.seen();
    assert_eq!(seen.len(), 1);
    let identity = seen[0].header("x-outgrow-identity").unwrap();
    let payload = URL_SAFE_NO_PAD.decode(identity.split('.').nth(1).unwrap());
    let payload: serde_json::Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    assert_eq!(
        (&payload["sub"], &payload["name"]),
        (&"ann".into(), &"ann".into())
    );
    assert!(legacy.seen().is_empty());
    front.stop().await;
}

/// How this client is let in, by a connection that may resume what it has.
async fn shaken(front: &Front, connector: &TlsConnector) -> Option<HandshakeKind> {
    let stream = TcpStream::connect(front.at).await.unwrap();
    let name = ServerName::try_from("shop.example").unwrap();
    let mut stream = connector.connect(name, stream).await.ok()?;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let get = b"GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    stream.write_all(get).await.ok()?;
    let mut first = [0; 1];
    // With TLS 1.3 a server refuses a certificate behind the client's handshake.
    stream.read_exact(&mut first).await.ok()?;
    read_until(&mut stream, "upstream").await;
    stream.get_ref().1.handshake_kind()
}

fn showing(ca: &Path, own: &Signed) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let chain = vec![CertificateDer::from_pem_file(&own.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_clients_are_changed_under_way() {
    let (upstream, set) = (named("upstream").await, Set::new());
    let front = start(set.settings(&upstream, true));
    let ann = set.clients.client("ann");
    let next = Authority::new("next");
    let eve = next.client("eve");
    let (old, new) = (
        showing(&set.server.file(), &ann),
        showing(&set.server.file(), &eve),
    );
    for _ in 0..2 {
        let kind = shaken(&front, &old).await;
        assert_eq!(
            kind,
            Some(HandshakeKind::Full),
            "each certificate is looked at"
        );
    }
    assert_eq!(shaken(&front, &new).await, None);
    std::fs::write(set.clients.file(), "rubbish").unwrap();
    assert!(shaken(&front, &old).await.is_some());
    std::fs::copy(next.file(), set.clients.file()).unwrap();
    eventually("the new authority is believed", WAIT, || async {
        shaken(&front, &new).await.map(|_| ())
    })
    .await;
    assert_eq!(shaken(&front, &old).await, None, "and the old one no more");
    front.stop().await;
    std::fs::write(set.clients.file(), "rubbish").unwrap();
    let refused = Proxy::bind(set.settings(&upstream, true), None).unwrap_err();
    assert!(
        refused.to_string().contains("holds no certificate"),
        "{refused}"
    );
}

/// The settings, with the lists of a file.
fn revoking(set: &Set, upstream: &Upstream, lists: PathBuf, expired: bool) -> Settings {
    let mut settings = set.settings(upstream, true);
    let clients = settings.tls.as_mut().and_then(|tls| tls.clients.as_mut());
    clients.unwrap().revocation = Some(Revocation { lists, expired });
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_taken_back_lets_nobody_in() {
    let (upstream, set) = (named("upstream").await, Set::new());
    let (ann, eve) = (set.clients.client("ann"), set.clients.client("eve"));
    let lists = set.clients.revokes(&["eve"], 2090);
    let front = start(revoking(&set, &upstream, lists.clone(), false));
    for more in [&[][..], &["--tls-max", "1.2"]] {
        set.ask(&front, Some(&ann), more).await.unwrap();
        assert!(set.ask(&front, Some(&eve), more).await.is_err(), "{more:?}");
    }
    assert_eq!(refused(&front), [("handshake", 2)]);
    // What cannot be used changes nothing; what can is used from then on.
    let ca = &set.server.file();
    let (ann, eve) = (showing(ca, &ann), showing(ca, &eve));
    std::fs::write(&lists, "rubbish").unwrap();
    assert!(shaken(&front, &ann).await.is_some());
    assert!(shaken(&front, &eve).await.is_none());
    set.clients.revokes(&["ann"], 2090);
    eventually("the new list", WAIT, || async {
        shaken(&front, &ann).await.is_none().then_some(())
    })
    .await;
    assert!(shaken(&front, &eve).await.is_some());
    front.stop().await;
    std::fs::write(&lists, "rubbish").unwrap();
    let refused = Proxy::bind(revoking(&set, &upstream, lists, true), None).unwrap_err();
    assert!(
        refused.to_string().contains("holds no revocation list"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_too_old_is_none_unless_the_config_says_so() {
    let (upstream, set) = (named("upstream").await, Set::new());
    let (ann, eve) = (set.clients.client("ann"), set.clients.client("eve"));
    let old = set.clients.revokes(&["eve"], 2020);
    let refused = Proxy::bind(revoking(&set, &upstream, old.clone(), false), None).unwrap_err();
    assert!(refused.to_string().contains("has expired"), "{refused}");
    let front = start(revoking(&set, &upstream, old.clone(), true));
    set.ask(&front, Some(&ann), &[]).await.unwrap();
    assert!(set.ask(&front, Some(&eve), &[]).await.is_err());
    front.stop().await;
    // One that has become too old under way: who may come in nobody knows.
    set.clients.revokes(&["eve"], 2090);
    let front = start(revoking(&set, &upstream, old, false));
    let ann = showing(&set.server.file(), &ann);
    assert!(shaken(&front, &ann).await.is_some());
    set.clients.revokes(&["eve"], 2020);
    eventually("the old list", WAIT, || async {
        shaken(&front, &ann).await.is_none().then_some(())
    })
    .await;
    front.stop().await;
}

/// A list says nothing of certificates that another authority has signed.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_those_of_the_authority() {
    let (upstream, set) = (named("upstream").await, Set::new());
    let others = Authority::new("others");
    // The same name, and another key.
    let forger = Authority::new("clients");
    let ann = set.clients.client("ann");
    for lists in [others.revokes(&[], 2090), forger.revokes(&[], 2090)] {
        let front = start(revoking(&set, &upstream, lists, false));
        assert!(set.ask(&front, Some(&ann), &[]).await.is_err());
        front.stop().await;
    }
}
