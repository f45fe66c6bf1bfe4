//! Upstreams that a file, Consul or Eureka names, and that come and go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use outgrow_proxy::{
    Address, Balance, Consul, Eureka, FileList, Secret, Settings, Source, UpstreamTls,
};
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::{Upstream, eventually};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::encrypted::over_tls;
use crate::harness::{Front, WAIT, named, plain, start, text};

const TENTH: Duration = Duration::from_millis(100);

pub(crate) fn by(any: &Upstream, source: Source) -> Settings {
    let mut settings = plain(any);
    settings.legacy.upstreams = vec![source];
    settings.legacy.rules.balance = Balance::RoundRobin;
    settings
}

pub(crate) fn told(front: &Front) -> Value {
    front.handle.describe()["services"][0]["discovery"][0].clone()
}

/// Waits until requests are answered by these; none fails meanwhile.
pub(crate) async fn answered_by(front: &Front, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
    eventually("these answer", WAIT, || async {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let answer = front.get("/", &[]).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            seen.insert(answer.text());
        }
        (seen == wanted).then_some(())
    })
    .await;
}

pub(crate) async fn troubled(front: &Front, part: &str) {
    eventually(part, WAIT, || async {
        assert_eq!(front.get("/", &[]).await.status, 200);
        let trouble = told(front)["trouble"].as_str()?.to_owned();
        trouble.contains(part).then_some(())
    })
    .await;
}

pub(crate) fn at(upstream: &Upstream) -> Address {
    upstream.addr().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.json");
    let (a, b) = (named("a").await, named("b").await);
    let write = |all: &[&Upstream]| {
        let all: Vec<String> = all.iter().map(|u| u.addr().to_string()).collect();
        std::fs::write(&path, json!(all).to_string()).unwrap();
    };
    write(&[&a]);
    let list = FileList {
        path: path.clone(),
        every: TENTH,
    };
    let front = start(by(&a, Source::File(list)));
    answered_by(&front, &["a"]).await;
    write(&[&a, &b]);
    answered_by(&front, &["a", "b"]).await;
    std::fs::write(&path, "[\"127.0.0.1\"").unwrap();
    troubled(&front, "EOF").await;
    std::fs::write(&path, "[]").unwrap();
    troubled(&front, "nobody").await;
    std::fs::remove_file(&path).unwrap();
    troubled(&front, "cannot be read").await;
    answered_by(&front, &["a", "b"]).await;
    write(&[&b]);
    answered_by(&front, &["b"]).await;
    assert_eq!(told(&front)["trouble"], Value::Null);
    assert_eq!(told(&front)["upstreams"], 1);
    front.stop().await;
}

/// A Consul agent, as far as its health endpoint goes: it keeps an answer back until the index
/// that it was asked from is over.
struct Agent {
    server: Upstream,
    state: Arc<watch::Sender<(u64, Vec<Address>)>>,
}

pub(crate) fn query(request: &Request<Bytes>, key: &str) -> Option<String> {
    let query = request.uri().query()?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(name, _)| *name == key)
        .map(|(_, v)| v.to_owned())
}

fn entry(address: &Address) -> Value {
    let (host, port) = address.as_str().rsplit_once(':').unwrap();
    let port: u16 = port.parse().unwrap();
    // Half of them say no address of their own, as services on their node's do.
    let own = if port.is_multiple_of(2) { host } else { "" };
    json!({
        "Node": { "ID": "1", "Node": "n1", "Address": host, "Datacenter": "dc1" },
        "Service": {
            "ID": format!("catalog-{port}"),
            "Service": "catalog",
            "Tags": ["v2"],
            "Address": own,
            "Port": port,
            "Weights": { "Passing": 1, "Warning": 1 },
        },
        "Checks": [{ "CheckID": "serfHealth", "Status": "passing" }],
    })
}

impl Agent {
    async fn start() -> Self {
        let state = Arc::new(watch::channel((1, Vec::new())).0);
        let answering = state.clone();
        let server = Upstream::start(move |request| {
            let mut state = answering.subscribe();
            async move {
                let token = request.headers().get("x-consul-token");
                if token.is_none_or(|token| token != "a token of some length") {
                    let mut answer = text("Permission denied");
                    *answer.status_mut() = StatusCode::FORBIDDEN;
                    return answer;
                }
                if let Some(index) = query(&request, "index") {
                    let index: u64 = index.parse().unwrap();
                    // It answers at once where its own index is another one's.
                    let _ = state
                        .wait_for(|(now, _)| *now > index || *now < index / 2)
                        .await;
                }
                let (index, all) = state.borrow().clone();
                let all: Vec<Value> = all.iter().map(entry).collect();
                let mut answer = text(json!(all).to_string());
                let fields = answer.headers_mut();
                fields.insert("x-consul-index", index.into());
                answer
            }
        })
        .await;
        Self { server, state }
    }

    fn set(&self, index: u64, all: &[&Upstream]) {
        let all = all.iter().map(|upstream| at(upstream)).collect();
        self.state.send_replace((index, all));
    }

    fn source(&self) -> Source {
        Source::Consul(Consul {
            agent: at(&self.server),
            tls: None,
            service: "catalog".to_owned(),
            tag: Some("v2".to_owned()),
            datacenter: None,
            token: Some(Secret::new("a token of some length")),
            wait: Duration::from_secs(30),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_consul_come_and_go() {
    let agent = Agent::start().await;
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    agent.set(10, &[&a]);
    let front = start(by(&a, agent.source()));
    answered_by(&front, &["a"]).await;
    agent.set(11, &[&a, &b, &c]);
    answered_by(&front, &["a", "b", "c"]).await;
    agent.set(12, &[&c]);
    answered_by(&front, &["c"]).await;
    // Nobody passes: a fault of the checks, or of all instances; who was named last is asked.
    agent.set(13, &[]);
    troubled(&front, "nobody").await;
    // Its history begins anew, as after a restore.
    agent.set(2, &[&a]);
    answered_by(&front, &["a"]).await;
    let seen = agent.server.seen();
    assert_eq!(
        seen[0].target,
        "/v1/health/service/catalog?passing=true&tag=v2"
    );
    let waited = seen.iter().filter(|seen| seen.target.contains("&wait=30s"));
    assert!(waited.count() >= 4, "{seen:?}");
    assert!(seen.len() < 60, "it is not asked for ever: {}", seen.len());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_agent_is_told() {
    let agent = Agent::start().await;
    let a = named("a").await;
    let Source::Consul(mut consul) = agent.source() else {
        unreachable!("an agent is one of Consul's");
    };
    consul.token = None;
    let mut settings = by(&a, Source::Consul(consul));
    settings.legacy.upstreams.push(at(&a).into());
    let front = start(settings);
    troubled(&front, "403").await;
    troubled(&front, "Permission denied").await;
    front.stop().await;
}

/// What a Eureka server says of its one application; `None`: there is no such.
type Registered = Arc<Mutex<Option<Value>>>;

fn instance(upstream: &Upstream, status: &str) -> Value {
    let port = upstream.addr().port();
    json!({
        "instanceId": format!("n1:catalog:{port}"),
        "hostName": "n1",
        "app": "CATALOG",
        "ipAddr": "127.0.0.1",
        "status": status,
        "overriddenStatus": "UNKNOWN",
        "port": { "$": port, "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" },
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 },
        "vipAddress": "catalog",
        "isCoordinatingDiscoveryServer": "false",
        "actionType": "ADDED",
    })
}

async fn registry(registered: &Registered) -> Upstream {
    let registered = registered.clone();
    Upstream::start(move |request| {
        let known = registered.lock().unwrap().clone();
        async move {
            let asked = request.uri().path() == "/eureka/apps/CATALOG"
                && request.headers()["accept"] == "application/json";
            match known.filter(|_| asked) {
                Some(instance) => {
                    let app = json!({ "name": "CATALOG", "instance": instance });
                    text(json!({ "application": app }).to_string())
                }
                None => {
                    let mut answer = Response::new(Bytes::new());
                    *answer.status_mut() = StatusCode::NOT_FOUND;
                    answer
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_eureka_come_and_go_with_their_ports() {
    let registered = Registered::default();
    let set = |instances: Value| *registered.lock().unwrap() = Some(instances);
    let (dead, server) = (named("x").await, registry(&registered).await);
    let (a, b) = (named("a").await, named("b").await);
    set(json!([instance(&a, "UP"), instance(&b, "STARTING")]));
    let servers = [&dead, &server].map(|of| (at(of), "/eureka".to_owned()));
    let source = Source::Eureka(Eureka {
        servers: servers.to_vec(),
        tls: None,
        app: "CATALOG".to_owned(),
        every: TENTH,
    });
    drop(dead);
    let front = start(by(&a, source));
    answered_by(&front, &["a"]).await;
    set(json!([instance(&a, "UP"), instance(&b, "UP")]));
    answered_by(&front, &["a", "b"]).await;
    set(instance(&b, "UP"));
    answered_by(&front, &["b"]).await;
    *registered.lock().unwrap() = None;
    troubled(&front, "no such app").await;
    answered_by(&front, &["b"]).await;
    drop(server);
    troubled(&front, "no connection").await;
    front.stop().await;
}

/// A registry is asked over TLS where its URL says so: with an authority of its own, and with no other.
#[tokio::test(flavor = "multi_thread")]
async fn registries_are_asked_over_tls() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let signed = ours.server(&["127.0.0.1"]);
    let a = named("a").await;
    let (agent, registered) = (Agent::start().await, Registered::default());
    agent.set(10, &[&a]);
    *registered.lock().unwrap() = Some(instance(&a, "UP"));
    let eureka = registry(&registered).await;
    // Something with a certificate in front of each.
    let doors = [&agent.server, &eureka].map(|server| start(over_tls(server, &[&signed])));
    let sources = |ca: Option<std::path::PathBuf>| {
        let tls = Some(UpstreamTls {
            ca,
            ..UpstreamTls::default()
        });
        let Source::Consul(mut consul) = agent.source() else {
            unreachable!("an agent is one of Consul's");
        };
        (consul.agent, consul.tls) = (doors[0].at.into(), tls.clone());
        let eureka = Eureka {
            servers: vec![(doors[1].at.into(), "/eureka".to_owned())],
            tls,
            app: "CATALOG".to_owned(),
            every: TENTH,
        };
        [Source::Consul(consul), Source::Eureka(eureka)]
    };
    for source in sources(Some(ours.file())) {
        let front = start(by(&a, source));
        answered_by(&front, &["a"]).await;
        assert_eq!(told(&front)["trouble"], Value::Null);
        front.stop().await;
    }
    let before = (agent.server.seen().len(), eureka.seen().len());
    for ca in [Some(others.file()), None] {
        for source in sources(ca) {
            let mut settings = by(&a, source);
            settings.legacy.upstreams.push(at(&a).into());
            let front = start(settings);
            troubled(&front, "certificate").await;
            front.stop().await;
        }
    }
    let after = (agent.server.seen().len(), eureka.seen().len());
    assert_eq!(
        before, after,
        "nothing is said to who shows no good certificate"
    );
    for door in doors {
        door.stop().await;
    }
}

/// Looked at as `outgrow check` does.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_can_be_asked_once() {
    let agent = Agent::start().await;
    let a = named("a").await;
    let dns = outgrow_proxy::DnsSettings::default();
    agent.set(10, &[&a]);
    let plain = outgrow_proxy::Transport::default();
    let found = outgrow_proxy::look_up(&agent.source(), &dns, &plain).await;
    assert_eq!(found, Ok(vec![at(&a)]));
    let missing = Source::File(FileList {
        path: Path::new("/nowhere/shop.json").to_owned(),
        every: TENTH,
    });
    let why = outgrow_proxy::look_up(&missing, &dns, &plain)
        .await
        .unwrap_err();
    assert!(why.contains("cannot be read"), "{why}");
}
