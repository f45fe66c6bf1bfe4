//! What the proxy knows of gRPC: which requests are calls, how long they may take, how they fail.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. Messages are not looked at.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, request};

use crate::answer::status;
use crate::body::Body;
use crate::error::{Refusal, UpstreamError};
use crate::reply::Reply;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether somebody calls a method: such a client looks at `grpc-status`, and at nothing else. Over
/// HTTP/1.1 there are no calls.
pub(crate) fn is_call((method, version): (&Method, Version), headers: &HeaderMap) -> bool {
    version == Version::HTTP_2 && *method == Method::POST && is_grpc(headers)
}

/// `application/grpc`, with or without a coding of its messages; gRPC-Web is something else.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(is_kind)
}

pub(crate) fn is_kind(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How long a client waits for all of an answer, where it says so: of a head as it came.
pub(crate) fn timeout(parts: &request::Parts) -> Option<Duration> {
    if !is_call((&parts.method, parts.version), &parts.headers) {
        return None;
    }
    let text = parts.headers.get(TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let fits = (1..=8).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| fits)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Whether these are the fields of a call that its service has failed: `UNKNOWN`, which servers say
/// of exceptions, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`. Other codes are
/// answers.
pub(crate) fn has_failed(fields: &HeaderMap) -> bool {
    let code = fields.get(STATUS).map(HeaderValue::as_bytes);
    code.is_some_and(|code| matches!(code, b"2" | b"4" | b"13" | b"14" | b"15"))
}

/// Whether an answer says only at its end how the call went.
pub(crate) fn tells_later(fields: &HeaderMap) -> bool {
    is_grpc(fields) && !fields.contains_key(STATUS)
}

/// What is said at the end of an answer whose time is over.
pub(crate) fn late() -> HeaderMap {
    HeaderMap::from_iter([
        (STATUS, HeaderValue::from_static("4")),
        (
            MESSAGE,
            HeaderValue::from_static("the call took longer than grpc-timeout"),
        ),
    ])
}

/// A refusal as a client of gRPC understands it.
pub(crate) fn refuse(refusal: &Refusal) -> Reply<Body> {
    let (http, code) = status(refusal);
    let mut answer = Reply::new(StatusCode::OK, Body::Empty);
    let fields = answer.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(STATUS, HeaderValue::from(number(refusal, http)));
    if let Ok(message) = HeaderValue::try_from(encoded(&refusal.to_string())) {
        fields.insert(MESSAGE, message);
    }
    fields.insert("x-outgrow-error", HeaderValue::from_static(code));
    answer
}

/// As gRPC maps HTTP (`doc/http-grpc-status-mapping.md`).
fn number(refusal: &Refusal, http: StatusCode) -> u16 {
    match (refusal, http) {
        (Refusal::Upstream(UpstreamError::Timeout { .. } | UpstreamError::Expired { .. }), _) => 4,
        // Its own time was over before it had sent all that it wanted to.
        (_, StatusCode::REQUEST_TIMEOUT) => 4,
        (_, StatusCode::PAYLOAD_TOO_LARGE) => 8,
        (_, StatusCode::BAD_REQUEST | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => 13,
        (_, StatusCode::UNAUTHORIZED) => 16,
        (_, StatusCode::FORBIDDEN) => 7,
        (
            _,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT,
        ) => 14,
        _ => 2,
    }
}

/// Percent-encoded, as `grpc-message` is.
fn encoded(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => all.push(char::from(byte)),
            // A string takes whatever is written.
            _ => drop(write!(all, "%{byte:02X}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::wire::WireError;

    fn asked(kind: &str, timeout: &str) -> request::Parts {
        let request = Request::post("/shop.Catalog/Get")
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, kind)
            .header(TIMEOUT, timeout);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_call_says_how_long_it_may_take() {
        let of = |text: &str| timeout(&asked("application/grpc+proto", text));
        assert_eq!(of("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("10S"), Some(Duration::from_secs(10)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(of("1n"), Some(Duration::from_nanos(1)));
        for bad in ["", "S", "1", "1s", "+1S", "123456789S", "1 S", "é"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn calls_are_told_by_what_they_carry() {
        let is = |kind: &str| timeout(&asked(kind, "1S")).is_some();
        assert!(is("application/grpc") && is("application/grpc;charset=x"));
        let mut lines = asked("application/grpc", "1S");
        lines.version = Version::HTTP_11;
        assert_eq!(timeout(&lines), None);
        assert!(!is("application/grpc-web") && !is("application/json"));
    }

    #[test]
    fn what_a_service_has_failed_is_told_by_its_code() {
        let failed =
            |code: &str| has_failed(&HeaderMap::from_iter([(STATUS, code.parse().unwrap())]));
        let all: Vec<u16> = (0..=16).filter(|code| failed(&code.to_string())).collect();
        assert_eq!(all, [2, 4, 13, 14, 15]);
        assert!(!has_failed(&HeaderMap::new()));
    }

    #[test]
    fn a_refusal_is_a_status_and_a_message() {
        let code = |refusal: Refusal| {
            let mut answer = refuse(&refusal);
            assert_eq!(answer.status(), 200);
            answer.headers()[STATUS].to_str().unwrap().to_owned()
        };
        assert_eq!(code(Refusal::Held), "14");
        assert_eq!(code(Refusal::Malformed("a")), "13");
        assert_eq!(code(Refusal::Connect), "2");
        assert_eq!(code(Refusal::BodyTooLong), "8");
        let upload = |source| {
            let to = "127.0.0.1:1".parse().unwrap();
            Refusal::Upstream(UpstreamError::Upload { to, source })
        };
        assert_eq!(code(upload(WireError::UploadLate)), "4");
        assert_eq!(code(upload(WireError::UploadLength)), "13");
        assert_eq!(encoded("100% é\n"), "100%25 %C3%A9%0A");
    }
}
