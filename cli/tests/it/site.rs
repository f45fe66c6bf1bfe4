//! A whole site for tests of who may ask: a monolith, a service with all reads of its slice, the real process in
//! front of both, and clients that ask while its config changes.

#![allow(clippy::unwrap_used, clippy::panic)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Answer, Seen, Upstream, client, eventually};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::harness::run_in;
use crate::safe;
use crate::starting::serve;

pub(crate) const WAIT: Duration = Duration::from_secs(20);
/// By which services are told who asks.
pub(crate) const IDENTITY: &str = "x-outgrow-identity";
pub(crate) const SECRET: &str = "0123456789abcdef";
/// What a reload is asked beside.
const AMID: usize = 20;

pub(crate) type Fields<'a> = &'a [(&'a str, &'a str)];

pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) at: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) legacy: Upstream,
    pub(crate) service: Upstream,
    process: Option<Process>,
}

impl Site {
    /// With these keys of `[proxy]`, and these sections; all reads of the slice are the service's.
    pub(crate) async fn open(proxy: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["identity.secret", "login.secret"] {
            std::fs::write(dir.path().join(name), SECRET).unwrap();
        }
        let mut site = Self {
            dir,
            at: free_address(),
            control: free_address(),
            legacy: Upstream::always(200, "legacy").await,
            service: Upstream::always(200, "catalog").await,
            process: None,
        };
        site.write(proxy, more);
        site.process = Some(serve(site.dir.path()).await);
        for to in ["shadow", "canary=100"] {
            let flip = [
                "route", "flip", "catalog", to, "--force", "--reason", "test",
            ];
            site.order(&flip).await;
        }
        site
    }

    pub(crate) fn write(&self, proxy: &str, more: &str) {
        let (at, control) = (self.at, self.control);
        let [legacy, service] = [&self.legacy, &self.service].map(Upstream::addr);
        let text = format!(
            "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\n{proxy}\n\
             [proxy.identity]\ncookie = \"monolith\"\nwhoami = \"/me\"\nsecret_file = \"identity.secret\"\n\
             [legacy]\nurls = [\"http://{legacy}\"]\ndatabase = \"sqlite:legacy.db\"\n\
             [control]\nlisten = \"{control}\"\n\
             [services.catalog]\nurls = [\"http://{service}\"]\n\
             [slices.catalog]\nservice = \"catalog\"\n\
             routes = [\"GET /api/products\", \"GET /api/products/{{id}}\", \"POST /api/products\"]\n\
             [slices.catalog.shadow]\nsample = 0.0\n{more}"
        );
        std::fs::write(self.dir.path().join("outgrow.toml"), text).unwrap();
    }

    async fn order(&self, args: &[&str]) {
        let ended = run_in(self.dir.path(), args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}{}", ended.stdout, ended.stderr);
    }

    /// Another config, which is in force at the end.
    pub(crate) async fn reload(&self, proxy: &str, more: &str) {
        self.write(proxy, more);
        self.order(&["reload"]).await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, fields: Fields<'_>) -> Answer {
        client::send(client::request(
            method,
            &self.url(path),
            fields,
            Bytes::new(),
        ))
        .await
    }

    pub(crate) async fn get(&self, fields: Fields<'_>) -> Answer {
        self.ask(Method::GET, "/api/products", fields).await
    }

    /// What has come to both sides.
    pub(crate) fn asked(&self) -> usize {
        self.legacy.seen().len() + self.service.seen().len()
    }

    /// The figure of a metric, to its end.
    pub(crate) async fn figure(&self, metric: &str) -> Option<f64> {
        let found = crate::tracing::scraped(self.dir.path(), self.control, metric).await?;
        found.parse().ok()
    }

    pub(crate) async fn close(mut self) {
        let mut process = self.process.take().unwrap();
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

/// Status and code of an answer of the proxy's own.
pub(crate) fn told(answer: &Answer) -> (u16, &str) {
    let code = answer.header("x-outgrow-error");
    (answer.status.as_u16(), code.unwrap_or_default())
}

/// Who the service was told that asks: by the only field that says it.
pub(crate) fn identity(seen: &Seen) -> Option<Value> {
    let all: Vec<_> = seen.headers.get_all(IDENTITY).iter().collect();
    let text = match all[..] {
        [] => return None,
        [only] => only.to_str().unwrap(),
        _ => panic!("{} fields", all.len()),
    };
    let payload = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap());
    Some(serde_json::from_slice(&payload.unwrap()).unwrap())
}

/// Somebody who asks without pause, over connections that are used again, and is always served.
pub(crate) struct Regular {
    asking: JoinHandle<()>,
    answered: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Regular {
    pub(crate) fn begin(url: &str, fields: Fields<'_>) -> Self {
        let mut request = Request::get(url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let pool = Client::builder(TokioExecutor::new()).build_http();
        Self::asks(move || {
            let asked = pool.request(request.clone());
            async move {
                let answer = asked.await.map_err(|error| format!("{error:?}"))?;
                let status = answer.status();
                let body = answer.into_body().collect().await;
                let body = body.map_err(|error| format!("{error:?}"))?.to_bytes();
                (status == 200)
                    .then_some(())
                    .ok_or(format!("{status} {body:?}"))
            }
        })
    }

    /// Over a connection of its own each time.
    pub(crate) fn over_tls(connector: &TlsConnector, at: SocketAddr, path: &'static str) -> Self {
        let connector = connector.clone();
        Self::asks(move || {
            let connector = connector.clone();
            async move {
                let answer = safe::get(&connector, at, path, "").await;
                let answer = answer.map_err(|error| format!("{error:?}"))?;
                answer
                    .starts_with("HTTP/1.1 200 ")
                    .then_some(())
                    .ok_or(answer)
            }
        })
    }

    fn asks<Fut>(ask: impl Fn() -> Fut + Send + 'static) -> Self
    where
        Fut: Future<Output = Result<(), String>> + Send,
    {
        let answered = Arc::<AtomicUsize>::default();
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (count, put) = (Arc::clone(&answered), Arc::clone(&failures));
        let asking = async move {
            loop {
                match ask().await {
                    Ok(()) => drop(count.fetch_add(1, SeqCst)),
                    Err(why) => put.lock().unwrap().push(why),
                }
                tokio::task::yield_now().await;
            }
        };
        Self {
            asking: tokio::spawn(asking),
            answered,
            failures,
        }
    }

    /// Waits until more was asked from now on.
    pub(crate) async fn more(&self) {
        let before = self.answered.load(SeqCst);
        eventually("more answers", WAIT, || async {
            let now = self.answered.load(SeqCst);
            let failed = !self.failures.lock().unwrap().is_empty();
            (failed || now >= before + AMID).then_some(())
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.more().await;
        self.asking.abort();
        let failures = self.failures.lock().unwrap();
        let few = &failures[..failures.len().min(5)];
        assert!(failures.is_empty(), "{} times: {few:?}", failures.len());
    }
}
