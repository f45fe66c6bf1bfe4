//! dnsmasq as the name server: what it is told by its files, a signal and its end.

use std::net::SocketAddr;
use std::path::Path;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{DnsServer, Process, Relay, eventually};
use tempfile::TempDir;

use crate::harness::{Front, WAIT, named, start};
use crate::naming::{become_these, by, service, two};

fn dnsmasq(dir: &TempDir, at: SocketAddr, services: &[String]) -> Process {
    // Debian has it where only root looks.
    let there = Path::new("/usr/sbin/dnsmasq");
    let binary = if there.exists() {
        there
    } else {
        Path::new("dnsmasq")
    };
    let hosts = dir.path().join("hosts");
    let mut words: Vec<String> = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--log-facility=-",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--no-resolv",
        "--no-hosts",
        "--local=/test/",
    ]
    .map(ToOwned::to_owned)
    .into();
    words.push(format!("--port={}", at.port()));
    words.push(format!("--addn-hosts={}", hosts.display()));
    // It gives its rights away, and reads the file again afterwards.
    words.extend(["--user=root".to_owned(), "--group=root".to_owned()]);
    words.extend(services.iter().map(|one| format!("--srv-host={one}")));
    Process::spawn(binary, &words, &dir.path().join("dnsmasq.log"))
}

fn write(dir: &TempDir, lines: &[(&str, &str)]) {
    let lines = lines.iter().map(|(ip, name)| format!("{ip} {name}\n"));
    std::fs::write(dir.path().join("hosts"), lines.collect::<String>()).unwrap();
}

async fn again(server: &Process) {
    let id = server.id().unwrap().to_string();
    let told = tokio::process::Command::new("kill")
        .args(["-HUP", &id])
        .status();
    assert!(told.await.unwrap().success());
}

async fn is_troubled(front: &Front, is: bool) {
    eventually("the source is as it should be", WAIT, || async {
        assert_eq!(front.get("/", &[]).await.status, 200);
        let trouble = &service(front)["discovery"][0]["trouble"];
        (trouble.is_string() == is).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dnsmasq, which scripts/test installs"]
async fn names_of_dnsmasq_are_followed() {
    let (a, b) = (named("a").await, named("b").await);
    let (port, other) = (a.addr().port(), free_address().port());
    let place = |host: u8, port| SocketAddr::from(([127, 0, 0, host], port));
    let _b = Relay::at(place(2, port), b.addr()).await;
    let _c = Relay::at(place(3, other), b.addr()).await;
    let dir = TempDir::new().unwrap();
    let at = free_address();
    let services = [
        format!("_http._tcp.shop.test,shop.test,{port},10,1"),
        format!("_http._tcp.shop.test,far.test,{other},20,1"),
    ];
    write(
        &dir,
        &[("127.0.0.1", "shop.test"), ("127.0.0.3", "far.test")],
    );
    let mut server = dnsmasq(&dir, at, &services);
    let unused = DnsServer::start().await;
    let fronts = [
        format!("shop.test:{port}"),
        "srv:_http._tcp.shop.test".to_owned(),
    ]
    .map(|source| {
        let mut settings = by(&unused, &a, &source);
        settings.dns.servers = vec![at];
        start(settings)
    });
    let (first, second) = (place(1, port).to_string(), place(2, port).to_string());
    for front in &fronts {
        become_these(front, std::slice::from_ref(&first)).await;
    }
    write(
        &dir,
        &[("127.0.0.1", "shop.test"), ("127.0.0.2", "shop.test")],
    );
    again(&server).await;
    for front in &fronts {
        become_these(front, &[first.clone(), second.clone()]).await;
        assert_eq!(two(front).await.len(), 2);
    }
    write(&dir, &[("127.0.0.2", "shop.test")]);
    again(&server).await;
    for front in &fronts {
        become_these(front, std::slice::from_ref(&second)).await;
    }
    // An editor's bad moment, and an end: who was named last holds.
    write(&dir, &[]);
    again(&server).await;
    for front in &fronts {
        is_troubled(front, true).await;
    }
    write(&dir, &[("127.0.0.2", "shop.test")]);
    again(&server).await;
    for front in &fronts {
        is_troubled(front, false).await;
    }
    server.kill().await;
    for front in &fronts {
        is_troubled(front, true).await;
    }
    write(&dir, &[("127.0.0.1", "shop.test")]);
    let mut server = dnsmasq(&dir, at, &services);
    for front in fronts {
        become_these(&front, std::slice::from_ref(&first)).await;
        front.stop().await;
    }
    server.kill().await;
}
