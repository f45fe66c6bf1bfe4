//! One proxy after another at the same addresses, under other settings.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use outgrow_proxy::{DrainReport, Proxy, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Front, WAIT, live, named, plain, read_until, slice_id, sliced, start, text};

const GET: &str = "GET /x HTTP/1.1\r\nHost: shop\r\n\r\n";

/// The next proxy at work, and the old one on its way out.
fn succeed(front: Front, settings: Settings, grace: Duration) -> (Front, JoinHandle<DrainReport>) {
    let next = Proxy::succeed(&front.running, settings, None).unwrap();
    assert_eq!(next.addresses(), [front.at]);
    let next = Front {
        at: front.at,
        handle: next.handle(),
        running: next.start(),
    };
    let leaving = front.running.retire(grace, CancellationToken::new());
    (next, tokio::spawn(leaving))
}

async fn until(what: &str, so: impl Fn() -> bool) {
    eventually(what, WAIT, || async { so().then_some(()) }).await;
}

fn of(workers: usize, legacy: &Upstream) -> Settings {
    Settings {
        workers: NonZeroUsize::new(workers).unwrap(),
        ..plain(legacy)
    }
}

/// Asks again and again on connections that it keeps as long as it may; every request must be
/// answered. How many were, and by whom last.
async fn insist(at: SocketAddr, stop: Arc<AtomicBool>) -> (usize, String) {
    let (mut count, mut last) = (0, String::new());
    while !stop.load(SeqCst) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        loop {
            stream.write_all(GET.as_bytes()).await.unwrap();
            last = read_until(&mut stream, "upstream").await;
            count += 1;
            assert!(last.starts_with("HTTP/1.1 200"), "{last}");
            if last.contains("connection: close") || stop.load(SeqCst) {
                break;
            }
        }
    }
    (count, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_proxies_follow_each_other() {
    let (old, new) = (named("old upstream").await, named("new upstream").await);
    let mut front = start(of(2, &old));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(insist(front.at, stop.clone())))
        .collect();
    let mut leaving = Vec::new();
    // More cores, fewer cores: whoever waits at a socket is let in all the same.
    for workers in [1, 3, 2, 1, 2] {
        let before = new.seen().len();
        let (next, left) = succeed(front, of(workers, &new), WAIT);
        front = next;
        leaving.push(left);
        until("the next one answers", || new.seen().len() > before + 50).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        let (count, last) = client.await.unwrap();
        assert!(count > 0 && last.contains("new upstream"), "{count} {last}");
    }
    for left in leaving {
        assert_eq!(left.await.unwrap().cut, 0);
    }
    front.stop().await;
}

/// Whoever was told that other settings are in force finds them so.
#[tokio::test(flavor = "multi_thread")]
async fn behind_the_leave_everybody_is_the_next_ones() {
    let (old, new) = (named("old upstream").await, named("new upstream").await);
    let front = start(of(2, &old));
    let next = Proxy::succeed(&front.running, of(2, &new), None).unwrap();
    let next = Front {
        at: front.at,
        handle: next.handle(),
        running: next.start(),
    };
    front.running.leave().await;
    for _ in 0..100 {
        assert_eq!(next.get("/x", &[]).await.text(), "new upstream");
    }
    front.stop().await;
    next.stop().await;
}

#[tokio::test]
async fn an_idle_client_has_one_more_answer() {
    let (old, new) = (named("old upstream").await, named("new upstream").await);
    let front = start(plain(&old));
    let mut idle = TcpStream::connect(front.at).await.unwrap();
    idle.write_all(GET.as_bytes()).await.unwrap();
    let first = read_until(&mut idle, "upstream").await;
    assert!(!first.contains("connection: close"), "{first}");
    let (front, left) = succeed(front, plain(&new), WAIT);
    // Whoever is in time, the old one lets in still.
    eventually("the new one lets clients in", WAIT, || async {
        (front.get("/x", &[]).await.text() == "new upstream").then_some(())
    })
    .await;
    idle.write_all(GET.as_bytes()).await.unwrap();
    let last = read_until(&mut idle, "upstream").await;
    assert!(
        last.contains("connection: close") && last.contains("old"),
        "{last}"
    );
    assert_eq!(left.await.unwrap().cut, 0);
    front.stop().await;
}

#[tokio::test]
async fn who_stays_idle_is_closed_when_the_time_is_over() {
    let old = named("old upstream").await;
    let front = start(plain(&old));
    let mut idle = TcpStream::connect(front.at).await.unwrap();
    idle.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut idle, "upstream").await;
    let (front, left) = succeed(front, plain(&old), Duration::from_millis(50));
    assert_eq!(left.await.unwrap(), DrainReport { open: 1, cut: 0 });
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    front.stop().await;
}

#[tokio::test]
async fn what_is_in_force_and_held_is_so_for_both() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let go = Arc::new(Notify::new());
    let waits = go.clone();
    let slow = Upstream::start(move |_| {
        let waits = waits.clone();
        async move {
            waits.notified().await;
            text("legacy, slowly")
        }
    })
    .await;
    let front = start(sliced(&slow, &extracted));
    front.weigh(1, Weight::ZERO);
    let old = front.handle.clone();
    // A write that the old proxy still carries.
    let write = "POST /api/items HTTP/1.1\r\nHost: shop\r\nx-visitor: a\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n";
    let at = front.at;
    let write = tokio::spawn(async move { client::raw(at, write.as_bytes()).await });
    until("the write is under way", || !slow.seen().is_empty()).await;
    let (front, left) = succeed(front, sliced(&legacy, &extracted), WAIT);
    let handle = front.handle.clone();
    let hold = tokio::spawn(async move { handle.hold(&slice_id(), WAIT).await });
    until("the slice is held", || {
        old.describe()["slices"][0]["holding"] == true
    })
    .await;
    assert!(!hold.is_finished(), "a write is in flight");
    go.notify_one();
    hold.await.unwrap().unwrap();
    let answer = String::from_utf8(write.await.unwrap()).unwrap();
    assert!(answer.contains("slowly"), "{answer}");
    front.handle.release(&slice_id());
    // What control orders the new one is in force in the old one, too.
    front.handle.apply(&slice_id(), live(2, Weight::FULL));
    assert_eq!(old.live(&slice_id()).unwrap().weight, Weight::FULL);
    assert_eq!(
        front.get("/api/items", &[]).await.text(),
        "extracted",
        "whichever of them lets it in"
    );
    left.await.unwrap();
    front.stop().await;
}

#[tokio::test]
async fn settings_that_cannot_be_leave_the_old_one_alone() {
    let old = named("old upstream").await;
    let front = start(plain(&old));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = plain(&old);
    settings.listen.push(taken.local_addr().unwrap());
    let refused = Proxy::succeed(&front.running, settings, None).unwrap_err();
    assert!(
        refused.to_string().contains("cannot listen on"),
        "{refused}"
    );
    assert_eq!(front.get("/x", &[]).await.text(), "old upstream");
    front.stop().await;
}
