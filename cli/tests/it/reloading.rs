//! `outgrow reload` and SIGHUP, on a real process.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Upstream, client, database, eventually};
use tempfile::TempDir;

use crate::harness::run_in;
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(20);

struct Stage {
    dir: TempDir,
    at: SocketAddr,
    control: SocketAddr,
    process: Process,
}

impl Stage {
    /// A pass-through to this upstream.
    async fn new(legacy: &Upstream, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (at, control) = (free_address(), free_address());
        write(dir.path(), (at, control), legacy, more);
        let process = serve(dir.path()).await;
        Self {
            dir,
            at,
            control,
            process,
        }
    }

    fn write(&self, legacy: &Upstream, more: &str) {
        write(self.dir.path(), (self.at, self.control), legacy, more);
    }

    async fn answer(&self, path: &str) -> String {
        client::get(&format!("http://{}{path}", self.at))
            .await
            .text()
    }

    async fn run(&self, args: &[&str]) -> crate::harness::Ended {
        run_in(self.dir.path(), args).await
    }
}

fn write(dir: &Path, (at, control): (SocketAddr, SocketAddr), legacy: &Upstream, more: &str) {
    let text = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\n[legacy]\nurls = [\"{}\"]\n\
         database = \"sqlite:legacy.db\"\n[control]\nlisten = \"{control}\"\n{more}",
        legacy.url("").trim_end_matches('/')
    );
    std::fs::write(dir.join("outgrow.toml"), text).unwrap();
}

fn slice(service: &Upstream) -> String {
    format!(
        "[services.catalog]\nurls = [\"{}\"]\n[slices.catalog]\nservice = \"catalog\"\n\
         routes = [\"GET /api/products\"]\n",
        service.url("").trim_end_matches('/')
    )
}

#[tokio::test]
async fn another_config_is_in_force_without_an_end() {
    let (old, new) = (
        Upstream::always(200, "old").await,
        Upstream::always(200, "new").await,
    );
    let service = Upstream::always(200, "service").await;
    let mut stage = Stage::new(&old, "").await;
    assert_eq!(stage.answer("/x").await, "old");
    stage.write(&new, &slice(&service));
    let ended = stage.run(&["reload", "--reason", "a slice"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("as config 2"), "{}", ended.stdout);
    assert_eq!(stage.answer("/x").await, "new");
    // The slice is there, is moved, and stays where it is over another reload, by a signal.
    let force = ["--force", "--reason", "test"];
    for to in ["shadow", "canary=100"] {
        let flip = [&["route", "flip", "catalog", to], &force[..]].concat();
        let ended = stage.run(&flip).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
    assert_eq!(stage.answer("/api/products").await, "service");
    stage.write(&old, &slice(&service));
    let id = stage.process.id().unwrap().to_string();
    let hup = tokio::process::Command::new("kill")
        .args(["-HUP", &id])
        .status();
    assert!(hup.await.unwrap().success());
    eventually("the third config", WAIT, || async {
        (stage.answer("/x").await == "old").then_some(())
    })
    .await;
    assert_eq!(stage.answer("/api/products").await, "service");
    let journal = eventually("the admin API", WAIT, || async {
        let ended = stage.run(&["journal", "list", "-o", "json"]).await;
        (ended.code == 0).then_some(ended.stdout)
    })
    .await;
    assert_eq!(journal.matches("config-reloaded").count(), 2, "{journal}");
    assert!(
        journal.contains("a slice") && journal.contains("SIGHUP"),
        "{journal}"
    );
    assert!(stage.process.stop().await.success());
}

#[tokio::test]
async fn a_config_that_cannot_be_changes_nothing() {
    let old = Upstream::always(200, "old").await;
    let service = Upstream::always(200, "service").await;
    let mut stage = Stage::new(&old, &slice(&service)).await;
    let flip = [
        "route", "flip", "catalog", "shadow", "--force", "--reason", "test",
    ];
    assert_eq!(stage.run(&flip).await.code, 0);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = format!(
        "[proxy.tls]\nlisten = [\"{}\"]\n",
        taken.local_addr().unwrap()
    );
    for (more, said) in [
        ("[proxi]\n".to_owned(), "proxi"),
        (
            String::new(),
            "slice `catalog` is not in the config any more",
        ),
        (
            format!("store = \"sqlite:other.db\"\n{}", slice(&service)),
            "cannot change while",
        ),
        (format!("{}{tls}", slice(&service)), "cert"),
    ] {
        stage.write(&old, &more);
        let ended = stage.run(&["reload"]).await;
        assert_eq!(ended.code, 1, "{} {}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
        assert_eq!(stage.answer("/x").await, "old");
        let status = stage.run(&["status"]).await;
        assert!(status.stdout.contains("shadow"), "{}", status.stdout);
    }
    assert!(stage.process.stop().await.success());
}

/// The store goes bad between the check and the take-over: the config that was there goes on.
#[tokio::test]
async fn an_office_that_cannot_open_gives_the_present_one_back() {
    let (old, new) = (
        Upstream::always(200, "old").await,
        Upstream::always(200, "new").await,
    );
    let mut stage = Stage::new(&old, "").await;
    let pool = database::open(&stage.dir.path().join("outgrow-store.db")).await;
    let mut lock = pool.acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut *lock)
        .await
        .unwrap();
    stage.write(&new, "");
    let ended = stage.run(&["reload"]).await;
    assert_ne!(ended.code, 0, "{}", ended.stdout);
    assert_eq!(stage.answer("/x").await, "old");
    sqlx::query("COMMIT").execute(&mut *lock).await.unwrap();
    drop((lock, pool));
    eventually("a reload that can be", WAIT, || async {
        (stage.run(&["reload"]).await.code == 0).then_some(())
    })
    .await;
    assert_eq!(stage.answer("/x").await, "new");
    assert!(stage.process.stop().await.success());
}
