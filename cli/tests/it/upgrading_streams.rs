//! `outgrow upgrade` under clients of HTTP/2, in clear text and over TLS: no stream that a client opened
//! before it was told to leave is refused, reset or cut short, neither by the process that goes nor by
//! the one that comes.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::safe;
use crate::upgrading::{Shop, WAIT};

/// Streams of a connection at a time.
const STREAMS: usize = 4;
/// Of a body that is more than one frame, and more than a window at first.
const LARGE: usize = 200_000;

/// What all clients have seen.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answers: AtomicU32,
    connections: AtomicU32,
}

/// One after the other, until the other end wants no more of them. A stream that was opened is answered.
async fn ask(mut to: SendRequest<Bytes>, post: bool, load: Arc<Load>) {
    while !load.stop.load(SeqCst) {
        // An error is the word to leave, which has come before this one was sent.
        to = match to.ready().await {
            Ok(to) => to,
            Err(told) => {
                assert!(told.is_go_away() || told.is_io(), "{told}");
                return;
            }
        };
        let method = if post { Method::POST } else { Method::GET };
        let request = Request::builder().method(method);
        let uri = format!("http://{}/api/products", safe::NAME);
        let request = request.uri(uri).body(()).unwrap();
        let Ok((answer, mut body)) = to.send_request(request, !post) else {
            // Told since: it was not sent.
            return;
        };
        if post {
            // The rest when the first part is on its way.
            body.send_data(Bytes::from_static(b"first, "), false)
                .unwrap();
            tokio::task::yield_now().await;
            body.send_data(vec![b'x'; LARGE].into(), true).unwrap();
        }
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut size = 0;
        while let Some(part) = answer.body_mut().data().await {
            let part = part.unwrap();
            answer
                .body_mut()
                .flow_control()
                .release_capacity(part.len())
                .unwrap();
            size += part.len();
        }
        assert_eq!(size, if post { LARGE + 7 } else { 12 });
        load.answers.fetch_add(1, SeqCst);
    }
}

async fn talk<T>(stream: T, post: bool, load: &Arc<Load>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    load.connections.fetch_add(1, SeqCst);
    let (to, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let asking: Vec<_> = (0..STREAMS)
        .map(|_| tokio::spawn(ask(to.clone(), post, load.clone())))
        .collect();
    drop(to);
    for one in asking {
        one.await.unwrap();
    }
    // It ends as it should, behind a word and its last answer.
    connection.await.unwrap().unwrap();
}

/// A client that comes again where it was told to leave.
async fn insist(at: SocketAddr, tls: Option<TlsConnector>, post: bool, load: Arc<Load>) {
    while !load.stop.load(SeqCst) {
        match &tls {
            None => talk(TcpStream::connect(at).await.unwrap(), post, &load).await,
            Some(tls) => talk(safe::connect(tls, at).await.unwrap(), post, &load).await,
        }
    }
}

/// The writes go to the legacy side.
async fn echo() -> Upstream {
    Upstream::start(|request| async move { Response::new(request.into_body()) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_fails_over_several_upgrades() {
    let (legacy, service) = (echo().await, Upstream::always(200, "service said").await);
    let authority = Authority::new("ca");
    let shown = authority.server(&[safe::NAME]);
    let safely = free_address();
    let more = format!(
        "[proxy.tls]\nlisten = [\"{safely}\"]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n",
        shown.certificate, shown.key
    );
    let mut shop = Shop::with([&legacy, &service], &[], &more).await;
    shop.extracted().await;
    let tls = safe::connector(&authority.file(), None, &["h2"]);
    let load = Arc::new(Load::default());
    let clients = [
        (None, false),
        (None, true),
        (Some(&tls), false),
        (Some(&tls), true),
    ];
    let clients = clients.map(|(tls, post)| {
        let at = if tls.is_some() { safely } else { shop.at };
        tokio::spawn(insist(at, tls.cloned(), post, load.clone()))
    });
    for _ in 0..3 {
        let before = *shop.pids.last().unwrap();
        let connections = load.connections.load(SeqCst);
        shop.upgrade().await;
        shop.gone(before).await;
        let answers = load.answers.load(SeqCst);
        eventually("all clients are with the next one", WAIT, || async {
            let (new, more) = (load.connections.load(SeqCst), load.answers.load(SeqCst));
            (new >= connections + 4 && more > answers + 50).then_some(())
        })
        .await;
    }
    load.stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    shop.done(&["journal", "verify"]).await;
    shop.stop().await;
}
