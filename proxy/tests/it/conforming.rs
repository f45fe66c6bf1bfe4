//! HTTP/1 between raw sockets: what clients may do, and what they do anyway.

use std::time::Duration;

use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{WAIT, plain, read_until, say, start, take_head, text};

/// Everything up to the end of the connection, and how that came.
pub(crate) async fn to_the_end(stream: &mut TcpStream) -> (String, std::io::Result<()>) {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let ended = tokio::time::timeout(WAIT, reading)
        .await
        .expect("the connection ends");
    (String::from_utf8_lossy(&all).into_owned(), ended.map(drop))
}

/// An upstream that answers each head with this, and reads on.
async fn answering(answer: &'static str) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        while !take_head(&mut stream).await.is_empty() {
            say(&mut stream, answer).await;
        }
    })
    .await
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_servers_read_differently_end_the_connection() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    for head in [
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost: a\nx: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n y: 2\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2, 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    ] {
        // Whatever it is, what stands behind it is no request.
        let answer = front
            .raw(&format!("{head}GET /behind HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
        assert!(answer.contains("connection: close"), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_counted_and_heads_are_bounded() {
    let upstream = answering(OK).await;
    let front = start(plain(&upstream));
    let with = |count: usize| {
        let fields: String = (0..count - 2).map(|n| format!("x-{n}: {n}\r\n")).collect();
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n")
    };
    let answer = front.raw(&with(256)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for long in [
        with(257),
        format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(300_000)),
    ] {
        let answer = front.raw(&long).await;
        assert!(
            answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    front.stop().await;
}

/// The target beats the field, and a tunnel into HTTP/2 is not opened.
#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_and_an_upgrade_to_h2c() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    front
        .raw(
            "GET http://real.example/x?y=1 HTTP/1.1\r\nhost: other.example\r\n\
             connection: close, upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        )
        .await;
    let seen = &upstream.seen()[0];
    assert_eq!(
        (seen.header("host"), seen.target.as_str()),
        (Some("real.example"), "/x?y=1")
    );
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_come_byte_by_byte_and_many_may_come_at_once() {
    let upstream =
        Upstream::start(|request| async move { text(request.uri().path().to_owned()) }).await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in "\r\nGET /slow HTTP/1.1\r\nhost: a\r\n\r\n".bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    read_until(&mut stream, "/slow").await;
    // More than is read at once, and more than is read ahead.
    let many: String = (0..3_000)
        .map(|n| format!("GET /n{n} HTTP/1.1\r\nhost: a\r\n\r\n"))
        .collect();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        write.write_all(many.as_bytes()).await.unwrap();
        write
    });
    let answers = read_until(&mut read, "/n2999").await;
    let mut at = 0;
    for n in 0..3_000 {
        let path = format!("/n{n}");
        at += answers[at..].find(&path).expect("answers come in order") + path.len();
    }
    drop(sending.await.unwrap());
    front.stop().await;
}

/// A half-closed client gets its answer, also where that takes a while to begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_closed_its_half_gets_its_answer() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        for part in [
            "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n",
            "half",
            "half",
        ] {
            tokio::task::yield_now().await;
            say(&mut stream, part).await;
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    stream.shutdown().await.unwrap();
    let (answer, ended) = to_the_end(&mut stream).await;
    assert!(answer.ends_with("\r\n\r\nhalfhalf"), "{answer}");
    ended.unwrap();
    front.stop().await;
}

/// It may be gone for good: its upstream is not kept busy by it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_may_read_is_given_up() {
    let (gone, mut ended) = tokio::sync::mpsc::channel(1);
    let upstream = Upstream::raw(move |mut stream| {
        let gone = gone.clone();
        async move {
            take_head(&mut stream).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = gone.send(()).await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    stream.shutdown().await.unwrap();
    let within = tokio::time::timeout(Duration::from_secs(4), ended.recv());
    within.await.expect("before its time is over").unwrap();
    front.stop().await;
}

/// Who speaks HTTP/1.0 knows no chunks and takes the end for the end: a cut answer must not have
/// an ordinary one.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_gets_plain_answers_and_sees_a_cut_one() {
    let whole = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx: 1\r\n\r\n";
    let upstream = answering(whole).await;
    let front = start(plain(&upstream));
    let ask = "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n";
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, ask).await;
    let (answer, ended) = to_the_end(&mut stream).await;
    ended.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nabcde"), "{answer}");
    assert!(!answer.contains("chunked"), "{answer}");
    front.stop().await;

    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        )
        .await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, ask).await;
    let (answer, ended) = to_the_end(&mut stream).await;
    assert!(ended.is_err(), "a reset: {answer}");
    front.stop().await;

    let upstream = answering(OK).await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    for _ in 0..2 {
        say(&mut stream, ask).await;
        let answer = read_until(&mut stream, "\r\n\r\nok").await;
        assert!(answer.contains("connection: keep-alive"), "{answer}");
    }
    front.stop().await;
}

/// Fields that `connection` names are for one hop, on the way down as well.
#[tokio::test(flavor = "multi_thread")]
async fn an_answers_hop_by_hop_fields_stay_on_their_hop() {
    let upstream = answering(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Authenticate: Basic\r\nX-Public: 1\r\nContent-Length: 2, 2\r\n\r\nok",
    )
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = read_until(&mut stream, "\r\n\r\nok")
        .await
        .to_ascii_lowercase();
    for gone in [
        "x-private",
        "keep-alive",
        "proxy-authenticate",
        "connection",
    ] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
    assert!(answer.contains("x-public: 1\r\n"), "{answer}");
    assert_eq!(answer.matches("content-length").count(), 1, "{answer}");
    assert!(answer.contains("content-length: 2\r\n"), "{answer}");
    assert!(answer.contains("\r\ndate: "), "{answer}");
    front.stop().await;
}

/// An upload that the upstream does not want is neither taken for the next request nor the reason
/// that its answer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_is_no_request() {
    let upstream = Upstream::raw(|mut stream| async move {
        let head = take_head(&mut stream).await;
        assert!(!head.contains("/smuggled"), "{head}");
        say(
            &mut stream,
            "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig",
        )
        .await;
    })
    .await;
    let front = start(plain(&upstream));
    for length in [200, 100_000] {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        let inside = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        say(&mut stream, &head).await;
        read_until(&mut stream, "\r\n\r\nbig").await;
        say(&mut stream, inside).await;
        let (rest, _) = to_the_end_or_quiet(&mut stream, length - inside.len()).await;
        assert_eq!(rest.matches("HTTP/1.1").count(), 0, "{rest}");
    }
    front.stop().await;
}

/// The rest of an upload; the proxy may have closed before.
async fn to_the_end_or_quiet(stream: &mut TcpStream, left: usize) -> (String, bool) {
    let _ = stream.write_all(&vec![b'x'; left]).await;
    let _ = stream.shutdown().await;
    let (rest, ended) = to_the_end(stream).await;
    (rest, ended.is_ok())
}

/// No leave is given to send what nobody will read.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_leave_and_is_refused_is_not_waited_for() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    let answer = front
        .raw("POST / HTTP/1.1\r\nhost: a b\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
    // Whoever sends its body at once is not told to.
    let answer = front
        .raw("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(&upstream.seen()[0].body[..], b"body");
    front.stop().await;
}

/// Bytes right behind the request belong to the new protocol.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_glued_to_an_upgrade_arrive_behind_it() {
    let upstream = Upstream::raw(|mut stream| async move {
        let head = take_head(&mut stream).await;
        assert!(!head.contains("glued"), "before the switch: {head}");
        say(
            &mut stream,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello",
        )
        .await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(
        &mut stream,
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nglued",
    )
    .await;
    read_until(&mut stream, "helloglued").await;
    say(&mut stream, " and later").await;
    read_until(&mut stream, " and later").await;
    front.stop().await;
}

/// A reader that is slow is served at its pace; what is broken off is seen as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_chunk_in_order() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
        for n in 0..400_usize {
            // Below, at and above what is copied, and far above what a socket takes.
            let size = [1, 4_095, 4_096, 5_000, 70_000][n % 5];
            let chunk = format!(
                "{size:x}\r\n{}\r\n",
                char::from(b'a' + (n % 26) as u8).to_string().repeat(size)
            );
            say(&mut stream, &chunk).await;
        }
        say(&mut stream, "0\r\nx-sum: 1\r\n\r\n").await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(
        &mut stream,
        "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\n\r\n",
    )
    .await;
    let mut all = Vec::new();
    let mut part = [0; 1_000];
    loop {
        match stream.read(&mut part).await.unwrap() {
            0 => break,
            count => all.extend_from_slice(&part[..count]),
        }
        tokio::task::yield_now().await;
    }
    let text = String::from_utf8(all).unwrap();
    let (head, mut body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut data = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            assert_eq!(rest, "x-sum: 1\r\n\r\n");
            break;
        }
        data.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap();
    }
    let expected: String = (0..400_usize)
        .map(|n| {
            char::from(b'a' + (n % 26) as u8)
                .to_string()
                .repeat([1, 4_095, 4_096, 5_000, 70_000][n % 5])
        })
        .collect();
    assert!(
        data == expected,
        "{} bytes of {}",
        data.len(),
        expected.len()
    );
    front.stop().await;
}

/// A client that says nothing, or only a part of a head, does not stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let upstream = Upstream::always(200, "ok").await;
    let mut settings = plain(&upstream);
    settings.limits.head_timeout = Duration::from_millis(200);
    let front = start(settings);
    for begun in ["", "GET / HTTP/1.1\r\nhost: a\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        say(&mut stream, begun).await;
        let (said, _) = to_the_end(&mut stream).await;
        assert_eq!(said, "", "{begun:?}");
    }
    front.stop().await;
}

/// An idle client is let go at once, one in the middle of a request afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_idle_clients_go_and_says_so_to_the_others() {
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            take_head(&mut stream).await;
            let _ = wait.wait_for(|go| *go).await;
            say(&mut stream, OK).await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut idle = TcpStream::connect(front.at).await.unwrap();
    let mut busy = TcpStream::connect(front.at).await.unwrap();
    say(&mut busy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    eventually("the request is on its way", WAIT, || async {
        let told = front.handle.describe();
        (told["services"][0]["upstreams"][0]["in_flight"] == 1).then_some(())
    })
    .await;
    let draining = tokio::spawn(front.running.shutdown(WAIT));
    let (said, _) = to_the_end(&mut idle).await;
    assert_eq!(said, "");
    go_on.send(true).unwrap();
    let (answer, _) = to_the_end(&mut busy).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("ok"), "{answer}");
    assert_eq!(draining.await.unwrap().cut, 0);
}
