//! gRPC: a client and a server of tonic with the proxy between them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::uri::PathAndQuery;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outgrow_proxy::{Protocol, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::{Upstream, eventually};
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{
    ClientStreamingService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::harness::{Front, WAIT, plain, slice_id, sliced, start};
use crate::multiplexed::{known, streams};
use crate::secured::{Door, over_tls, trusting};

/// Messages of bytes: what they mean is not the proxy's business.
#[derive(Debug, Clone, Copy, Default)]
struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Messages = BoxStream<'static, Result<Bytes, Status>>;

/// The service: each method by its path.
#[derive(Debug, Clone, Default)]
struct Echo {
    /// Calls of `Wait` that have begun, and that were given up.
    waiting: Arc<Notify>,
    given_up: Arc<Notify>,
    calls: Arc<AtomicUsize>,
}

struct GivenUp(Arc<Notify>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, request: Request<Bytes>) -> Answer<Bytes> {
        self.calls.fetch_add(1, SeqCst);
        let (waiting, given_up) = (self.waiting.clone(), self.given_up.clone());
        Box::pin(async move {
            match &request.get_ref()[..] {
                b"fail" => Err(Status::unavailable("not today: 100%")),
                b"wait" => {
                    let _given_up = GivenUp(given_up);
                    waiting.notify_one();
                    std::future::pending().await
                }
                _ => Ok(Response::new(request.into_inner())),
            }
        })
    }
}

impl ServerStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answer<Messages>;

    /// Counts up to the number that it is given, and fails or waits behind what ends so.
    fn call(&mut self, request: Request<Bytes>) -> Answer<Messages> {
        let text = String::from_utf8(request.into_inner().to_vec()).unwrap();
        let (waiting, given_up) = (self.waiting.clone(), self.given_up.clone());
        Box::pin(async move {
            let count: usize = text.trim_matches(char::is_alphabetic).parse().unwrap();
            let numbers = stream::iter((0..count).map(|n| Ok(Bytes::from(n.to_string()))));
            let end: Messages = if text.ends_with("fail") {
                stream::iter([Err(Status::internal("broken"))]).boxed()
            } else if text.ends_with("wait") {
                stream::once(async move {
                    let _given_up = GivenUp(given_up);
                    waiting.notify_one();
                    std::future::pending().await
                })
                .boxed()
            } else {
                stream::empty().boxed()
            };
            Ok(Response::new(numbers.chain(end).boxed()))
        })
    }
}

impl ClientStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Answer<Bytes> {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let mut all = Vec::new();
            while let Some(message) = messages.message().await? {
                all.extend_from_slice(&message);
            }
            Ok(Response::new(all.into()))
        })
    }
}

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answer<Messages>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Answer<Messages> {
        Box::pin(async move { Ok(Response::new(request.into_inner().boxed())) })
    }
}

/// Serves it, in clear text.
async fn serve(echo: Echo) -> Upstream {
    Upstream::raw(move |stream| {
        let echo = echo.clone();
        async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let echo = echo.clone();
                async move {
                    let mut server =
                        tonic::server::Grpc::new(Bare).max_decoding_message_size(64 << 20);
                    let path = request.uri().path().to_owned();
                    Ok::<_, Infallible>(match path.as_str() {
                        "/shop.Echo/One" => server.unary(echo, request).await,
                        "/shop.Echo/Count" => server.server_streaming(echo, request).await,
                        "/shop.Echo/Join" => server.client_streaming(echo, request).await,
                        "/shop.Echo/Talk" => server.streaming(echo, request).await,
                        other => Status::unimplemented(other).into_http(),
                    })
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

/// A connection as tonic wants one.
#[derive(Clone)]
struct Wire {
    sender: http2::SendRequest<Body>,
    at: SocketAddr,
}

impl tower::Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let uri = format!("http://{}{}", self.at, request.uri().path());
        *request.uri_mut() = uri.parse().unwrap();
        Box::pin(self.sender.send_request(request))
    }
}

type Client = tonic::client::Grpc<Wire>;

async fn client(front: &Front) -> Client {
    let (sender, at) = (streams(front.at).await, front.at);
    tonic::client::Grpc::new(Wire { sender, at }).max_decoding_message_size(64 << 20)
}

fn path(method: &str) -> PathAndQuery {
    format!("/shop.Echo/{method}").parse().unwrap()
}

async fn one(client: &mut Client, request: Request<Bytes>) -> Result<Bytes, Status> {
    client.ready().await.unwrap();
    let answer = client.unary(request, path("One"), Bare).await;
    answer.map(Response::into_inner)
}

async fn count(client: &mut Client, request: Request<Bytes>) -> Result<Streaming<Bytes>, Status> {
    client.ready().await.unwrap();
    let answer = client.server_streaming(request, path("Count"), Bare).await;
    answer.map(Response::into_inner)
}

fn said(text: &'static str) -> Request<Bytes> {
    Request::new(Bytes::from_static(text.as_bytes()))
}

/// All four kinds of calls, a failure, a long message, and a method that is not there.
async fn talk(settings: Settings) {
    let front = start(settings);
    let mut client = client(&front).await;
    assert_eq!(one(&mut client, said("hello")).await.unwrap(), "hello");
    let long = Bytes::from(vec![b'x'; 20_000_000]);
    let back = one(&mut client, Request::new(long.clone())).await.unwrap();
    assert_eq!(back, long);

    let refused = one(&mut client, said("fail")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "not today: 100%");

    let numbers = count(&mut client, said("1000")).await.unwrap();
    assert_eq!(numbers.collect::<Vec<_>>().await.len(), 1_000);
    let mut numbers = count(&mut client, said("2fail")).await.unwrap();
    assert_eq!(numbers.message().await.unwrap().unwrap(), "0");
    assert_eq!(numbers.message().await.unwrap().unwrap(), "1");
    let failed = numbers.message().await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::Internal, "broken")
    );

    client.ready().await.unwrap();
    let parts = stream::iter(["a", "b", "c"].map(|part| Bytes::from_static(part.as_bytes())));
    let joined = client.client_streaming(Request::new(parts), path("Join"), Bare);
    assert_eq!(joined.await.unwrap().into_inner(), "abc");

    // Each message is answered before the next one is sent.
    client.ready().await.unwrap();
    let (send, messages) = tokio::sync::mpsc::channel::<Bytes>(1);
    let messages = stream::unfold(messages, |mut messages| async move {
        Some((messages.recv().await?, messages))
    });
    send.send("first".into()).await.unwrap();
    let answers = client.streaming(Request::new(messages.boxed()), path("Talk"), Bare);
    let mut answers = answers.await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), "first");
    for text in ["second", "third"] {
        send.send(text.into()).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap(), text);
    }
    drop(send);
    assert_eq!(answers.message().await.unwrap(), None);

    client.ready().await.unwrap();
    let missing = client.unary(said("a"), path("Missing"), Bare).await;
    assert_eq!(missing.unwrap_err().code(), Code::Unimplemented);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_through_in_clear_text() {
    let upstream = serve(Echo::default()).await;
    talk(known(&upstream)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_through_over_tls() {
    let upstream = serve(Echo::default()).await;
    let ca = Authority::new("ca");
    let door = Door::before(upstream.addr(), &ca.server(&["127.0.0.1"]), &["h2"], None).await;
    for protocol in [Protocol::Http2, Protocol::Auto] {
        talk(over_tls(&upstream, door.at, trusting(&ca), protocol)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_ends_at_the_service() {
    let echo = Echo::default();
    let upstream = serve(echo.clone()).await;
    let front = start(known(&upstream));
    let mut client = client(&front).await;
    let mut numbers = count(&mut client, said("1wait")).await.unwrap();
    assert_eq!(numbers.message().await.unwrap().unwrap(), "0");
    let mut next = Box::pin(numbers.message());
    tokio::select! {
        _ = &mut next => panic!("it waits"),
        () = echo.waiting.notified() => {}
    }
    drop(next);
    drop(numbers);
    tokio::time::timeout(WAIT, echo.given_up.notified())
        .await
        .unwrap();
    assert_eq!(one(&mut client, said("hello")).await.unwrap(), "hello");
    front.stop().await;
}

/// The service knows nothing of the deadline: the proxy keeps it, before the head and behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_no_longer_than_its_client_waits() {
    let echo = Echo::default();
    let upstream = serve(echo.clone()).await;
    let front = start(known(&upstream));
    let mut client = client(&front).await;
    let within = |text: &'static str| {
        let mut request = said(text);
        request.set_timeout(Duration::from_millis(200));
        request
    };
    let late = one(&mut client, within("wait")).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    tokio::time::timeout(WAIT, echo.given_up.notified())
        .await
        .unwrap();
    let mut numbers = count(&mut client, within("1wait")).await.unwrap();
    assert_eq!(numbers.message().await.unwrap().unwrap(), "0");
    let late = numbers.message().await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    tokio::time::timeout(WAIT, echo.given_up.notified())
        .await
        .unwrap();
    // What a client is too impatient for is nobody's failure.
    let upstreams = &front.handle.describe()["services"][0]["upstreams"][0];
    assert_eq!(upstreams["failures"], 0, "{upstreams}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_own_refusals_are_statuses() {
    let gone = Upstream::always(200, "").await;
    let settings = known(&gone);
    let at = gone.addr();
    drop(gone);
    eventually("it is gone", WAIT, || async {
        tokio::net::TcpStream::connect(at)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    let front = start(settings);
    let mut client = client(&front).await;
    let refused = one(&mut client, said("hello")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("cannot connect"), "{refused:?}");
    front.stop().await;
}

/// Both kinds of failure: in the only head, and behind messages.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_count_as_errors() {
    let upstream = serve(Echo::default()).await;
    let mut settings = sliced(&upstream, &upstream);
    settings.legacy.rules = known(&upstream).legacy.rules;
    for route in &mut settings.slices[0].routes {
        route.template = route.template.replace("/api/items", "/shop.Echo/One");
    }
    settings.slices[0].routes.truncate(1);
    settings.slices[0].routes[0].method = http::Method::POST;
    let mut count_route = settings.slices[0].routes[0].clone();
    count_route.template = "/shop.Echo/Count".to_owned();
    settings.slices[0].routes.push(count_route);
    let front = start(settings);
    front.weigh(1, Weight::ZERO);
    let mut client = client(&front).await;
    let errors = || {
        let evidence = front.handle.counts(&slice_id()).unwrap();
        (evidence.legacy.requests, evidence.legacy.errors)
    };
    one(&mut client, said("hello")).await.unwrap();
    assert_eq!(errors(), (1, 0));
    one(&mut client, said("fail")).await.unwrap_err();
    assert_eq!(errors(), (2, 1));
    let numbers = count(&mut client, said("3fail")).await.unwrap();
    assert_eq!(numbers.collect::<Vec<_>>().await.len(), 4);
    assert_eq!(errors(), (3, 2));
    front.stop().await;
}

/// A body that no server of gRPC sends is handed on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_what_is_no_service_gets_its_answer() {
    let upstream = Upstream::always(404, "no such page").await;
    let front = start(plain(&upstream));
    let mut sender = streams::<http_body_util::Full<Bytes>>(front.at).await;
    let request = http::Request::post(front.url("/shop.Echo/One"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Bytes::from_static(&[0, 0, 0, 0, 0]).into())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 404);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "no such page");
    front.stop().await;
}
