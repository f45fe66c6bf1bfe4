//! Recorded requests: a file of lines, one request each, that a kill leaves readable.
//!
//! The first line says what the file is; each further line is a request of one session. A last
//! line that was cut off is left out and said so; any other line that cannot be read is an error
//! with its number. Bounded in lines and bytes; nothing is guessed.

mod capture;
mod har;

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use crate::tap::SideTargets;

pub(crate) use capture::{Capture, hidden};

/// The version of the format that is written, and the newest that is read.
const VERSION: u32 = 1;

/// Of one line: a request with its body, and an answer's where it is kept.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Of one file; a replay holds it in memory.
const REQUESTS_MAX: usize = 1_000_000;
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
    #[error(
        "line 1 is no head of a recording ({0}); record one with `outgrow shadow record`, or give a HAR file"
    )]
    Head(String),
    #[error(
        "it was written by a newer version (format {0}, known is {VERSION}); use that version's `outgrow replay`"
    )]
    TooNew(u32),
    #[error("line {line}: {what}")]
    Line { line: usize, what: String },
    #[error("it is too large: {0}; record for a shorter time, or with a smaller `sample`")]
    TooLarge(&'static str),
    #[error("it is no HAR 1.2 file: {0}")]
    Har(String),
    #[error("entry {entry} of the HAR file: {what}")]
    Entry { entry: usize, what: String },
}

/// Requests in the order in which they came.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Where it is from, for people.
    pub source: String,
    pub requests: Vec<Recorded>,
    /// What was left out of the file, for people; empty where nothing was.
    pub left_out: Vec<String>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Since the recording began, in milliseconds.
    pub at_ms: u64,
    /// Whose requests are played in their order.
    pub session: String,
    /// The route's label, where it is known.
    pub route: Option<String>,
    pub method: Method,
    pub target: PathAndQuery,
    /// Where the proxy rewrote paths.
    pub sides: SideTargets,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What it was answered, where that was kept: later requests may carry values of it.
    pub(crate) answer: Option<Given>,
}

/// An answer as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    outgrow_recording: u32,
    source: String,
}

/// A request as a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at_ms: u64,
    session: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    method: String,
    target: String,
    /// What the legacy side was asked, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    legacy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extracted: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Content>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerLine>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerLine {
    status: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Content>,
}

/// Text as it is, anything else in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Bytes { base64: String },
}

impl Content {
    fn new(body: &Bytes) -> Option<Self> {
        if body.is_empty() {
            return None;
        }
        Some(match std::str::from_utf8(body) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes {
                base64: STANDARD.encode(body),
            },
        })
    }

    fn bytes(self) -> Result<Bytes, String> {
        match self {
            Self::Text(text) => Ok(Bytes::from(text)),
            Self::Bytes { base64 } => decoded(&base64),
        }
    }
}

fn decoded(base64: &str) -> Result<Bytes, String> {
    let bytes = STANDARD.decode(base64.trim_ascii());
    bytes
        .map(Bytes::from)
        .map_err(|error| format!("a body is no base64: {error}"))
}

/// Fields of a recorded message; those that no connection could carry are an error.
fn fields(pairs: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for (name, value) in pairs {
        let known = HeaderName::from_bytes(name.as_bytes());
        let known = known.map_err(|_| format!("`{name}` is no header"))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of the header `{name}` is none"))?;
        let added = fields.try_append(known, value);
        added.map_err(|_| "it has too many headers".to_owned())?;
    }
    Ok(fields)
}

fn pairs(fields: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    };
    fields.iter().map(pair).collect()
}

fn method(text: &str) -> Result<Method, String> {
    Method::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no method"))
}

fn target(text: &str) -> Result<PathAndQuery, String> {
    match text.parse::<PathAndQuery>() {
        Ok(target) if text.starts_with('/') => Ok(target),
        _ => Err(format!("`{text}` is no path; it begins with `/`")),
    }
}

impl TryFrom<Line> for Recorded {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let body = line.body.map(Content::bytes).transpose()?;
        let answer = line.answer.map(|answer| {
            let body = answer.body.map(Content::bytes).transpose()?;
            Ok::<_, String>(Given {
                status: answer.status,
                headers: fields(&answer.headers)?,
                body: body.unwrap_or_default(),
            })
        });
        Ok(Self {
            at_ms: line.at_ms,
            session: line.session,
            route: line.route,
            method: method(&line.method)?,
            target: target(&line.target)?,
            sides: SideTargets {
                legacy: line.legacy.as_deref().map(target).transpose()?,
                extracted: line.extracted.as_deref().map(target).transpose()?,
            },
            headers: fields(&line.headers)?,
            body: body.unwrap_or_default(),
            answer: answer.transpose()?,
        })
    }
}

/// The first line of a file, without its end.
pub fn head(source: &str) -> String {
    let head = Head {
        outgrow_recording: VERSION,
        source: source.to_owned(),
    };
    // Plain data.
    serde_json::to_string(&head).unwrap_or_default()
}

impl Recorded {
    /// The request as a line of a file, without its end.
    pub fn line(&self) -> String {
        let answer = self.answer.as_ref().map(|given| AnswerLine {
            status: given.status,
            headers: pairs(&given.headers),
            body: Content::new(&given.body),
        });
        let line = Line {
            at_ms: self.at_ms,
            session: self.session.clone(),
            route: self.route.clone(),
            method: self.method.to_string(),
            target: self.target.to_string(),
            legacy: self.sides.legacy.as_ref().map(ToString::to_string),
            extracted: self.sides.extracted.as_ref().map(ToString::to_string),
            headers: pairs(&self.headers),
            body: Content::new(&self.body),
            answer,
        };
        // Plain data.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

impl Recording {
    /// Reads a recording, or a HAR file (the only kind that is one document): of that the
    /// requests to `origin`, e.g. `https://shop.example`, else to the origin of the first one.
    ///
    /// # Errors
    /// [`RecordingError`], with the line or the entry.
    pub fn read(mut from: impl Read, origin: Option<&str>) -> Result<Self, RecordingError> {
        let mut all = Vec::new();
        let most = FILE_BYTES_MAX + 1;
        from.by_ref().take(most).read_to_end(&mut all)?;
        if all.len() as u64 > FILE_BYTES_MAX {
            return Err(RecordingError::TooLarge("more than 1 GiB"));
        }
        let all = all.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&all);
        let mut lines = all.split_inclusive(|byte| *byte == b'\n').enumerate();
        let first = lines.next().map(|(_, line)| line).unwrap_or_default();
        let head = match serde_json::from_slice::<Head>(first) {
            Ok(head) => head,
            Err(_) if har::looks_like(all) => return har::import(all, origin),
            Err(error) => return Err(RecordingError::Head(error.to_string())),
        };
        if head.outgrow_recording > VERSION {
            return Err(RecordingError::TooNew(head.outgrow_recording));
        }
        let mut recording = Self {
            source: head.source,
            requests: Vec::new(),
            left_out: Vec::new(),
        };
        for (index, line) in lines {
            if recording.requests.len() >= REQUESTS_MAX {
                return Err(RecordingError::TooLarge("more than a million requests"));
            }
            recording.take(index + 1, line)?;
        }
        recording.requests.sort_by_key(|request| request.at_ms);
        Ok(recording)
    }

    fn take(&mut self, number: usize, line: &[u8]) -> Result<(), RecordingError> {
        let whole = line.ends_with(b"\n");
        let text = line.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        if text.len() as u64 > LINE_BYTES_MAX {
            return Err(RecordingError::TooLarge("a line of more than 16 MiB"));
        }
        let read = serde_json::from_slice::<Line>(text).map_err(|error| error.to_string());
        match read.and_then(Recorded::try_from) {
            Ok(request) => self.requests.push(request),
            // Whoever wrote it was killed; every line before is whole.
            Err(_) if !whole => {
                let text = format!("line {number}, which was cut off when it was written");
                self.left_out.push(text);
            }
            Err(what) => return Err(RecordingError::Line { line: number, what }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
