//! HTTP/2 written by hand, frame by frame (RFC 9113): what a client may do, and what one does to
//! harm.

use std::time::Duration;

use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Front, WAIT, plain, say, start, take_head, text};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
const PRIORITY: u8 = 2;
const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status 200` of the static table.
pub(crate) const STATUS_200: u8 = 0x88;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut all = length[1..].to_vec();
        all.extend([self.kind, self.flags]);
        all.extend(self.stream.to_be_bytes());
        all.extend(&self.payload);
        all
    }

    /// Of RST_STREAM and, behind the last stream, of GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let from = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload[from..from + 4].try_into().unwrap();
        u32::from_be_bytes(code)
    }
}

/// Fields, as literals without a table (RFC 7541 section 6.2.2).
fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    let text = |all: &mut Vec<u8>, bytes: &[u8]| {
        if bytes.len() < 127 {
            all.push(bytes.len() as u8);
        } else {
            all.push(127);
            let mut left = bytes.len() - 127;
            while left >= 128 {
                all.push((left % 128) as u8 | 128);
                left /= 128;
            }
            all.push(left as u8);
        }
        all.extend(bytes);
    };
    for (name, value) in fields {
        all.push(0);
        text(&mut all, name.as_bytes());
        text(&mut all, value);
    }
    all
}

pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a [u8])> {
    vec![
        (":method", method.as_bytes()),
        (":scheme", b"http"),
        (":authority", b"shop.example"),
        (":path", path.as_bytes()),
    ]
}

pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// `settings`: identifiers and values.
    pub(crate) async fn open(front: &Front, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut client = Self { stream };
        client.send(Frame::new(SETTINGS, 0, 0, payload)).await;
        client
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        // A proxy that has had enough closes; what it said before counts.
        let _ = self.stream.write_all(&frame.bytes()).await;
    }

    pub(crate) async fn ask(&mut self, stream: u32, flags: u8, fields: &[(&str, &[u8])]) {
        let frame = Frame::new(HEADERS, END_HEADERS | flags, stream, block(fields));
        self.send(frame).await;
    }

    pub(crate) async fn widen(&mut self, stream: u32, by: u32) {
        let frame = Frame::new(WINDOW_UPDATE, 0, stream, by.to_be_bytes());
        self.send(frame).await;
    }

    /// `None` at the connection's end, which may be a reset.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let reading = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            Some(Frame::new(head[3], head[4], stream, payload))
        };
        tokio::time::timeout(WAIT, reading).await.expect("a frame")
    }

    /// The next frame of this kind; what comes before is passed over.
    pub(crate) async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection is open");
            let is_ack = kind == SETTINGS && frame.flags & ACK != 0;
            if frame.kind == kind && !is_ack {
                return frame;
            }
        }
    }

    /// How the connection ended, if it was said.
    async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }

    /// A whole answer: its head's block, its data, and its trailers' block.
    pub(crate) async fn answer(&mut self, stream: u32) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (mut head, mut data, mut trailers) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let frame = self.next().await.expect("the connection is open");
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS if head.is_empty() => head = frame.payload,
                HEADERS => trailers = frame.payload,
                DATA => data.extend(frame.payload),
                kind => assert_eq!(kind, WINDOW_UPDATE, "{frame:?}"),
            }
            if frame.flags & END_STREAM != 0 {
                return (head, data, trailers);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_made_of_its_frames() {
    let upstream = Upstream::start(|request| async move { text(request.into_body()) }).await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    client.until(SETTINGS).await;
    client.send(Frame::new(SETTINGS, ACK, 0, [])).await;
    client.send(Frame::new(PING, 0, 0, *b"12345678")).await;
    let pong = client.until(PING).await;
    assert_eq!((pong.flags, &pong.payload[..]), (ACK, &b"12345678"[..]));
    // The head in three frames, the body in two with padding.
    let mut fields = request("POST", "/a%2Fb?x=1");
    fields.extend([
        ("cookie", &b"a=1"[..]),
        ("host", b"other.example"),
        ("cookie", b"b=2"),
        ("cookie", b"c=3"),
        ("te", b"trailers"),
    ]);
    let block = block(&fields);
    client.send(Frame::new(HEADERS, 0, 1, &block[..5])).await;
    client
        .send(Frame::new(CONTINUATION, 0, 1, &block[5..9]))
        .await;
    client
        .send(Frame::new(CONTINUATION, END_HEADERS, 1, &block[9..]))
        .await;
    client.send(Frame::new(DATA, 8, 1, *b"\x03one\0\0\0")).await;
    client.send(Frame::new(DATA, END_STREAM, 1, *b"two")).await;
    let (head, data, _) = client.answer(1).await;
    assert_eq!((head[0], &data[..]), (STATUS_200, &b"onetwo"[..]));
    let seen = &upstream.seen()[0];
    assert_eq!(seen.target, "/a%2Fb?x=1");
    assert_eq!(
        seen.header("host"),
        Some("shop.example"),
        "the authority beats the field"
    );
    assert_eq!(seen.header("cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(seen.headers.get_all("host").iter().count(), 1);
    front.stop().await;
}

/// Heads that RFC 9113 section 8 calls malformed, and those with which a request of HTTP/1 would
/// be smuggled: none of them is seen by an upstream. Other streams go on, but where the block itself
/// could not be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_head_ends_its_stream() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    let usual = request("GET", "/");
    let with = |more: &[(&'static str, &'static [u8])]| [&usual[..], more].concat();
    let malformed: Vec<Vec<(&str, &[u8])>> = vec![
        usual[1..].to_vec(),
        usual[..3].to_vec(),
        with(&[(":path", b"/two")]),
        with(&[(":status", b"200")]),
        with(&[(":odd", b"1")]),
        with(&[("x", b"1"), (":method", b"GET")]),
        with(&[("X-Upper", b"1")]),
        with(&[("connection", b"close")]),
        with(&[("transfer-encoding", b"chunked")]),
        with(&[("upgrade", b"websocket")]),
        with(&[("te", b"gzip")]),
        with(&[("x", b"a\r\nevil: 1")]),
        with(&[("x", b"a\0b")]),
        with(&[("a b", b"1")]),
        with(&[("x\r\nevil", b"1")]),
        vec![
            (":method", b"GET"),
            (":scheme", b"http"),
            (":path", b""),
            (":authority", b"a"),
        ],
        vec![
            (":method", b"GET"),
            (":scheme", b"http"),
            (":path", b"/ HTTP/1.1\r\nx: y"),
            (":authority", b"a"),
        ],
        vec![
            (":method", b"G T"),
            (":scheme", b"http"),
            (":path", b"/"),
            (":authority", b"a"),
        ],
        vec![
            (":method", b"GET"),
            (":scheme", b"http"),
            (":path", b"/"),
            (":authority", b"a\r\nb"),
        ],
    ];
    for fields in malformed {
        let mut client = Client::open(&front, &[]).await;
        client.ask(1, END_STREAM, &fields).await;
        client.ask(3, END_STREAM, &request("GET", "/good")).await;
        let (mut refused, mut served) = (false, false);
        while !(refused && served) {
            let Some(frame) = client.next().await else {
                break;
            };
            match (frame.kind, frame.stream) {
                (RST_STREAM, 1) => refused = true,
                // An answer is good as well, as long as it is a refusal.
                (HEADERS, 1) => {
                    assert_ne!(frame.payload[0], STATUS_200, "{fields:?}");
                    refused = true;
                }
                (HEADERS, 3) => served = frame.payload[0] == STATUS_200,
                (GOAWAY, _) => refused = frame.code() != 0,
                _ => {}
            }
        }
        assert!(refused, "{fields:?}");
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|one| one.target == "/good"), "{seen:?}");
    front.stop().await;
}

/// The upstream would read the surplus as a request of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_was_said_is_not_passed_on() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    for (said, sent) in [
        ("5", &b"0123456789"[..]),
        ("20", b"0123456789"),
        ("0", b"x"),
    ] {
        let mut client = Client::open(&front, &[]).await;
        let mut fields = request("POST", "/");
        fields.push(("content-length", said.as_bytes()));
        client.ask(1, 0, &fields).await;
        client.send(Frame::new(DATA, END_STREAM, 1, sent)).await;
        loop {
            let frame = client.next().await.expect("an end of the stream");
            if frame.stream == 1 && matches!(frame.kind, RST_STREAM | HEADERS) {
                assert!(frame.kind == RST_STREAM || frame.payload[0] != STATUS_200);
                break;
            }
        }
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|one| one.body.len() < 10), "{seen:?}");
    front.stop().await;
}

/// No more than the client has room for, on the stream and on the connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_clients_windows() {
    let upstream = Upstream::start(|request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        text("0123456789abcdef")
    })
    .await;
    let front = start(plain(&upstream));
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut client = Client::open(&front, &[(4, 10)]).await;
    client.ask(1, END_STREAM, &request("GET", "/")).await;
    let mut data = Vec::new();
    while data.len() < 10 {
        data.extend(client.until(DATA).await.payload);
    }
    assert_eq!(data, b"0123456789");
    // Nothing more comes before there is room: a ping's answer is next.
    client.send(Frame::new(PING, 0, 0, [0; 8])).await;
    while let Some(frame) = client.next().await {
        assert_ne!(frame.kind, DATA, "{frame:?}");
        if frame.kind == PING {
            break;
        }
    }
    client.widen(1, 2).await;
    assert_eq!(client.until(DATA).await.payload, b"ab");
    client.widen(1, 100).await;
    let last = client.until(DATA).await;
    assert_eq!((&last.payload[..], last.flags), (&b"cdef"[..], END_STREAM));
    // A window beyond its end is an error of the stream. Nothing has used it up.
    client.ask(3, END_STREAM, &request("GET", "/never")).await;
    client.widen(3, 0x7fff_ffff).await;
    let reset = client.until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.code()), (3, 3));
    front.stop().await;
}

/// A head that never ends costs no more than a bounded part of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_continuations_ends_the_connection() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    for size in [1, 16_000] {
        let mut client = Client::open(&front, &[]).await;
        let head = block(&request("GET", "/"));
        client.send(Frame::new(HEADERS, END_STREAM, 1, head)).await;
        let value = vec![b'x'; size];
        let part = block(&[("x", &value)]);
        let flood = async {
            for _ in 0..2_000_000 / size.max(20) {
                let frame = Frame::new(CONTINUATION, 0, 1, &part[..]);
                if client.stream.write_all(&frame.bytes()).await.is_err() {
                    return true;
                }
            }
            false
        };
        let closed = tokio::time::timeout(WAIT, flood).await.expect("it is read");
        let said = client.end().await;
        assert!(closed || said.is_some(), "{size}: the flood was taken in");
        // PROTOCOL_ERROR, COMPRESSION_ERROR or ENHANCE_YOUR_CALM; a reset says nothing.
        assert!(
            said.is_none_or(|code| matches!(code, 1 | 9 | 11)),
            "{said:?}"
        );
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(front.get("/", &[]).await.status, 200);
    front.stop().await;
}

/// Streams that are opened and taken back at once (CVE-2023-44487) end the connection, not the
/// proxy or its upstream.
#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let upstream = Upstream::raw(|mut stream| async move {
        // Never answers, so that every request that came through is still there.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    let head = block(&request("GET", "/"));
    let mut bytes = Vec::new();
    for n in 0..5_000 {
        let stream = 2 * n + 1;
        bytes.extend(Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, &head[..]).bytes());
        bytes.extend(Frame::new(RST_STREAM, 0, stream, 8_u32.to_be_bytes()).bytes());
    }
    let _ = client.stream.write_all(&bytes).await;
    let said = client.end().await;
    assert!(
        said.is_none_or(|code| code == 11),
        "ENHANCE_YOUR_CALM: {said:?}"
    );
    eventually("nothing of it is left", WAIT, || async {
        let told = front.handle.describe();
        (told["services"][0]["upstreams"][0]["in_flight"] == 0).then_some(())
    })
    .await;
    front.stop().await;
}

/// The same where the client has the proxy take them back, by frames that are errors of a stream alone
/// (CVE-2025-8671).
#[tokio::test(flavor = "multi_thread")]
async fn resets_that_a_client_provokes_end_the_connection() {
    let upstream = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(plain(&upstream));
    let head = block(&request("POST", "/"));
    let too_wide = 0x7fff_ffff_u32.to_be_bytes();
    for (kind, payload) in [(WINDOW_UPDATE, &too_wide[..]), (PRIORITY, &[0; 5])] {
        let mut client = Client::open(&front, &[]).await;
        let mut bytes = Vec::new();
        for n in 0..5_000_u32 {
            let stream = 2 * n + 1;
            bytes.extend(Frame::new(HEADERS, END_HEADERS, stream, &head[..]).bytes());
            let payload = match kind {
                // To depend on itself.
                PRIORITY => [&stream.to_be_bytes()[..], &[0]].concat(),
                _ => payload.to_vec(),
            };
            bytes.extend(Frame::new(kind, 0, stream, payload).bytes());
        }
        let _ = client.stream.write_all(&bytes).await;
        let said = client.end().await;
        assert!(
            said.is_none_or(|code| matches!(code, 1 | 11)),
            "{kind}: {said:?}"
        );
        eventually("nothing of it is left", WAIT, || async {
            let told = front.handle.describe();
            (told["services"][0]["upstreams"][0]["in_flight"] == 0).then_some(())
        })
        .await;
    }
    front.stop().await;
}

/// What must be answered is not read from a client that reads no answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_waits_for_its_answers() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    for frame in [
        Frame::new(PING, 0, 0, [0; 8]).bytes(),
        Frame::new(SETTINGS, 0, 0, []).bytes(),
    ] {
        let mut client = Client::open(&front, &[]).await;
        let part = frame.repeat(1_000);
        let mut taken = 0;
        // Until nothing moves any more, or it is ended.
        let quiet = Duration::from_millis(500);
        while let Ok(Ok(())) = tokio::time::timeout(quiet, client.stream.write_all(&part)).await {
            taken += part.len();
            assert!(taken < 100 << 20, "all of it is taken in");
        }
        drop(client);
        assert_eq!(front.get("/", &[]).await.status, 200);
    }
    front.stop().await;
}

/// Taking one stream back cancels its request upstream, and that one alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_taken_back_is_cancelled_upstream() {
    let (gone, mut ended) = tokio::sync::mpsc::channel(4);
    let upstream = Upstream::raw(move |mut stream| {
        let gone = gone.clone();
        async move {
            let head = take_head(&mut stream).await;
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf",
            )
            .await;
            if head.contains("/stays") {
                say(&mut stream, "half").await;
            }
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = gone.send(head.contains("/stays")).await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    client.ask(1, END_STREAM, &request("GET", "/goes")).await;
    assert_eq!(client.until(DATA).await.payload, b"half");
    client
        .send(Frame::new(RST_STREAM, 0, 1, 8_u32.to_be_bytes()))
        .await;
    let stays = tokio::time::timeout(WAIT, ended.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(!stays);
    client.ask(3, END_STREAM, &request("GET", "/stays")).await;
    assert_eq!(client.answer(3).await.1, b"halfhalf");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_heads_and_tunnels_are_refused_and_the_connection_stays() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    let value = vec![b'x'; 9_000];
    let mut many = request("GET", "/");
    let names: Vec<String> = (0..300).map(|n| format!("x-{n}")).collect();
    many.extend(names.iter().map(|name| (name.as_str(), &b"1"[..])));
    let mut long = request("GET", "/");
    long.extend((0..9).map(|_| ("x-long", &value[..])));
    let tunnel: Vec<(&str, &[u8])> = vec![(":method", b"CONNECT"), (":authority", b"a:443")];
    for (stream, fields) in [(1, many), (3, long), (5, tunnel)] {
        let block = block(&fields);
        let mut parts = block.chunks(16_000);
        let first = parts.next().unwrap();
        let last = |at: usize| END_HEADERS * u8::from(at >= block.len());
        let mut at = first.len();
        client
            .send(Frame::new(HEADERS, END_STREAM | last(at), stream, first))
            .await;
        for part in parts {
            at += part.len();
            client
                .send(Frame::new(CONTINUATION, last(at), stream, part))
                .await;
        }
        loop {
            let frame = client.next().await.expect("the connection stays");
            if frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM) {
                assert!(frame.kind == RST_STREAM || frame.payload[0] != STATUS_200);
                break;
            }
        }
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen().len());
    client.ask(7, END_STREAM, &request("GET", "/")).await;
    assert_eq!(client.answer(7).await.0[0], STATUS_200);
    front.stop().await;
}

/// As gRPC has it: messages, then the status in the trailers, also where there is no message.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_an_upstream_reach_the_client() {
    let upstream = Upstream::raw(|mut stream| async move {
        while !take_head(&mut stream).await.is_empty() {
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntrailer: grpc-status\r\n\
                 transfer-encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: 14\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    let mut fields = request("GET", "/shop.Products/List");
    fields.push(("te", b"trailers"));
    client.ask(1, END_STREAM, &fields).await;
    let (head, data, trailers) = client.answer(1).await;
    assert_eq!((head[0], &data[..]), (STATUS_200, &[0; 5][..]));
    assert!(!trailers.is_empty());
    front.stop().await;
}

/// GOAWAY; what is under way ends, and the connection behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_goaway_and_finishes_what_is_open() {
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            take_head(&mut stream).await;
            let _ = wait.wait_for(|go| *go).await;
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    client.ask(1, END_STREAM, &request("GET", "/")).await;
    eventually("the request is on its way", WAIT, || async {
        let told = front.handle.describe();
        (told["services"][0]["upstreams"][0]["in_flight"] == 1).then_some(())
    })
    .await;
    let draining = tokio::spawn(front.running.shutdown(WAIT));
    let bye = client.until(GOAWAY).await;
    assert_eq!(bye.code(), 0);
    // The last stream is told when this is answered.
    let ping = client.until(PING).await;
    client.send(Frame::new(PING, ACK, 0, ping.payload)).await;
    go_on.send(true).unwrap();
    assert_eq!(client.answer(1).await.1, b"ok");
    assert!(matches!(client.end().await, None | Some(0)));
    assert_eq!(draining.await.unwrap().cut, 0);
}

/// A host, and nobody's name before it: routes go by hosts.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_a_host() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    for (stream, authority) in [(1, &b"x@shop.example"[..]), (3, b":80"), (5, b"x:y@shop")] {
        let mut fields = request("GET", "/");
        fields[2].1 = authority;
        client.ask(stream, END_STREAM, &fields).await;
        loop {
            let frame = client.next().await.expect("the connection is open");
            if frame.stream == stream && frame.kind == HEADERS {
                assert_ne!(frame.payload[0], STATUS_200);
            }
            // A stream that is no request at all is reset.
            if frame.stream == stream && (frame.flags & END_STREAM != 0 || frame.kind == RST_STREAM)
            {
                break;
            }
        }
    }
    assert!(upstream.seen().is_empty());
    client.ask(7, END_STREAM, &request("GET", "/")).await;
    assert_eq!(client.answer(7).await.0[0], STATUS_200);
    front.stop().await;
}
