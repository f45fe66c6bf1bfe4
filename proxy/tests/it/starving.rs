//! Uploads that nobody reads: what waits of them is bounded, and they hold up nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outgrow_testkit::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::frames::{
    ACK, Client, DATA, END_STREAM, Frame, GOAWAY, RST_STREAM, SETTINGS, STATUS_200, WINDOW_UPDATE,
    request,
};
use crate::harness::{plain, say, start, take_head};

const PART: u32 = 16_384;

/// How much a client may send still.
struct Windows {
    stream: i64,
    all: i64,
}

/// The window of a stream that begins.
async fn first_window(client: &mut Client) -> i64 {
    let told = client.until(SETTINGS).await;
    let size = told.payload.chunks(6).find(|one| one[..2] == [0, 4]);
    let size = size.map_or(65_535, |one| {
        u32::from_be_bytes(one[2..].try_into().unwrap())
    });
    // Only now is that window in force.
    client.send(Frame::new(SETTINGS, ACK, 0, [])).await;
    i64::from(size)
}

/// Uploads until nothing moves any more: then both sides of the proxy are full.
async fn fill(client: &mut Client, stream: u32, windows: &mut Windows) -> u32 {
    client.ask(stream, 0, &request("POST", "/stuck")).await;
    let mut sent = 0;
    loop {
        while windows.stream >= i64::from(PART) && windows.all >= i64::from(PART) {
            let part = vec![b'x'; PART as usize];
            client.send(Frame::new(DATA, 0, stream, part)).await;
            sent += PART;
            windows.stream -= i64::from(PART);
            windows.all -= i64::from(PART);
            assert!(sent < 64 << 20, "the proxy takes everything");
        }
        let quiet = Duration::from_millis(500);
        let Ok(frame) = tokio::time::timeout(quiet, client.next()).await else {
            return sent;
        };
        let frame = frame.expect("the connection is open");
        if frame.kind == WINDOW_UPDATE {
            let more = i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
            match frame.stream {
                0 => windows.all += more,
                _ => windows.stream += more,
            }
        }
    }
}

/// Reads no body of `/stuck` before it is told to.
async fn stuck(go_on: watch::Receiver<bool>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let mut go_on = go_on.clone();
        async move {
            let head = take_head(&mut stream).await;
            if head.starts_with("POST /stuck") {
                let _ = go_on.wait_for(|go| *go).await;
            } else {
                say(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                )
                .await;
            }
            let mut part = vec![0; 65_536];
            while matches!(stream.read(&mut part).await, Ok(count) if count > 0) {}
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_held_back_by_its_upstream() {
    let (go_on, wait) = watch::channel(false);
    let upstream = stuck(wait).await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    let stream = first_window(&mut client).await;
    let mut windows = Windows {
        stream,
        all: 65_535,
    };
    assert!(fill(&mut client, 1, &mut windows).await > 0);
    // More than there is room for is an error.
    let burst = windows.stream.max(windows.all) / i64::from(PART) + 2;
    for _ in 0..burst {
        let part = vec![b'x'; PART as usize];
        client.send(Frame::new(DATA, 0, 1, part)).await;
    }
    let refusal = loop {
        match client.next().await {
            Some(frame) if matches!(frame.kind, RST_STREAM | GOAWAY) => break frame.code(),
            Some(_) => {}
            None => panic!("closed without a reason"),
        }
    };
    assert_eq!(refusal, 3, "FLOW_CONTROL_ERROR");
    go_on.send(true).unwrap();
    front.stop().await;
}

/// A balancer sends requests of many people over one connection.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_reads_hold_up_no_other() {
    let (go_on, wait) = watch::channel(false);
    let upstream = stuck(wait).await;
    let front = start(plain(&upstream));
    let mut client = Client::open(&front, &[]).await;
    let first = first_window(&mut client).await;
    let mut windows = Windows {
        stream: first,
        all: 65_535,
    };
    for stream in [1, 3, 5] {
        windows.stream = first;
        assert!(fill(&mut client, stream, &mut windows).await > 0);
    }
    assert!(windows.all >= i64::from(PART), "no room is left");
    client.ask(7, 0, &request("POST", "/")).await;
    let part = vec![b'x'; PART as usize];
    client.send(Frame::new(DATA, END_STREAM, 7, part)).await;
    let (head, body, _) = client.answer(7).await;
    assert_eq!((head[0], &body[..]), (STATUS_200, &b"ok"[..]));
    go_on.send(true).unwrap();
    front.stop().await;
}

/// An upstream on a socket of this machine, where the kernel keeps little: how much it was let send of answers
/// without an end.
async fn endless(path: &std::path::Path, sent: Arc<AtomicUsize>) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sent = sent.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4_096]).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                while let Ok(count) = stream.write(&[b'x'; PART as usize]).await {
                    sent.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
    });
}

/// Who opens all windows and reads nothing is kept a bounded part of each answer.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_held_back() {
    const STREAMS: u32 = 100;
    // With what the kernel keeps, which is about a third of it.
    const EACH: usize = 400 * 1_024;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endless.sock");
    let sent = Arc::new(AtomicUsize::new(0));
    endless(&path, sent.clone()).await;
    let mut settings = plain(&Upstream::always(200, "ok").await);
    settings.legacy.upstreams = vec![format!("unix:{}", path.display()).parse().unwrap()];
    let front = start(settings);
    let widest = i32::MAX as u32;
    let mut client = Client::open(&front, &[(4, widest)]).await;
    first_window(&mut client).await;
    client.widen(0, widest - 65_535).await;
    for number in 0..STREAMS {
        let stream = 2 * number + 1;
        client.ask(stream, END_STREAM, &request("GET", "/")).await;
    }
    let mut before = 0;
    loop {
        // tidy: sleep, because what stands still is to be seen.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = sent.load(Ordering::Relaxed);
        if now == before && now > STREAMS as usize * EACH / 4 {
            break;
        }
        before = now;
    }
    let most = STREAMS as usize * EACH;
    assert!(before < most, "{before} of {most}");
    drop(client);
    front.stop().await;
}
