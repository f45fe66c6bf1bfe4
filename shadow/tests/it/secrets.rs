//! Secrets that are planted in requests and answers: they are compared, and kept nowhere.

use bytes::Bytes;
use http::{HeaderMap, Response};
use outgrow_rollout::Side;
use outgrow_shadow::{Format, render};

use crate::harness::{Bench, Position, header, offer, shop};

const SECRETS: [&str; 7] = [
    "hunter2",
    "ada@shop",
    "4111 1111 1111",
    "s3ss10n",
    "b34r3r",
    "eyJhbGciOi",
    "maiden-byron",
];

fn answer(kind: &str, body: String, session: &str) -> Response<Bytes> {
    Response::builder()
        .header("content-type", kind)
        .header("set-cookie", format!("sid={session}; path=/"))
        .body(Bytes::from(body))
        .unwrap()
}

fn document(password: &str, mail: &str) -> String {
    // Before it stands so much that what is shown of it ends within the secret.
    let long = "x".repeat(150);
    format!(
        r#"{{"password":"{password}","mail":"{mail}","note":"{long} {mail}","card":"4111 1111 1111 {}",
        "maiden_name":"maiden-byron {mail}","jwt":"eyJhbGciOi.eyJzdWIi.{password}"}}"#,
        if password == "hunter2" {
            "1111"
        } else {
            "1129"
        }
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_are_found_nowhere() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].headers = Some(vec!["set-cookie".to_owned()]);
        settings.slices[0].redact = vec!["maiden_name".to_owned()];
        settings.slices[0].noise_sample = 0.5;
    })
    .await;
    bench
        .extracted
        .set(&document("hunter3", "bob@shop.example"));
    let headers: HeaderMap = [
        header("authorization", "Bearer b34r3r"),
        header("cookie", "sid=s3ss10n; other=s3ss10n"),
        header("x-api-key", "b34r3r"),
        header("accept-language", "de"),
    ]
    .into_iter()
    .collect();
    for n in 0..20 {
        let mut body = document("hunter2", "ada@shop.example");
        let kind = match n % 2 {
            0 => "application/json",
            _ => "text/plain",
        };
        if n % 5 == 0 {
            // So that the body is cut where it is kept.
            body = format!("{body}{}", "ada@shop.example,".repeat(1_500));
        }
        let given = answer(kind, body, "s3ss10n");
        offer(&bench.shadow, Side::Legacy, &given, headers.clone());
    }
    bench.settled().await;
    bench.extracted.status(503);
    offer(
        &bench.shadow,
        Side::Legacy,
        &answer(
            "text/plain",
            document("hunter2", "ada@shop.example"),
            "s3ss10n",
        ),
        headers,
    );
    let seen = bench.settled().await;
    assert!(seen.mismatched > 0, "{seen:?}");
    let report = bench.shadow.report(&shop()).unwrap();
    let mut kept = vec![bench.shadow.snapshot().to_string(), format!("{seen:?}")];
    kept.push(bench.shadow.rules(&shop()).unwrap().to_string());
    for format in [
        Format::Html,
        Format::Markdown,
        Format::Json,
        Format::Table,
        Format::Junit,
    ] {
        kept.push(render(&report, format).unwrap());
    }
    for text in &kept {
        for secret in SECRETS {
            if let Some(at) = text.find(secret) {
                let from = text.floor_char_boundary(at.saturating_sub(80));
                let to = text.floor_char_boundary(at + 80);
                panic!("{secret} in {}", &text[from..to]);
            }
        }
    }
    // That they differ is seen all the same.
    let paths: Vec<&str> = seen.top.iter().map(|top| top.path.as_str()).collect();
    for path in ["header:set-cookie", "$.password", "$.mail", "$.card"] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    assert!(kept[0].contains("[hidden ") && kept[0].contains("[email "));
}
