//! Asking a registry by HTTP, each time on a connection of its own.

use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tokio::time::timeout;

use crate::dial::Dialer;
use crate::rules::{Protocol, Transport, UpstreamTls};
use crate::upstreams::address::Address;
use crate::wire::Wire;

/// Fields of an answer.
const FIELDS_MAX: usize = 256;

/// Bytes of an answer; Eureka tells some kilobytes of an instance.
const BODY_MAX: usize = 16 * 1_024 * 1_024;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
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
pub(super) async fn get(
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
    (dialer, to): (&Dialer, &Address),
    path: &str,
    field: Option<(HeaderName, HeaderValue)>,
    within: Duration,
) -> Result<Answer, String> {
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
    // The caller's bound, which counts the connecting, comes first.
    let bound = Instant::now() + 2 * within;
    let head = wire.ask(&parts, None, bound, (FIELDS_MAX, None)).await;
    let head = head.map_err(|error| error.to_string())?.into_parts().0;
    let mut body = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| wire.poll_frame(cx)).await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data);
        }
        if body.len() > BODY_MAX {
            return Err(format!("its answer has more than {BODY_MAX} bytes"));
        }
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}

/// An upstream that a registry names.
pub(super) fn upstream(host: &str, port: u16) -> Option<Address> {
    match host.parse() {
        Ok(ip) => Some(std::net::SocketAddr::new(ip, port).into()),
        Err(_) => format!("{host}:{port}").parse().ok(),
    }
}
