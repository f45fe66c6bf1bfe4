//! The real processes of the demo: the monolith, the services and Outgrow itself.
//!
//! Owns starting, replacing and stopping them; whatever ends the demo ends them. Each runs in a
//! process group of its own, so that Ctrl-C reaches the demo alone, which then stops the rest
//! in order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::http::Connection;
use super::layout::Layout;

/// The monolith fills its database before it answers; on a busy machine that takes a while.
const START: Duration = Duration::from_secs(60);
/// Each process drains for at most ten seconds.
const STOP: Duration = Duration::from_secs(12);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when a process ends by itself.
const LOG_LINES: usize = 15;

/// The binaries, found beside the running one.
#[derive(Debug)]
struct Binaries {
    outgrow: PathBuf,
    folder: PathBuf,
}

impl Binaries {
    fn find() -> anyhow::Result<Self> {
        let outgrow = std::env::current_exe().context("cannot find the running binary")?;
        let folder = outgrow
            .parent()
            .context("the running binary lies nowhere")?
            .to_owned();
        let wanted = ["legacy-monolith", "extracted-catalog", "extracted-reviews"];
        let missing: Vec<&str> = wanted
            .into_iter()
            .filter(|name| !folder.join(name).is_file())
            .collect();
        if !missing.is_empty() {
            let profile = match folder.file_name().and_then(|name| name.to_str()) {
                Some("release") => " --release",
                Some("quick") => " --profile quick",
                _ => "",
            };
            bail!(
                "the shop's binaries are not beside this one ({} in {}); build them with \
                 `cargo build{profile} -p {}`, or run scripts/demo",
                missing.join(", "),
                folder.display(),
                missing.join(" -p ")
            );
        }
        Ok(Self { outgrow, folder })
    }
}

/// The running processes. Dropping it kills them; [`Fleet::stop`] is the polite way.
#[derive(Debug)]
pub(crate) struct Fleet {
    layout: Layout,
    binaries: Binaries,
    running: BTreeMap<String, Child>,
}

impl Fleet {
    /// # Errors
    /// When a binary is missing, with the command that builds it.
    pub(crate) fn new(layout: Layout) -> anyhow::Result<Self> {
        Ok(Self {
            layout,
            binaries: Binaries::find()?,
            running: BTreeMap::new(),
        })
    }

    /// The shop as it was before anybody thought of a migration.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) async fn start_monolith(&mut self, seed: u64) -> anyhow::Result<()> {
        let listen = self.layout.monolith;
        let args = [
            "--listen".into(),
            listen.to_string().into(),
            "--database".into(),
            self.layout.database_url("shop").into(),
            "--seed".into(),
            seed.to_string().into(),
        ];
        let binary = self.binaries.folder.join("legacy-monolith");
        self.start("monolith", &binary, &args)?;
        self.wait_for("monolith", listen, "/health").await
    }

    /// Starts a build of a service, after stopping the one that runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) async fn deploy(
        &mut self,
        service: &str,
        build: &str,
        defect: Option<&str>,
    ) -> anyhow::Result<()> {
        self.stop_one(service).await;
        let listen = self.service_address(service);
        let mut args: Vec<OsString> = vec![
            "--listen".into(),
            listen.to_string().into(),
            "--database".into(),
            self.layout.database_url(service).into(),
            "--build-id".into(),
            build.into(),
            "--identity-secret-file".into(),
            self.layout.secret().into(),
            "--allow-defect-switch".into(),
        ];
        if let Some(defect) = defect {
            args.extend(["--defect".into(), defect.into()]);
        }
        let binary = self.binaries.folder.join(format!("extracted-{service}"));
        self.start(service, &binary, &args)?;
        self.wait_for(service, listen, "/health").await
    }

    /// Makes a running service misbehave.
    ///
    /// # Errors
    /// When the service refuses.
    pub(crate) async fn break_service(&self, service: &str, defect: &str) -> anyhow::Result<()> {
        let body = Bytes::from(json!({ "defect": defect }).to_string());
        let request = Request::builder()
            .method(Method::PUT)
            .uri("/_defect")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let mut connection = Connection::new(self.service_address(service));
        match connection.send(request).await {
            Ok(reply) if reply.status.is_success() => Ok(()),
            Ok(reply) => bail!(
                "{service} takes no defect: {} {}",
                reply.status,
                reply.excerpt()
            ),
            Err(why) => bail!("{service} takes no defect: {why}"),
        }
    }

    /// Outgrow in front of it all.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) async fn start_outgrow(&mut self) -> anyhow::Result<()> {
        let args = ["serve".into(), "-c".into(), self.layout.config().into()];
        let binary = self.binaries.outgrow.clone();
        self.start("outgrow", &binary, &args)?;
        // Through the proxy, the monolith's own health: the whole way works.
        self.wait_for("outgrow", self.layout.proxy, "/health").await
    }

    /// Whether all still run.
    ///
    /// # Errors
    /// Names the process that ended by itself, with the end of its log.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{name} ended by itself ({status}):\n{}",
                    tail(&self.layout.log(name))
                );
            }
        }
        Ok(())
    }

    /// Stops everything, Outgrow first, so that nothing fails for want of an upstream.
    pub(crate) async fn stop(&mut self) {
        for name in ["outgrow", "catalog", "reviews", "monolith"] {
            self.stop_one(name).await;
        }
    }

    async fn stop_one(&mut self, name: &str) {
        let Some(mut child) = self.running.remove(name) else {
            return;
        };
        if let Some(id) = child.id() {
            // The shell's own `kill` is everywhere, the program of that name is not.
            let asked = Command::new("sh")
                .arg("-c")
                .arg(format!("kill -TERM {id}"))
                .status()
                .await;
            if asked.is_ok_and(|status| status.success())
                && tokio::time::timeout(STOP, child.wait()).await.is_ok()
            {
                return;
            }
        }
        // An error means that it is gone already.
        let _ = child.kill().await;
    }

    fn service_address(&self, service: &str) -> SocketAddr {
        if service == "catalog" {
            self.layout.catalog
        } else {
            self.layout.reviews
        }
    }

    fn start(&mut self, name: &str, binary: &Path, args: &[OsString]) -> anyhow::Result<()> {
        let log = self.layout.log(name);
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(binary)
            .args(args)
            .current_dir(&self.layout.dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        self.running.insert(name.to_owned(), child);
        Ok(())
    }

    async fn wait_for(&mut self, name: &str, at: SocketAddr, path: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut connection = Connection::new(at);
        loop {
            self.check()?;
            let request = Request::builder().uri(path).body(Bytes::new())?;
            if let Ok(reply) = connection.send(request).await
                && reply.status == StatusCode::OK
            {
                return Ok(());
            }
            if begun.elapsed() > START {
                bail!(
                    "{name} does not answer {path} on {at}:\n{}",
                    tail(&self.layout.log(name))
                );
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
