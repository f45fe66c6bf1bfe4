//! Upstreams that Kubernetes names: a scripted API server that lists and is watched.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::stream::{StreamExt as _, unfold};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use outgrow_proxy::{EndpointPort, Kubernetes, Source};
use outgrow_testkit::upstream::{Body, whole};
use outgrow_testkit::{Upstream, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::discovering::{answered_by, at, by, query, told, troubled};
use crate::harness::{Front, WAIT, named, start};

type Part = Result<Bytes, std::io::Error>;

#[derive(Default)]
struct State {
    version: u64,
    slices: BTreeMap<String, Value>,
    /// What has happened, by version.
    log: Vec<(u64, Value)>,
    /// It knows nothing of before.
    oldest: u64,
    watchers: Vec<mpsc::UnboundedSender<Part>>,
    token: String,
    /// Says 410 before a watch begins, not in it.
    early: bool,
}

/// An API server, as far as EndpointSlices of one namespace go.
struct Api {
    server: Upstream,
    state: Arc<Mutex<State>>,
    folder: TempDir,
}

fn endpoint(upstream: &Upstream, ready: bool) -> Value {
    json!({
        "addresses": [upstream.addr().ip().to_string()],
        "conditions": { "ready": ready, "serving": ready, "terminating": !ready },
        "targetRef": { "kind": "Pod", "name": "catalog-7d" },
    })
}

/// One slice has one port; of several, each upstream here has its own slice.
fn slice(name: &str, upstream: &Upstream, ready: bool) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop" },
        "addressType": "IPv4",
        "endpoints": [endpoint(upstream, ready)],
        "ports": [{ "name": "http", "port": upstream.addr().port(), "protocol": "TCP" }],
    })
}

fn refusal(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "status": "Failure", "message": message, "code": code })
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({ "type": kind, "object": object })))
}

impl State {
    fn answer(&mut self, request: &Request<Bytes>) -> Response<Body> {
        let full = |status: u16, body: &Value| {
            let mut answer = Response::new(whole(Bytes::from(body.to_string())));
            *answer.status_mut() = status.try_into().unwrap();
            answer
        };
        let token = request.headers().get("authorization");
        if token.is_none_or(|token| token != format!("Bearer {}", self.token).as_str()) {
            return full(401, &refusal(401, "Unauthorized"));
        }
        let asked = request.uri().path()
            == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
            && query(request, "labelSelector").as_deref()
                == Some("kubernetes.io%2Fservice-name%3Dcatalog");
        if !asked {
            return full(403, &refusal(403, "endpointslices is forbidden"));
        }
        if query(request, "watch").is_none() {
            let version = self.version.to_string();
            let items: Vec<&Value> = self.slices.values().collect();
            let list = json!({
                "kind": "EndpointSliceList", "metadata": { "resourceVersion": version }, "items": items,
            });
            return full(200, &list);
        }
        let from: u64 = query(request, "resourceVersion").unwrap().parse().unwrap();
        let gone = refusal(410, "too old resource version");
        if from < self.oldest && self.early {
            return full(410, &gone);
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        if from < self.oldest {
            sender.send(Ok(line("ERROR", &gone))).unwrap();
        } else {
            for (_, event) in self.log.iter().filter(|(version, _)| *version > from) {
                sender.send(Ok(Bytes::from(format!("{event}\n")))).unwrap();
            }
            self.watchers.push(sender);
        }
        let parts = unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let body = StreamBody::new(parts.map(|part: Part| part.map(Frame::data)));
        Response::new(http_body_util::BodyExt::boxed(body))
    }

    fn tell(&mut self, bytes: &Bytes) {
        self.watchers
            .retain(|watcher| watcher.send(Ok(bytes.clone())).is_ok());
    }

    fn happens(&mut self, kind: &str, name: &str, slice: Option<Value>) {
        self.version += 1;
        let mut object = slice.unwrap_or_else(|| self.slices.remove(name).unwrap());
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if kind != "DELETED" {
            self.slices.insert(name.to_owned(), object.clone());
        }
        let event = json!({ "type": kind, "object": object });
        self.log.push((self.version, event));
        self.tell(&line(kind, &object));
    }
}

impl Api {
    async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = state.clone();
        let server = Upstream::streaming(move |request| {
            let answer = answering.lock().unwrap().answer(&request);
            async move { answer }
        })
        .await;
        let api = Self {
            server,
            state,
            folder: tempfile::tempdir().unwrap(),
        };
        api.rotate("first");
        api
    }

    fn see(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    fn rotate(&self, token: &str) {
        std::fs::write(self.token_file(), format!("{token}\n")).unwrap();
        self.see().token = token.to_owned();
    }

    fn set(&self, kind: &str, name: &str, upstream: &Upstream, ready: bool) {
        let slice = slice(name, upstream, ready);
        self.see().happens(kind, name, Some(slice));
    }

    fn delete(&self, name: &str) {
        self.see().happens("DELETED", name, None);
    }

    /// Every watch breaks off.
    fn cut(&self) {
        for watcher in self.see().watchers.drain(..) {
            let _ = watcher.send(Err(std::io::Error::other("cut")));
        }
    }

    async fn watched(&self) {
        eventually("a watch", WAIT, || async {
            (!self.see().watchers.is_empty()).then_some(())
        })
        .await;
    }

    fn source(&self) -> Kubernetes {
        Kubernetes {
            server: at(&self.server),
            tls: None,
            namespace: "shop".to_owned(),
            service: "catalog".to_owned(),
            port: EndpointPort::Name("http".to_owned()),
            token_file: Some(self.token_file()),
        }
    }

    async fn front(&self, any: &Upstream) -> Front {
        let front = start(by(any, Source::Kubernetes(self.source())));
        self.watched().await;
        front
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_come_and_go_as_they_are_ready() {
    let api = Api::start().await;
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    api.set("ADDED", "one", &a, true);
    api.set("ADDED", "two", &b, false);
    let front = api.front(&a).await;
    answered_by(&front, &["a"]).await;
    api.set("MODIFIED", "two", &b, true);
    answered_by(&front, &["a", "b"]).await;
    api.set("ADDED", "three", &c, true);
    answered_by(&front, &["a", "b", "c"]).await;
    api.delete("one");
    api.set("MODIFIED", "two", &b, false);
    answered_by(&front, &["c"]).await;
    // A line may come in pieces.
    let event = line("MODIFIED", &slice("two", &b, true));
    let (begin, end) = event.split_at(event.len() / 2);
    api.see().tell(&Bytes::copy_from_slice(begin));
    api.see().tell(&Bytes::copy_from_slice(end));
    answered_by(&front, &["b", "c"]).await;
    // Nobody is ready: a fault of the probes, or of all; who was named last is asked.
    api.set("MODIFIED", "two", &b, false);
    api.set("MODIFIED", "three", &c, false);
    troubled(&front, "nobody").await;
    api.set("MODIFIED", "three", &c, true);
    answered_by(&front, &["c"]).await;
    assert_eq!(told(&front)["trouble"], Value::Null);
    let lists = api.server.seen();
    let lists = lists.iter().filter(|seen| !seen.target.contains("watch"));
    assert_eq!(lists.count(), 1, "the rest was told");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_ends_goes_on_and_one_that_is_too_old_begins_anew() {
    let api = Api::start().await;
    let (a, b) = (named("a").await, named("b").await);
    api.set("ADDED", "one", &a, true);
    let front = api.front(&a).await;
    answered_by(&front, &["a"]).await;
    // A bookmark is where the next watch begins, and a token is read anew for it.
    api.see().version = 40;
    let bookmark = json!({ "metadata": { "resourceVersion": "40", "name": "" } });
    api.see().tell(&line("BOOKMARK", &bookmark));
    api.rotate("second");
    // An end in order: all of it has come.
    api.see().watchers.clear();
    api.watched().await;
    let last = api.server.seen().last().unwrap().target.clone();
    assert!(last.ends_with("resourceVersion=40"), "{last}");
    // What happened while nobody watched.
    for early in [false, true] {
        let (name, upstream, gone) = match early {
            false => ("two", &b, "one"),
            true => ("one", &a, "two"),
        };
        {
            let mut state = api.see();
            let watchers = std::mem::take(&mut state.watchers);
            state.happens("ADDED", name, Some(slice(name, upstream, true)));
            state.happens("DELETED", gone, None);
            (state.oldest, state.early) = (state.version, early);
            drop(watchers);
        }
        answered_by(&front, &[if early { "a" } else { "b" }]).await;
        api.watched().await;
    }
    assert_eq!(told(&front)["trouble"], Value::Null);
    let lists = api.server.seen();
    let lists = lists.iter().filter(|seen| !seen.target.contains("watch"));
    assert_eq!(lists.count(), 3);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_or_is_away_takes_nobody_away() {
    let api = Api::start().await;
    let a = named("a").await;
    api.set("ADDED", "one", &a, true);
    let front = api.front(&a).await;
    answered_by(&front, &["a"]).await;
    api.see().token = "another".to_owned();
    api.cut();
    troubled(&front, "401").await;
    api.rotate("third");
    eventually("it is well again", WAIT, || async {
        told(&front)["trouble"].is_null().then_some(())
    })
    .await;
    std::fs::remove_file(api.token_file()).unwrap();
    api.cut();
    troubled(&front, "no token").await;
    api.rotate("fourth");
    api.watched().await;
    api.see().tell(&Bytes::from_static(b"no JSON\n"));
    troubled(&front, "not understood").await;
    api.watched().await;
    let Api { server, state, .. } = api;
    drop(server);
    for watcher in state.lock().unwrap().watchers.drain(..) {
        drop(watcher);
    }
    troubled(&front, "no connection").await;
    answered_by(&front, &["a"]).await;
    front.stop().await;
}

/// Looked at as `outgrow check` does.
#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_asked_once_and_says_what_it_lacks() {
    let api = Api::start().await;
    let a = named("a").await;
    api.set("ADDED", "one", &a, true);
    let look_up = async |of: Kubernetes| {
        let dns = outgrow_proxy::DnsSettings::default();
        let plain = outgrow_proxy::Transport::default();
        outgrow_proxy::look_up(&Source::Kubernetes(of), &dns, &plain).await
    };
    assert_eq!(look_up(api.source()).await, Ok(vec![at(&a)]));
    let other = Kubernetes {
        namespace: "other".to_owned(),
        ..api.source()
    };
    let why = look_up(other).await.unwrap_err();
    assert!(
        why.contains("endpointslices is forbidden; the account needs `list`"),
        "{why}"
    );
    let port = EndpointPort::Name("grpc".to_owned());
    let why = look_up(Kubernetes {
        port,
        ..api.source()
    })
    .await;
    assert_eq!(why.unwrap_err(), "its endpoints have no port grpc");
}
