//! curl, in each way in which it speaks HTTP without TLS. Over TLS: `encrypted.rs`.

use std::process::Stdio;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, COOKIE, IF_MODIFIED_SINCE, LOCATION, RANGE,
    SET_COOKIE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use outgrow_proxy::Trust;
use outgrow_testkit::Upstream;
use tokio::io::AsyncWriteExt;

use crate::harness::{Front, plain, start};

/// `squeezed`, by gzip.
const SQUEEZED: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 43, 46, 44, 77, 77, 173, 74, 77, 1, 0, 222, 38, 20, 0, 8, 0,
    0, 0,
];

/// More than is sent at once, and than lies in any buffer on the way.
const LARGE: usize = 3 << 20;

/// A server that knows what curl can ask for.
async fn server() -> Upstream {
    Upstream::start(|request: Request<Bytes>| async move {
        let path = request.uri().path().to_owned();
        let field = |name| request.headers().get(name).map(HeaderValue::as_bytes);
        let body = request.body().clone();
        let (status, fields, body) = match path.as_str() {
            "/part" if field(RANGE) == Some(b"bytes=2-4") => (
                StatusCode::PARTIAL_CONTENT,
                vec![(CONTENT_RANGE, "bytes 2-4/6")],
                Bytes::from("cde"),
            ),
            "/squeezed" if field(ACCEPT_ENCODING).is_some() => (
                StatusCode::OK,
                vec![(CONTENT_ENCODING, "gzip")],
                Bytes::from(SQUEEZED),
            ),
            "/old" if field(IF_MODIFIED_SINCE).is_some() => {
                (StatusCode::NOT_MODIFIED, vec![], Bytes::new())
            }
            "/moved" => (
                StatusCode::FOUND,
                vec![(LOCATION, "/here"), (SET_COOKIE, "seat=7; Path=/")],
                Bytes::new(),
            ),
            "/here" => (
                StatusCode::OK,
                vec![],
                Bytes::copy_from_slice(field(COOKIE).unwrap_or(b"no cookie")),
            ),
            "/length" => (StatusCode::OK, vec![], Bytes::from(body.len().to_string())),
            _ => (
                StatusCode::OK,
                vec![],
                [request.method().as_str().as_bytes(), b" ", &body]
                    .concat()
                    .into(),
            ),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        for (name, value) in fields {
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        answer
    })
    .await
}

/// What curl prints when it is called with these words, of which `{}` is the proxy.
async fn curl(front: &Front, words: &[&str], input: &[u8]) -> String {
    let put = |word: &&str| word.replace("{}", &front.at.to_string());
    let words: Vec<String> = words.iter().map(put).collect();
    let mut curl = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "20", "--noproxy", "-"])
        .args(&words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is on this machine");
    let mut to = curl.stdin.take().unwrap();
    let say = async {
        // It may have no use for it.
        let _ = to.write_all(input).await;
        drop(to);
    };
    let ((), out) = tokio::join!(say, curl.wait_with_output());
    let out = out.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_http_is_served() {
    let upstream = server().await;
    let front = start(plain(&upstream));
    let version = ["-w", " %{http_version}", "http://{}/x"];
    for (how, answered) in [
        ("--http1.0", "1"),
        ("--http1.1", "1.1"),
        // It offers to change to h2c; nobody takes that up any more.
        ("--http2", "1.1"),
        ("--http2-prior-knowledge", "2"),
    ] {
        for (more, said) in [
            (&[][..], "GET "),
            (&["-d", "a=b"], "POST a=b"),
            (&["-X", "DELETE"], "DELETE "),
            (&["-X", "PURGE"], "PURGE "),
        ] {
            let words = [&[how], more, &version].concat();
            assert_eq!(
                curl(&front, &words, b"").await,
                format!("{said} {answered}"),
                "{words:?}"
            );
        }
        let head = curl(
            &front,
            &[how, "-I", "-w", "%{http_code}", "http://{}/x"],
            b"",
        )
        .await;
        assert!(
            head.contains("content-length: 5") && head.ends_with("200"),
            "{head}"
        );
    }
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.header("upgrade").is_none())
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_each_kind_arrive_whole() {
    let upstream = server().await;
    let front = start(plain(&upstream));
    let large = vec![b'x'; LARGE];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, &large).unwrap();
    let (file, form) = (file.display().to_string(), format!("a=@{}", file.display()));
    let data = format!("@{file}");
    for how in ["--http1.1", "--http2-prior-knowledge"] {
        let whole = LARGE.to_string();
        for (more, input) in [
            // With a length, and 100-continue as curl does by itself for large ones.
            (&["-T", &*file][..], &b""[..]),
            // In chunks, as it comes.
            (&["-T", "-"], &large),
            (&["--data-binary", &data], b""),
            (&["--data-binary", &data, "-H", "Expect:"], b""),
        ] {
            let words = [&[how][..], more, &["http://{}/length"]].concat();
            assert_eq!(curl(&front, &words, input).await, whole, "{words:?}");
        }
        let sent = curl(&front, &[how, "-F", &form, "http://{}/length"], b"").await;
        assert!(sent.parse::<usize>().unwrap() > LARGE, "{sent}");
    }
    // It waits for a word that its body is wanted, longer than anybody waits here.
    for how in ["--http1.1", "--http2-prior-knowledge"] {
        let waits = ["--data-binary", &data, "-H", "Expect: 100-continue"];
        let waits = [
            &[how, "--expect100-timeout", "60"][..],
            &waits,
            &["http://{}/length"],
        ]
        .concat();
        assert_eq!(curl(&front, &waits, b"").await, LARGE.to_string());
    }
    let chunked = &upstream.seen()[1];
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert_eq!(
        upstream.seen()[0].header("content-length"),
        Some(&*LARGE.to_string())
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_curl_asks_for_is_what_it_gets() {
    let upstream = server().await;
    let front = start(plain(&upstream));
    for (words, said) in [
        (&["-r", "2-4", "http://{}/part"][..], "cde"),
        (&["--compressed", "http://{}/squeezed"], "squeezed"),
        (
            &[
                "-z",
                "Wed, 01 Jan 2020 00:00:00 GMT",
                "-w",
                "%{http_code}",
                "http://{}/old",
            ],
            "304",
        ),
        (&["-L", "http://{}/moved"], "no cookie"),
        (&["-L", "-b", "", "http://{}/moved"], "seat=7"),
        (
            &["-w", "%{num_connects} ", "http://{}/a", "http://{}/b"],
            "GET 1 GET 0 ",
        ),
        (&["--tr-encoding", "http://{}/a"], "GET "),
        (
            &["-G", "--data-urlencode", "a=b c", "http://{}/g?x=1"],
            "GET ",
        ),
        (&["--path-as-is", "http://{}/a/../b//c%2Fd"], "GET "),
        (
            &["-X", "OPTIONS", "--request-target", "*", "http://{}"],
            "OPTIONS ",
        ),
        (&["-H", "Host: shop.example", "http://{}/h"], "GET "),
        // As a forward proxy would be asked: the whole target.
        (&["-x", "http://{}", "http://shop.example/whole?q"], "GET "),
        (
            &["-Z", "--parallel-max", "8", "--http1.1", "http://{}/p[1-8]"],
            "GET GET GET GET GET GET GET GET ",
        ),
    ] {
        assert_eq!(curl(&front, words, b"").await, said, "{words:?}");
    }
    let seen = upstream.seen();
    let targets: Vec<&str> = seen.iter().map(|seen| seen.target.as_str()).collect();
    for target in ["/g?x=1&a=b+c", "/a/../b//c%2Fd", "*", "/whole?q"] {
        assert!(targets.contains(&target), "{target}: {targets:?}");
    }
    let host = |target| {
        seen.iter()
            .find(|seen| seen.target == target)
            .and_then(|seen| seen.header("host"))
    };
    assert_eq!(host("/h"), Some("shop.example"));
    assert_eq!(host("/whole?q"), Some("shop.example"));
    assert!(
        seen.iter().all(|seen| seen.header("te").is_none()),
        "{seen:?}"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_refused_and_a_balancers_word_is_taken() {
    let upstream = server().await;
    let front = start(plain(&upstream));
    let words = [
        "-p",
        "-x",
        "http://{}",
        "-w",
        "%{http_connect}",
        "http://shop.example/",
    ];
    let words = words.map(|word| word.replace("{}", &front.at.to_string()));
    let out = tokio::process::Command::new("curl")
        .arg("-sS")
        .args(words)
        .output()
        .await
        .unwrap();
    assert!(!out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout), "405");
    assert!(upstream.seen().is_empty());
    front.stop().await;

    let mut settings = plain(&upstream);
    settings.trust = Trust {
        preface: vec!["127.0.0.0/8".parse().unwrap()],
        forwarded: None,
    };
    let front = start(settings);
    for how in ["--http1.1", "--http2-prior-knowledge"] {
        let said = curl(&front, &["--haproxy-protocol", how, "http://{}/x"], b"").await;
        assert_eq!(said, "GET ");
    }
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.header("x-forwarded-for") == Some("127.0.0.1"))
    );
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.method == Method::GET)
    );
    front.stop().await;
}
