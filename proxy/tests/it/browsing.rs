//! A page in a real browser, and WebSockets of a real library, through the proxy.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SET_COOKIE, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::process::Process;
use outgrow_testkit::{Upstream, eventually};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, connect_async};

use crate::encrypted::over_tls;
use crate::harness::{WAIT, plain, start};

/// A browser on a busy machine takes its time to begin.
const BROWSER: Duration = Duration::from_secs(90);

/// What the page asks for, and says at the end.
const PAGE: &str = r#"<!doctype html><title>shop</title><script type=module>
const say = {};
const text = async (path, how) => (await fetch(path, how)).text();
const step = async (name, does) => { try { say[name] = await does() } catch (e) { say[name] = 'failed: ' + e } };
await step('get', () => text('/said?a=1'));
await step('post', () => text('/length', { method: 'POST', body: new Blob([new Uint8Array(2 << 20)]) }));
await step('large', async () => (await (await fetch('/large')).arrayBuffer()).byteLength);
await step('many', async () => (await Promise.all([...Array(40).keys()].map(n => text('/said?n=' + n)))).length);
await step('cookie', async () => { await text('/cookie'); return text('/cookies') });
await step('moved', async () => { const r = await fetch('/moved'); return r.redirected + ' ' + await r.text() });
await step('aborted', async () => {
    const stop = new AbortController();
    const r = await fetch('/events', { signal: stop.signal });
    await r.body.getReader().read();
    stop.abort();
    return 'well';
});
await step('events', () => new Promise((done, fail) => {
    const got = [], source = new EventSource('/events');
    source.onerror = () => fail('after ' + got);
    source.onmessage = e => { got.push(e.data); if (got.length == 3) { source.close(); done(got.join()) } };
}));
await step('socket', () => new Promise((done, fail) => {
    const got = [], socket = new WebSocket(location.origin.replace('http', 'ws') + '/socket');
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => { socket.send('word'); socket.send(new Uint8Array(100000)) };
    socket.onmessage = e => { got.push(e.data.byteLength ?? e.data); if (got.length == 2) socket.close(1000) };
    socket.onclose = e => done(got.join() + ' ' + e.code + ' ' + e.wasClean);
    socket.onerror = () => fail('an error');
}));
say.protocol = performance.getEntriesByType('navigation')[0].nextHopProtocol;
await fetch('/told', { method: 'POST', body: JSON.stringify(say) });
</script>"#;

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// Takes the socket behind the answer, and says again what comes.
fn socket(request: &mut Request<Bytes>) -> Response<Bytes> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return answer(StatusCode::BAD_REQUEST, "text/plain", "no key");
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let heard = matches!(message, Message::Text(_) | Message::Binary(_));
            // A client that has left is part of the test.
            if heard && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut answer = answer(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let fields = answer.headers_mut();
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept).unwrap());
    answer
}

async fn site() -> Upstream {
    Upstream::start(|mut request: Request<Bytes>| async move {
        let ok = StatusCode::OK;
        let plain = "text/plain";
        match request.uri().path() {
            "/" => answer(ok, "text/html", PAGE),
            "/said" => {
                let asked = request.uri().query().unwrap_or_default().to_owned();
                answer(ok, plain, asked)
            }
            "/length" => answer(ok, plain, request.body().len().to_string()),
            "/large" => answer(ok, plain, vec![b'x'; 5 << 20]),
            "/cookie" => {
                let mut set = answer(ok, plain, "");
                for cookie in ["a=1; Path=/", "b=2; Path=/; HttpOnly"] {
                    set.headers_mut()
                        .append(SET_COOKIE, HeaderValue::from_static(cookie));
                }
                set
            }
            "/cookies" => {
                let sent = request
                    .headers()
                    .get("cookie")
                    .map(|sent| sent.as_bytes().to_vec());
                answer(ok, plain, sent.unwrap_or_default())
            }
            "/moved" => {
                let mut moved = answer(StatusCode::FOUND, plain, "");
                moved
                    .headers_mut()
                    .insert("location", HeaderValue::from_static("/said?moved"));
                moved
            }
            "/events" => answer(ok, "text/event-stream", "data: 1\n\ndata: 2\n\ndata: 3\n\n"),
            "/socket" => socket(&mut request),
            _ => answer(StatusCode::NOT_FOUND, plain, ""),
        }
    })
    .await
}

/// What the page has said when it was through.
async fn told(upstream: &Upstream, url: &str, more: &[&str]) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
    let usual = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--ignore-certificate-errors",
        &profile,
    ];
    let words = [&usual, more, &[url]].concat();
    let mut browser = Process::spawn(Path::new("chromium"), &words, &dir.path().join("log"));
    let said = eventually("the page to say how it went", BROWSER, || async {
        let seen = upstream.seen();
        let told = seen.iter().find(|seen| seen.target == "/told")?;
        Some(serde_json::from_slice(&told.body).unwrap())
    })
    .await;
    browser.kill().await;
    said
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; run by scripts/test where it is to be had"]
async fn chromium_shows_a_page_over_http_1_and_http_2() {
    for encrypted in [false, true] {
        let upstream = site().await;
        let ca = Authority::new("ca");
        let signed = ca.server(&["127.0.0.1"]);
        let settings = match encrypted {
            false => plain(&upstream),
            true => over_tls(&upstream, &[&signed]),
        };
        let front = start(settings);
        let (scheme, protocol) = if encrypted {
            ("https", "h2")
        } else {
            ("http", "http/1.1")
        };
        let said = told(&upstream, &format!("{scheme}://{}/", front.at), &[]).await;
        let wanted = serde_json::json!({
            "get": "a=1",
            "post": (2 << 20).to_string(),
            "large": 5 << 20,
            "many": 40,
            "cookie": "a=1; b=2",
            "moved": "true moved",
            "aborted": "well",
            "events": "1,2,3",
            "socket": "word,100000 1000 true",
            "protocol": protocol,
        });
        assert_eq!(said, wanted);
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_a_library_carries_messages_of_every_size() {
    let upstream = site().await;
    let front = start(plain(&upstream));
    let (mut socket, _) = connect_async(format!("ws://{}/socket", front.at))
        .await
        .unwrap();
    let talk = async {
        for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let message = Message::binary(vec![7; size]);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message, "{size}");
        }
        socket.send(Message::Ping("there?".into())).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::Pong("there?".into())
        );
        socket.close(None).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            assert!(message.is_close(), "{message}");
        }
    };
    tokio::time::timeout(WAIT, talk).await.unwrap();
    front.stop().await;
}
