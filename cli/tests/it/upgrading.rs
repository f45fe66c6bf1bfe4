//! `outgrow upgrade` and SIGUSR2, on real processes.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::{Ended, command, run_in};

pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// Processes that follow each other; whoever is left when the test ends is killed.
pub(crate) struct Shop {
    dir: TempDir,
    pub(crate) at: SocketAddr,
    control: SocketAddr,
    pub(crate) pids: Vec<u32>,
    /// The first one.
    child: tokio::process::Child,
}

impl Drop for Shop {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _ = std::process::Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}

fn signal(name: &str, pid: u32) -> bool {
    let sent = std::process::Command::new("kill")
        .args([name, &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status();
    sent.unwrap().success()
}

fn write(dir: &Path, (at, control): (SocketAddr, SocketAddr), sides: [&Upstream; 2], more: &str) {
    let [legacy, service] = sides.map(|side| format!("http://{}", side.addr()));
    let text = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\ndrain_timeout = \"20s\"\n[legacy]\n\
         urls = [\"{legacy}\"]\n[control]\nlisten = \"{control}\"\n{more}\
         [services.catalog.builds.blue]\nurls = [\"{service}\"]\n\
         [services.catalog.builds.green]\nurls = [\"{service}\"]\n\
         [slices.catalog]\nservice = \"catalog\"\nfallback = false\n\
         routes = [\"GET /api/products\", \"POST /api/products\"]\n"
    );
    std::fs::write(dir.join("outgrow.toml"), text).unwrap();
}

impl Shop {
    async fn new(sides: [&Upstream; 2], environment: &[(&str, &Path)]) -> Self {
        Self::with(sides, environment, "").await
    }

    /// With `more` tables in its config.
    pub(crate) async fn with(
        sides: [&Upstream; 2],
        environment: &[(&str, &Path)],
        more: &str,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (at, control) = (free_address(), free_address());
        write(dir.path(), (at, control), sides, more);
        // By a link, so that another binary can be put in its place.
        let binary = dir.path().join("outgrow");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_outgrow"), &binary).unwrap();
        let log = std::fs::File::create(dir.path().join("outgrow.log")).unwrap();
        let mut start = tokio::process::Command::new(&binary);
        start.arg("serve").current_dir(dir.path());
        start.stdout(log.try_clone().unwrap()).stderr(log);
        start.stdin(std::process::Stdio::null()).kill_on_drop(true);
        start.envs(environment.iter().copied());
        let child = start.spawn().unwrap();
        let shop = Self {
            pids: vec![child.id().unwrap()],
            dir,
            at,
            control,
            child,
        };
        eventually("the admin API", WAIT, || async {
            (shop.run(&["status"]).await.code == 0).then_some(())
        })
        .await;
        shop
    }

    async fn run(&self, args: &[&str]) -> Ended {
        run_in(self.dir.path(), args).await
    }

    pub(crate) async fn done(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}\n{}", ended.stderr, self.log());
        ended.stdout
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("outgrow.log")).unwrap()
    }

    pub(crate) async fn extracted(&self) {
        for to in ["shadow", "canary=100"] {
            let flip = [
                "route", "flip", "catalog", to, "--force", "--reason", "test",
            ];
            self.done(&flip).await;
        }
    }

    /// The next process has taken over; the one before may have connections still.
    pub(crate) async fn upgrade(&mut self) {
        let told = self
            .done(&["upgrade", "--reason", "1.4", "-o", "json"])
            .await;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        self.pids
            .push(told["pid"].as_u64().unwrap().try_into().unwrap());
    }

    pub(crate) async fn gone(&mut self, pid: u32) {
        if pid == self.pids[0] {
            let ended = tokio::time::timeout(WAIT, self.child.wait()).await;
            assert!(ended.unwrap().unwrap().success(), "{}", self.log());
            return;
        }
        eventually("its end", WAIT, || async {
            (!signal("-0", pid)).then_some(())
        })
        .await;
    }

    pub(crate) async fn stop(mut self) {
        let last = *self.pids.last().unwrap();
        assert!(signal("-TERM", last));
        self.gone(last).await;
        assert!(!self.log().contains("panicked"), "{}", self.log());
        self.pids.clear();
    }
}

/// One request on a connection; its answer, and whether the connection goes on.
async fn ask(stream: &mut TcpStream, method: &str) -> (String, bool) {
    let head =
        format!("{method} /api/products HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut part = [0; 4_096];
    while !seen.ends_with(" said") {
        let n = stream.read(&mut part).await.unwrap();
        assert!(n > 0, "ended after {seen:?}");
        seen.push_str(std::str::from_utf8(&part[..n]).unwrap());
    }
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    let goes_on = !seen.to_ascii_lowercase().contains("connection: close");
    (seen, goes_on)
}

/// Asks on connections that it keeps as long as it may, or on new ones each time. How often.
async fn insist(at: SocketAddr, keeps: bool, method: &'static str, stop: Arc<AtomicBool>) -> u32 {
    let mut count = 0;
    while !stop.load(SeqCst) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        loop {
            let (_, goes_on) = ask(&mut stream, method).await;
            count += 1;
            if !goes_on || !keeps || stop.load(SeqCst) {
                break;
            }
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_over_several_upgrades() {
    let legacy = Upstream::always(200, "legacy said").await;
    let service = Upstream::always(200, "service said").await;
    let mut shop = Shop::new([&legacy, &service], &[]).await;
    shop.extracted().await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = [
        (true, "GET"),
        (true, "GET"),
        (true, "POST"),
        (false, "GET"),
        (false, "POST"),
    ];
    let clients =
        load.map(|(keeps, method)| tokio::spawn(insist(shop.at, keeps, method, stop.clone())));
    for round in 0..3 {
        let before = *shop.pids.last().unwrap();
        shop.upgrade().await;
        shop.gone(before).await;
        let seen = service.seen().len();
        eventually("the next one answers", WAIT, || async {
            (service.seen().len() > seen + 50).then_some(())
        })
        .await;
        let journal = shop.done(&["journal", "list", "-o", "json"]).await;
        assert_eq!(
            journal.matches("\"upgraded\"").count(),
            round + 1,
            "{journal}"
        );
    }
    // By a signal, too.
    let before = *shop.pids.last().unwrap();
    assert!(signal("-USR2", before));
    shop.gone(before).await;
    let after = eventually("the next one", WAIT, || async {
        let log = shop.log();
        let taken = log
            .lines()
            .rev()
            .find(|line| line.contains("has taken over"))?;
        let pid = taken.split("pid=").nth(1)?.split_whitespace().next()?;
        let pid: u32 = pid.parse().ok()?;
        (!shop.pids.contains(&pid)).then_some(pid)
    })
    .await;
    shop.pids.push(after);
    eventually("its admin API", WAIT, || async {
        (shop.run(&["status"]).await.code == 0).then_some(())
    })
    .await;
    stop.store(true, SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 10);
    }
    // What was in force is in force, and can be changed.
    shop.done(&["journal", "verify"]).await;
    let url = format!("http://{}/api/products", shop.at);
    assert_eq!(client::get(&url).await.text(), "service said");
    shop.done(&["route", "rollback", "catalog"]).await;
    assert_eq!(client::get(&url).await.text(), "legacy said");
    shop.stop().await;
}

/// An upstream that answers when it is let.
async fn slow(may: &Arc<Semaphore>) -> Upstream {
    let may = may.clone();
    Upstream::start(move |_| {
        let may = may.clone();
        async move {
            may.acquire().await.unwrap().forget();
            http::Response::new(bytes::Bytes::from("service said"))
        }
    })
    .await
}

async fn moves_nothing_forward(shop: &Shop) {
    let flip = [
        "route",
        "flip",
        "catalog",
        "extracted",
        "--force",
        "--reason",
        "x",
    ];
    for forward in [
        &flip[..],
        &["build", "switch", "catalog", "green"],
        &["reload"],
        &["upgrade"],
    ] {
        let ended = shop.run(forward).await;
        assert_eq!(
            ended.code, 5,
            "{forward:?} {} {}",
            ended.stdout, ended.stderr
        );
        assert!(
            ended.stderr.contains("end of the process before"),
            "{}",
            ended.stderr
        );
    }
    let drain = shop.run(&["build", "drain", "catalog", "green"]).await;
    assert_eq!(
        drain.code, 5,
        "what is under way there is not known: {}",
        drain.stderr
    );
}

#[tokio::test]
async fn until_the_process_before_has_ended_only_traffic_is_taken_back() {
    let may = Arc::new(Semaphore::new(0));
    let legacy = Upstream::always(200, "legacy said").await;
    let service = slow(&may).await;
    let mut shop = Shop::new([&legacy, &service], &[]).await;
    shop.extracted().await;
    // One that waits for its answer, and one at rest.
    let at = shop.at;
    let mut idle = TcpStream::connect(at).await.unwrap();
    may.add_permits(1);
    assert!(ask(&mut idle, "GET").await.1);
    let asking = tokio::spawn(async move {
        let mut stream = TcpStream::connect(at).await.unwrap();
        ask(&mut stream, "GET").await
    });
    eventually("it is asked", WAIT, || async {
        (service.seen().len() == 2).then_some(())
    })
    .await;
    let before = shop.pids[0];
    shop.upgrade().await;
    moves_nothing_forward(&shop).await;
    // In force in both.
    shop.done(&["route", "rollback", "catalog"]).await;
    let mut new = TcpStream::connect(at).await.unwrap();
    assert!(ask(&mut new, "GET").await.0.contains("legacy said"));
    eventually("the word has come", WAIT, || async {
        shop.log().contains("traffic taken back").then_some(())
    })
    .await;
    let (answer, goes_on) = ask(&mut idle, "GET").await;
    assert!(answer.contains("legacy said"), "{answer}");
    assert!(!goes_on, "it ends behind its answer");
    may.add_permits(1);
    let (answer, _) = asking.await.unwrap();
    assert!(answer.contains("service said"), "{answer}");
    shop.gone(before).await;
    eventually("it knows", WAIT, || async {
        let switch = shop.run(&["build", "switch", "catalog", "green"]).await;
        (switch.code == 0).then_some(())
    })
    .await;
    shop.stop().await;
}

#[tokio::test]
async fn what_cannot_take_over_changes_nothing() {
    let legacy = Upstream::always(200, "legacy said").await;
    let service = Upstream::always(200, "service said").await;
    let shop = Shop::new([&legacy, &service], &[]).await;
    shop.extracted().await;
    let (sides, addresses) = ([&legacy, &service], (shop.at, shop.control));
    let check = async |said: &str| {
        let ended = shop.run(&["upgrade"]).await;
        assert_eq!(ended.code, 1, "{} {}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
        let url = format!("http://{}/api/products", shop.at);
        assert_eq!(client::get(&url).await.text(), "service said");
        shop.done(&["route", "freeze", "catalog", "--reason", "x"])
            .await;
        shop.done(&["route", "unfreeze", "catalog"]).await;
    };
    write(shop.dir.path(), addresses, sides, "[proxi]\n");
    check("proxi").await;
    write(
        shop.dir.path(),
        addresses,
        sides,
        "store = \"sqlite:other.db\"\n",
    );
    check("cannot change while").await;
    std::fs::write(
        shop.dir.path().join("outgrow.toml"),
        format!(
            "[proxy]\nlisten = [\"{}\"]\n[legacy]\nurls = [\"http://{}\"]\n[control]\nlisten = \"{}\"\n",
            shop.at,
            legacy.addr(),
            shop.control
        ),
    )
    .unwrap();
    check("slice `catalog` is not in the config any more").await;
    write(shop.dir.path(), addresses, sides, "");
    // Another binary at the same place.
    let binary = shop.dir.path().join("outgrow");
    for (script, said) in [
        ("#!/bin/sh\nexit 3\n", "exit status: 3"),
        ("no binary at all", "cannot be started"),
    ] {
        std::fs::remove_file(&binary).unwrap();
        std::fs::write(&binary, script).unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&binary, all).unwrap();
        check(said).await;
    }
    shop.stop().await;
}

#[tokio::test]
async fn a_service_manager_is_told_whom_to_look_after() {
    let legacy = Upstream::always(200, "legacy said").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(WAIT)).unwrap();
    let manager = Arc::new(manager);
    let hear = async || {
        let manager = manager.clone();
        let heard = tokio::task::spawn_blocking(move || {
            let mut word = [0; 100];
            let n = manager.recv(&mut word).unwrap();
            String::from_utf8_lossy(&word[..n]).into_owned()
        });
        heard.await.unwrap()
    };
    let mut shop = Shop::new([&legacy, &legacy], &[("NOTIFY_SOCKET", &path)]).await;
    assert_eq!(hear().await, "READY=1");
    shop.upgrade().await;
    assert_eq!(hear().await, format!("MAINPID={}", shop.pids[1]));
    let before = shop.pids[0];
    shop.gone(before).await;
    shop.stop().await;
    assert_eq!(hear().await, "STOPPING=1");
}

#[tokio::test]
async fn a_process_that_nobody_hands_over_to_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://127.0.0.1:9\"]\n";
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
    let mut start = command(dir.path(), &["serve", "--take-over"]);
    let output = start.stdin(std::process::Stdio::null()).output();
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error:"), "{said}");
}
