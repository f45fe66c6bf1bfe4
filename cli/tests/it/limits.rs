//! Limits of the file hold in the real process, and are counted.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::path::Path;
use std::time::Duration;

use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::starting::{at_work, serve};
use crate::tracing::scraped;

const WAIT: Duration = Duration::from_secs(20);

/// Half an answer, and nothing more.
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";

#[tokio::test]
async fn limits_of_the_file_hold() {
    let upstream = Upstream::raw(|mut stream| async move {
        let mut part = [0; 4_096];
        while let Ok(1..) = stream.read(&mut part).await {
            if part.starts_with(b"GET ") {
                let _ = stream.write_all(HALF.as_bytes()).await;
            }
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let [at, control] = [free_address(), free_address()];
    let config = format!(
        "[proxy]\nlisten = [\"{at}\"]\n\
         [proxy.limits]\nhead_max = \"4KiB\"\nbody_max = \"1KiB\"\nanswer_idle = \"100ms\"\n\
         [proxy.filters.limits]\nupload_idle = \"100ms\"\n\
         [legacy]\nurls = [\"{}\"]\ndatabase = \"sqlite:legacy.db\"\n\
         [control]\nlisten = \"{control}\"\n",
        upstream.url("").trim_end_matches('/')
    );
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
    let mut outgrow = serve(dir.path()).await;
    let ask = async |text: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let reading = timeout(WAIT, stream.read_to_end(&mut all));
        reading.await.expect("an end").unwrap();
        String::from_utf8(all).unwrap()
    };
    let long = "x".repeat(5_000);
    for (text, status) in [
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
            431,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1025\r\n\r\n".to_owned(),
            413,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab".to_owned(),
            408,
        ),
    ] {
        let answer = ask(&text).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    let url = format!("http://{at}/");
    let request = client::request(http::Method::GET, &url, &[], bytes::Bytes::new());
    assert!(client::try_send(request).await.is_err(), "half of it");
    for (metric, count) in [
        ("outgrow_refusals_total{code=\"head-too-long\"}", "1"),
        ("outgrow_refusals_total{code=\"body-too-long\"}", "1"),
        ("outgrow_refusals_total{code=\"slow-upload\"}", "1"),
    ] {
        eventually(metric, WAIT, || async {
            (scraped(dir.path(), control, metric).await? == count).then_some(())
        })
        .await;
    }
    assert!(outgrow.stop().await.success());
}

/// Clients that only sit there do not take the descriptors that the others' requests need.
#[tokio::test]
async fn clients_leave_descriptors_for_upstreams() {
    let upstream = Upstream::always(200, "ok").await;
    let dir = tempfile::tempdir().unwrap();
    let [at, control] = [free_address(), free_address()];
    let config = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 1\n\
         [legacy]\nurls = [\"{}\"]\ndatabase = \"sqlite:legacy.db\"\n\
         [control]\nlisten = \"{control}\"\n",
        upstream.url("").trim_end_matches('/')
    );
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
    // It may have 200, begins with 100, and takes what it may.
    let text = "ulimit -Sn 100 && ulimit -Hn 200 && exec \"$0\" serve -c \"$1\"";
    let config = dir.path().join("outgrow.toml");
    let binary = env!("CARGO_BIN_EXE_outgrow");
    let args = [
        "-c".as_ref(),
        text.as_ref(),
        binary.as_ref(),
        config.as_os_str(),
    ];
    let mut outgrow = Process::spawn(Path::new("/bin/sh"), &args, &dir.path().join("outgrow.log"));
    at_work(dir.path()).await;
    let metric = async |name: &'static str, value: &'static str| {
        eventually(name, WAIT, || async {
            (scraped(dir.path(), control, name).await? == value).then_some(())
        })
        .await;
    };
    metric("outgrow_client_connections_max", "150.0").await;
    let mut sitting = Vec::new();
    for _ in 0..170 {
        sitting.push(TcpStream::connect(at).await.unwrap());
    }
    metric("outgrow_client_connections", "150.0").await;
    let first = &mut sitting[0];
    first
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut all = Vec::new();
    let reading = timeout(WAIT, first.read_to_end(&mut all));
    reading.await.expect("an end").unwrap();
    let answer = String::from_utf8(all).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // Somebody who waited has its place.
    metric("outgrow_client_connections", "150.0").await;
    assert!(outgrow.stop().await.success());
}
