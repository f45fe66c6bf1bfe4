//! A NATS server with JetStream of a test's own: its store in a temporary directory, on a free
//! loopback port, gone with the test.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificates::Signed;
use crate::eventually;
use crate::process::free_address;
use crate::servers::binary;

const INSTALL: &str = "NATS (Debian: nats-server)";
/// A server on a busy machine is up within seconds.
const START: Duration = Duration::from_secs(30);
const USER: &str = "shop";
const PASSWORD: &str = "broker-secret";

/// A server that wants a password. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Nats {
    dir: TempDir,
    port: u16,
    signed: Option<Signed>,
    server: Option<Child>,
}

impl Nats {
    /// An empty server.
    ///
    /// # Panics
    /// Panics, saying what to install, when there is no NATS on this machine.
    pub async fn start() -> Self {
        Self::begin(None).await
    }

    /// A server that takes connections only over TLS.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn with_tls(signed: Signed) -> Self {
        Self::begin(Some(signed)).await
    }

    async fn begin(signed: Option<Signed>) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        let port = free_address().port();
        let mut made = Self {
            dir,
            port,
            signed,
            server: None,
        };
        made.again().await;
        made
    }

    /// Starts it again after [`Self::kill`], with what it had stored.
    ///
    /// # Panics
    /// Panics when it does not come up.
    pub async fn again(&mut self) {
        let log = self.dir.path().join("log");
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(binary(&["nats-server"], Vec::new(), INSTALL));
        if let Some(Signed { certificate, key }) = &self.signed {
            command.arg("--tls");
            command.arg("--tlscert").arg(certificate);
            command.arg("--tlskey").arg(key);
        }
        let server = command
            .args(["--addr", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--user", USER, "--pass", PASSWORD, "--jetstream"])
            .arg("--store_dir")
            .arg(self.dir.path())
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server can be run");
        let server = self.server.insert(server);
        eventually("NATS to be ready", START, || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = server.try_wait().ok().flatten();
            assert!(ended.is_none(), "NATS ended: {said}");
            async move { said.contains("Server is ready").then_some(()) }
        })
        .await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// `nats://USER:PASSWORD@HOST:PORT`.
    pub fn url(&self) -> String {
        format!("nats://{USER}:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// As [`Self::url`], as it may be shown.
    pub fn shown(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// User and password.
    pub fn login(&self) -> (String, String) {
        (USER.to_owned(), PASSWORD.to_owned())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}
