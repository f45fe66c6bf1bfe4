//! The access log: what it says, and that no request waits for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outgrow_proxy::{AccessLog, LogFormat, ServiceSettings, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::{Upstream, eventually};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{named, plain, read_until, say, sliced, start, take_head};

pub(crate) fn log(file: impl Into<PathBuf>) -> AccessLog {
    AccessLog {
        file: Some(file.into()),
        format: LogFormat::Json,
        sample: 1.0,
        slow: None,
        query: true,
    }
}

pub(crate) fn logged(settings: Settings, log: AccessLog) -> Settings {
    Settings {
        access_log: Some(log),
        ..settings
    }
}

pub(crate) fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn nobody() -> http::uri::Authority {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    address.to_string().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_what_became_of_a_request() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = logged(sliced(&legacy, &extracted), log(&file));
    settings.trace.request_id = true;
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    front
        .get(
            "/api/items/7?q=1",
            &[("x-visitor", "a"), ("x-request-id", "mine")],
        )
        .await;
    front.post("/api/items", "new").await;
    front.get("/elsewhere", &[]).await;
    front
        .raw("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        .await;
    front.stop().await;
    let lines = lines(&file);
    let told = |line: &Value, names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| line[*name].clone()).collect()
    };
    let [read, write, other, refused] = &lines[..] else {
        panic!("{lines:?}");
    };
    let of_slice = ["method", "status", "route", "slice", "side", "upstream"];
    assert_eq!(
        told(read, &of_slice),
        [
            "GET".into(),
            200.into(),
            "GET /api/items/{id}".into(),
            "shop".into(),
            "extracted".into(),
            Value::from(extracted.addr().to_string()),
        ]
    );
    assert_eq!(
        (&read["id"], &read["target"]),
        (&"mine".into(), &"/api/items/7?q=1".into())
    );
    assert!(read["bucket"].as_u64().unwrap() < 10_000, "{read}");
    assert!(read["duration_us"].as_u64() >= read["upstream_us"].as_u64());
    assert_eq!(
        (&read["bytes"], &read["client"]),
        (&9.into(), &"127.0.0.1".into())
    );
    assert!(read["time"].as_str().unwrap().ends_with('Z'), "{read}");
    assert_eq!(
        told(write, &["method", "route", "side"]),
        ["POST", "POST /api/items", "legacy"]
    );
    assert_eq!(told(other, &["target", "side"]), ["/elsewhere", "legacy"]);
    assert!(other.get("route").is_none() && other.get("refusal").is_none());
    assert_eq!(
        (&refused["status"], &refused["refusal"]),
        (&400.into(), &"malformed".into())
    );
    assert!(refused.get("side").is_none() && refused.get("cut").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_who_could_not_be_reached() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let mut settings = plain(&named("legacy").await);
    let gone = nobody().await;
    settings.legacy = ServiceSettings::new("legacy", vec![gone.clone()]);
    let front = start(logged(settings, log(&file)));
    assert_eq!(front.get("/", &[]).await.status, 503);
    front.stop().await;
    let [line] = &lines(&file)[..] else {
        panic!("one line is one request");
    };
    assert_eq!(
        (&line["status"], &line["refusal"], &line["upstream"]),
        (&503.into(), &"connect-failed".into(), &gone.as_str().into())
    );
    assert!(line["bytes"].as_u64().unwrap() > 0 && line.get("upstream_us").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_combined_format_quotes_what_clients_say() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let legacy = named("legacy").await;
    let format = LogFormat::Combined;
    let log = AccessLog {
        format,
        query: false,
        ..log(&file)
    };
    let front = start(logged(plain(&legacy), log));
    let agent = "odd\"\\agent\u{e9}";
    front
        .get(
            "/p?secret=1",
            &[("user-agent", agent), ("referer", "http://a/")],
        )
        .await;
    front.raw("GET /old HTTP/1.0\r\n\r\n").await;
    front.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    let [first, second] = &text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    assert!(first.starts_with("127.0.0.1 - - ["), "{first}");
    let told = first.split_once("] ").unwrap().1;
    assert_eq!(
        told,
        r#""GET /p HTTP/1.1" 200 6 "http://a/" "odd\x22\x5Cagent\xC3\xA9""#
    );
    let told = second.split_once("] ").unwrap().1;
    assert_eq!(told, r#""GET /old HTTP/1.0" 200 6 "-" "-""#);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_slow_requests_are_sure_to_be_logged_where_few_are() {
    let legacy = named("legacy").await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    for (slow, expected) in [
        (None, 0),
        (Some(Duration::from_secs(3_600)), 0),
        (Some(Duration::ZERO), 3),
    ] {
        let log = AccessLog {
            sample: 0.0,
            slow,
            ..log(&file)
        };
        let front = start(logged(plain(&legacy), log));
        for _ in 0..3 {
            front.get("/", &[]).await;
        }
        front.stop().await;
        assert_eq!(lines(&file).len(), expected, "{slow:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_itself_what_is_slow_on_it() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let log = AccessLog {
        sample: 0.0,
        slow: Some(Duration::ZERO),
        ..log(&file)
    };
    let filters = |slow| {
        Some(std::sync::Arc::new(outgrow_proxy::Filters {
            slow,
            ..outgrow_proxy::Filters::default()
        }))
    };
    let mut settings = sliced(&legacy, &extracted);
    settings.slices[0].routes[0].filters = filters(Some(Duration::from_secs(3_600)));
    settings.slices[0].routes[1].filters = filters(None);
    let front = start(logged(settings, log));
    for path in ["/api/items", "/api/items/7", "/elsewhere"] {
        front.get(path, &[]).await;
    }
    front.stop().await;
    let told = lines(&file);
    let targets: Vec<_> = told.iter().map(|line| line["target"].clone()).collect();
    assert_eq!(targets, ["/api/items/7", "/elsewhere"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_told_of() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let mut settings = plain(&named("legacy").await);
    settings.legacy = ServiceSettings::new(
        "legacy",
        vec![to.parse::<outgrow_proxy::Address>().unwrap()],
    );
    let front = start(logged(settings, log(&file)));
    // One leaves in the middle of a body, another one before any answer.
    for half in ["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", ""] {
        let mut client = TcpStream::connect(front.at).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        take_head(&mut stream).await;
        say(&mut stream, half).await;
        if !half.is_empty() {
            read_until(&mut client, "half").await;
        }
        drop(client);
        // The proxy gives the upstream's connection up as well.
        take_head(&mut stream).await;
    }
    front.stop().await;
    let [body, head] = &lines(&file)[..] else {
        panic!("two lines are two requests");
    };
    assert_eq!((&body["status"], &body["bytes"]), (&200.into(), &4.into()));
    assert_eq!((&head["status"], &head["bytes"]), (&499.into(), &0.into()));
    assert_eq!((&body["cut"], &head["cut"]), (&true.into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_renamed_is_opened_anew() {
    let dir = TempDir::new().unwrap();
    let (file, old) = (
        dir.path().join("access.log"),
        dir.path().join("access.log.1"),
    );
    let front = start(logged(plain(&named("legacy").await), log(&file)));
    front.get("/before", &[]).await;
    eventually("the first line", Duration::from_secs(20), || async {
        (lines(&file).len() == 1).then_some(())
    })
    .await;
    std::fs::rename(&file, &old).unwrap();
    eventually("a new file", Duration::from_secs(20), || async {
        file.exists().then_some(())
    })
    .await;
    front.get("/after", &[]).await;
    front.stop().await;
    assert_eq!(lines(&old)[0]["target"], "/before");
    assert_eq!(lines(&file)[0]["target"], "/after");
    assert_eq!((lines(&old).len(), lines(&file).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_lines_and_no_request() {
    let legacy = named("legacy").await;
    let front = start(logged(plain(&legacy), log("/dev/full")));
    eventually("lost lines", Duration::from_secs(20), || async {
        assert_eq!(front.get("/", &[]).await.status, 200);
        let lost = front.handle.lines_lost().unwrap();
        assert_eq!(lost.queue, 0);
        (lost.write > 0).then_some(())
    })
    .await;
    assert_eq!(front.get("/", &[]).await.text(), "legacy");
    front.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_is_refused_at_the_start() {
    let legacy = Upstream::always(200, "").await;
    let settings = logged(plain(&legacy), log("/no/such/folder/access.log"));
    let refused = outgrow_proxy::Proxy::bind(settings, None).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("/no/such/folder/access.log"), "{text}");
}
