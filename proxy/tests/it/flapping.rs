//! Names that flap beside ejection and breaker: nothing fails while somebody who is well is known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_proxy::{BreakerRule, Ejection, Family, Health, Settings};
use outgrow_testkit::{DnsServer, Relay, Trouble, Upstream, client, eventually};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

use crate::breaking::scripted;
use crate::harness::{Front, WAIT, named, start};
use crate::naming::{become_these, by, service, two, upstreams};

const MINUTE: Duration = Duration::from_secs(60);

/// Asks without a pause, reads and writes, and ends at the first failure.
struct Load {
    ends: Arc<AtomicBool>,
    /// Of each task, how much it has asked.
    tasks: Vec<(Arc<AtomicUsize>, tokio::task::JoinHandle<()>)>,
}

impl Load {
    fn on(front: &Arc<Front>) -> Self {
        let ends = Arc::<AtomicBool>::default();
        let task = |method: Method| {
            let done = Arc::<AtomicUsize>::default();
            let (front, ends, count) = (front.clone(), ends.clone(), done.clone());
            let task = tokio::spawn(async move {
                while !ends.load(SeqCst) {
                    let body = Bytes::from_static(b"some");
                    let asked = client::request(method.clone(), &front.url("/"), &[], body);
                    let answer = client::send(asked).await;
                    let told = (answer.status.as_u16(), answer.text());
                    assert_eq!(told.0, 200, "{method}: {} {}", told.1, service(&front));
                    count.fetch_add(1, SeqCst);
                }
            });
            (done, task)
        };
        let tasks = [Method::GET, Method::POST, Method::GET].map(task);
        Self {
            tasks: tasks.into(),
            ends,
        }
    }

    /// Until what is under way has ended, and something more.
    async fn goes_on(&self) {
        for (done, task) in &self.tasks {
            let before = done.load(SeqCst);
            eventually("the load goes on", WAIT, || async {
                assert!(!task.is_finished());
                (done.load(SeqCst) >= before + 5).then_some(())
            })
            .await;
        }
    }

    async fn end(self) {
        self.ends.store(true, SeqCst);
        for (_, task) in self.tasks {
            task.await.unwrap();
        }
    }
}

fn troubled(front: &Front) -> bool {
    service(front)["discovery"][0]["trouble"].is_string()
}

fn state(front: &Front, to: &str) -> Value {
    let service = service(front);
    let mut all = service["upstreams"].as_array().unwrap().iter();
    all.find(|upstream| upstream["to"] == to).unwrap()["state"].clone()
}

/// What a name server says in turn: who of four, of whom the last is never there.
const TURNS: [&[usize]; 14] = [
    &[1, 2],
    &[0, 3],
    &[2, 3],
    &[2],
    &[0, 1, 2, 3],
    &[1, 3],
    &[0],
    &[3, 2, 1],
    &[0, 1],
    &[2, 3],
    &[1],
    &[1, 0],
    &[3, 0],
    &[0, 1, 2],
];

const TROUBLES: [Trouble; 7] = [
    Trouble::Fails,
    Trouble::FailsFour,
    Trouble::Refuses,
    Trouble::Silent,
    Trouble::Garbage,
    Trouble::Another,
    Trouble::Cut,
];

/// Who is not named is not there, either; one that is named is dead.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_while_a_name_flaps_and_one_of_it_is_dead() {
    let dns = DnsServer::start().await;
    let all = [named("a").await, named("b").await, named("c").await];
    let port = outgrow_testkit::process::free_address().port();
    let host = |nth: usize| format!("127.0.0.{}", nth + 2);
    let at = |nth: usize| format!("{}:{port}", host(nth));
    let mut here: BTreeMap<usize, Relay> = BTreeMap::new();
    here.insert(0, Relay::at(at(0).parse().unwrap(), all[0].addr()).await);
    dns.host("shop.test", 0, &[&host(0)]);
    let mut settings = by(&dns, &all[0], &format!("shop.test:{port}"));
    settings.legacy.rules.breaker = Some(BreakerRule::default());
    settings.legacy.rules.ejection = Some(Ejection {
        failures: 3,
        time: Duration::from_millis(200),
        ..Ejection::default()
    });
    settings.legacy.rules.health = Some(Health {
        every: Duration::from_millis(100),
        ..Health::at("/healthz")
    });
    let front = Arc::new(start(settings));
    become_these(&front, &[at(0)]).await;
    let load = Load::on(&front);
    for (turn, wanted) in TURNS.into_iter().enumerate() {
        for nth in wanted.iter().filter(|nth| **nth < all.len()) {
            if !here.contains_key(nth) {
                let to = Relay::at(at(*nth).parse().unwrap(), all[*nth].addr()).await;
                here.insert(*nth, to);
            }
        }
        let hosts: Vec<String> = wanted.iter().map(|nth| host(*nth)).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        dns.host("shop.test", 0, &hosts);
        let wanted_now: Vec<String> = wanted.iter().map(|nth| at(*nth)).collect();
        become_these(&front, &wanted_now).await;
        load.goes_on().await;
        here.retain(|nth, _| wanted.contains(nth));
        load.goes_on().await;
        if turn % 2 == 0 {
            dns.goes(TROUBLES[turn / 2]);
            dns.host("shop.test", 0, &["127.0.0.99", "::1"]);
            eventually("it is seen", WAIT, || async {
                troubled(&front).then_some(())
            })
            .await;
            load.goes_on().await;
            let mut known: Vec<String> = upstreams(&front).into_iter().collect();
            let mut wanted = wanted_now;
            known.sort();
            wanted.sort();
            assert_eq!(known, wanted, "{:?}", TROUBLES[turn / 2]);
            dns.host("shop.test", 0, &hosts);
            dns.goes(None);
        }
    }
    load.end().await;
    assert_eq!(service(&front)["circuit"]["state"], "closed");
    Arc::into_inner(front).unwrap().stop().await;
}

async fn sick_and_well(
    change: impl FnOnce(&mut Settings),
) -> (DnsServer, Arc<AtomicU16>, [Upstream; 2], Relay, Front) {
    let dns = DnsServer::start().await;
    let status = Arc::new(AtomicU16::new(500));
    let (sick, well) = (scripted("sick", &status).await, named("well").await);
    let port = sick.addr().port();
    let beside = SocketAddr::from(([127, 0, 0, 2], port));
    let relay = Relay::at(beside, well.addr()).await;
    let mut settings = by(&dns, &sick, &format!("shop.test:{port}"));
    change(&mut settings);
    dns.host("shop.test", 0, &["127.0.0.1", "127.0.0.2"]);
    (dns, status, [sick, well], relay, start(settings))
}

/// A name server that leaves an upstream out of an answer makes it no better.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_still_left_alone() {
    let (dns, status, [sick, _well], _relay, front) = sick_and_well(|settings| {
        settings.legacy.rules.ejection = Some(Ejection {
            failures: 3,
            time: MINUTE,
            ..Ejection::default()
        });
    })
    .await;
    let port = sick.addr().port();
    let at = |host: &str| format!("{host}:{port}");
    eventually("it is left alone", WAIT, || async {
        front.get("/", &[]).await;
        (state(&front, &at("127.0.0.1")) == "ejected").then_some(())
    })
    .await;
    let before = sick.seen().len();
    for _ in 0..2 {
        dns.host("shop.test", 0, &["127.0.0.2"]);
        become_these(&front, &[at("127.0.0.2")]).await;
        dns.host("shop.test", 0, &["127.0.0.1", "127.0.0.2"]);
        become_these(&front, &[at("127.0.0.1"), at("127.0.0.2")]).await;
        assert_eq!(state(&front, &at("127.0.0.1")), "ejected");
        two(&front).await;
    }
    assert_eq!(sick.seen().len(), before);
    // Where nobody else is known it is asked all the same.
    status.store(200, SeqCst);
    dns.host("shop.test", 0, &["127.0.0.1"]);
    become_these(&front, &[at("127.0.0.1")]).await;
    assert_eq!(front.get("/", &[]).await.text(), "sick");
    dns.host("shop.test", 0, &["127.0.0.2"]);
    become_these(&front, &[at("127.0.0.2")]).await;
    dns.host("shop.test", 0, &["127.0.0.1"]);
    become_these(&front, &[at("127.0.0.1")]).await;
    assert_eq!(state(&front, &at("127.0.0.1")), "well", "the last one");
    front.stop().await;
}

/// What spared the service were others.
#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_service_that_is_spared_is_asked_at_once() {
    let (dns, _status, [sick, _well], _relay, front) = sick_and_well(|settings| {
        settings.legacy.rules.ejection = None;
        settings.legacy.rules.breaker = Some(BreakerRule {
            failures: 3,
            open: MINUTE,
            ..BreakerRule::default()
        });
    })
    .await;
    let at = |host: &str| format!("{host}:{}", sick.addr().port());
    let circuit = || service(&front)["circuit"]["state"].clone();
    dns.host("shop.test", 0, &["127.0.0.1"]);
    eventually("it is spared", WAIT, || async {
        front.get("/", &[]).await;
        let alone = upstreams(&front).len() == 1;
        (alone && circuit() == "open").then_some(())
    })
    .await;
    // Who leaves changes nothing of it, nor who is named again and again.
    let before = sick.seen().len();
    let asked = dns.asked("shop.test");
    eventually("it is named again", WAIT, || async {
        (dns.asked("shop.test") > asked + 3).then_some(())
    })
    .await;
    assert_eq!(front.get("/", &[]).await.status, 503);
    assert_eq!(sick.seen().len(), before);
    dns.host("shop.test", 0, &["127.0.0.2"]);
    eventually("the other one is known", WAIT, || async {
        upstreams(&front).contains(&at("127.0.0.2")).then_some(())
    })
    .await;
    assert_eq!(front.get("/", &[]).await.text(), "well");
    assert_eq!(circuit(), "closed");
    front.stop().await;
}

/// Takes connections of the system's own making alone: whoever connects waits.
async fn hole() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let at = listener.local_addr().unwrap();
    let mut full = Vec::new();
    let short = Duration::from_millis(300);
    while let Ok(made) = tokio::time::timeout(short, TcpStream::connect(at)).await {
        full.push(made.unwrap());
    }
    (listener, full)
}

/// It is at the place of the one that was tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_who_came_in_place_of_the_one_that_it_tried() {
    let dns = DnsServer::start().await;
    let (b, (hole, _full)) = (named("b").await, hole().await);
    let at = hole.local_addr().unwrap();
    let _b = Relay::at(SocketAddr::from(([127, 0, 0, 2], at.port())), b.addr()).await;
    dns.host("shop.test", 0, &["127.0.0.1"]);
    let mut settings = by(&dns, &b, &format!("shop.test:{}", at.port()));
    settings.limits.connect_timeout = Duration::from_secs(1);
    let front = Arc::new(start(settings));
    eventually("it is known", WAIT, || async {
        upstreams(&front).contains(&at.to_string()).then_some(())
    })
    .await;
    let asked = tokio::spawn({
        let front = front.clone();
        async move { front.get("/", &[]).await }
    });
    eventually("it is asked", WAIT, || async {
        (service(&front)["upstreams"][0]["in_flight"] == 1).then_some(())
    })
    .await;
    dns.host("shop.test", 0, &["127.0.0.2"]);
    let answer = asked.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (200, "b".to_owned())
    );
    Arc::into_inner(front).unwrap().stop().await;
}

/// RFC 2782: the next ones stand in.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_best_services_have_no_address_the_next_ones_are_asked() {
    let dns = DnsServer::start().await;
    let (a, b) = (named("a").await, named("b").await);
    let srv = "_http._tcp.shop.test";
    dns.host("b.test", 0, &["127.0.0.1"]);
    let services = [
        (1, a.addr().port(), "a.test"),
        (1, a.addr().port(), "."),
        (2, b.addr().port(), "b.test"),
        (3, 9, "b.test"),
    ];
    dns.services(srv, 0, &services);
    let front = start(by(&dns, &a, &format!("srv:{srv}")));
    assert_eq!(front.get("/", &[]).await.text(), "b");
    assert!(!troubled(&front), "it is not there");
    dns.host("a.test", 0, &["127.0.0.1"]);
    become_these(&front, &[a.addr().to_string()]).await;
    assert_eq!(front.get("/", &[]).await.text(), "a");
    // Nothing is known of it for a moment.
    dns.goes_for("a.test", Trouble::Fails);
    eventually("it is seen", WAIT, || async {
        troubled(&front).then_some(())
    })
    .await;
    assert_eq!(front.get("/", &[]).await.text(), "a");
    dns.goes_for("a.test", None);
    dns.forget("a.test");
    become_these(&front, &[b.addr().to_string()]).await;
    front.stop().await;
}

/// Of the hosts of services, and of the families of a host, each keeps what was said of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_for_a_moment_stays() {
    let dns = DnsServer::start().await;
    let (a, b) = (named("a").await, named("b").await);
    let srv = "_http._tcp.shop.test";
    dns.host("a.test", 0, &["127.0.0.1"]);
    dns.host("b.test", 0, &["127.0.0.1"]);
    let services = [(&a, "a.test"), (&b, "b.test")].map(|(of, host)| (1, of.addr().port(), host));
    dns.services(srv, 0, &services);
    let front = start(by(&dns, &a, &format!("srv:{srv}")));
    let both = [a.addr().to_string(), b.addr().to_string()];
    become_these(&front, &both).await;
    dns.goes_for("b.test", Trouble::Fails);
    eventually("it is seen", WAIT, || async {
        troubled(&front).then_some(())
    })
    .await;
    drop(a);
    two(&front).await;
    assert_eq!(upstreams(&front).len(), 2);
    // It is gone, says the one who knows.
    dns.goes_for("b.test", None);
    dns.forget("a.test");
    become_these(&front, &both[1..]).await;
    assert!(!troubled(&front));
    front.stop().await;

    let port = b.addr().port();
    let at = |host: &str| format!("{host}:{port}");
    dns.host("both.test", 0, &["127.0.0.1", "::1"]);
    for (family, all) in [
        (Family::Auto, vec![at("127.0.0.1")]),
        (Family::Both, vec![at("127.0.0.1"), at("[::1]")]),
    ] {
        dns.goes(None);
        let mut settings = by(&dns, &b, &format!("both.test:{port}"));
        settings.dns.family = family;
        let front = start(settings);
        become_these(&front, &all).await;
        // Nobody is there by version 6.
        dns.goes(Trouble::FailsFour);
        eventually("it is seen", WAIT, || async {
            troubled(&front).then_some(())
        })
        .await;
        two(&front).await;
        assert_eq!(upstreams(&front).len(), all.len(), "{family:?}");
        front.stop().await;
    }
}
