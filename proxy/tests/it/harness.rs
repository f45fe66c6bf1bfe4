//! A proxy in this process, on a free port, that ends with the test.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use outgrow_proxy::{
    AuthSettings, DnsSettings, Handle, IdentitySettings, Limits, Proxy, RouteSettings, Running,
    Secret, ServiceSettings, Settings, SliceSettings, TraceSettings, Trust,
};
use outgrow_rollout::{GuardLimits, Live, Revision, SliceId, Weight};
use outgrow_shadow::Tap;
use outgrow_testkit::{Answer, Upstream, client};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A wait that ends as soon as it can.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

pub(crate) struct Front {
    pub(crate) at: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) running: Running,
}

/// A pass-through.
pub(crate) fn plain(legacy: &Upstream) -> Settings {
    Settings {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        tls: None,
        workers: NonZeroUsize::MIN,
        legacy: ServiceSettings::new("legacy", vec![authority(legacy)]),
        services: Vec::new(),
        slices: Vec::new(),
        dns: DnsSettings::default(),
        limits: Limits {
            request_timeout: Duration::from_secs(5),
            connect_retry: Duration::from_millis(200),
            ..Limits::default()
        },
        trust: Trust::default(),
        limit: None,
        cache: None,
        filters: None,
        auth: AuthSettings::default(),
        error_pages: Vec::new(),
        identity: None,
        cookie_keys: vec![Secret::new("a key of the tests, long enough")],
        overrides: outgrow_proxy::Overrides::Check,
        override_secret: None,
        access_log: None,
        trace: TraceSettings::default(),
        legacy_clients: outgrow_proxy::LegacyClients::default(),
        spans: None,
        state_file: None,
    }
}

pub(crate) fn authority(upstream: &Upstream) -> http::uri::Authority {
    upstream.addr().to_string().parse().unwrap()
}

pub(crate) fn slice_id() -> SliceId {
    SliceId::new("shop").unwrap()
}

/// One slice: reads and writes of `/api/items`, recognised by `x-visitor`.
pub(crate) fn sliced(legacy: &Upstream, extracted: &Upstream) -> Settings {
    let route = |method: Method, template: &str| RouteSettings {
        method,
        host: None,
        template: template.to_owned(),
        filters: None,
    };
    Settings {
        services: vec![ServiceSettings::new("shop", vec![authority(extracted)])],
        slices: vec![SliceSettings {
            id: slice_id(),
            service: "shop".to_owned(),
            routes: vec![
                route(Method::GET, "/api/items"),
                route(Method::GET, "/api/items/{id}"),
                route(Method::POST, "/api/items"),
            ],
            cohort: vec![outgrow_proxy::CohortKey::Header(
                http::HeaderName::from_static("x-visitor"),
            )],
            salt: "salt".to_owned(),
            guard: GuardLimits::default(),
            fallback: false,
        }],
        ..plain(legacy)
    }
}

/// The monolith says at this path whose session a cookie `sid` is.
pub(crate) fn sessions(whoami: &str) -> IdentitySettings {
    IdentitySettings {
        cookie: "sid".to_owned(),
        whoami: whoami.to_owned(),
        secret: Secret::new("0123456789abcdef"),
        ttl: WAIT,
    }
}

pub(crate) fn start(settings: Settings) -> Front {
    start_with(settings, None)
}

pub(crate) fn start_with(settings: Settings, tap: Option<Arc<dyn Tap>>) -> Front {
    let proxy = Proxy::bind(settings, tap).unwrap();
    Front {
        at: proxy.addresses()[0],
        handle: proxy.handle(),
        running: proxy.start(),
    }
}

pub(crate) fn live(revision: u64, weight: Weight) -> Live {
    Live {
        revision: Revision(revision),
        weight,
        ..Live::legacy()
    }
}

impl Front {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub(crate) fn weigh(&self, revision: u64, weight: Weight) {
        self.handle.apply(&slice_id(), live(revision, weight));
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        client::send(client::request(
            Method::GET,
            &self.url(path),
            headers,
            Bytes::new(),
        ))
        .await
    }

    pub(crate) async fn post(&self, path: &str, body: &'static str) -> Answer {
        client::send(client::request(
            Method::POST,
            &self.url(path),
            &[("x-visitor", "writer")],
            Bytes::from_static(body.as_bytes()),
        ))
        .await
    }

    /// Sends these bytes on a connection of their own, and reads to its end.
    pub(crate) async fn raw(&self, text: &str) -> String {
        let bytes = client::raw(self.at, text.as_bytes()).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) async fn stop(self) {
        self.running.shutdown(Duration::ZERO).await;
    }
}

/// An upstream that says who it is.
pub(crate) async fn named(name: &'static str) -> Upstream {
    Upstream::always(200, name).await
}

pub(crate) fn text(body: impl Into<Bytes>) -> Response<Bytes> {
    Response::new(body.into())
}

/// Reads until `end` has come.
pub(crate) async fn read_until<S: AsyncRead + Unpin>(stream: &mut S, end: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        let mut part = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(end) {
            let n = stream.read(&mut part).await.unwrap();
            assert!(
                n > 0,
                "ended before {end:?}: {:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.extend_from_slice(&part[..n]);
        }
    };
    tokio::time::timeout(WAIT, reading).await.unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

/// For raw upstreams: takes one request head, and what came with it.
pub(crate) async fn take_head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(n) if n > 0 => seen.extend_from_slice(&part[..n]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

pub(crate) async fn say(stream: &mut TcpStream, text: &str) {
    // A peer that has gone is part of many a test.
    let _ = stream.write_all(text.as_bytes()).await;
}
