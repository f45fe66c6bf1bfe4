//! Clients over TLS, with curl and with rustls.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outgrow_proxy::{BindError, CertificateFiles, Proxy, Settings, TlsSettings};
use outgrow_testkit::certificates::{Authority, Signed};
use outgrow_testkit::{Upstream, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::counting::refused;
use crate::harness::{Front, WAIT, named, plain, read_until, say, start};

fn files(signed: &Signed) -> CertificateFiles {
    CertificateFiles {
        cert: signed.certificate.clone(),
        key: signed.key.clone(),
    }
}

pub(crate) fn over_tls(upstream: &Upstream, certificates: &[&Signed]) -> Settings {
    Settings {
        listen: Vec::new(),
        tls: Some(TlsSettings {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            certificates: certificates.iter().map(|signed| files(signed)).collect(),
            clients: None,
            reload: Duration::from_millis(50),
        }),
        ..plain(upstream)
    }
}

/// What curl prints: the body, then the version of HTTP.
pub(crate) async fn curl(
    front: &Front,
    ca: &Path,
    host: &str,
    more: &[&str],
) -> Result<String, String> {
    let port = front.at.port();
    let out = tokio::process::Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "-w",
            " %{http_version}",
            "--cacert",
        ])
        .arg(ca)
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(more)
        .arg(format!("https://{host}:{port}/x"))
        .output()
        .await
        .map_err(|error| format!("curl is needed: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match out.status.success() {
        true => Ok(text(&out.stdout)),
        false => Err(text(&out.stderr)),
    }
}

pub(crate) fn trusting(ca: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The certificate that is shown for a name.
async fn shown(front: &Front, ca: &Path, host: &'static str) -> Option<Vec<u8>> {
    let stream = TcpStream::connect(front.at).await.unwrap();
    let connector = TlsConnector::from(Arc::new(trusting(ca)));
    let name = ServerName::try_from(host).unwrap();
    let stream = connector.connect(name, stream).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?[0].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_in_every_version() {
    let upstream = named("upstream").await;
    let ca = Authority::new("ca");
    let signed = ca.server(&["shop.example", "127.0.0.1"]);
    let front = start(over_tls(&upstream, &[&signed]));
    let file = ca.file();
    let ask = |more: &'static [&'static str]| curl(&front, &file, "shop.example", more);
    assert_eq!(ask(&[]).await.unwrap(), "upstream 2", "by ALPN");
    assert_eq!(ask(&["--http1.1"]).await.unwrap(), "upstream 1.1");
    assert_eq!(
        ask(&["--no-alpn", "--http1.1"]).await.unwrap(),
        "upstream 1.1"
    );
    assert_eq!(ask(&["--tls-max", "1.2"]).await.unwrap(), "upstream 2");
    assert_eq!(
        ask(&["-d", "a body", "--http1.1"]).await.unwrap(),
        "upstream 1.1"
    );
    for seen in upstream.seen() {
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        let host = format!("shop.example:{}", front.at.port());
        assert_eq!(seen.header("host"), Some(host.as_str()));
    }
    assert_eq!(upstream.seen()[4].body, "a body");
    let refused = curl(&front, &ca.file(), "other.example", &[]).await;
    assert!(refused.unwrap_err().contains("SSL"), "the name is another");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_certificate_and_the_first_is_for_all_others() {
    let upstream = named("upstream").await;
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (first, second) = (one.server(&["a.example"]), two.server(&["*.b.example"]));
    let front = start(over_tls(&upstream, &[&first, &second]));
    assert!(shown(&front, &one.file(), "a.example").await.is_some());
    assert!(shown(&front, &two.file(), "x.b.example").await.is_some());
    assert!(shown(&front, &one.file(), "x.b.example").await.is_none());
    let other = curl(&front, &one.file(), "c.example", &["--insecure"]).await;
    assert_eq!(other.unwrap(), "upstream 2");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_changed_under_way() {
    let upstream = named("upstream").await;
    let ca = Authority::new("ca");
    let signed = ca.server(&["shop.example"]);
    let front = start(over_tls(&upstream, &[&signed]));
    let before = shown(&front, &ca.file(), "shop.example").await.unwrap();
    let stream = TcpStream::connect(front.at).await.unwrap();
    let connector = TlsConnector::from(Arc::new(trusting(&ca.file())));
    let name = ServerName::try_from("shop.example").unwrap();
    let mut kept = connector.connect(name, stream).await.unwrap();
    // Rubbish changes nothing; written over the same files as the good one after it.
    std::fs::write(&signed.certificate, "rubbish").unwrap();
    assert_eq!(
        shown(&front, &ca.file(), "shop.example").await,
        Some(before.clone())
    );
    ca.server(&["shop.example"]);
    eventually("the new certificate is shown", WAIT, || async {
        let now = shown(&front, &ca.file(), "shop.example").await.unwrap();
        (now != before).then_some(())
    })
    .await;
    // Who was connected stays.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let get = b"GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    kept.write_all(get).await.unwrap();
    let mut answer = Vec::new();
    // The proxy may close without a goodbye.
    let _ = kept.read_to_end(&mut answer).await;
    assert!(
        answer.ends_with(b"upstream"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_not_answered() {
    let upstream = named("upstream").await;
    let ca = Authority::new("ca");
    let signed = ca.server(&["shop.example"]);
    let mut settings = over_tls(&upstream, &[&signed]);
    settings.trust.preface = vec!["127.0.0.1".parse().unwrap()];
    let front = start(settings);
    let answer = front.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!answer.contains("HTTP"), "{answer}");
    let no_handshake = "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\nGET / HTTP/1.1\r\n\r\n";
    front.raw(no_handshake).await;
    eventually("both are counted", WAIT, || async {
        (refused(&front) == [("handshake", 1), ("proxy-protocol", 1)]).then_some(())
    })
    .await;
    // A balancer's word comes before the handshake.
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n").await;
    let connector = TlsConnector::from(Arc::new(trusting(&ca.file())));
    let name = ServerName::try_from("shop.example").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    use tokio::io::AsyncWriteExt;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "upstream").await;
    assert_eq!(
        upstream.seen()[0].header("x-forwarded-for"),
        Some("192.0.2.7")
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_used_are_refused_at_the_start() {
    let upstream = named("upstream").await;
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (first, second) = (one.server(&["a.example"]), two.server(&["a.example"]));
    let mixed = Signed {
        certificate: first.certificate.clone(),
        key: second.key.clone(),
    };
    let swapped = Signed {
        certificate: first.key.clone(),
        key: first.certificate.clone(),
    };
    let missing = Signed {
        certificate: "/nowhere.pem".into(),
        key: first.key.clone(),
    };
    for (signed, rule) in [
        (&mixed, "do not go together"),
        (&swapped, "holds no certificate"),
        (&missing, "cannot be read"),
    ] {
        let refused = Proxy::bind(over_tls(&upstream, &[signed]), None).unwrap_err();
        assert!(matches!(refused, BindError::Certificate(_)), "{refused:?}");
        assert!(refused.to_string().contains(rule), "{refused}");
    }
}
