//! One export: a request to the collector, on a connection that is kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::task::AbortHandle;

use super::SpanExport;
use super::proto::{Field, next};
use crate::visit;

const AGENT: &str = concat!("outgrow/", env!("CARGO_PKG_VERSION"));

/// A collector answers with a few bytes; the rest of a page is for nobody.
const ANSWER_MAX: usize = 64 * 1_024;

/// Who takes spans.
#[derive(Debug)]
pub(super) struct Collector {
    url: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    line: Option<Line>,
}

/// A connection, with the task that drives it.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a collector has made of an export.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It has the spans, but for so many.
    Took { refused: u64, why: String },
    /// It would take them later (OTLP, "Retryable response codes").
    Later {
        why: String,
        after: Option<Duration>,
    },
    /// It does not want them, now or later.
    Never { why: String },
}

impl Collector {
    /// # Errors
    /// Says what is wrong with the authorities.
    pub(super) fn new(settings: &SpanExport) -> Result<Self, String> {
        let url = settings.endpoint.clone();
        let safe = visit::is_safe(&url);
        let tls = safe.then(|| visit::trusting(settings.ca.as_deref()));
        Ok(Self {
            url,
            headers: settings.headers.clone(),
            tls: tls.transpose()?,
            timeout: settings.timeout,
            line: None,
        })
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// Cancel safe: the connection goes with what was under way on it.
    pub(super) async fn send(&mut self, export: Bytes) -> Said {
        let line = self.line.take();
        let asked = tokio::time::timeout(self.timeout, self.ask(line, export)).await;
        let later = |why| Said::Later { why, after: None };
        match asked {
            Ok(Ok((said, line))) => {
                self.line = line;
                said
            }
            Ok(Err(why)) => later(why),
            Err(_) => later(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn ask(&self, line: Option<Line>, export: Bytes) -> Result<(Said, Option<Line>), String> {
        let mut line = match line.filter(|line| !line.sender.is_closed()) {
            Some(line) => line,
            None => self.connect().await?,
        };
        let authority = self.url.authority().ok_or("it has no host")?;
        let target = self
            .url
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let mut request = Request::post(target)
            .header(HOST, authority.as_str())
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(export));
        let request = request.map_err(|error| error.to_string())?;
        line.sender
            .ready()
            .await
            .map_err(|error| error.to_string())?;
        let answer = line.sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
        let read = Limited::new(body, ANSWER_MAX).collect().await;
        let whole = read.is_ok();
        let body = read.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
        let said = said(head.status, &head.headers, &body, SystemTime::now());
        Ok((said, whole.then_some(line)))
    }

    async fn connect(&self) -> Result<Line, String> {
        let stream = visit::connect(&self.url, self.tls.as_ref()).await?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| error.to_string())?;
        let driver = tokio::task::spawn_local(async move {
            // Whoever asks on it learns of its end.
            let _ = connection.await;
        });
        let driver = driver.abort_handle();
        Ok(Line { sender, driver })
    }
}

/// OTLP/HTTP, "Response".
fn said(status: StatusCode, fields: &HeaderMap, body: &[u8], now: SystemTime) -> Said {
    if status.is_success() {
        let (refused, why) = partial(body);
        return Said::Took { refused, why };
    }
    let why = format!("it answered {status}");
    match status.as_u16() {
        429 | 502 | 503 | 504 => Said::Later {
            why,
            after: after(fields, now),
        },
        _ => Said::Never { why },
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn after(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = fields.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// `ExportTraceServiceResponse.partial_success`: how many spans were refused, and why.
fn partial(mut body: &[u8]) -> (u64, String) {
    let (mut refused, mut why) = (0, String::new());
    while let Some(field) = next(&mut body) {
        let Field::Bytes(1, mut partial) = field else {
            continue;
        };
        while let Some(field) = next(&mut partial) {
            match field {
                // An `int64`: a negative one is nonsense.
                Field::Number(1, spans) => {
                    refused = i64::try_from(spans).map_or(0, i64::unsigned_abs)
                }
                Field::Bytes(2, text) => why = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
    }
    (refused, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::proto::{bytes, number};

    #[test]
    fn an_answer_says_what_to_do_next() {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let of = |status: u16, after: &str| {
            let mut fields = HeaderMap::new();
            if !after.is_empty() {
                fields.insert(RETRY_AFTER, after.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            said(status, &fields, b"", date)
        };
        let later = |said| match said {
            Said::Later { after, .. } => after,
            other => panic!("{other:?}"),
        };
        let took = Said::Took {
            refused: 0,
            why: String::new(),
        };
        assert_eq!(of(200, ""), took);
        for status in [429, 502, 503, 504] {
            assert_eq!(later(of(status, "")), None);
        }
        for (text, seconds) in [("7", Some(7)), (" 0", Some(0)), ("soon", None)] {
            assert_eq!(later(of(503, text)).map(|after| after.as_secs()), seconds);
        }
        let at = |seconds| httpdate::fmt_http_date(date + Duration::from_secs(seconds));
        assert_eq!(later(of(429, &at(9))), Some(Duration::from_secs(9)));
        let past = httpdate::fmt_http_date(date - Duration::from_secs(9));
        assert_eq!(later(of(429, &past)), Some(Duration::ZERO));
        for status in [301, 400, 401, 404, 413, 500, 501] {
            assert!(matches!(of(status, "1"), Said::Never { .. }), "{status}");
        }
    }

    #[test]
    fn spans_may_be_refused_one_by_one() {
        let (mut partial, mut body) = (Vec::new(), Vec::new());
        number(&mut partial, 1, 3);
        bytes(&mut partial, 2, b"too old");
        bytes(&mut body, 1, &partial);
        let expected = Said::Took {
            refused: 3,
            why: "too old".to_owned(),
        };
        let now = SystemTime::now();
        assert_eq!(
            said(StatusCode::OK, &HeaderMap::new(), &body, now),
            expected
        );
    }
}
