//! Real processes: started, waited for, killed.

use std::ffi::OsStr;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::process::{Child, Command};

use crate::client;
use crate::waiting::eventually;

/// A start includes creating and filling a database, in a debug build, beside other tests.
const START: Duration = Duration::from_secs(60);
/// As long as the product's own drain, and then some.
const STOP: Duration = Duration::from_secs(20);

/// Of servers in tests. Below those that the kernel gives connections.
const PORTS: Range<u64> = 12_000..32_000;
const TRIES: u64 = 1_000;

/// A child process. Dropping it kills it. What it prints is kept in a file, so that a full pipe
/// never blocks it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `binary` with `args`; its output goes to `log`, after what is there.
    ///
    /// # Panics
    /// Panics when it cannot be started.
    #[allow(clippy::panic)] // Which binary is missing is the message of the failing test.
    pub fn spawn<S: AsRef<OsStr>>(binary: &Path, args: &[S], log: &Path) -> Self {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let errors = output.try_clone().expect("an open file can be shared");
        let child = Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", binary.display()));
        let name = binary
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            child,
            name,
            log: log.to_owned(),
        }
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until `url` answers with a success.
    ///
    /// # Panics
    /// Panics, showing the end of the log, when the process ends first or never answers.
    #[allow(clippy::panic)] // The end of the log is the message of the failing test.
    pub async fn healthy(&mut self, url: &str) {
        let what = format!("{} to answer {url}", self.name);
        let (child, name, log) = (&mut self.child, &self.name, &self.log);
        eventually(&what, START, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{name} ended with {status}:\n{}", tail(log));
            }
            async move {
                let request = client::request(Method::GET, url, &[], Bytes::new());
                let answer = client::try_send(request).await.ok()?;
                answer.status.is_success().then_some(())
            }
        })
        .await;
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill().await;
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// Panics, showing the end of the log, when it does not stop.
    #[allow(clippy::panic)] // The end of the log is the message of the failing test.
    pub async fn stop(&mut self) -> ExitStatus {
        if let Some(id) = self.child.id() {
            let _ = Command::new("kill")
                .arg("-TERM")
                .arg(id.to_string())
                .status()
                .await;
        }
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("{} does not stop:\n{}", self.name, tail(&self.log)),
        }
    }

    /// The last lines of what it printed.
    pub fn log(&self) -> String {
        tail(&self.log)
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A loopback address that nobody listens on. Somebody else may take it before you do: by chance, out of
/// as many, and never a connection, which the kernel gives another port.
///
/// # Panics
/// Panics when none of many is free.
pub fn free_address() -> SocketAddr {
    let first = RandomState::new().build_hasher().finish();
    let ports = (0..TRIES).map(|n| first.wrapping_add(n) % (PORTS.end - PORTS.start) + PORTS.start);
    ports
        .filter_map(|port| u16::try_from(port).ok())
        .find_map(|port| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port)).ok()?;
            listener.local_addr().ok()
        })
        .expect("a loopback port is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_process_is_gone_and_its_output_stays() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = ["-c", "echo started; exec cat /dev/zero > /dev/null"];
        let mut process = Process::spawn(Path::new("/bin/sh"), &script, &log);
        eventually("its first words", Duration::from_secs(5), || async {
            std::fs::read_to_string(&log)
                .ok()
                .filter(|text| text.contains("started"))
        })
        .await;
        assert!(process.id().is_some());
        process.kill().await;
        assert!(process.id().is_none());
        assert_eq!(process.log(), "started");
    }

    #[tokio::test]
    async fn a_polite_stop_gives_the_exit_status() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = ["-c", "trap 'exit 7' TERM; echo ready; while :; do :; done"];
        let mut process = Process::spawn(Path::new("/bin/bash"), &script, &log);
        eventually("it to be ready", Duration::from_secs(5), || async {
            std::fs::read_to_string(&log)
                .ok()
                .filter(|text| text.contains("ready"))
        })
        .await;
        assert_eq!(process.stop().await.code(), Some(7));
    }

    #[tokio::test]
    #[should_panic(expected = "boom")]
    async fn an_early_end_shows_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = Process::spawn(Path::new("/bin/sh"), &["-c", "echo boom; exit 1"], &log);
        process
            .healthy(&format!("http://{}/health", free_address()))
            .await;
    }
}
