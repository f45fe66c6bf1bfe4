//! Limits of the file hold in the real process, and are counted.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::starting::serve;
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
