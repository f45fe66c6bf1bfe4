//! Asking a gRPC service how it is, by its own protocol:
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::future::poll_fn;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};

use super::FIELDS_MAX;
use crate::inbound::{Again, ClientBody};
use crate::upstreams::address::Address;
use crate::wire::{Mux, Times};

const METHOD: &str = "/grpc.health.v1.Health/Check";

/// Bytes of an answer; the usual one has seven.
const ANSWER_MAX: usize = 1_024;

/// One check of a service of this name; "" is the server as a whole.
pub(super) async fn ask(
    mux: &Mux,
    to: &Address,
    service: &str,
    bound: Instant,
) -> Result<(), String> {
    let host = HeaderValue::from_str(to.host()).map_err(|error| error.to_string())?;
    let request = Request::post(METHOD)
        .header(HOST, host)
        .header(USER_AGENT, HeaderValue::from_static("outgrow-health"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(())
        .map_err(|error| error.to_string())?;
    let (parts, ()) = request.into_parts();
    let body = ClientBody::again(Again {
        parts: [message(service)].into(),
        trailers: None,
        rest: None,
    });
    let asked = mux
        .ask(
            (&parts, Some(body)),
            to,
            &Times::until(bound),
            (FIELDS_MAX, None),
        )
        .await;
    let (mut head, mut answer) = asked.map_err(|failed| failed.error.to_string())?;
    if !head.status().is_success() {
        return Err(format!("it answers {}", head.status()));
    }
    refused(head.headers())?;
    let mut came = Vec::new();
    while let Some(frame) = poll_fn(|cx| answer.poll_frame(cx)).await {
        match frame.map_err(|error| error.to_string())?.into_data() {
            Ok(data) => came.extend_from_slice(&data),
            Err(frame) => refused(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?,
        }
        if came.len() > ANSWER_MAX {
            return Err("its answer is too long".to_owned());
        }
    }
    match state(&came) {
        Some(1) => Ok(()),
        Some(0) => Err("it says UNKNOWN".to_owned()),
        Some(2) => Err("it says NOT_SERVING".to_owned()),
        Some(3) => Err("it knows no such service".to_owned()),
        Some(other) => Err(format!("it says {other}")),
        None => Err("its answer is none of a health check".to_owned()),
    }
}

/// What `grpc-status` says, where it is no 0.
fn refused(fields: &HeaderMap) -> Result<(), String> {
    let field = |name| fields.get(name).and_then(|value| value.to_str().ok());
    match field("grpc-status") {
        None | Some("0") => Ok(()),
        Some("5") => Err("it knows no such service".to_owned()),
        Some("12") => Err("it has no health service, grpc.health.v1.Health".to_owned()),
        Some(code) => {
            let message = field("grpc-message").unwrap_or_default();
            Err(format!("it answers grpc-status {code} {message:?}"))
        }
    }
}

/// `HealthCheckRequest { service }` behind its prefix. A name has at most `Check::NAME_MAX` bytes, so
/// that its length is one.
fn message(service: &str) -> Bytes {
    let name = service.as_bytes();
    let mut all = Vec::with_capacity(7 + name.len());
    if !name.is_empty() {
        all.extend_from_slice(&[0x0a, u8::try_from(name.len()).unwrap_or(0)]);
        all.extend_from_slice(name);
    }
    let length = u32::try_from(all.len()).unwrap_or(0).to_be_bytes();
    let mut framed = vec![0];
    framed.extend_from_slice(&length);
    framed.extend_from_slice(&all);
    framed.into()
}

/// The status of a `HealthCheckResponse` behind its prefix; an absent one is 0.
fn state(came: &[u8]) -> Option<u8> {
    let (prefix, message) = came.split_at_checked(5)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, state @ 0..0x80] => Some(*state),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_has_them() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(state(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(state(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [
            &[][..],
            &[0, 0, 0, 0, 1],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 2, 9, 1],
            &[0, 0, 0, 0, 3, 8, 1],
        ] {
            assert_eq!(state(bad), None, "{bad:?}");
        }
    }
}
