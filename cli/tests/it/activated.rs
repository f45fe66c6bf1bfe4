//! Sockets that a service manager has opened: clients wait at them while the process is not there.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::run_in;

const WAIT: Duration = Duration::from_secs(20);

/// As systemd does it: sockets from number 3 on, and their count and names said to this process id.
const MANAGER: &str = "exec 3<&0 4<&1 </dev/null >/dev/null; \
    export LISTEN_PID=$$ LISTEN_FDS=$1 LISTEN_FDNAMES=web:admin; \
    exec \"$0\" serve -c outgrow.toml";

/// A process with two sockets, of which so many are said.
fn start(dir: &Path, sockets: [&TcpListener; 2], said: u8) -> Child {
    let [web, admin] = sockets.map(|socket| OwnedFd::from(socket.try_clone().unwrap()));
    let log = std::fs::File::create(dir.join("outgrow.log")).unwrap();
    Command::new("/bin/sh")
        .args([
            "-c",
            MANAGER,
            env!("CARGO_BIN_EXE_outgrow"),
            &said.to_string(),
        ])
        .current_dir(dir)
        .stdin(Stdio::from(web))
        .stdout(Stdio::from(admin))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn stop(mut process: Child) {
    let id = process.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(told.unwrap().success());
    assert!(process.wait().await.unwrap().success());
}

fn write(
    dir: &Path,
    listen: &[SocketAddr],
    control: SocketAddr,
    (legacy, workers): (&Upstream, u8),
) {
    let listen: Vec<String> = listen.iter().map(|at| format!("\"{at}\"")).collect();
    let text = format!(
        "[proxy]\nlisten = [{}]\nworkers = {workers}\n[legacy]\nurls = [\"http://{}\"]\n[control]\n\
         listen = \"{control}\"\n",
        listen.join(", "),
        legacy.addr()
    );
    std::fs::write(dir.join("outgrow.toml"), text).unwrap();
}

fn bound() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

/// A client that has come, and asked, while nobody was there.
async fn early(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_before_the_process_is_answered_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let legacy = Upstream::always(200, "legacy").await;
    let ((web, at), (admin, control)) = (bound(), bound());
    let own = free_address();
    write(dir.path(), &[at, own], control, (&legacy, 2));
    for _ in 0..2 {
        let first = early(at).await;
        let process = start(dir.path(), [&web, &admin], 2);
        let told = answer(first).await;
        assert!(
            told.starts_with("HTTP/1.1 200") && told.ends_with("legacy"),
            "{told}"
        );
        eventually("the admin API", WAIT, || async {
            (run_in(dir.path(), &["status"]).await.code == 0).then_some(())
        })
        .await;
        // Another core has a share of what was given; an address beside it is the process's own.
        write(dir.path(), &[at, own], control, (&legacy, 3));
        let reload = run_in(dir.path(), &["reload"]).await;
        assert_eq!(reload.code, 0, "{}", reload.stderr);
        for _ in 0..30 {
            for at in [at, own] {
                assert_eq!(client::get(&format!("http://{at}/")).await.text(), "legacy");
            }
        }
        let log = std::fs::read_to_string(dir.path().join("outgrow.log")).unwrap();
        let said = "listens on a socket of the service manager";
        assert_eq!(log.matches(said).count(), 2, "{log}");
        stop(process).await;
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let legacy = Upstream::always(200, "legacy").await;
    let ((web, at), (admin, control), (_other, taken)) = (bound(), bound(), bound());
    write(dir.path(), &[taken], control, (&legacy, 2));
    for (said, wanted) in [
        (
            2,
            vec![
                format!("cannot listen on {taken}"),
                format!("{at} (web), {control} (admin)"),
            ],
        ),
        (
            1,
            vec![
                format!("cannot listen on {control}"),
                format!("sockets for {at} (web);"),
            ],
        ),
        (9, vec!["socket 5".to_owned()]),
    ] {
        let mut process = start(dir.path(), [&web, &admin], said);
        assert_eq!(process.wait().await.unwrap().code(), Some(1));
        let log = std::fs::read_to_string(dir.path().join("outgrow.log")).unwrap();
        for text in wanted {
            assert!(log.contains(&text), "no `{text}` in {log}");
        }
    }
}
