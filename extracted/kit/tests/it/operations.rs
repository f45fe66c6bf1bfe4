//! Health, metrics, and what every answer carries.

use axum::body::Body;
use http::Request;

use crate::harness::Notebook;

#[tokio::test]
async fn health_asks_the_database() {
    let notebook = Notebook::with(|flags| flags.build_id = Some("notebook-2".to_owned())).await;
    let answer = notebook.get("/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "ok");
    assert_eq!(answer.json()["build"], "notebook-2");
    notebook.service.database().close().await;
    assert_eq!(notebook.get("/health").await.status, 503);
}

#[tokio::test]
async fn every_answer_names_its_build() {
    let notebook = Notebook::new().await;
    let delete = Request::delete("/notes").body(Body::empty()).unwrap();
    for (answer, status) in [
        (notebook.get("/notes").await, 200),
        (notebook.get("/nowhere").await, 404),
        (notebook.get("/metrics").await, 200),
        (notebook.send(delete).await, 405),
    ] {
        assert_eq!(
            (answer.status, answer.headers["x-build-id"].as_bytes()),
            (status, &b"notebook-1"[..])
        );
        if status >= 400 {
            let body = answer.json();
            assert_eq!(body["status"], status);
            assert!(body["error"].is_string() && body["request_id"].is_string());
        }
    }
}

#[tokio::test]
async fn answers_carry_no_header_beyond_the_agreed() {
    let notebook = Notebook::new().await;
    let answer = notebook.get("/notes").await;
    let mut names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cache-control",
            "content-length",
            "content-type",
            "x-build-id"
        ]
    );
    assert_eq!(answer.headers["content-type"], "application/json");
    let other = notebook.get("/notes").await.json();
    assert_ne!(answer.json()["request_id"], other["request_id"]);
    assert_eq!(
        answer.json()["generated_at"].as_str().unwrap().len(),
        "2025-01-01 00:00:00".len()
    );
}

#[tokio::test]
async fn metrics_count_by_template_and_class() {
    let notebook = Notebook::new().await;
    for path in ["/notes", "/notes?a=1", "/never/seen/1", "/never/seen/2"] {
        notebook.get(path).await;
    }
    notebook.note("x", Some("k")).await;
    notebook.note("x", Some("k")).await;
    let text = notebook.get("/metrics").await.text;
    for line in [
        "extracted_build_info{service=\"notebook\",build=\"notebook-1\"} 1",
        "extracted_requests_total{method=\"GET\",route=\"/notes\",class=\"2xx\"} 2",
        "extracted_requests_total{method=\"GET\",route=\"other\",class=\"4xx\"} 2",
        "extracted_requests_total{method=\"POST\",route=\"/notes\",class=\"2xx\"} 2",
        "extracted_idempotent_replays_total 1",
        "extracted_defect_active{defect=\"slow\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("never"), "{text}");
}
