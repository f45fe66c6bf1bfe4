//! Heads on the wire to an upstream: the request's is written, the answer's is read.

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, Response, StatusCode, request};
use hyper::ext::ReasonPhrase;

use super::WireError;
use crate::chunks::Chunks;
use crate::headers::is_persistence;
use crate::inbound::Hints;

/// Fields of most heads: these need no memory of their own while they are read.
const FIELDS_USUAL: usize = 32;

/// How the end of an answer's body is found (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunks),
    /// The connection's end is the body's.
    ToTheEnd,
    /// The body has ended.
    Over,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection may carry another request behind this answer.
    pub(super) stays: bool,
}

/// Writes a request's head; `chunked` says how its body will follow.
pub(crate) fn write(out: &mut BytesMut, parts: &request::Parts, chunked: bool) {
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    out.reserve(64 + target.len() + 48 * parts.headers.len());
    for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &parts.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Takes an answer's head off the input, past any interim ones; `None` while it is not whole.
pub(crate) fn read(
    input: &mut BytesMut,
    method: &Method,
    fields_max: usize,
    names: &mut Names,
    hints: Option<&Hints>,
) -> Result<Option<Head>, WireError> {
    while !input.is_empty() {
        let Some(mut parsed) = parse(input, fields_max, names)? else {
            return Ok(None);
        };
        let status = parsed.response.status();
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            // Whether a body is wanted the proxy says itself.
            if let Some(hints) = hints.filter(|_| status != StatusCode::CONTINUE) {
                hints.tell(status, parsed.response.headers_mut());
            }
            continue;
        }
        return framed(parsed, method).map(Some);
    }
    Ok(None)
}

/// Where a field's name and value are in the head.
struct Spot {
    name: (usize, usize),
    value: (usize, usize),
}

/// A head before its meaning.
struct Parsed {
    version: u8,
    response: Response<()>,
    says: Says,
}

fn parse(
    input: &mut BytesMut,
    fields_max: usize,
    names: &mut Names,
) -> Result<Option<Parsed>, WireError> {
    let mut usual = [httparse::EMPTY_HEADER; FIELDS_USUAL];
    let usual_max = fields_max.min(FIELDS_USUAL);
    let mut many;
    let mut parsed = httparse::Response::new(&mut usual[..usual_max]);
    let mut outcome = parsed.parse(input);
    if matches!(outcome, Err(httparse::Error::TooManyHeaders)) && fields_max > FIELDS_USUAL {
        many = vec![httparse::EMPTY_HEADER; fields_max];
        parsed = httparse::Response::new(&mut many);
        outcome = parsed.parse(input);
    }
    let length = match outcome {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(WireError::Answer("its head is malformed")),
    };
    let (Some(version), Some(code)) = (parsed.version, parsed.code) else {
        return Err(WireError::Answer("it has no status line"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| WireError::Answer("its status is none"))?;
    let reason = parsed
        .reason
        .filter(|reason| Some(*reason) != status.canonical_reason())
        .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let start = input.as_ptr() as usize;
    let spot = |bytes: &[u8]| {
        let from = bytes.as_ptr() as usize - start;
        (from, from + bytes.len())
    };
    let spots: Vec<Spot> = parsed
        .headers
        .iter()
        .map(|field| Spot {
            name: spot(field.name.as_bytes()),
            value: spot(field.value),
        })
        .collect();
    let mut response = Response::new(());
    *response.status_mut() = status;
    let (map, says) = fields(&input.split_to(length).freeze(), &spots, names)?;
    *response.headers_mut() = map;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Parsed {
        version,
        response,
        says,
    }))
}

/// The names of the last answer's fields. An upstream says the same ones in the same order time
/// and again, and to compare a name is far cheaper than to read it.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<(Box<[u8]>, HeaderName)>);

impl Names {
    fn read(&mut self, at: usize, text: &[u8]) -> Option<HeaderName> {
        if let Some((known, name)) = self.0.get(at)
            && **known == *text
        {
            return Some(name.clone());
        }
        let name = HeaderName::from_bytes(text).ok()?;
        if at < FIELDS_USUAL {
            self.0.truncate(at);
            self.0.push((text.into(), name.clone()));
        }
        Some(name)
    }
}

/// The fields share the head's memory.
fn fields(head: &Bytes, spots: &[Spot], names: &mut Names) -> Result<(HeaderMap, Says), WireError> {
    let wrong = || WireError::Answer("a field is malformed");
    let mut map = HeaderMap::with_capacity(spots.len());
    let mut says = Says::default();
    for (at, Spot { name, value }) in spots.iter().enumerate() {
        let name = names.read(at, &head[name.0..name.1]).ok_or_else(wrong)?;
        let value = head.slice(value.0..value.1);
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| wrong())?;
        says.hear(&name, &value)?;
        // What concerns this connection alone is heard and goes no further.
        if name != CONNECTION || !is_persistence(&value) {
            map.append(name, value);
        }
    }
    Ok((map, says))
}

fn framed(parsed: Parsed, method: &Method) -> Result<Head, WireError> {
    let Parsed {
        version,
        mut response,
        says,
    } = parsed;
    let status = response.status();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut stays = !switches && !says.close && (version == 1 || says.keep_alive);
    let framing = if switches || bodiless || method == Method::HEAD {
        Framing::Over
    } else if says.codings > 0 {
        if version == 0 || says.codings > 1 || !says.chunked {
            return Err(WireError::Answer("a transfer coding other than chunked"));
        }
        // The chunks count; a length beside them is a sign of smuggling.
        stays &= says.length.is_none();
        response.headers_mut().remove(CONTENT_LENGTH);
        Framing::Chunked(Chunks::Size)
    } else {
        match says.length {
            Some(0) => Framing::Over,
            Some(length) => Framing::Length(length),
            None => Framing::ToTheEnd,
        }
    };
    stays &= framing != Framing::ToTheEnd;
    Ok(Head {
        response,
        framing,
        stays,
    })
}

/// What the fields say of the body and the connection, gathered as they are read.
#[derive(Debug, Default)]
struct Says {
    /// `close` beats `keep-alive`; HTTP/1.0 closes unless it says otherwise.
    close: bool,
    keep_alive: bool,
    length: Option<u64>,
    codings: usize,
    chunked: bool,
}

impl Says {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), WireError> {
        if *name == CONTENT_LENGTH {
            add_length(&mut self.length, value)?;
        } else if *name == CONNECTION {
            for token in value.as_bytes().split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if *name == TRANSFER_ENCODING {
            self.codings += 1;
            self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
        }
        Ok(())
    }
}

/// Lengths that differ, or are no numbers, are an error.
fn add_length(found: &mut Option<u64>, value: &HeaderValue) -> Result<(), WireError> {
    let wrong = || WireError::Answer("its length is none");
    let text = value.to_str().map_err(|_| wrong())?;
    for part in text.split(',') {
        let part = part.trim();
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let length: u64 = part.parse().map_err(|_| wrong())?;
        if found.is_some_and(|other| other != length) {
            return Err(wrong());
        }
        *found = Some(length);
    }
    Ok(())
}

/// The length that a head gives.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, WireError> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        add_length(&mut found, value)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, method: Method) -> Result<Option<Head>, WireError> {
        read(
            &mut BytesMut::from(text),
            &method,
            100,
            &mut Names::default(),
            None,
        )
    }

    #[test]
    fn the_end_of_a_body_is_where_the_head_says() {
        let get = |text| {
            let head = head(text, Method::GET).unwrap().unwrap();
            (head.framing, head.stays)
        };
        let chunked = Framing::Chunked(Chunks::Size);
        for (text, framing, stays) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                Framing::Over,
                true,
            ),
            (
                "HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n",
                Framing::Over,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::ToTheEnd, false),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n",
                chunked,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                chunked,
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n",
                Framing::Length(5),
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 5\r\n\r\n",
                Framing::Length(5),
                false,
            ),
            (
                "HTTP/1.1 103 Early\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Framing::Length(5),
                true,
            ),
        ] {
            assert_eq!(get(text), (framing, stays), "{text}");
        }
        let asked = head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::HEAD);
        assert_eq!(asked.unwrap().unwrap().framing, Framing::Over);
    }

    #[test]
    fn a_head_that_reads_two_ways_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        ] {
            assert!(head(text, Method::GET).is_err(), "{text}");
        }
    }

    #[test]
    fn a_head_comes_in_parts_and_may_have_many_fields() {
        let names = &mut Names::default();
        let fields: String = (0..90).map(|n| format!("x-{n}: v{n}\r\n")).collect();
        let text = format!("HTTP/1.1 299 Odd Reason\r\n{fields}\r\nbody");
        for end in 1..text.len() - 4 {
            let mut part = BytesMut::from(&text.as_bytes()[..end]);
            assert!(
                read(&mut part, &Method::GET, 100, names, None)
                    .unwrap()
                    .is_none()
            );
        }
        let mut input = BytesMut::from(text.as_str());
        let head = read(&mut input, &Method::GET, 100, names, None)
            .unwrap()
            .unwrap();
        assert_eq!(&input[..], b"body");
        assert_eq!(head.response.headers()["x-89"], "v89");
        let reason = head.response.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Odd Reason");
        assert!(
            read(
                &mut BytesMut::from(text.as_str()),
                &Method::GET,
                80,
                names,
                None
            )
            .is_err()
        );
    }

    #[test]
    fn names_that_change_are_read_anew() {
        let names = &mut Names::default();
        for (one, other) in [("a", "b"), ("a", "b"), ("b", "a"), ("A", "c"), ("c", "c")] {
            let text = format!("HTTP/1.1 204 No\r\n{one}: 1\r\n{other}: 2\r\n\r\n");
            let input = &mut BytesMut::from(text.as_str());
            let head = read(input, &Method::GET, 100, names, None)
                .unwrap()
                .unwrap();
            let fields = head.response.headers();
            let seen: Vec<_> = fields
                .get_all(one)
                .iter()
                .chain(fields.get_all(other))
                .collect();
            let expected: &[&str] = if one == other {
                &["1", "2", "1", "2"]
            } else {
                &["1", "2"]
            };
            assert_eq!(seen, expected, "{text}");
        }
    }
}
