//! As many clients are let in as may be; who comes beyond waits until somebody has left.

use std::num::NonZeroUsize;
use std::time::Duration;

use outgrow_testkit::{Upstream, eventually};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::conforming::to_the_end;
use crate::harness::{Front, WAIT, plain, say, start, take_head};

const ASK: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn crowd(front: &Front, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(front.at).await.unwrap());
    }
    eventually("all to be let in", WAIT, || async {
        (front.handle.clients().open == count as u64).then_some(())
    })
    .await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_beyond_waits_until_somebody_leaves() {
    let upstream = Upstream::always(200, "ok").await;
    let mut settings = plain(&upstream);
    settings.workers = NonZeroUsize::MIN;
    settings.limits.clients_max = Some(4);
    let front = start(settings);
    let mut inside = crowd(&front, 4).await;
    let mut fifth = TcpStream::connect(front.at).await.unwrap();
    say(&mut fifth, ASK).await;
    eventually("the door to be shut", WAIT, || async {
        (front.handle.clients().shut > 0).then_some(())
    })
    .await;
    // The others are served, and this one is not.
    say(
        &mut inside[1],
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    let mut first = [0; 8];
    let early = tokio::time::timeout(Duration::from_millis(1), fifth.read_exact(&mut first)).await;
    assert!(early.is_err());
    let (said, _) = to_the_end(&mut inside[1]).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    let said = take_head(&mut fifth).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert_eq!(front.handle.clients().most, Some(4));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_crowded_connections_end_behind_their_answers() {
    let upstream = Upstream::always(200, "ok").await;
    let mut settings = plain(&upstream);
    settings.limits.clients_max = Some(3);
    let front = start(settings);
    let mut inside = crowd(&front, 3).await;
    say(&mut inside[0], ASK).await;
    let (said, _) = to_the_end(&mut inside[0]).await;
    let closes = said
        .to_ascii_lowercase()
        .contains("\r\nconnection: close\r\n");
    assert!(said.starts_with("HTTP/1.1 200 ") && closes, "{said}");
    eventually("it to have left", WAIT, || async {
        (front.handle.clients().open == 2).then_some(())
    })
    .await;
    for _ in 0..2 {
        say(&mut inside[1], ASK).await;
        let said = take_head(&mut inside[1]).await.to_ascii_lowercase();
        assert!(!said.contains("connection: close"), "{said}");
    }
    front.stop().await;
}
