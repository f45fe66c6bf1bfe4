//! Asking a registry by HTTP, each time on a connection of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tokio::time::{timeout, timeout_at};

use crate::dial::Dialer;
use crate::rules::{Protocol, Transport, UpstreamTls};
use crate::upstreams::address::Address;
use crate::wire::{Times, Wire};

/// Fields of an answer.
const FIELDS_MAX: usize = 256;

/// Bytes of an answer; Eureka tells some kilobytes of an instance.
pub(super) const BODY_MAX: usize = 16 * 1_024 * 1_024;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Makes the connections with a registry.
///
/// # Errors
/// Says what is wrong with the files of its TLS.
pub(super) fn dialer(tls: Option<&UpstreamTls>) -> Result<Dialer, String> {
    let transport = Transport {
        tls: tls.cloned(),
        protocol: Protocol::Http1,
    };
    Dialer::new(&transport).map_err(|error| error.to_string())
}

/// Asks for a path, with at most one field more.
///
/// # Errors
/// Says why there is no whole answer.
pub(crate) async fn get(
    (dialer, to): (&Dialer, &Address),
    path: &str,
    field: Option<(HeaderName, HeaderValue)>,
    within: Duration,
) -> Result<Answer, String> {
    let answered = timeout(within, ask((dialer, to), path, field, within)).await;
    let answer = answered.map_err(|_| format!("no answer of {to} within {within:?}"))?;
    answer.map_err(|why| format!("{to}: {why}"))
}

async fn ask(
    to: (&Dialer, &Address),
    path: &str,
    field: Option<(HeaderName, HeaderValue)>,
    within: Duration,
) -> Result<Answer, String> {
    // The caller's bound, which counts the connecting, comes first.
    let mut answer = begin(to, path, field, 2 * within).await?;
    let body = answer.whole().await?;
    Ok(Answer {
        status: answer.status,
        headers: answer.headers,
        body,
    })
}

/// An answer whose body is on its way.
pub(super) struct Answering {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    wire: Wire,
    /// When all of it must have come.
    until: Instant,
}

impl Answering {
    /// The next part of its body; `None` at its end.
    pub(super) async fn part(&mut self) -> Result<Option<Bytes>, String> {
        let until = self.until.into();
        loop {
            let next = std::future::poll_fn(|cx| self.wire.poll_frame(cx));
            let frame = timeout_at(until, next).await;
            let frame = frame.map_err(|_| "its time is over".to_owned())?;
            let Some(frame) = frame.transpose().map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// All that is left of its body.
    pub(super) async fn whole(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while let Some(part) = self.part().await? {
            body.extend_from_slice(&part);
            if body.len() > BODY_MAX {
                return Err(format!("its answer has more than {BODY_MAX} bytes"));
            }
        }
        Ok(body)
    }
}

/// Asks for a path, with at most one field more: to the head of the answer in the first time, and all
/// of it in the second.
///
/// # Errors
/// Says why there is no answer.
pub(super) async fn open(
    (dialer, to): (&Dialer, &Address),
    path: &str,
    field: Option<(HeaderName, HeaderValue)>,
    (head, whole): (Duration, Duration),
) -> Result<Answering, String> {
    let answered = timeout(head, begin((dialer, to), path, field, whole)).await;
    let answer = answered.map_err(|_| format!("no answer of {to} within {head:?}"))?;
    answer.map_err(|why| format!("{to}: {why}"))
}

async fn begin(
    (dialer, to): (&Dialer, &Address),
    path: &str,
    field: Option<(HeaderName, HeaderValue)>,
    within: Duration,
) -> Result<Answering, String> {
    let host = HeaderValue::from_str(to.host()).map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, HeaderValue::from_static("outgrow-discovery"))
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(());
    let (mut parts, ()) = request.map_err(|error| error.to_string())?.into_parts();
    parts.headers.extend(field);
    let made = dialer.dial_lines(to).await;
    let stream = made.map_err(|error| format!("no connection: {error}"))?;
    let mut wire = Wire::new(stream, Instant::now());
    let until = Instant::now() + within;
    let head = wire
        .ask(&parts, None, &Times::until(until), (FIELDS_MAX, None))
        .await;
    let mut head = head.map_err(|error| error.to_string())?;
    Ok(Answering {
        status: head.status(),
        headers: std::mem::take(head.headers_mut()),
        wire,
        until,
    })
}

/// An upstream that a registry names.
pub(super) fn upstream(host: &str, port: u16) -> Option<Address> {
    match host.parse() {
        Ok(ip) => Some(std::net::SocketAddr::new(ip, port).into()),
        Err(_) => format!("{host}:{port}").parse().ok(),
    }
}
