//! Start and shutdown.

use std::time::Duration;

use extracted_kit::error::StartError;
use extracted_kit::run::{self, Ready};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::{NOTEBOOK, Notebook, SECRET, flags};

async fn start_error(change: impl FnOnce(&mut extracted_kit::flags::Flags)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut flags = flags(&dir);
    change(&mut flags);
    let error: StartError = run::prepare(NOTEBOOK, &flags, None)
        .await
        .map(drop)
        .unwrap_err();
    error.with_causes()
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = start_error(|flags| flags.listen = address).await;
    assert!(
        error.contains(&address.to_string()) && error.contains("--listen"),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_named() {
    let error = start_error(|flags| flags.database = "sqlite:no/such/folder/x.db".into()).await;
    assert!(
        error.contains("no/such/folder/x.db") && error.contains("folder exists"),
        "{error}"
    );
    assert_eq!(error.matches("unable to open").count(), 1, "{error}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("novel.txt");
    std::fs::write(&file, "It was a dark and stormy night. ".repeat(200)).unwrap();
    let error = start_error(|flags| flags.database = format!("sqlite:{}", file.display())).await;
    assert!(
        error.contains("novel.txt") && error.contains("not a database"),
        "{error}"
    );
}

#[tokio::test]
async fn tables_of_another_service_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let flags = flags(&dir);
    let ready = run::prepare(NOTEBOOK, &flags, None).await.unwrap();
    let database = ready.service().database().clone();
    let mut tx = database.write().await.unwrap();
    sqlx::query("ALTER TABLE note RENAME COLUMN text TO body")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    database.close().await;
    drop(ready);
    let error = run::prepare(NOTEBOOK, &flags, None)
        .await
        .map(drop)
        .unwrap_err()
        .with_causes();
    assert!(
        error.contains("do not fit") && error.contains("text"),
        "{error}"
    );
}

#[tokio::test]
async fn a_build_id_must_fit_a_header() {
    for bad in ["", "two words", "ü", "a\nb", "a\"b"] {
        let error = start_error(|flags| flags.build_id = Some(bad.to_owned())).await;
        assert!(error.contains("build id"), "{error}");
    }
}

#[tokio::test]
async fn a_file_is_reopened_with_what_was_written() {
    let notebook = Notebook::new().await;
    notebook.note("kept", None).await;
    notebook.service.database().close().await;
    let ready = run::prepare(NOTEBOOK, &flags(&notebook.dir), None)
        .await
        .unwrap();
    let mut tx = ready.service().database().read().await.unwrap();
    let notes: Vec<(String,)> = sqlx::query_as("SELECT text FROM note")
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    assert_eq!(notes, [("kept".to_owned(),)]);
    let refused = sqlx::query("DELETE FROM note").execute(&mut *tx).await;
    assert!(refused.is_err(), "readers must not write");
}

async fn exchange(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[tokio::test]
async fn it_serves_until_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let secret = Some(SECRET.to_owned());
    let ready: Ready = run::prepare(NOTEBOOK, &flags(&dir), secret).await.unwrap();
    let address = ready.address().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(ready.serve(stop.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(&mut stream, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stop.cancel();
    // The idle keep-alive connection must not hold the end up.
    let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
    ended.expect("stops in time").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
