//! Asking a side once more, for the shadow only: own connections, own bounds, no client waits.

mod dial;
mod dialed;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::TokioExecutor;
use outgrow_rollout::Side;
use tokio::time::timeout;

use crate::asking::Asked;
use crate::body::GROWTH_MAX;
use crate::compare::Answer;
use crate::places::Place;
use crate::rewrite::Rewrite;
use crate::settings::{Limits, SliceShadow, Writes};
use crate::tap::{Exchange, SHADOW_MARK};
use crate::writes::{DRY_RUN, Kind};
use dial::UnixDialer;
use dialed::Connections;

const IDENTITY: HeaderName = HeaderName::from_static("x-outgrow-identity");

/// Idle connections to one side; as many as may be busy at once.
const IDLE_FOR: Duration = Duration::from_secs(3);

/// Why a side has given no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) text: String,
    /// False where it answers, but more than is read.
    pub(crate) is_down: bool,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        let is_down = true;
        Self { text, is_down }
    }
}

/// Asks both sides.
#[derive(Debug)]
pub(crate) struct Mirror {
    reads: Clients,
    writes: Clients,
    dialed: Connections,
    limits: Limits,
    /// Counts requests: the upstreams of a side are asked in turn.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Clients {
    named: Client<HttpConnector, Full<Bytes>>,
    /// For sockets of this machine.
    local: Client<UnixDialer, Full<Bytes>>,
}

impl Clients {
    fn of(builder: &Builder) -> Self {
        Self {
            named: builder.build_http(),
            local: builder.build(UnixDialer),
        }
    }
}

impl Mirror {
    pub(crate) fn new(limits: &Limits, in_flight: usize) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(in_flight);
        // A connection at rest may be closed while a write is sent on it: nobody could tell whether
        // it arrived, and sending it again might do it twice.
        let mut once = Client::builder(TokioExecutor::new());
        once.pool_max_idle_per_host(0)
            .retry_canceled_requests(false);
        Self {
            reads: Clients::of(&builder),
            writes: Clients::of(&once),
            dialed: Connections::new(in_flight, IDLE_FOR),
            limits: limits.clone(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The answer of one side to this target, and how long its head took.
    ///
    /// # Errors
    /// [`Failure`] where there is none.
    pub(crate) async fn ask(
        &self,
        slice: &SliceShadow,
        (side, kind): (Side, Kind),
        exchange: &Exchange,
        to_ask: &Asked,
    ) -> Result<(Answer, Duration), Failure> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let to = place(slice, side, kind, turn)?;
        let rewrite = slice.rewrites.of(side);
        let request = request(&to, (side, kind), rewrite, exchange, to_ask)?;
        let within = self.limits.timeout;
        let begun = Instant::now();
        let is_read = kind == Kind::Read;
        let clients = match is_read {
            true => &self.reads,
            false => &self.writes,
        };
        let whole = async {
            let (response, lease) = match &to {
                Place::Tcp(_) => (clients.named.request(request).await, None),
                Place::Unix(_) => (clients.local.request(request).await, None),
                Place::Dialed(by) => {
                    let (response, lease) = self.dialed.ask(by, request, is_read).await?;
                    (Ok(response), Some(lease))
                }
            };
            let response = response.map_err(|error| Failure::from(chain(&error)))?;
            let latency = begun.elapsed();
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, self.limits.body.saturating_mul(GROWTH_MAX))
                .collect()
                .await
                .map_err(|error| Failure {
                    is_down: !error.is::<LengthLimitError>(),
                    text: error.to_string(),
                })?;
            if let Some(lease) = lease.filter(|_| is_read) {
                self.dialed.keep(lease);
            }
            let trailers = body.trailers().cloned().unwrap_or_default();
            Ok((
                Answer {
                    status: parts.status,
                    headers: parts.headers,
                    body: body.to_bytes(),
                    trailers,
                },
                latency,
            ))
        };
        timeout(within, whole)
            .await
            .map_err(|_| Failure::from(format!("no answer within {within:?}")))?
    }
}

/// Who is asked for a side.
fn place(slice: &SliceShadow, side: Side, kind: Kind, turn: usize) -> Result<Place, Failure> {
    let is_sandbox = kind == Kind::Write(Writes::Sandbox);
    let places = match side {
        _ if is_sandbox => &slice.sandbox,
        Side::Legacy => &slice.legacy,
        Side::Extracted => &slice.extracted,
    };
    let to = places
        .at(turn)
        .ok_or_else(|| "no upstream is known".to_owned())?;
    // Discovery may have found it since the config was read.
    if is_sandbox && (slice.legacy.have(&to) || slice.extracted.have(&to)) {
        return Err(Failure {
            text: "the sandbox is an upstream that clients are answered by; not asked".to_owned(),
            is_down: false,
        });
    }
    Ok(to)
}

fn request(
    to: &Place,
    (side, kind): (Side, Kind),
    rewrite: &Rewrite,
    exchange: &Exchange,
    to_ask: &Asked,
) -> Result<Request<Full<Bytes>>, String> {
    let authority = match to {
        Place::Tcp(authority) => authority.clone(),
        Place::Unix(path) => dial::host(path)?,
        // The request's own host is what counts.
        Place::Dialed(_) => Authority::from_static("localhost"),
    };
    let asked = &exchange.request;
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(rewrite.target(&to_ask.target))
        .build()
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Full::new(to_ask.body.clone()));
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = fields(&asked.headers, rewrite);
    let fields = request.headers_mut();
    if side == Side::Extracted
        && let Some(identity) = &exchange.identity
    {
        fields.insert(IDENTITY, identity.clone());
    }
    // Whatever the client says of itself.
    fields.remove(DRY_RUN);
    if kind == Kind::Write(Writes::DryRun) {
        fields.insert(DRY_RUN, HeaderValue::from_static("1"));
    }
    Ok(request)
}

/// Fields of one connection only, also where `Connection` does not name them (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 4] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
];

/// The client's fields, as a side gets them.
fn fields(client: &HeaderMap, rewrite: &Rewrite) -> HeaderMap {
    let mut fields = client.clone();
    let named = client.get_all(CONNECTION).iter();
    for name in named.filter_map(|value| value.to_str().ok()) {
        for name in name.split(',').map(str::trim) {
            fields.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        fields.remove(name);
    }
    // How long the body is, and whether there is one, is said anew.
    for name in [
        CONNECTION,
        UPGRADE,
        TE,
        ACCEPT_ENCODING,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        TRAILER,
    ] {
        fields.remove(name);
    }
    // Proxies have made one word of it; what says so is of this connection (RFC 9110, 10.1.4).
    if client.get(TE).is_some_and(|te| te == "trailers") {
        fields.insert(TE, HeaderValue::from_static("trailers"));
        fields.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    rewrite.fields(&mut fields);
    if !client.contains_key(HOST) {
        fields.remove(HOST);
    }
    fields.insert(SHADOW_MARK, HeaderValue::from_static("1"));
    fields
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
