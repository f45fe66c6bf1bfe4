//! Runs the binary against a scripted admin API.

use std::fmt::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use outgrow_testkit::Upstream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// No command of these tests takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// All of it in one text, for golden files.
    pub(crate) fn golden(&self) -> String {
        let mut out = format!("exit code {}\n", self.code);
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                let _ = writeln!(out, "--- {name}\n{text}");
            }
        }
        out
    }
}

/// A folder to run in and a scripted server.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) server: Upstream,
}

/// One canned answer: `GET /v1/status`, its status and its body.
type Canned = (&'static str, u16, Value);

impl Stage {
    /// Answers by the list; each entry is used once, the last of its kind again and again.
    pub(crate) async fn new(answers: Vec<Canned>) -> Self {
        let answers = Arc::new(Mutex::new(answers));
        let server = Upstream::start(move |request: Request<Bytes>| {
            let answers = Arc::clone(&answers);
            async move {
                answer(
                    &request,
                    &mut answers.lock().expect("no test panics while it answers"),
                )
            }
        })
        .await;
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("admin.token"), TOKEN).expect("a token file");
        let config = format!("[control]\nlisten = \"{}\"\n", server.addr());
        std::fs::write(dir.path().join("outgrow.toml"), config).expect("a config file");
        Self { dir, server }
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        run_in(self.dir.path(), args).await
    }

    /// The body of the last request, and its target.
    pub(crate) fn last(&self) -> (String, Value) {
        let seen = self.server.seen();
        let last = seen.last().expect("a request");
        let body = serde_json::from_slice(&last.body).unwrap_or(Value::Null);
        (format!("{} {}", last.method, last.target), body)
    }
}

fn answer(request: &Request<Bytes>, answers: &mut Vec<Canned>) -> Response<Bytes> {
    let key = format!("{} {}", request.method(), request.uri());
    let authorized = request
        .headers()
        .get("authorization")
        .is_some_and(|value| value == format!("Bearer {TOKEN}").as_str());
    let (status, body) = if authorized {
        let places: Vec<usize> = (0..answers.len())
            .filter(|i| answers[*i].0 == key)
            .collect();
        match places.as_slice() {
            [] => (
                404,
                json!({"error": format!("unscripted: {key}"), "code": "not-found"}),
            ),
            [only] => (answers[*only].1, answers[*only].2.clone()),
            [first, ..] => {
                let (_, status, body) = answers.remove(*first);
                (status, body)
            }
        }
    } else {
        let text = "the bearer token is missing or wrong";
        (
            401,
            json!({"error": text, "code": "unauthorized", "hint": "send the token"}),
        )
    };
    // A document is sent as it is, everything else as JSON.
    let bytes = match body {
        Value::String(text) => Bytes::from(text),
        other => Bytes::from(other.to_string()),
    };
    let mut response = Response::new(bytes);
    *response.status_mut() = status.try_into().expect("a status");
    response
}

/// Runs the binary in a folder, with nothing of the caller's environment that it reads.
pub(crate) async fn run_in(dir: &std::path::Path, args: &[&str]) -> Ended {
    let run = command(dir, args).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("the command ends")
        .expect("the binary runs");
    Ended {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

pub(crate) fn command(dir: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outgrow"));
    for name in [
        "OUTGROW_CONFIG",
        "OUTGROW_ADMIN",
        "OUTGROW_TOKEN",
        "OUTGROW_LOG",
        "COLUMNS",
    ] {
        command.env_remove(name);
    }
    command.env("USER", "tester").env("RUST_BACKTRACE", "0");
    command.current_dir(dir).args(args).kill_on_drop(true);
    command
}
