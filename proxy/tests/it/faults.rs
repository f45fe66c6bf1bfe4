//! What breaks on a network and on a machine, with real sockets.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Front, WAIT, plain, read_until, say, start, take_head};

/// A reset of the upstream in a body, and a client that must not take that for the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_a_body_does_not_look_whole() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhalf",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut settings = plain(&Upstream::always(200, "").await);
        settings.legacy.upstreams = vec![at.to_string().parse().unwrap()];
        let front = start(settings);
        let mut client = TcpStream::connect(front.at).await.unwrap();
        say(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let (mut upstream, _) = listener.accept().await.unwrap();
        take_head(&mut upstream).await;
        say(&mut upstream, head).await;
        read_until(&mut client, "half").await;
        socket2::SockRef::from(&upstream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(upstream);
        let mut rest = Vec::new();
        let reading = client.read_to_end(&mut rest);
        let _ = tokio::time::timeout(WAIT, reading).await.expect("the end");
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("0\r\n\r\n"), "{head:?}: {rest:?}");
        // The core goes on.
        assert_eq!(tcp_is_open(&front).await, "");
        front.stop().await;
    }
}

/// Connects and leaves again.
async fn tcp_is_open(front: &Front) -> String {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

/// An answer that comes byte by byte is passed on as it comes, and is whole in the end.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_drips_is_waited_for() {
    let upstream = Upstream::raw(|mut stream| async move {
        while !take_head(&mut stream).await.is_empty() {
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                          3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nx-sum: 1\r\n\r\n";
            for byte in answer.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let front = start(plain(&upstream));
    for _ in 0..3 {
        assert_eq!(front.get("/", &[]).await.text(), "abcd");
    }
    front.stop().await;
}

/// An upstream that has said everything and closes its half may still read the upload.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_closes_its_half_has_answered() {
    let (got, mut all) = tokio::sync::mpsc::channel(1);
    let upstream = Upstream::raw(move |mut stream| {
        let got = got.clone();
        async move {
            take_head(&mut stream).await;
            say(
                &mut stream,
                "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
            stream.shutdown().await.unwrap();
            let _ = got.send(read_until(&mut stream, "the end").await).await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut client = TcpStream::connect(front.at).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 17\r\n\r\nbeginning,";
    say(&mut client, head).await;
    read_until(&mut client, "\r\n\r\nok").await;
    say(&mut client, "the end").await;
    let all = tokio::time::timeout(WAIT, all.recv()).await.unwrap();
    assert!(all.unwrap().ends_with("the end"));
    // The connection is as good as before, once the upload is through.
    say(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut client, "\r\n\r\nok").await;
    front.stop().await;
}

/// The proxy of `descriptors_that_run_out_cost_waiting_and_nothing_else`, in a process of its own.
#[test]
#[ignore = "run by another test, in a process with few descriptors"]
fn with_few_descriptors() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (upstream, front) = runtime.block_on(async {
        let upstream = Upstream::always(200, "ok").await;
        let front = start(plain(&upstream));
        (upstream, front)
    });
    println!("\nlistening {}", front.at);
    // Until the other test has had enough.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    runtime.block_on(front.stop());
    drop(upstream);
}

/// Clients beyond what the process may open wait; nobody is cut off; afterwards all is as before.
#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_run_out_cost_waiting_and_nothing_else() {
    let mut proxy = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "faults::with_few_descriptors",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(proxy.stdout.take().unwrap()).lines();
    let at = lines
        .find_map(|line| line.unwrap().strip_prefix("listening ")?.parse().ok())
        .expect("it listens");
    let at: std::net::SocketAddr = at;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(TcpStream::connect(at).await.unwrap());
    }
    // More than there are descriptors for: some wait in the kernel.
    let open = format!("/proc/{}/fd", proxy.id());
    eventually("no descriptor is left", WAIT, || async {
        (std::fs::read_dir(&open).unwrap().count() >= 60).then_some(())
    })
    .await;
    // Who waits is not sent away.
    let mut byte = [0; 1];
    let last = clients.last().unwrap().try_read(&mut byte);
    assert!(last.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    // Who is in, and for whose upstream there is no descriptor, is told so.
    say(&mut clients[0], "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let refused = read_until(&mut clients[0], "\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    drop(clients);
    eventually("everybody is served again", WAIT, || async {
        let request = client::request(http::Method::GET, &format!("http://{at}/"), &[], "".into());
        let answer = client::try_send(request).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    proxy.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(proxy.wait().unwrap().success());
}
