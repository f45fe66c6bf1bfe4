//! HAProxy in front: it passes connections on, or requests, and says by the PROXY protocol whose they are.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use outgrow_proxy::{Settings, Trust};
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Process, Upstream, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::encrypted::over_tls;
use crate::harness::{WAIT, named, plain, start};
use crate::logging::{lines, log, logged};

/// From where it asks, and whom alone the proxy believes.
const BALANCER: &str = "127.0.0.9";

/// How each of them passes on.
const WAYS: [(&str, &str); 5] = [
    ("tcp", "send-proxy"),
    ("tcp", "send-proxy-v2"),
    (
        "http",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 100ms check-send-proxy",
    ),
    ("http", "send-proxy"),
    ("http", "send-proxy-v2 proto h2"),
];

/// A section of its config, in which clients of `at` go to `to`.
fn section(text: &mut String, at: &[SocketAddr], to: SocketAddr, (mode, how): (&str, &str)) {
    writeln!(text, "listen at-{}\n mode {mode}", at[0].port()).unwrap();
    for at in at {
        writeln!(text, " bind {at}").unwrap();
    }
    if mode == "http" {
        text.push_str(" http-reuse always\n option httpchk GET /health\n unique-id-format %rt\n");
    }
    writeln!(text, " server one {to} {how}").unwrap();
}

fn haproxy(dir: &TempDir, sections: &str) -> Process {
    let config = dir.path().join("haproxy.cfg");
    let defaults = "defaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n";
    let text = format!("{defaults} source {BALANCER}\n{sections}");
    std::fs::write(&config, text).unwrap();
    // Debian has it where only root looks.
    let there = Path::new("/usr/sbin/haproxy");
    let binary = if there.exists() {
        there
    } else {
        Path::new("haproxy")
    };
    let words = ["-db", "-f", config.to_str().unwrap()];
    Process::spawn(binary, &words, &dir.path().join("haproxy.log"))
}

/// What curl gets from there, asking from this address.
async fn curl(from: IpAddr, url: &str, more: &[&str]) -> String {
    let out = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "20", "--interface", &from.to_string()])
        .args(more)
        .arg(url)
        .output()
        .await
        .expect("curl can be run");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{url}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    said
}

fn trusting(settings: Settings) -> Settings {
    let preface = vec![BALANCER.parse().unwrap()];
    Settings {
        trust: Trust {
            preface,
            forwarded: None,
        },
        ..settings
    }
}

/// Of each request its target and whose it is, as the upstream was told.
fn told(upstream: &Upstream) -> Vec<(String, String)> {
    let seen = upstream.seen();
    let of = seen.iter().map(|one| {
        let client = one.header("x-forwarded-for").unwrap_or_default();
        (one.target.clone(), client.to_owned())
    });
    of.collect()
}

/// Both loopbacks, where there are two, with one port.
fn addresses() -> Vec<SocketAddr> {
    let four = free_address();
    let six = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), four.port());
    let has_six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let all = [Some(four), has_six.then_some(six)];
    all.into_iter().flatten().collect()
}

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy, which scripts/test installs"]
async fn whoever_passes_haproxy_is_known_by_its_own_address() {
    let upstream = named("upstream").await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let front = start(logged(trusting(plain(&upstream)), log(&file)));
    let clients = [
        FIRST,
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let mut sections = String::new();
    let ways = WAYS.map(|way| {
        let at = addresses();
        section(&mut sections, &at, front.at, way);
        at
    });
    let mut balancer = haproxy(&dir, &sections);
    balancer
        .healthy(&format!("http://{}/ready", ways[4][0]))
        .await;
    let mut due = Vec::new();
    for (nth, at) in ways.iter().enumerate() {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            // In turn, so that a connection that is kept for one would be used for another.
            for from in clients.iter().chain(&clients) {
                let Some(at) = at.iter().find(|at| at.is_ipv4() == from.is_ipv4()) else {
                    continue;
                };
                let target = format!("/{nth}{version}/{}", due.len());
                let said = curl(*from, &format!("http://{at}{target}"), &[version]).await;
                assert_eq!(said, "upstream", "{target}");
                due.push((target, from.to_string()));
            }
        }
    }
    balancer.kill().await;
    front.stop().await;
    let others = |(target, _): &(String, String)| !["/ready", "/health"].contains(&target.as_str());
    let asked: Vec<_> = told(&upstream).into_iter().filter(others).collect();
    assert_eq!(asked, due);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = lines(&file);
    let lines = lines
        .iter()
        .map(|line| (text(&line["target"]), text(&line["client"])));
    assert_eq!(lines.filter(others).collect::<Vec<_>>(), due);
}

/// The head comes before the handshake.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy, which scripts/test installs"]
async fn what_haproxy_passes_on_unread_is_known_as_well() {
    let upstream = named("upstream").await;
    let (dir, ca) = (TempDir::new().unwrap(), Authority::new("ca"));
    let signed = ca.server(&["127.0.0.1"]);
    let front = start(trusting(over_tls(&upstream, &[&signed])));
    let mut sections = String::new();
    let ways = [WAYS[0], WAYS[1]].map(|way| {
        let at = free_address();
        section(&mut sections, &[at], front.at, way);
        at
    });
    let ready = free_address();
    writeln!(
        sections,
        "listen ready\n mode http\n bind {ready}\n monitor-uri /ready"
    )
    .unwrap();
    let mut balancer = haproxy(&dir, &sections);
    balancer.healthy(&format!("http://{ready}/ready")).await;
    let ca = ca.file();
    let mut due = Vec::new();
    for at in ways {
        for version in ["--http1.1", "--http2"] {
            let target = format!("/{}{version}", due.len());
            let more = ["--cacert", ca.to_str().unwrap(), version];
            let said = curl(FIRST, &format!("https://{at}{target}"), &more).await;
            assert_eq!(said, "upstream", "{target}");
            due.push((target, FIRST.to_string()));
        }
    }
    assert_eq!(told(&upstream), due);
    balancer.kill().await;
    front.stop().await;
}

/// Its own checks are its own; and where it was told to say nothing it is not let in.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy, which scripts/test installs"]
async fn haproxy_itself_is_nobody_else() {
    let upstream = named("upstream").await;
    let dir = TempDir::new().unwrap();
    let front = start(trusting(plain(&upstream)));
    let (mut sections, checks, mute) = (String::new(), free_address(), free_address());
    section(&mut sections, &[checks], front.at, WAYS[2]);
    section(&mut sections, &[mute], front.at, ("http", ""));
    let mut balancer = haproxy(&dir, &sections);
    balancer.healthy(&format!("http://{checks}/ready")).await;
    let said = curl(FIRST, &format!("http://{mute}/mute"), &[]).await;
    assert!(said.contains("502 Bad Gateway"), "{said}");
    let health = ("/health".to_owned(), BALANCER.to_owned());
    eventually("a check", WAIT, || async {
        told(&upstream).contains(&health).then_some(())
    })
    .await;
    balancer.kill().await;
    front.stop().await;
    let ready = ("/ready".to_owned(), "127.0.0.1".to_owned());
    let told = told(&upstream);
    assert!(
        told.iter().all(|one| *one == health || *one == ready),
        "{told:?}"
    );
}
