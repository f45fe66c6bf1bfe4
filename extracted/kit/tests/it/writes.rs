//! Writes: identity, idempotency, outbox, fences.

use axum::body::Body;
use extracted_kit::clock::Instant;
use extracted_kit::identity::Secret;
use http::Request;

use crate::harness::{Notebook, SECRET, identity};

#[tokio::test]
async fn only_a_signed_and_living_identity_may_write() {
    let notebook = Notebook::new().await;
    let sign = |secret: &str, expires_in: i64| {
        let secret = Secret::new(secret.as_bytes(), "test").unwrap();
        secret.sign("7", "Ann", "customer", Instant::now().unix() + expires_in)
    };
    for bad in [
        sign("the secret of somebody else", 60),
        sign(SECRET, -1),
        "v1.x.y".to_owned(),
    ] {
        let answer = notebook.note_as(&bad, "no", None).await;
        assert_eq!(answer.status, 401, "{}", answer.text);
        assert_eq!(answer.json()["error"], "login required");
        assert_eq!(answer.json()["status"], 401);
    }
    let bare = Request::post("/notes")
        .body(Body::from(r#"{"text":"no"}"#))
        .unwrap();
    assert_eq!(notebook.send(bare).await.status, 401);
    assert!(notebook.notes().await.is_empty());
    assert_eq!(notebook.note("yes", None).await.status, 201);
    assert_eq!(notebook.notes().await, ["yes"]);
}

#[tokio::test]
async fn a_bad_body_is_told_from_a_bad_value() {
    let notebook = Notebook::new().await;
    let send = async |body: String| {
        let request = Request::post("/notes").header("x-outgrow-identity", identity("7"));
        notebook.send(request.body(Body::from(body)).unwrap()).await
    };
    assert_eq!(send("{".to_owned()).await.status, 400);
    assert_eq!(send("{}".to_owned()).await.status, 422);
    let long = send("x".repeat(70_000)).await;
    assert_eq!(
        (long.status, long.headers["content-type"].as_bytes()),
        (413, &b"application/json"[..])
    );
}

#[tokio::test]
async fn a_key_makes_a_write_happen_once() {
    let notebook = Notebook::new().await;
    let first = notebook.note("once", Some("k1")).await;
    let again = notebook.note("once", Some("k1")).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.text, again.text);
    assert_eq!(first.headers["location"], again.headers["location"]);
    assert_eq!(notebook.notes().await, ["once"]);

    let other = notebook.note("another", Some("k1")).await;
    assert_eq!(other.status, 422, "{}", other.text);
    // The same key of another caller, and a write without a key, are writes of their own.
    assert_eq!(
        notebook
            .note_as(&identity("8"), "once", Some("k1"))
            .await
            .status,
        201
    );
    assert_eq!(notebook.note("once", None).await.status, 201);
    assert_eq!(notebook.notes().await, ["once", "once", "once"]);
    for bad in ["", "has space", &"k".repeat(256)] {
        assert_eq!(notebook.note("x", Some(bad)).await.status, 400, "{bad:?}");
    }
}

#[tokio::test]
async fn simultaneous_writes_of_one_key_are_one() {
    let notebook = Notebook::new().await;
    let (a, b, c) = tokio::join!(
        notebook.note("once", Some("k")),
        notebook.note("once", Some("k")),
        notebook.note("once", Some("k")),
    );
    assert!(a.text == b.text && b.text == c.text);
    assert_eq!(notebook.notes().await, ["once"]);
}

#[tokio::test]
async fn a_kept_answer_grows_old_and_is_swept() {
    let notebook = Notebook::new().await;
    notebook.note("a", Some("k1")).await;
    notebook.note("b", Some("k2")).await;
    notebook
        .run_sql("UPDATE _kit_idempotency SET stored_at = stored_at - 86400")
        .await;
    assert_eq!(notebook.note("a", Some("k1")).await.status, 201);
    assert_eq!(notebook.notes().await, ["a", "b", "a"]);
    let mut tx = notebook.service.database().read().await.unwrap();
    let keys: Vec<(String,)> = sqlx::query_as("SELECT key FROM _kit_idempotency")
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    assert_eq!(keys, [("k1".to_owned(),)]);
}

#[tokio::test]
async fn a_refused_write_keeps_neither_row_nor_event_nor_answer() {
    let notebook = Notebook::new().await;
    assert_eq!(notebook.note("too late", Some("k")).await.status, 422);
    assert!(notebook.notes().await.is_empty());
    assert_eq!(
        notebook.get("/events").await.json()["events"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    assert_eq!(notebook.note("in time", Some("k")).await.status, 201);
}

#[tokio::test]
async fn a_fence_is_a_clear_503_and_leaves_no_trace() {
    let notebook = Notebook::new().await;
    notebook
        .run_sql(
            "CREATE TRIGGER fence BEFORE INSERT ON note
             BEGIN SELECT RAISE(ABORT, 'outgrow: writes of notes are held for a cutover'); END",
        )
        .await;
    let answer = notebook.note("held", Some("k")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["x-build-id"], "notebook-1");
    assert_eq!(
        answer.json()["error"],
        "outgrow: writes of notes are held for a cutover"
    );
    assert!(
        notebook
            .get("/metrics")
            .await
            .text
            .contains("extracted_refused_total{reason=\"fenced\"} 1")
    );
    notebook.run_sql("DROP TRIGGER fence").await;
    assert_eq!(notebook.note("held", Some("k")).await.status, 201);
    assert_eq!(notebook.notes().await, ["held"]);
}

#[tokio::test]
async fn another_triggers_refusal_is_an_internal_error() {
    let notebook = Notebook::new().await;
    notebook
        .run_sql(
            "CREATE TRIGGER bug BEFORE INSERT ON note
             BEGIN SELECT RAISE(ABORT, 'a secret of the house'); END",
        )
        .await;
    let answer = notebook.note("x", None).await;
    assert_eq!(answer.status, 500);
    assert!(!answer.text.contains("secret") && !answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn events_come_in_order_and_in_pages() {
    let notebook = Notebook::new().await;
    for text in ["a", "b", "c"] {
        notebook.note(text, None).await;
    }
    let page = notebook.get("/events?limit=2").await.json();
    let seqs: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["seq"].clone())
        .collect();
    assert_eq!(seqs, [1, 2]);
    assert_eq!(page["events"][0]["kind"], "note-written");
    assert_eq!(page["events"][0]["data"]["note"], 1);
    assert_eq!(page["next"], 2);
    let page = notebook.get("/events?after=2").await.json();
    assert_eq!(
        (page["events"].as_array().unwrap().len(), &page["next"]),
        (1, &3.into())
    );
    let page = notebook.get("/events?after=3").await.json();
    assert_eq!(
        (page["events"].as_array().unwrap().len(), &page["next"]),
        (0, &3.into())
    );
    for bad in ["?after=x", "?after=-1", "?limit=", "?since=3"] {
        assert_eq!(
            notebook.get(&format!("/events{bad}")).await.status,
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_reader_that_was_away_too_long_is_told() {
    let notebook = Notebook::new().await;
    notebook.note("a", None).await;
    notebook
        .run_sql("UPDATE sqlite_sequence SET seq = 100001 WHERE name = '_kit_outbox'")
        .await;
    notebook.note("b", None).await;
    // Event 1 is gone, because only the last 100,000 numbers are kept.
    assert_eq!(
        notebook.get("/events").await.json()["events"][0]["seq"],
        100_002
    );
    let gone = notebook.get("/events?after=1").await;
    assert_eq!(gone.status, 410);
    assert!(gone.text.contains("fresh copy"));
}
