//! An answer on its way to a client.
//!
//! What `http::Response` is, but for the fields of an answer that came by HTTP/1: they stay the lines
//! that the upstream wrote ([`Lines`]), and are read only where somebody asks for one. Most answers
//! are written down as they came, and to copy lines is far cheaper than to make fields of them.

mod lines;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::ext::ReasonPhrase;

pub(crate) use lines::{Lines, LinesBuilder, Unkept};

/// An answer, with its body or without.
#[derive(Debug)]
pub(crate) struct Reply<B> {
    /// In a box, because an answer passes many hands, and to hand it on is to copy it.
    head: Box<Head>,
    body: B,
}

#[derive(Debug)]
struct Head {
    status: StatusCode,
    /// What its fields are as long as nobody changes them.
    lines: Option<Lines>,
    fields: Option<HeaderMap>,
    /// Where it is not the usual one.
    reason: Option<Box<ReasonPhrase>>,
}

impl<B> Reply<B> {
    fn of(status: StatusCode, lines: Option<Lines>, fields: Option<HeaderMap>, body: B) -> Self {
        let head = Head {
            status,
            lines,
            fields,
            reason: None,
        };
        Self {
            head: Box::new(head),
            body,
        }
    }

    /// One without fields.
    pub(crate) fn new(status: StatusCode, body: B) -> Self {
        Self::of(status, None, None, body)
    }

    pub(crate) fn with_fields(status: StatusCode, fields: HeaderMap, body: B) -> Self {
        Self::of(status, None, Some(fields), body)
    }

    pub(crate) fn with_lines(status: StatusCode, lines: Lines, body: B) -> Self {
        Self::of(status, Some(lines), None, body)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.head.status = status;
    }

    pub(crate) fn reason(&self) -> Option<&ReasonPhrase> {
        self.head.reason.as_deref()
    }

    pub(crate) fn set_reason(&mut self, reason: ReasonPhrase) {
        self.head.reason = Some(Box::new(reason));
    }

    /// Its lines, while they say all that its fields do.
    pub(crate) fn lines(&self) -> Option<&Lines> {
        self.head.lines.as_ref()
    }

    /// Its fields, as far as nobody has to read lines for them.
    pub(crate) fn known(&self) -> Option<&HeaderMap> {
        self.head.fields.as_ref()
    }

    /// Of what kind its body is.
    pub(crate) fn kind(&self) -> Option<&[u8]> {
        match (self.known(), self.lines()) {
            (Some(fields), _) => fields.get(CONTENT_TYPE).map(HeaderValue::as_bytes),
            (None, Some(lines)) => lines.find(CONTENT_TYPE.as_str().as_bytes()),
            (None, None) => None,
        }
    }

    /// Reads its lines at the first call.
    pub(crate) fn headers(&mut self) -> &HeaderMap {
        read(&mut self.head.fields, self.head.lines.as_ref())
    }

    /// From now on its fields are what is in here, and no longer its lines.
    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        let lines = self.head.lines.take();
        read(&mut self.head.fields, lines.as_ref())
    }

    pub(crate) fn body(&self) -> &B {
        &self.body
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// The same answer with this body.
    pub(crate) fn with<C>(self, body: C) -> Reply<C> {
        Reply {
            head: self.head,
            body,
        }
    }

    /// As others know answers. Its reason is lost: HTTP/2 has no place for one.
    pub(crate) fn into_response(mut self) -> Response<B> {
        let (status, fields) = (self.status(), std::mem::take(self.headers_mut()));
        let mut response = Response::new(self.body);
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        response
    }
}

fn read<'a>(fields: &'a mut Option<HeaderMap>, lines: Option<&Lines>) -> &'a mut HeaderMap {
    let read = || lines.map(Lines::read).unwrap_or_default();
    fields.get_or_insert_with(read)
}
