//! Commands that need no server: `init`, `check`, `serve` with a bad config.

use crate::harness::{command, run_in};

#[tokio::test]
async fn what_init_writes_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "init",
        "--listen",
        "127.0.0.1:0",
        "--legacy",
        "http://127.0.0.1:9000",
    ];
    let first = run_in(dir.path(), &args).await;
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stdout.is_empty(), "a note is no data");
    let checked = run_in(dir.path(), &["check", "--offline"]).await;
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    let before = std::fs::read(dir.path().join("outgrow.toml")).unwrap();
    let again = run_in(dir.path(), &args).await;
    assert_eq!(again.code, 1);
    assert!(
        again.stderr.contains("is there already"),
        "{}",
        again.stderr
    );
    assert_eq!(
        std::fs::read(dir.path().join("outgrow.toml")).unwrap(),
        before
    );
}

#[tokio::test]
async fn init_refuses_what_the_check_would_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run_in(dir.path(), &["init", "--legacy", "https://shop.example"]).await;
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("the port is missing"),
        "{}",
        ended.stderr
    );
    assert!(!dir.path().join("outgrow.toml").exists());
}

#[tokio::test]
async fn every_problem_of_a_config_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[proxy]\nlisten = [\"here\"]\nworker = 2\n[legacy]\nurls = [\"http://a:1\"]\n";
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    for args in [&["check"][..], &["serve"][..]] {
        let ended = run_in(dir.path(), args).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
        insta::assert_snapshot!("bad_config", ended.stderr);
    }
}

#[tokio::test]
async fn a_missing_config_says_which() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["check", "-c", "no.toml"][..],
        &["status", "-c", "no.toml"][..],
    ] {
        let ended = run_in(dir.path(), args).await;
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("no.toml"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn check_names_the_upstream_that_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let free = outgrow_testkit::process::free_address();
    let text =
        format!("[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://{free}\"]\n");
    std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
    let ended = run_in(dir.path(), &["check"]).await;
    assert_eq!(ended.code, 1);
    let line = ended
        .stdout
        .lines()
        .find(|line| line.contains(&free.to_string()));
    assert!(
        line.is_some_and(|line| line.starts_with("FAILED")),
        "{}",
        ended.stdout
    );
    assert!(ended.stderr.contains("1 check failed"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_log_filter_that_is_none_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), &["completions", "bash"]);
    let output = command.env("OUTGROW_LOG", "a=b=c").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("OUTGROW_LOG"));
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), &["completions", "bash"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
