//! A real collector of a test's own: rotel, which takes OTLP, reads it with OpenTelemetry's types and
//! passes it on to a scripted one, on free loopback ports, gone with the test.
//!
//! It is no package of a distribution. `scripts/test` gets it and names it in `OUTGROW_ROTEL`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::eventually;
use crate::process::{Process, free_address};

/// A server on a busy machine is up within seconds.
const START: Duration = Duration::from_secs(30);

/// A collector before another one. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Rotel {
    dir: TempDir,
    http: SocketAddr,
    next: String,
    process: Process,
}

impl Rotel {
    /// One that passes on to what takes OTLP over HTTP at this URL.
    ///
    /// # Panics
    /// Panics, saying where to get it, when it is not on this machine.
    pub async fn before(next: &str) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        let http = free_address();
        let process = begin(&dir, http, next).await;
        Self {
            dir,
            http,
            next: next.to_owned(),
            process,
        }
    }

    /// Where it takes traces.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Asks it to end; what it has, it passes on.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Starts it again at the same place.
    pub async fn again(&mut self) {
        self.process = begin(&self.dir, self.http, &self.next).await;
    }

    /// The last lines of what it printed.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

async fn begin(dir: &TempDir, http: SocketAddr, next: &str) -> Process {
    let at = |file: &str| dir.path().join(file).display().to_string();
    let args = [
        ("--otlp-grpc-endpoint", free_address().to_string()),
        ("--otlp-http-endpoint", http.to_string()),
        ("--exporter", "otlp".to_owned()),
        ("--otlp-exporter-protocol", "http".to_owned()),
        ("--otlp-exporter-endpoint", next.to_owned()),
        ("--batch-timeout", "100ms".to_owned()),
        ("--pid-file", at("pid")),
        ("--log-file", at("own.log")),
    ];
    let args = args
        .iter()
        .flat_map(|(name, value)| [*name, value.as_str()]);
    let args: Vec<&str> = ["start"].into_iter().chain(args).collect();
    let process = Process::spawn(&program(), &args, &dir.path().join("log"));
    eventually("rotel to listen", START, || async {
        TcpStream::connect(http).await.ok().map(drop)
    })
    .await;
    process
}

fn program() -> PathBuf {
    let named = std::env::var_os("OUTGROW_ROTEL");
    named
        .map(PathBuf::from)
        .expect("OUTGROW_ROTEL is to name the program of rotel; scripts/test gets it and sets this")
}
