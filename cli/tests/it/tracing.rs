//! Spans of the real process at a collector, over a reload and an end.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::path::Path;
use std::time::Duration;

use outgrow_testkit::collector::spans;
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};

use crate::harness::run_in;
use crate::starting::serve;

const TOKEN: &str = "Bearer 0123456789abcdef";

pub(crate) async fn scraped(
    dir: &Path,
    control: std::net::SocketAddr,
    metric: &str,
) -> Option<String> {
    let url = format!("http://{control}/metrics");
    let token = std::fs::read_to_string(dir.join("admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let fields = [("authorization", &*bearer)];
    let request = client::request(http::Method::GET, &url, &fields, bytes::Bytes::new());
    let text = client::send(request).await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(metric));
    line.map(|value| value.trim().to_owned())
}

fn config(at: [std::net::SocketAddr; 2], upstream: &Upstream, collector: &str) -> String {
    let [at, control] = at;
    format!(
        "[proxy]\nlisten = [\"{at}\"]\n[proxy.trace.otlp]\nendpoint = \"{collector}\"\n\
         headers = {{ authorization = {{ file = \"collector.token\" }} }}\n\
         resource = {{ \"service.name\" = \"front\" }}\n\
         [legacy]\nurls = [\"{}\"]\ndatabase = \"sqlite:legacy.db\"\n\
         [control]\nlisten = \"{control}\"\n",
        upstream.url("").trim_end_matches('/')
    )
}

fn write(dir: &Path, text: &str) {
    std::fs::write(dir.join("outgrow.toml"), text).unwrap();
}

#[tokio::test]
async fn spans_come_to_a_collector_until_the_end() {
    let (upstream, first, second) = (
        Upstream::always(200, "shop").await,
        Upstream::always(200, "").await,
        Upstream::always(200, "").await,
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("collector.token"), TOKEN).unwrap();
    let at = [free_address(), free_address()];
    write(dir.path(), &config(at, &upstream, &first.url("")));
    let mut outgrow = serve(dir.path()).await;
    let ask = async |path: &str| {
        let answer = client::get(&format!("http://{}{path}", at[0])).await;
        assert_eq!(answer.text(), "shop");
    };
    ask("/one").await;
    eventually("an export", Duration::from_secs(20), || async {
        (scraped(dir.path(), at[1], "outgrow_spans_exported_total").await? == "2").then_some(())
    })
    .await;
    ask("/two").await;
    // The present proxy's last spans are told where it was told to.
    write(dir.path(), &config(at, &upstream, &second.url("")));
    assert_eq!(run_in(dir.path(), &["reload"]).await.code, 0);
    ask("/three").await;
    assert!(outgrow.stop().await.success());
    let told = |collector: &Upstream| {
        let seen = collector.seen();
        let token = |seen: &outgrow_testkit::Seen| seen.header("authorization") == Some(TOKEN);
        assert!(seen.iter().all(token), "{seen:?}");
        let all = spans(&seen);
        assert!(
            all.iter()
                .all(|span| span.resource["service.name"] == "front")
        );
        let paths = all.iter().map(|span| span.said("url.path").to_owned());
        let mut paths: Vec<_> = paths.filter(|path| !path.is_empty()).collect();
        paths.sort();
        paths
    };
    assert_eq!(told(&first), ["/one", "/two"]);
    assert_eq!(told(&second), ["/three"]);
    let ids: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.headers["traceparent"].clone())
        .collect();
    let all = spans(&[first.seen(), second.seen()].concat());
    for id in ids {
        let id = id.to_str().unwrap();
        assert!(
            all.iter()
                .any(|span| id.contains(&span.id) && id.contains(&span.trace)),
            "{id}"
        );
    }
}
