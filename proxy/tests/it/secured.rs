//! Upstreams behind TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_proxy::{
    Balance, BindError, CertificateFiles, Health, Protocol, Proxy, ServiceSettings, Settings,
    Transport, UpstreamTls,
};
use outgrow_testkit::certificates::{Authority, Signed};
use outgrow_testkit::{Upstream, client, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::balancing::told;
use crate::harness::{WAIT, plain, read_until, say, start, take_head, text};

/// Takes TLS off, before an upstream that speaks in clear text.
pub(crate) struct Door {
    pub(crate) at: SocketAddr,
    /// Connections that shook hands.
    pub(crate) taken: Arc<AtomicUsize>,
    /// The names that were asked for.
    names: Arc<Mutex<Vec<Option<String>>>>,
    accepting: AbortHandle,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Door {
    /// With these protocols, and only for clients that this authority has signed.
    pub(crate) async fn before(
        upstream: SocketAddr,
        signed: &Signed,
        alpn: &[&str],
        clients: Option<&Path>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config(signed, alpn, clients)));
        let taken = Arc::new(AtomicUsize::new(0));
        let names: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let (count, told) = (taken.clone(), names.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count, told) = (acceptor.clone(), count.clone(), told.clone());
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let name = stream.get_ref().1.server_name().map(ToOwned::to_owned);
                    told.lock().unwrap().push(name);
                    count.fetch_add(1, SeqCst);
                    let mut inner = TcpStream::connect(upstream).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
                });
            }
        });
        Self {
            at,
            taken,
            names,
            accepting: accepting.abort_handle(),
        }
    }
}

fn config(signed: &Signed, alpn: &[&str], clients: Option<&Path>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(ca).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&signed.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&signed.key).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

pub(crate) fn trusting(ca: &Authority) -> UpstreamTls {
    UpstreamTls {
        ca: Some(ca.file()),
        reload: Duration::from_millis(50),
        ..UpstreamTls::default()
    }
}

/// A pass-through to an upstream over TLS.
pub(crate) fn over_tls(
    legacy: &Upstream,
    at: SocketAddr,
    tls: UpstreamTls,
    protocol: Protocol,
) -> Settings {
    let mut settings = plain(legacy);
    settings.legacy = ServiceSettings::new("legacy", vec![at]);
    settings.legacy.rules.transport = Transport {
        tls: Some(tls),
        protocol,
    };
    settings
}

async fn echo() -> Upstream {
    Upstream::start(|request| async move { text(request.into_body()) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_bodies_and_checks_go_over_tls() {
    let (echo, ca) = (echo().await, Authority::new("ca"));
    let signed = ca.server(&["127.0.0.1"]);
    let door = Door::before(echo.addr(), &signed, &["http/1.1"], None).await;
    let mut settings = over_tls(&echo, door.at, trusting(&ca), Protocol::Http1);
    settings.legacy.rules.health = Some(Health {
        every: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        ..Health::at("/healthz")
    });
    let front = start(settings);
    eventually("it is checked", WAIT, || async {
        let seen = echo.seen();
        seen.into_iter().find(|seen| seen.target == "/healthz")
    })
    .await;
    assert_eq!(told(&front, 0, "state"), "well");
    for size in [0, 1, 20_000, 3_000_000] {
        let body = Bytes::from(vec![b'x'; size]);
        let request = client::request(Method::POST, &front.url("/"), &[], body.clone());
        assert_eq!(client::send(request).await.body, body, "{size} bytes");
    }
    let seen = echo.seen();
    let post = seen.iter().find(|seen| seen.target == "/").unwrap();
    assert_eq!(post.header("host"), Some(front.at.to_string().as_str()));
    // An address has no name to ask for.
    assert!(door.names.lock().unwrap().iter().all(Option::is_none));
    drop(door);
    eventually("a check finds it gone", WAIT, || async {
        (told(&front, 0, "state") == "unhealthy").then_some(())
    })
    .await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again() {
    let (echo, ca) = (echo().await, Authority::new("ca"));
    let signed = ca.server(&["127.0.0.1"]);
    let door = Door::before(echo.addr(), &signed, &[], None).await;
    let front = start(over_tls(&echo, door.at, trusting(&ca), Protocol::Http1));
    for _ in 0..5 {
        assert_eq!(front.post("/", "a write").await.text(), "a write");
    }
    assert_eq!(door.taken.load(SeqCst), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_for_the_name_or_there_is_no_connection() {
    let (echo, ca) = (echo().await, Authority::new("ca"));
    let signed = ca.server(&["shop.internal"]);
    let door = Door::before(echo.addr(), &signed, &[], None).await;
    let mut settings = over_tls(&echo, door.at, trusting(&ca), Protocol::Http1);
    settings.legacy.rules.health = Some(Health {
        every: Duration::from_millis(100),
        ..Health::at("/healthz")
    });
    let front = start(settings);
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.status, 502);
    assert_eq!(refused.header("x-outgrow-error"), Some("tls-failed"));
    for part in ["not valid for", "tls.name"] {
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    eventually("a check says why", WAIT, || async {
        let why = told(&front, 0, "last_check");
        why.to_string().contains("not valid for").then_some(())
    })
    .await;
    front.stop().await;

    let named = UpstreamTls {
        name: Some("shop.internal".to_owned()),
        ..trusting(&ca)
    };
    let front = start(over_tls(&echo, door.at, named, Protocol::Http1));
    assert_eq!(front.post("/", "a write").await.text(), "a write");
    let asked = door.names.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked.as_deref(), Some("shop.internal"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_trusted_as_soon_as_its_file_says_so() {
    let (echo, ca, other) = (echo().await, Authority::new("ca"), Authority::new("other"));
    let signed = ca.server(&["127.0.0.1"]);
    let door = Door::before(echo.addr(), &signed, &[], None).await;
    let front = start(over_tls(&echo, door.at, trusting(&other), Protocol::Http1));
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.status, 502);
    assert!(
        refused.text().contains("UnknownIssuer"),
        "{}",
        refused.text()
    );
    // Rubbish changes nothing.
    std::fs::write(other.file(), "rubbish").unwrap();
    assert_eq!(front.get("/", &[]).await.status, 502);
    std::fs::copy(ca.file(), other.file()).unwrap();
    eventually("the new authority is trusted", WAIT, || async {
        (front.get("/", &[]).await.status == 200).then_some(())
    })
    .await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_shown_where_that_is_wanted() {
    let (echo, ca, clients) = (
        echo().await,
        Authority::new("ca"),
        Authority::new("clients"),
    );
    let (signed, own) = (ca.server(&["127.0.0.1"]), clients.client("proxy"));
    let door = Door::before(echo.addr(), &signed, &[], Some(&clients.file())).await;
    let front = start(over_tls(&echo, door.at, trusting(&ca), Protocol::Http1));
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.status, 502);
    assert!(
        refused.text().contains("CertificateRequired"),
        "{}",
        refused.text()
    );
    front.stop().await;
    let tls = UpstreamTls {
        client: Some(CertificateFiles {
            cert: own.certificate.clone(),
            key: own.key.clone(),
        }),
        ..trusting(&ca)
    };
    let front = start(over_tls(&echo, door.at, tls.clone(), Protocol::Http1));
    assert_eq!(front.post("/", "a write").await.text(), "a write");
    front.stop().await;
    std::fs::write(&own.key, "rubbish").unwrap();
    let refused = Proxy::bind(over_tls(&echo, door.at, tls, Protocol::Http1), None).unwrap_err();
    assert!(matches!(refused, BindError::Certificate(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_tls_is_told_so() {
    let (echo, ca) = (echo().await, Authority::new("ca"));
    let front = start(over_tls(&echo, echo.addr(), trusting(&ca), Protocol::Http1));
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.status, 502);
    assert!(refused.text().contains("speak TLS"), "{}", refused.text());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upstream_answers_for_one_whose_certificate_is_wrong() {
    let (echo, ca, other) = (echo().await, Authority::new("ca"), Authority::new("other"));
    let (good, bad) = (ca.server(&["127.0.0.1"]), other.server(&["127.0.0.1"]));
    let good = Door::before(echo.addr(), &good, &[], None).await;
    let bad = Door::before(echo.addr(), &bad, &[], None).await;
    let mut settings = over_tls(&echo, good.at, trusting(&ca), Protocol::Http1);
    let transport = settings.legacy.rules.transport.clone();
    settings.legacy = ServiceSettings::new("legacy", vec![bad.at, good.at]);
    settings.legacy.rules.transport = transport;
    settings.legacy.rules.balance = Balance::RoundRobin;
    let front = start(settings);
    for _ in 0..4 {
        assert_eq!(front.post("/", "a write").await.text(), "a write");
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_goes_over_tls() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        say(&mut stream, &format!("{head}hello ")).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let ca = Authority::new("ca");
    let signed = ca.server(&["127.0.0.1"]);
    let door = Door::before(upstream.addr(), &signed, &["h2", "http/1.1"], None).await;
    for protocol in [Protocol::Http1, Protocol::Auto] {
        let front = start(over_tls(&upstream, door.at, trusting(&ca), protocol));
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        say(&mut stream, ask).await;
        read_until(&mut stream, "hello ").await;
        say(&mut stream, "and back").await;
        read_until(&mut stream, "and back").await;
        drop(stream);
        front.stop().await;
    }
}

/// Where the connection's end is the body's, it must have been said by TLS: anybody on the way can cut a
/// connection (RFC 9112 section 9.8).
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_tls_does_not_tell_is_no_end() {
    let ca = Authority::new("ca");
    let signed = ca.server(&["127.0.0.1"]);
    let nobody = Upstream::always(200, "-").await;
    for told in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config(&signed, &[], None)));
        let answering = tokio::spawn(async move {
            let mut stream = acceptor
                .accept(listener.accept().await.unwrap().0)
                .await
                .unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
            match told {
                true => stream.shutdown().await.unwrap(),
                false => stream.get_mut().0.shutdown().await.unwrap(),
            }
        });
        let front = start(over_tls(&nobody, at, trusting(&ca), Protocol::Http1));
        let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = front.raw(ask).await;
        assert!(answer.contains("half"), "{answer}");
        assert_eq!(answer.ends_with("0\r\n\r\n"), told, "{answer}");
        answering.await.unwrap();
        front.stop().await;
    }
}
