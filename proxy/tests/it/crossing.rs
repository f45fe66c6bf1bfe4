//! Requests of HTTP/2 on their way to an upstream of HTTP/1: a strict reader finds there the one
//! request that was asked, or the stream is refused.

mod model;
mod reading;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use outgrow_testkit::Upstream;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::frames::{Client, DATA, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, STATUS_200};
use crate::harness::{Front, WAIT, plain, say, start};
use model::{Due, came, model};
use reading::{Asked, Not, Reader, utf8};

/// Each is a connection on both sides; what is wrong in a rule shows within a few of them.
const CASES: u32 = 600;

/// `name: value`; what no such line could say is said as it is.
type Field = &'static str;

fn split(field: Field) -> (&'static str, &'static str) {
    field.split_once(": ").expect("a name and a value")
}

/// Answers the first request on each connection, and tells of all that ever came on it. `begun` counts
/// connections.
async fn recorder(begun: Arc<AtomicUsize>) -> (Upstream, UnboundedReceiver<Vec<u8>>) {
    let (tell, told) = unbounded_channel();
    let upstream = Upstream::raw(move |mut stream| {
        begun.fetch_add(1, SeqCst);
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            let is_over = |all: &[u8]| Reader(all).request() != Err(Not::Whole);
            while !is_over(&all) && matches!(stream.read_buf(&mut all).await, Ok(1..)) {}
            if is_over(&all) {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                say(&mut stream, answer).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut all).await;
            }
            let _ = tell.send(all);
        }
    })
    .await;
    (upstream, told)
}

/// A request as a client of HTTP/2 says it.
#[derive(Debug, Clone, Default)]
struct Case {
    /// Pseudo fields and others.
    head: Vec<Field>,
    /// Frames of data; without them and trailers the head ends the stream.
    body: Vec<&'static str>,
    trailers: Vec<Field>,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Served,
    /// By an answer that is another one.
    Refused,
    Reset(u32),
}

impl Case {
    /// Asks for it on a connection of its own; `id` tells whose request an upstream has read.
    async fn ask(&self, front: &Front, id: &str) -> Ended {
        let mut client = Client::open(front, &[]).await;
        let bytes = |field: &Field| {
            let (name, value) = split(field);
            (name, value.as_bytes())
        };
        let mut head: Vec<(&str, &[u8])> = self.head.iter().map(bytes).collect();
        head.push(("x-case", id.as_bytes()));
        let trailers: Vec<(&str, &[u8])> = self.trailers.iter().map(bytes).collect();
        let mut left = self.body.len() + usize::from(!trailers.is_empty());
        client.ask(1, last(left), &head).await;
        for part in &self.body {
            left -= 1;
            client.send(Frame::new(DATA, last(left), 1, *part)).await;
        }
        if left > 0 {
            client.ask(1, END_STREAM, &trailers).await;
        }
        loop {
            let frame = client.next().await.expect("an end of the stream");
            match (frame.kind, frame.stream) {
                (HEADERS, 1) if frame.payload[0] == STATUS_200 => return Ended::Served,
                (HEADERS, 1) => return Ended::Refused,
                (RST_STREAM, 1) | (GOAWAY, _) => return Ended::Reset(frame.code()),
                _ => {}
            }
        }
    }
}

/// The flag of the frame behind which so many come.
fn last(left: usize) -> u8 {
    if left == 0 { END_STREAM } else { 0 }
}

/// A proxy before a recorder.
struct Crossing {
    front: Front,
    upstream: Upstream,
    begun: Arc<AtomicUsize>,
    told: RefCell<UnboundedReceiver<Vec<u8>>>,
    /// What was read of requests whose turn is over.
    late: RefCell<Vec<Vec<u8>>>,
    heard: Cell<usize>,
    next: Cell<usize>,
}

impl Crossing {
    async fn new() -> Self {
        let begun = Arc::new(AtomicUsize::new(0));
        let (upstream, told) = recorder(begun.clone()).await;
        Self {
            begun,
            front: start(plain(&upstream)),
            upstream,
            told: RefCell::new(told),
            late: RefCell::default(),
            heard: Cell::new(0),
            next: Cell::new(0),
        }
    }

    /// What became of a stream, and what was read of its request, where it was served.
    async fn ask(&self, case: &Case) -> (Ended, Result<Option<Asked>, String>) {
        let id = self.next.replace(self.next.get() + 1);
        let ended = case.ask(&self.front, &format!("{id}.")).await;
        if ended != Ended::Served {
            return (ended, Ok(None));
        }
        let ours = format!("x-case: {id}.\r\n");
        loop {
            let bytes = self.told().await;
            if utf8(&bytes).contains(&ours) {
                return (ended, came(&bytes));
            }
            self.late.borrow_mut().push(bytes);
        }
    }

    /// All that came on the next connection that has ended.
    async fn told(&self) -> Vec<u8> {
        let next = poll_fn(|cx| self.told.borrow_mut().poll_recv(cx));
        let next = tokio::time::timeout(WAIT, next).await;
        self.heard.set(self.heard.get() + 1);
        next.expect("a connection ends").unwrap()
    }

    /// Whole requests of streams that were not served.
    async fn stop(self) -> Vec<Asked> {
        // Behind this one, all are known that have begun.
        let mut sentinel = TcpStream::connect(self.upstream.addr()).await.unwrap();
        say(&mut sentinel, "the last").await;
        drop(sentinel);
        let mut all: Vec<Vec<u8>> = Vec::new();
        while all.iter().all(|bytes| bytes != b"the last")
            || self.heard.get() < self.begun.load(SeqCst)
        {
            all.push(self.told().await);
        }
        all.append(&mut self.late.take());
        self.front.stop().await;
        let whole = all.iter().map(|bytes| came(bytes).unwrap());
        whole.flatten().collect()
    }
}

const HEAD: [Field; 4] = [
    ":method: POST",
    ":scheme: http",
    ":authority: shop.example",
    ":path: /it",
];

const NEITHER: Ended = Ended::Reset(1);

/// Malformed by RFC 9113 section 8, or no request that this proxy knows: without one of the usual
/// pseudo fields, with others.
const HEADS: [(&str, &[Field], Ended); 22] = [
    (":path", &[":path: http://b/it"], NEITHER),
    (":path", &[":path: it"], NEITHER),
    (":path", &[":path: ?a"], Ended::Refused),
    (":path", &[":path: *"], Ended::Refused),
    (":scheme", &[], NEITHER),
    (":scheme", &[":scheme: ht tp"], NEITHER),
    (":scheme", &[":scheme: "], Ended::Refused),
    (":scheme", &[":method: POST"], NEITHER),
    (":authority", &[], Ended::Refused),
    (":authority", &["host: "], Ended::Refused),
    (":authority", &[":authority: "], NEITHER),
    (":path", &["x-one: 1", ":path: /it"], NEITHER),
    // A WebSocket (RFC 8441), which is not offered, and a protocol of nothing.
    (
        ":method",
        &[":method: CONNECT", ":protocol: websocket"],
        NEITHER,
    ),
    ("", &[":protocol: websocket"], NEITHER),
    ("", &[":authority: shop.example"], NEITHER),
    ("", &["host: a", "host: a"], Ended::Refused),
    ("", &["keep-alive: timeout=5"], NEITHER),
    ("", &["proxy-connection: close"], NEITHER),
    ("", &["te: trailers, gzip"], NEITHER),
    (
        "",
        &["content-length: 0", "content-length: 0"],
        Ended::Refused,
    ),
    ("", &["content-length: 2", "content-length: 3"], NEITHER),
    ("", &["content-length: 2"], NEITHER),
];

/// With what stands in the head, in the body, and behind it.
const BODIES: [(&[Field], &[&str], &[Field]); 6] = [
    (&["content-length: 5"], &["ab", "c"], &[]),
    (&["content-length: 5"], &["ab"], &["x-sum: 1"]),
    (&["content-length: 5"], &[], &["x-sum: 1"]),
    (&[], &["ab"], &["X-Sum: 1"]),
    (&[], &["ab"], &["connection: close"]),
    (&[], &["ab"], &["x-sum: 1\r\nhost: a"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_reset_or_refused() {
    let crossing = Crossing::new().await;
    for (without, with, due) in HEADS {
        let usual = HEAD.iter().filter(|one| split(one).0 != without);
        let (pseudo, others): (Vec<Field>, Vec<Field>) = with
            .iter()
            .partition(|one| one.starts_with(':') && with[0].starts_with(':'));
        let head = usual.copied().chain(pseudo).chain(others).collect();
        let case = Case {
            head,
            ..Case::default()
        };
        assert_eq!(crossing.ask(&case).await.0, due, "{case:?}");
    }
    // A host is there, and nothing says where on it.
    let case = Case {
        head: vec![":method: POST", ":scheme: http", "host: shop.example"],
        ..Case::default()
    };
    assert_eq!(crossing.ask(&case).await.0, Ended::Refused);
    for (fields, body, trailers) in BODIES {
        let case = Case {
            head: [&HEAD, fields].concat(),
            body: body.to_vec(),
            trailers: trailers.to_vec(),
        };
        assert_eq!(crossing.ask(&case).await.0, NEITHER, "{case:?}");
    }
    assert_eq!(crossing.stop().await, []);
}

/// HTTP/1 has no place for them: an announced field behind the body would be one of the head to some.
#[tokio::test(flavor = "multi_thread")]
async fn a_pseudo_field_behind_the_body_goes_no_further() {
    let crossing = Crossing::new().await;
    let case = Case {
        head: [&HEAD[..], &["trailer: x-sum, :path, path"]].concat(),
        body: vec!["ab"],
        trailers: vec![":path: /in", "x-sum: 1"],
    };
    let (ended, seen) = crossing.ask(&case).await;
    let seen = seen.unwrap().expect("it was served");
    assert_eq!((ended, &seen.body[..]), (Ended::Served, &b"ab"[..]));
    assert_eq!(seen.line, "POST /it HTTP/1.1");
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    assert_eq!(crossing.stop().await, []);
}

/// Such a client may name no host; who speaks HTTP/1.1 must.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_without_a_host_is_not_refused_by_its_upstream() {
    let crossing = Crossing::new().await;
    let answer = crossing.front.raw("GET /old HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    let seen = came(&crossing.told().await).unwrap().unwrap();
    assert_eq!(seen.fields, [("host".to_owned(), String::new())]);
    assert_eq!(crossing.stop().await, []);
}

const METHODS: &[Field] = &[
    ":method: POST",
    ":method: GET",
    ":method: OPTIONS",
    ":method: odd",
    ":method: CONNECT",
    ":method: ",
    ":method: GET /in HTTP/1.1\r\nhost: a\r\n\r\nPOST",
    ":protocol: websocket",
];

const SCHEMES: &[Field] = &[
    ":scheme: http",
    ":scheme: https",
    ":scheme: ftp",
    ":scheme: ",
    ":scheme: http://b/",
];

const AUTHORITIES: &[Field] = &[
    ":authority: a",
    ":authority: b.example:81",
    ":authority: ",
    ":authority: x@a",
    ":authority: a b",
    ":authority: a/../b",
    ":authority: a\r\nx-one: 2",
    "host: a",
    ":status: 200",
];

const PATHS: &[Field] = &[
    ":path: /it?x=/../y",
    ":path: /%2e%2e//;a",
    ":path: /é",
    ":path: /a#b",
    ":path: *",
    ":path: http://b/in",
    ":path: /in HTTP/1.1\r\nhost: b\r\n\r\nGET /",
    ":path: /a b",
    ":path: in",
    ":path: ",
];

const FIELDS: [Field; 14] = [
    "x-one: 1",
    "x-one: é, 2",
    "x-one:  a b\t",
    "x-one: ",
    "cookie: a=1",
    "cookie: b=2; c=3",
    "te: trailers",
    "trailer: x-sum",
    "trailer: cookie, X-Sum",
    "host: a",
    "host:  b ",
    "content-length: 0",
    "content-length: 4",
    "content-length: 7",
];

const ODD_FIELDS: [Field; 18] = [
    "content-length: +4",
    "content-length: 4, 4",
    "content-length: ",
    "content-length: 99999999999999999999",
    "host: a, b",
    "te: chunked",
    "transfer-encoding: chunked",
    "connection: content-length",
    "upgrade: h2c",
    "X-One: 1",
    "x one: 1",
    "x:one: 1",
    "x-one: 1\r\ntransfer-encoding: chunked",
    "x-one: 1\ncontent-length: 7",
    "x-one: 1\0",
    "x\r\nhost: b",
    ":path: /late",
    ":odd: 1",
];

const PARTS: [&str; 4] = [
    "abcd",
    "xyz",
    "",
    "0\r\n\r\nGET /in HTTP/1.1\r\nhost: a\r\n\r\n",
];

const TRAILERS: [Field; 5] = [
    "x-sum: 1",
    "x-sum: 2",
    "cookie: a=2",
    "x-sum: 1\r\n\r\nGET /in HTTP/1.1\r\nhost: a\r\n\r\n",
    "transfer-encoding: chunked",
];

/// The first, or another one; seldom none or two.
fn one_of(all: &'static [Field]) -> impl Strategy<Value = Vec<Field>> {
    let usual = all[0];
    prop_oneof![
        12 => Just(vec![usual]),
        3 => select(all).prop_map(|one| vec![one]),
        1 => select(vec![vec![], vec![usual, usual]]),
    ]
}

fn odd_case() -> impl Strategy<Value = Case> {
    let fields = prop_oneof![8 => select(&FIELDS), 1 => select(&ODD_FIELDS)];
    let fields = prop::collection::vec(fields, 0..4);
    let body = prop::collection::vec(select(&PARTS), 0..4);
    let trailers = prop::collection::vec(select(&TRAILERS), 1..3);
    let trailers = prop_oneof![3 => Just(Vec::new()), 1 => trailers];
    let pseudo = [METHODS, SCHEMES, AUTHORITIES, PATHS].map(one_of);
    (pseudo, fields, body, trailers).prop_map(|(pseudo, fields, body, trailers)| Case {
        head: [pseudo.concat(), fields].concat(),
        body,
        trailers,
    })
}

#[test]
fn odd_streams_are_one_request_or_none() {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let crossing = runtime.block_on(Crossing::new());
    let (served, refused) = (Cell::new(0), Cell::new(0));
    let perhaps = RefCell::new(Vec::new());
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let ended = runner.run(&odd_case(), |case| {
        let (ended, seen) = runtime.block_on(crossing.ask(&case));
        let is_served = ended == Ended::Served;
        let count = if is_served { &served } else { &refused };
        count.set(count.get() + 1);
        match model(&case) {
            Due::Request(due) => prop_assert_eq!((ended, seen), (Ended::Served, Ok(Some(due)))),
            Due::Nothing => prop_assert!(!is_served, "{:?}", seen),
            Due::Perhaps(due) => {
                prop_assert!(!is_served || seen == Ok(Some(due.clone())), "{:?}", seen);
                perhaps.borrow_mut().push(due);
            }
        }
        Ok(())
    });
    ended.unwrap();
    for whole in runtime.block_on(crossing.stop()) {
        assert!(perhaps.borrow().contains(&whole), "{whole:?}");
    }
    // Else nothing would have been compared.
    let (served, refused) = (served.get(), refused.get());
    assert!(served > 50 && refused > 50, "{served} {refused}");
}
