//! Planted defects and their switch.

use axum::body::Body;
use extracted_kit::defects::{Defect, SLOW_READ};
use http::Request;

use crate::harness::{Notebook, identity};

async fn switch(notebook: &Notebook, body: &str) -> (u16, String) {
    let request = Request::put("/_defect")
        .body(Body::from(body.to_owned()))
        .unwrap();
    let answer = notebook.send(request).await;
    (answer.status, answer.text)
}

#[tokio::test]
async fn none_is_on_by_default_and_the_switch_is_locked() {
    let notebook = Notebook::new().await;
    assert_eq!(notebook.service.defects().current(), None);
    for _ in 0..50 {
        assert_eq!(notebook.get("/notes").await.status, 200);
    }
    assert_eq!(switch(&notebook, r#"{"defect":"errors"}"#).await.0, 404);
    assert_eq!(notebook.service.defects().current(), None);
}

#[tokio::test]
async fn the_switch_turns_defects_on_and_off() {
    let notebook = Notebook::with(|flags| flags.allow_defect_switch = true).await;
    assert_eq!(
        switch(&notebook, r#"{"defect":"errors"}"#).await,
        (200, r#"{"defect":"errors"}"#.to_owned())
    );
    assert!(
        notebook
            .get("/metrics")
            .await
            .text
            .contains("extracted_defect_active{defect=\"errors\"} 1")
    );
    for bad in [
        r#"{"defect":"typo"}"#,
        "{}",
        "",
        r#"{"defect":"slow","for":3}"#,
    ] {
        let (status, text) = switch(&notebook, bad).await;
        assert_eq!(status, 400, "{bad}: {text}");
        assert!(
            text.contains("price-rounding") && text.contains("stale-sort"),
            "{text}"
        );
    }
    assert_eq!(notebook.service.defects().current(), Some(Defect::Errors));
    assert_eq!(switch(&notebook, r#"{"defect":null}"#).await.0, 200);
    assert_eq!(notebook.service.defects().current(), None);
}

#[tokio::test]
async fn errors_hit_reads_only() {
    let notebook = Notebook::with_defect(Defect::Errors).await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(notebook.get("/notes").await.status == 500);
        assert_eq!(notebook.get("/health").await.status, 200);
    }
    assert!((27..=33).contains(&failed), "{failed}");
    for _ in 0..20 {
        assert_eq!(notebook.note("x", None).await.status, 201);
    }
}

#[tokio::test]
async fn slow_delays_reads_and_no_writes() {
    let notebook = Notebook::with_defect(Defect::Slow).await;
    let before = tokio::time::Instant::now();
    notebook.get("/notes").await;
    // A lower bound only: a busy machine makes it longer, nothing makes it shorter.
    assert!(before.elapsed() >= SLOW_READ);
    let write = notebook.note_as(&identity("7"), "x", None).await;
    assert_eq!(write.status, 201);
}
