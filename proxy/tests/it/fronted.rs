//! A balancer in front: whose connection it is, and whose word counts.

use std::sync::Arc;
use std::time::Duration;

use outgrow_proxy::{Limiter, RateKey, RateRule, Trust};
use outgrow_testkit::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Front, named, plain, read_until, start};

fn behind(upstream: &Upstream, preface: &[&str]) -> Front {
    let mut settings = plain(upstream);
    settings.trust = Trust {
        preface: preface.iter().map(|net| net.parse().unwrap()).collect(),
        forwarded: None,
    };
    start(settings)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut head = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    head.extend([command, family]);
    head.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    head.extend(body);
    head
}

/// The address that the upstream was told.
async fn told(front: &Front, upstream: &Upstream, head: &[u8], pieces: usize) -> String {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let all = [head, GET].concat();
    for piece in all.chunks(all.len().div_ceil(pieces)) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    read_until(&mut stream, "upstream").await;
    // The connection stays, and stays whose it is.
    stream.write_all(GET).await.unwrap();
    read_until(&mut stream, "upstream").await;
    let seen = upstream.seen();
    let [.., first, second] = &seen[..] else {
        return String::new();
    };
    assert_eq!(first.headers, second.headers);
    second.header("x-forwarded-for").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_whose_connection_it_is() {
    let upstream = named("upstream").await;
    let front = behind(&upstream, &["127.0.0.0/8"]);
    let mut six = [0; 36];
    six[..2].copy_from_slice(&[0x20, 0x01]);
    six[15] = 1;
    let four = [192, 0, 2, 8, 10, 0, 0, 1, 0, 80, 1, 187, 4, 0, 1, 9];
    for (head, address) in [
        (
            b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 80\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0x21, 0x11, &four), "192.0.2.8"),
        (binary(0x21, 0x21, &six), "2001::1"),
        (binary(0x20, 0x00, &[]), "127.0.0.1"),
    ] {
        for pieces in [1, 2, 7] {
            assert_eq!(told(&front, &upstream, &head, pieces).await, address);
        }
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_says_nothing_right_is_not_let_in() {
    let upstream = named("upstream").await;
    let front = behind(&upstream, &["127.0.0.1"]);
    for head in [
        GET.to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n".to_vec(),
        [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
        binary(0x21, 0x11, &[1, 2, 3]),
        binary(0x21, 0x11, &[0; 5_000]),
        b"\r\n\r\n\0\r\nQUIT\n!".to_vec(),
    ] {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        stream.write_all(&[&head, GET].concat()).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good: what was not read is thrown away.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "{}", String::from_utf8_lossy(&head));
    }
    assert!(upstream.seen().is_empty());
    front.stop().await;
}

/// From elsewhere the head is no head but a malformed request.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_choose_an_address() {
    let upstream = named("upstream").await;
    let front = behind(&upstream, &["192.0.2.0/24"]);
    let head = "PROXY TCP4 192.0.2.7 10.0.0.1 56324 80\r\n";
    let answer = front
        .raw(&format!("{head}GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(upstream.seen().is_empty());
    assert_eq!(front.get("/", &[]).await.text(), "upstream");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_word_of_who_is_trusted_counts() {
    let upstream = named("upstream").await;
    for (trusted, expected) in [
        ("127.0.0.1", "9.9.9.9, 127.0.0.1"),
        ("10.0.0.0/8", "127.0.0.1"),
    ] {
        let mut settings = plain(&upstream);
        settings.trust.forwarded = Some(vec![trusted.parse().unwrap()]);
        let front = start(settings);
        front.get("/", &[("x-forwarded-for", "9.9.9.9")]).await;
        let seen = upstream.seen();
        assert_eq!(
            seen.last().unwrap().header("x-forwarded-for"),
            Some(expected)
        );
        front.stop().await;
    }
}

/// `Forwarded` (RFC 7239): who is trusted has its chain made longer, whatever stands in it; of who is not it
/// is taken off; and where nobody has said whom to trust it stays. An address of version 6 is quoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_proxies_grows_only_by_who_is_trusted() {
    let upstream = named("upstream").await;
    let told = "for=\"[2001:db8:cafe::17]:4711\";by=_a, For=\"_gazonk, x\"";
    for (trusted, from, added) in [
        (
            Some("2001:db8::/32"),
            "TCP6 2001:db8::7 ::1",
            "for=\"[2001:db8::7]\";proto=http",
        ),
        (
            Some("192.0.2.0/24"),
            "TCP4 192.0.2.7 10.0.0.1",
            "for=192.0.2.7;proto=http",
        ),
        (Some("2001:db8::/33"), "TCP6 2001:db8:8000::7 ::1", "off"),
        (None, "TCP6 2001:db8::7 ::1", ""),
    ] {
        let mut settings = plain(&upstream);
        settings.trust.preface = vec!["127.0.0.1".parse().unwrap()];
        settings.trust.forwarded = trusted.map(|net| vec![net.parse().unwrap()]);
        let front = start(settings);
        let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nforwarded: for=192.0.2.9\r\nforwarded:";
        let answer = front
            .raw(&format!("PROXY {from} 5000 80\r\n{ask} {told}\r\n\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = upstream.seen().pop().unwrap();
        let lines = seen.headers.get_all("forwarded").iter();
        let chain = lines
            .map(|line| line.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(", ");
        let wanted = match added {
            "off" => String::new(),
            "" => format!("for=192.0.2.9, {told}"),
            added => format!("for=192.0.2.9, {told}, {added}"),
        };
        assert_eq!(chain, wanted, "{from}");
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_of_a_trusted_proxy_has_a_budget_of_its_own() {
    let upstream = named("upstream").await;
    let tells = [
        "192.0.2.7",
        "192.0.2.8",
        "198.51.100.9, 192.0.2.7",
        "192.0.2.8, 127.0.0.9",
        "192.0.2.7:4711",
    ];
    for (trusted, statuses) in [
        // Whoever is connected has one budget, whatever it says; and so has who is not trusted.
        (None, [200, 429, 429, 429, 429]),
        (Some("10.0.0.0/8"), [200, 429, 429, 429, 429]),
        (Some("127.0.0.0/8"), [200, 200, 429, 429, 429]),
    ] {
        let mut settings = plain(&upstream);
        settings.trust.forwarded = trusted.map(|net| vec![net.parse().unwrap()]);
        settings.limit = Some(Arc::new(Limiter::new(RateRule {
            requests: 1,
            per: Duration::from_secs(3_600),
            burst: 1,
            by: RateKey::Address,
        })));
        let front = start(settings);
        for (tells, status) in tells.iter().zip(statuses) {
            let answer = front.get("/", &[("x-forwarded-for", tells)]).await;
            assert_eq!(answer.status, status, "{trusted:?} {tells}");
        }
        // The standard field, where there is no other.
        for (tells, own) in [
            ("for=\"[2001:db8::9]:40\";by=_a", 200),
            ("for=192.0.2.7", 429),
            ("for=198.51.100.9, for=\"[2001:db8::9]\"", 429),
        ] {
            let answer = front.get("/", &[("forwarded", tells)]).await;
            let status = if statuses[1] == 200 { own } else { 429 };
            assert_eq!(answer.status, status, "{trusted:?} {tells}");
        }
        front.stop().await;
    }
    let seen = upstream.seen();
    let chains: Vec<_> = seen
        .iter()
        .filter_map(|one| one.header("x-forwarded-for"))
        .collect();
    assert!(chains.contains(&"192.0.2.8, 127.0.0.1"), "{chains:?}");
}
