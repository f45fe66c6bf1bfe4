//! The real process under mixed load, in clear text and over TLS, gRPC's trailers among it, with flips each second, reloads,
//! and certificates that change: no request fails, and neither memory nor descriptors grow. Short in every run; `long_soak`
//! takes minutes.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outgrow_testkit::certificates::{Authority, Signed};
use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::upstream::Body;
use outgrow_testkit::{Upstream, eventually};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::harness::run_in;
use crate::safe::{self, Dialer};
use crate::starting::serve;

const SECOND: Duration = Duration::from_secs(1);
/// Clients of each kind.
const CLIENTS: u64 = 3;
/// A config is reloaded after so many flips.
const FLIPS_A_RELOAD: u64 = 4;
/// Nothing that is waited for takes this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a WebSocket.
const BETWEEN_WORDS: Duration = Duration::from_millis(20);
/// What lives longer is cut when a reload has come; of a soak's many no more than a few are there at once.
const DRAIN: Duration = Duration::from_secs(6);
/// Events of a stream, fifty milliseconds apart.
const EVENTS: usize = 20;
/// What calls of gRPC are of.
const CALL: &str = "/shop.Offers/Ask";
/// Bytes of a large upload, and of its answer.
const LARGE: usize = 1_000_000;

type Pool<C = HttpConnector> = Client<C, Full<Bytes>>;

/// By which a pool of a client connects.
trait Connects: Connect + Clone + Send + Sync + 'static {}

impl<C: Connect + Clone + Send + Sync + 'static> Connects for C {}

/// What the clients have seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    answered: Arc<AtomicU64>,
    /// Of gRPC, with its trailers.
    called: Arc<AtomicU64>,
    /// Of both, those over TLS.
    safely: Arc<AtomicU64>,
    /// Requests that were asked again, as their connection of HTTP/2 was left.
    left: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    /// When reloads were asked for, and how many of them are done.
    reloads: Arc<Mutex<Vec<Instant>>>,
    reloaded: Arc<AtomicUsize>,
    /// Words over WebSockets, and how many of these were cut at the end of a drain.
    echoed: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
}

impl Seen {
    fn failed(&self, why: &str) {
        self.failures.lock().unwrap().push(why.to_owned());
    }

    /// What a reload may have cost, and nothing more.
    #[allow(clippy::print_stdout)] // The figures are what a long run is for.
    fn check(&self, took: Duration) {
        let read = |of: &AtomicU64| of.load(Relaxed);
        let [requests, calls, safely] =
            [&self.answered, &self.called, &self.safely].map(|of| read(of));
        let left = read(&self.left);
        let [echoed, cut] = [&self.echoed, &self.cut].map(|of| read(of));
        let reloads = self.reloads.lock().unwrap().len() as u64;
        let seconds = took.as_secs();
        println!(
            "{requests} requests and {calls} calls in {seconds} s, {safely} of them over TLS, {left} of them sent again; {echoed} words over \
             WebSockets, of which {reloads} reloads have cut {cut}"
        );
        assert!(requests > 100, "{requests}");
        assert!(calls > 50, "{calls}");
        assert!(safely > 50, "{safely}");
        // Each reload leaves one connection of each client of HTTP/2, of which two come over TLS.
        let clients = 2 * CLIENTS + 2;
        assert!(left <= clients * reloads, "{left} of {reloads} reloads");
        assert!(echoed > 100, "{echoed}");
        assert!(cut <= 2 * CLIENTS * reloads, "{cut} of {reloads} reloads");
    }
}

/// Says what comes, until its client leaves.
fn echo(request: Request<Bytes>) -> Response<Body> {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        // Ends with either half.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut answer = Response::new(outgrow_testkit::upstream::whole(Bytes::new()));
    *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        let value = http::HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// As gRPC has it: what was sent, in two parts, and how it went behind them.
fn call(request: Request<Bytes>) -> Response<Body> {
    let mut body = request.into_body();
    let half = body.split_to(body.len() / 2);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [
        Frame::data(half),
        Frame::data(body),
        Frame::trailers(trailers),
    ];
    let frames = stream::iter(frames.map(Ok::<_, std::io::Error>));
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("trailer", "grpc-status"),
    ] {
        let value = http::HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// A side that answers with what it was sent, a stream of events, and an echo.
async fn side(name: &'static str) -> Upstream {
    Upstream::streaming(move |request: Request<Bytes>| async move {
        if request.headers().contains_key("upgrade") {
            return echo(request);
        }
        if request.uri().path() == CALL {
            return call(request);
        }
        if request.uri().path() != "/events" {
            let (head, body) = request.into_parts();
            let text = match head.method {
                Method::GET => Bytes::from(format!("{name} {}", "x".repeat(3_000))),
                _ => body,
            };
            let mut answer = Response::new(Full::new(text).map_err(|never| match never {}).boxed());
            if head.uri.path() == "/api/offers" {
                let good = http::HeaderValue::from_static("max-age=1");
                answer.headers_mut().insert("cache-control", good);
            }
            return answer;
        }
        let ticks = interval(Duration::from_millis(50));
        let events = stream::unfold((ticks, 0), |(mut ticks, n)| async move {
            if n == EVENTS {
                return None;
            }
            ticks.tick().await;
            let event = Frame::data(Bytes::from(format!("data: {n}\n\n")));
            Some((Ok::<_, std::io::Error>(event), (ticks, n + 1)))
        });
        let mut answer = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(events))));
        let kind = http::HeaderValue::from_static("text/event-stream");
        answer.headers_mut().insert("content-type", kind);
        answer
    })
    .await
}

/// Where it listens: in clear text, its admin API, over TLS; and what it shows there.
#[derive(Debug)]
struct Front {
    at: [SocketAddr; 3],
    authority: Authority,
    shown: Signed,
}

impl Front {
    fn new() -> Self {
        let authority = Authority::new("ca");
        Self {
            at: [free_address(), free_address(), free_address()],
            shown: authority.server(&[safe::NAME]),
            authority,
        }
    }

    fn dials(&self, speaks: &[&str]) -> Dialer {
        Dialer::new(&self.authority.file(), self.at[2], speaks)
    }

    /// Another certificate in place of the one that is shown.
    fn rotate(&self) {
        self.authority.server(&[safe::NAME]);
    }

    /// Whoever comes is shown what the file has, some time after it was changed.
    async fn is_rotated(&self, dialer: &Dialer) {
        let file = CertificateDer::from_pem_file(&self.shown.certificate).unwrap();
        eventually("the new certificate", PATIENCE, || async {
            let shown = dialer.look().await.ok()?;
            (shown == file.as_ref()).then_some(())
        })
        .await;
    }
}

fn write(dir: &Path, front: &Front, [legacy, service]: [&Upstream; 2], n: u64) {
    let [at, control, safe] = front.at;
    let Signed { certificate, key } = &front.shown;
    let url = |side: &Upstream| format!("http://{}", side.addr());
    let text = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\nrequest_timeout = \"{}s\"\n\
         drain_timeout = \"{}s\"\n\
         cache = {{ size = \"1MiB\" }}\n\
         access_log = {{ file = \"access.log\", sample = 0.01 }}\n\
         [proxy.tls]\nlisten = [\"{safe}\"]\nreload = \"1s\"\n\
         certificates = [{{ cert = {certificate:?}, key = {key:?} }}]\n\
         [legacy]\nurls = [\"{}\"]\ndatabase = \"sqlite:legacy.db\"\n\
         [control]\nlisten = \"{control}\"\n\
         [services.catalog]\nurls = [\"{}\"]\n[slices.catalog]\nservice = \"catalog\"\n\
         cohort = [\"header:x-visitor\"]\n\
         routes = [\"GET /api/offers\", \"GET /api/products/{{id}}\", \"POST /api/products\", \"PUT /api/products/{{id}}\"]\n\
         [[slices.catalog.route_filters]]\nroutes = [\"GET /api/offers\"]\ncache = {{ }}\n\
         [services.offers]\nurls = [\"{}\"]\nprotocol = \"h2\"\n\
         [slices.offers]\nservice = \"offers\"\nroutes = [\"POST {CALL}\"]\n",
        30 + n % 2,
        DRAIN.as_secs(),
        url(legacy),
        url(service),
        url(service)
    );
    std::fs::write(dir.join("outgrow.toml"), text).unwrap();
}

/// What one client asks next, and what a right answer ends with.
fn next(origin: &str, client: u64, n: u64) -> (Request<Full<Bytes>>, Option<Bytes>) {
    let large = || "a large one, ".repeat(LARGE / 13);
    let (method, path, body) = match n % 8 {
        0 => (
            Method::POST,
            "/api/products".to_owned(),
            "a new one".to_owned(),
        ),
        1 => (
            Method::PUT,
            format!("/api/products/{n}"),
            "another one".to_owned(),
        ),
        2 => (Method::HEAD, format!("/api/products/{n}"), String::new()),
        3 => (Method::GET, "/elsewhere".to_owned(), String::new()),
        4 => (Method::GET, "/api/offers".to_owned(), String::new()),
        // Larger than what lies in any buffer on the way, and not for each.
        5 if n % 64 == 5 => (Method::POST, "/api/products".to_owned(), large()),
        _ => (Method::GET, format!("/api/products/{n}"), String::new()),
    };
    let sent = (method != Method::GET && method != Method::HEAD).then(|| Bytes::from(body.clone()));
    let request = Request::builder()
        .method(method)
        .uri(format!("{origin}{path}"))
        .header("x-visitor", format!("v{}", (client * 7 + n) % 500))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    (request, sent)
}

/// Whether a server that leaves in order says that it has not taken up what was sent (RFC 9113
/// section 8.7). hyper's client sends that again for a connection that is closed, but says it of one
/// that closes while the request is on its way to it.
fn not_taken_up(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.any(|error| {
        error
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
    })
}

/// Asks, and once more where a connection of HTTP/2 was left before it took the request up; the
/// connection after it is a new one, which no server leaves at once.
async fn ask<C: Connects>(
    pool: &Pool<C>,
    request: Request<Full<Bytes>>,
    left: &AtomicU64,
) -> Result<Response<Incoming>, String> {
    match pool.request(request.clone()).await {
        Err(error) if not_taken_up(&error) => {
            left.fetch_add(1, Relaxed);
            pool.request(request).await
        }
        answer => answer,
    }
    .map_err(|error| format!("{error:?}"))
}

/// Who asks, and where: a pool of its own.
struct Asker<C> {
    pool: Pool<C>,
    origin: String,
    client: u64,
}

impl Asker<HttpConnector> {
    fn plain(at: SocketAddr, client: u64, http2: bool) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        Self {
            pool: builder.http2_only(http2).build_http(),
            origin: format!("http://{at}"),
            client,
        }
    }
}

impl Asker<Dialer> {
    /// What is spoken both sides agree on.
    fn safe(dialer: Dialer, at: SocketAddr, client: u64) -> Self {
        Self {
            pool: Client::builder(TokioExecutor::new()).build(dialer),
            origin: format!("https://{at}"),
            client,
        }
    }
}

impl<C: Connects> Asker<C> {
    fn answered(&self, seen: &Seen, of: &AtomicU64) {
        of.fetch_add(1, Relaxed);
        if self.origin.starts_with("https") {
            seen.safely.fetch_add(1, Relaxed);
        }
    }

    /// Asks without pause until the end; what goes wrong is put down.
    async fn asks(self, http2: bool, seen: Seen) {
        let version = if http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        for n in 0.. {
            let (request, sent) = next(&self.origin, self.client, n);
            let asked = format!("{} {} http2={http2}", request.method(), request.uri());
            let answered = async {
                let answer = ask(&self.pool, request, &seen.left).await?;
                let status = (answer.status(), answer.version());
                let body = answer.into_body().collect().await;
                let body = body.map_err(|error| format!("{error:?}"))?.to_bytes();
                let well = status.0.is_success() && status.1 == version;
                match well && sent.is_none_or(|sent| sent == body) {
                    true => Ok(()),
                    false => Err(format!("{status:?} {body:?}")),
                }
            };
            match answered.await {
                Ok(()) => self.answered(&seen, &seen.answered),
                Err(why) => seen.failed(&format!("{asked}: {why}")),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Calls without pause until the end, over HTTP/2, on a route of a slice whose service speaks that.
    async fn calls(self, seen: Seen) {
        for n in 0_u64.. {
            let (origin, client) = (&self.origin, self.client);
            let sent = Bytes::from(format!("call {n} of {client}").repeat(20));
            let request = Request::post(format!("{origin}{CALL}"))
                .header("te", "trailers")
                .header("content-type", "application/grpc")
                .body(Full::new(sent.clone()))
                .unwrap();
            let called = async {
                let answer = ask(&self.pool, request, &seen.left).await?;
                let body = answer.into_body().collect().await;
                let body = body.map_err(|error| format!("{error:?}"))?;
                let status = body.trailers().and_then(|all| all.get("grpc-status"));
                let well = status.is_some_and(|status| status == "0");
                let came = body.to_bytes();
                match well && came == sent {
                    true => Ok(()),
                    false => Err(format!("trailers: {well}, {came:?}")),
                }
            };
            match called.await {
                Ok(()) => self.answered(&seen, &seen.called),
                Err(why) => seen.failed(&format!("a call to {origin}: {why}")),
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Calls that a side was asked over this.
fn called(side: &Upstream, version: Version) -> usize {
    let all = side.seen();
    let calls = all.iter().filter(|seen| seen.target == CALL);
    calls.filter(|seen| seen.version == version).count()
}

/// Listens to streams of events, each to its end.
async fn listens(at: SocketAddr, seen: Seen) {
    let pool = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    loop {
        let got = async {
            let url = format!("http://{at}/events").parse().unwrap();
            let answer = pool.get(url).await.map_err(|error| format!("{error:?}"))?;
            let body = answer.into_body().collect().await;
            let body = body.map_err(|error| format!("{error:?}"))?.to_bytes();
            let events = body.windows(6).filter(|six| six == b"data: ").count();
            (events == EVENTS)
                .then_some(())
                .ok_or(format!("{events} events"))
        };
        if let Err(why) = got.await {
            seen.failed(&format!("a stream: {why}"));
        }
    }
}

/// Echoes over one connection after another, each as long as it lives. One is opened under the config
/// that is in force, and a flip is nothing to it; after a reload it may be cut at the end of the drain.
async fn echoes(at: SocketAddr, path: &str, client: u64, seen: Seen) {
    let ask = format!(
        "GET {path} HTTP/1.1\r\nhost: shop\r\nx-visitor: v{client}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\n\r\n"
    );
    let open = async || {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(ask.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        match head.starts_with(b"HTTP/1.1 101") {
            true => Ok(stream),
            false => Err(std::io::Error::other(String::from_utf8_lossy(&head))),
        }
    };
    let mut pace = interval(BETWEEN_WORDS);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let reloaded = seen.reloaded.load(Relaxed);
        let mut stream = match open().await {
            Ok(stream) => stream,
            Err(error) => {
                seen.failed(&format!("a WebSocket: {error}"));
                pace.tick().await;
                continue;
            }
        };
        let talk = async {
            for word in 0.. {
                stream.write_u64(word).await?;
                if stream.read_u64().await? != word {
                    return Err(std::io::Error::other("another word"));
                }
                seen.echoed.fetch_add(1, Relaxed);
                pace.tick().await;
            }
            Ok(())
        };
        let ended = talk.await;
        // The first that may have been later than this connection; its drain began after it.
        let reload = seen.reloads.lock().unwrap().get(reloaded).copied();
        match reload.is_some_and(|asked| asked.elapsed() >= DRAIN) {
            true => drop(seen.cut.fetch_add(1, Relaxed)),
            false => seen.failed(&format!("an open WebSocket was cut: {ended:?}")),
        }
    }
}

/// Kilobytes in memory, and open descriptors.
fn takes(process: &Process) -> (u64, usize) {
    let own = format!("/proc/{}", process.id().unwrap());
    let status = std::fs::read_to_string(format!("{own}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let memory = line.unwrap().split_whitespace().nth(1).unwrap();
    let open = std::fs::read_dir(format!("{own}/fd")).unwrap().count();
    (memory.parse().unwrap(), open)
}

async fn order(dir: &Path, args: &[&str]) {
    let ended = run_in(dir, args).await;
    assert_eq!(ended.code, 0, "{args:?}: {}{}", ended.stdout, ended.stderr);
}

/// All of them; those over TLS by these.
fn clients(front: &Front, [old, new]: &[Dialer; 2], seen: &Seen) -> JoinSet<()> {
    let [at, _, safe] = front.at;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        for http2 in [false, true] {
            clients.spawn(Asker::plain(at, client, http2).asks(http2, seen.clone()));
        }
        clients.spawn(Asker::plain(at, client, true).calls(seen.clone()));
        clients.spawn(listens(at, seen.clone()));
        for path in ["/echo", "/api/products/echo"] {
            clients.spawn(echoes(at, path, client, seen.clone()));
        }
    }
    for (dialer, http2) in [(old, false), (new, true)] {
        let asker = Asker::safe(dialer.clone(), safe, CLIENTS);
        clients.spawn(asker.asks(http2, seen.clone()));
    }
    clients.spawn(Asker::safe(new.clone(), safe, CLIENTS).calls(seen.clone()));
    clients
}

/// The process, and what is done to it.
struct Stage {
    dir: TempDir,
    front: Front,
    sides: [Upstream; 2],
    seen: Seen,
}

impl Stage {
    async fn flip(&self, slice: &str, to: &str) {
        let flip = ["route", "flip", slice, to, "--force", "--reason", "soak"];
        order(self.dir.path(), &flip).await;
    }

    fn write(&self, n: u64) {
        let [legacy, service] = &self.sides;
        write(self.dir.path(), &self.front, [legacy, service], n);
    }

    /// A second's.
    async fn turn(&self, n: u64, dialer: &Dialer) {
        // Up, back to the legacy side alone, and elsewhere.
        let steps = ["canary=1", "canary=80", "shadow", "canary=20"];
        self.flip("catalog", steps[usize::try_from(n % 4).unwrap()])
            .await;
        // Calls are writes, which follow the last of the reads over and come back with the first.
        self.flip(
            "offers",
            ["canary=100", "extracted"][usize::try_from(n % 2).unwrap()],
        )
        .await;
        match n % FLIPS_A_RELOAD {
            0 => {
                self.write(n);
                self.seen.reloads.lock().unwrap().push(Instant::now());
                order(self.dir.path(), &["reload"]).await;
                self.seen.reloaded.fetch_add(1, Relaxed);
            }
            // Long enough behind a reload that the files are looked at by themselves.
            1 => self.front.rotate(),
            3 => self.front.is_rotated(dialer).await,
            _ => {}
        }
    }

    /// What came to which side, and over what.
    fn check(&self, dialers: &[Dialer]) {
        let [legacy, service] = &self.sides;
        let calls = [
            called(legacy, Version::HTTP_11),
            called(service, Version::HTTP_2),
        ];
        assert!(calls.iter().all(|calls| *calls > 10), "{calls:?}");
        assert_eq!(called(service, Version::HTTP_11), 0);
        let shown: Vec<_> = dialers.iter().map(Dialer::shown).collect();
        assert!(shown.iter().all(|shown| *shown > 1), "{shown:?}");
    }
}

#[allow(clippy::print_stdout)] // The figures are what a long run is for.
async fn soak(length: Duration) {
    let stage = Stage {
        dir: tempfile::tempdir().unwrap(),
        front: Front::new(),
        sides: [side("legacy").await, side("catalog").await],
        seen: Seen::default(),
    };
    let seen = &stage.seen;
    stage.write(0);
    let mut outgrow = serve(stage.dir.path()).await;
    for slice in ["catalog", "offers"] {
        stage.flip(slice, "shadow").await;
    }
    stage.flip("offers", "canary=100").await;
    let dialers = [&["http/1.1"][..], &["h2", "http/1.1"]].map(|speaks| stage.front.dials(speaks));
    let mut clients = clients(&stage.front, &dialers, seen);
    let begun = Instant::now();
    let (mut ticks, mut warm) = (interval(SECOND), None);
    // On a slow machine there are fewer reloads, not several at a time.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut n = 0;
    let warm = loop {
        n += 1;
        ticks.tick().await;
        stage.turn(n, &dialers[0]).await;
        match warm {
            None if begun.elapsed() >= length / 2 => warm = Some(takes(&outgrow)),
            // Where all is slow, too, there is a lap behind the look.
            Some(warm) if begun.elapsed() >= length => break warm,
            _ => {}
        }
    };
    let after = takes(&outgrow);
    clients.shutdown().await;
    let failures = seen.failures.lock().unwrap().clone();
    let log = || outgrow.log();
    assert!(
        failures.is_empty(),
        "{:?}\n{}",
        &failures[..failures.len().min(5)],
        log()
    );
    println!("kilobytes and descriptors: {warm:?}, then {after:?}");
    seen.check(begun.elapsed());
    stage.check(&dialers);
    // A proxy that ends behind a reload may be there still, or not.
    assert!(
        after.0 < warm.0 * 3 / 2 + 16_384,
        "memory: {warm:?}, then {after:?}"
    );
    assert!(
        after.1 < warm.1 * 2 + 64,
        "descriptors: {warm:?}, then {after:?}"
    );
    assert!(outgrow.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_and_nothing_grows() {
    soak(12 * SECOND).await;
}

/// By `scripts/test --long`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes minutes"]
async fn long_soak() {
    soak(180 * SECOND).await;
}
