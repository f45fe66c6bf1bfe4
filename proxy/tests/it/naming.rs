//! Upstreams behind names: all addresses of a name, services of a name, and names that change.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outgrow_proxy::{Balance, Family, Health, Settings};
use outgrow_testkit::{DnsServer, Relay, Trouble, Upstream, eventually};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::balancing::{gated, told};
use crate::harness::{Front, WAIT, named, plain, start};

/// A pass-through to this source, by a name server.
pub(crate) fn by(dns: &DnsServer, any: &Upstream, source: &str) -> Settings {
    let mut settings = plain(any);
    settings.legacy.upstreams = vec![source.parse().unwrap()];
    settings.legacy.rules.balance = Balance::RoundRobin;
    settings.dns.servers = vec![dns.address()];
    settings.dns.ttl_min = Duration::from_millis(50);
    settings.dns.timeout = Duration::from_millis(200);
    settings
}

/// The upstream at another address, on the same port as this one.
async fn beside(one: &Upstream, address: [u8; 4], other: &Upstream) -> Relay {
    let at = SocketAddr::from((address, one.addr().port()));
    Relay::at(at, other.addr()).await
}

pub(crate) fn service(front: &Front) -> Value {
    front.handle.describe()["services"][0].clone()
}

pub(crate) fn upstreams(front: &Front) -> BTreeSet<String> {
    let service = service(front);
    let all = service["upstreams"].as_array().unwrap().iter();
    all.map(|upstream| upstream["to"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until these are the upstreams; meanwhile requests go well.
pub(crate) async fn become_these(front: &Front, wanted: &[String]) {
    let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
    eventually("the upstreams change", WAIT, || async {
        let answer = front.get("/", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        (upstreams(front) == wanted).then_some(())
    })
    .await;
}

pub(crate) async fn two(front: &Front) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let answer = front.get("/", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        seen.insert(answer.text());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_of_a_name_are_used_and_followed() {
    let dns = DnsServer::start().await;
    let (a, b) = (named("a").await, named("b").await);
    let _b = beside(&a, [127, 0, 0, 2], &b).await;
    let port = a.addr().port();
    let at = |host: &str| format!("{host}:{port}");
    dns.host("shop.test", 0, &["127.0.0.1", "127.0.0.2"]);
    let mut settings = by(&dns, &a, &at("shop.test"));
    settings.legacy.rules.health = Some(Health {
        every: Duration::from_millis(100),
        ..Health::at("/healthz")
    });
    let front = start(settings);
    become_these(&front, &[at("127.0.0.1"), at("127.0.0.2")]).await;
    assert_eq!(two(&front).await.len(), 2);
    let of_b = || {
        let service = service(&front);
        let all = service["upstreams"].as_array().unwrap().iter();
        let b = all.clone().find(|u| u["to"] == at("127.0.0.2")).unwrap();
        b["requests"].as_u64().unwrap()
    };
    let before = of_b();
    assert!(before > 0);
    dns.host("shop.test", 0, &["127.0.0.2"]);
    become_these(&front, &[at("127.0.0.2")]).await;
    assert!(of_b() > before, "who stays keeps what is known of it");
    assert_eq!(two(&front).await, BTreeSet::from(["b".to_owned()]));
    dns.host("shop.test", 0, &["127.0.0.2", "127.0.0.1"]);
    become_these(&front, &[at("127.0.0.1"), at("127.0.0.2")]).await;
    let check = eventually("who joins is checked", WAIT, || async {
        let seen = b.seen().into_iter();
        seen.rev().find(|seen| seen.target == "/healthz")
    })
    .await;
    assert_eq!(check.header("host"), Some(at("shop.test").as_str()));
    front.stop().await;
}

/// Each family's upstreams, by the names that a name server has for both.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_both_families_are_used_as_the_config_says() {
    let dns = DnsServer::start().await;
    let (four, six) = (named("4").await, named("6").await);
    let port = four.addr().port();
    let at = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let _six = Relay::at(at, six.addr()).await;
    dns.host("both.test", 60, &["127.0.0.1", "::1"]);
    dns.host("six.test", 60, &["::1"]);
    for (family, name, wanted) in [
        (Family::Auto, "both.test", &["4"][..]),
        (Family::Auto, "six.test", &["6"]),
        (Family::Both, "both.test", &["4", "6"]),
        (Family::Ipv4, "both.test", &["4"]),
        (Family::Ipv6, "both.test", &["6"]),
    ] {
        let mut settings = by(&dns, &four, &format!("{name}:{port}"));
        settings.dns.family = family;
        let front = start(settings);
        let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(two(&front).await, wanted, "{family:?} {name}");
        if wanted.contains("6") {
            assert!(upstreams(&front).contains(&format!("[::1]:{port}")));
        }
        front.stop().await;
    }
}

/// What goes wrong with a name server.
type Flap = fn(&DnsServer);

#[tokio::test(flavor = "multi_thread")]
async fn what_dns_said_last_holds_while_it_flaps() {
    let dns = DnsServer::start().await;
    let a = named("a").await;
    let at = |host: &str| format!("{host}:{}", a.addr().port());
    dns.host("shop.test", 0, &["127.0.0.1"]);
    let front = start(by(&dns, &a, &at("shop.test")));
    become_these(&front, &[at("127.0.0.1")]).await;
    let troubled = |is: bool| {
        let front = &front;
        move || async move {
            assert_eq!(front.get("/", &[]).await.text(), "a");
            (service(front)["discovery"][0]["trouble"].is_string() == is).then_some(())
        }
    };
    let flaps: [(&str, Flap); 8] = [
        ("it fails", |dns| dns.goes(Trouble::Fails)),
        ("it says nothing", |dns| dns.goes(Trouble::Silent)),
        ("it says no", |dns| dns.goes(Trouble::Refuses)),
        ("it says nonsense", |dns| dns.goes(Trouble::Garbage)),
        ("it answers somebody else", |dns| dns.goes(Trouble::Another)),
        ("it cannot say all", |dns| dns.goes(Trouble::Cut)),
        ("there is no such name", |dns| dns.forget("shop.test")),
        ("the name has no address", |dns| {
            dns.host("shop.test", 0, &[])
        }),
    ];
    for (what, flap) in flaps {
        flap(&dns);
        eventually(what, WAIT, troubled(true)).await;
        assert_eq!(upstreams(&front), BTreeSet::from([at("127.0.0.1")]));
        dns.goes(None);
        dns.host("shop.test", 0, &["127.0.0.1"]);
        eventually("it answers again", WAIT, troubled(false)).await;
    }
    front.stop().await;
}

/// The name stands for itself until its addresses are known: nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_dead_from_the_start_keeps_nobody_from_localhost() {
    let dns = DnsServer::start().await;
    dns.goes(Trouble::Silent);
    let a = named("a").await;
    let front = start(by(&dns, &a, &format!("localhost:{}", a.addr().port())));
    assert_eq!(front.get("/", &[]).await.text(), "a");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_a_name_come_and_go_with_their_ports() {
    let dns = DnsServer::start().await;
    let (a, b) = (named("a").await, named("b").await);
    let service = |priority, of: &Upstream| (priority, of.addr().port(), "here.test");
    dns.host("here.test", 0, &["127.0.0.1"]);
    let name = "_http._tcp.shop.test";
    dns.services(name, 0, &[service(1, &a), service(2, &b)]);
    let front = start(by(&dns, &a, &format!("srv:{name}")));
    // The first request waits until somebody is known; the second best is not asked.
    assert_eq!(two(&front).await, BTreeSet::from(["a".to_owned()]));
    dns.services(name, 0, &[service(1, &a), service(1, &b)]);
    become_these(&front, &[a.addr().to_string(), b.addr().to_string()]).await;
    assert_eq!(two(&front).await.len(), 2);
    dns.services(name, 0, &[service(5, &b)]);
    become_these(&front, &[b.addr().to_string()]).await;
    assert_eq!(two(&front).await, BTreeSet::from(["b".to_owned()]));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_known_is_told_with_its_reason() {
    let dns = DnsServer::start().await;
    let a = named("a").await;
    let mut settings = by(&dns, &a, "srv:_http._tcp.shop.test");
    settings.limits.connect_timeout = Duration::from_millis(300);
    let front = start(settings);
    let answer = front.get("/", &[]).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-outgrow-error"), Some("no-upstream"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let text = answer.text();
    assert!(text.contains("srv:_http._tcp.shop.test"), "{text}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_to_one_that_leaves_ends_there() {
    let dns = DnsServer::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let (slow, b) = (gated("slow", &gate).await, named("b").await);
    let _b = beside(&slow, [127, 0, 0, 2], &b).await;
    let at = |host: &str| format!("{host}:{}", slow.addr().port());
    dns.host("shop.test", 0, &["127.0.0.1"]);
    let front = Arc::new(start(by(&dns, &slow, &at("shop.test"))));
    eventually("its address is known", WAIT, || async {
        (upstreams(&front) == BTreeSet::from([at("127.0.0.1")])).then_some(())
    })
    .await;
    let waiting = tokio::spawn({
        let front = front.clone();
        async move { front.get("/", &[]).await.text() }
    });
    eventually("it is under way", WAIT, || async {
        (told(&front, 0, "in_flight") == 1).then_some(())
    })
    .await;
    dns.host("shop.test", 0, &["127.0.0.2"]);
    eventually("the upstream changes", WAIT, || async {
        (upstreams(&front) == BTreeSet::from([at("127.0.0.2")])).then_some(())
    })
    .await;
    assert_eq!(two(&front).await, BTreeSet::from(["b".to_owned()]));
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), "slow");
    Arc::into_inner(front).unwrap().stop().await;
}

/// A record that lives long is not asked for again before its time.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_live_is_heeded() {
    let dns = DnsServer::start().await;
    let a = named("a").await;
    let port = a.addr().port();
    dns.host("long.test", 3_600, &["127.0.0.1"]);
    dns.host("short.test", 0, &["127.0.0.1"]);
    let mut settings = by(&dns, &a, &format!("long.test:{port}"));
    settings
        .legacy
        .upstreams
        .push(format!("short.test:{port}").parse().unwrap());
    let front = start(settings);
    eventually("the short one was asked for often", WAIT, || async {
        (dns.asked("short.test") >= 8).then_some(())
    })
    .await;
    assert_eq!(dns.asked("long.test"), 1);
    front.stop().await;
}

/// Nor is one kept for longer than the config says.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_asked_for_after_the_longest_time_that_the_config_has() {
    let dns = DnsServer::start().await;
    let a = named("a").await;
    let port = a.addr().port();
    dns.host("long.test", 3_600, &["127.0.0.2"]);
    let mut settings = by(&dns, &a, &format!("long.test:{port}"));
    settings.dns.ttl_max = Duration::from_millis(100);
    let front = start(settings);
    eventually("it is known", WAIT, || async {
        (upstreams(&front).len() == 1).then_some(())
    })
    .await;
    dns.host("long.test", 3_600, &["127.0.0.1"]);
    let wanted = BTreeSet::from([format!("127.0.0.1:{port}")]);
    eventually("it has changed", WAIT, || async {
        (upstreams(&front) == wanted).then_some(())
    })
    .await;
    assert_eq!(front.get("/", &[]).await.text(), "a");
    front.stop().await;
}
