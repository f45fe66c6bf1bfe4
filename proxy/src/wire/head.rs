//! Heads on the wire to an upstream: the request's is written, the answer's is read.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, request};
use hyper::ext::ReasonPhrase;

use super::WireError;
use crate::chunks::Chunks;
use crate::headers::is_persistence;
use crate::inbound::Hints;
use crate::reply::{LinesBuilder, Reply, Unkept};
use crate::spelling::{self, FieldNames, Spelled};

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
    pub(crate) response: Reply<()>,
    pub(super) framing: Framing,
    /// The connection may carry another request behind this answer.
    pub(super) stays: bool,
    /// How long the upstream keeps it at rest, where it says so.
    pub(super) rests: Option<Duration>,
}

/// Writes a request's head; `chunked` says how its body will follow.
pub(crate) fn write(out: &mut Vec<u8>, parts: &request::Parts, chunked: bool, names: FieldNames) {
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    out.reserve(64 + target.len() + 48 * parts.headers.len());
    for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let spelled = match names {
        FieldNames::AsSent => parts.extensions.get::<Spelled>(),
        FieldNames::Lower | FieldNames::Title => None,
    };
    spelling::write(out, &parts.headers, names, spelled);
    if chunked {
        out.extend_from_slice(match names {
            FieldNames::Lower => b"transfer-encoding: chunked\r\n",
            FieldNames::Title | FieldNames::AsSent => b"Transfer-Encoding: chunked\r\n",
        });
    }
    out.extend_from_slice(b"\r\n");
}

/// Takes an answer's head off the input, past any interim ones; `None` while it is not whole.
pub(crate) fn read(
    input: &mut BytesMut,
    method: &Method,
    fields_max: usize,
    hints: Option<&Hints>,
) -> Result<Option<Head>, WireError> {
    while !input.is_empty() {
        let Some(mut parsed) = parse(input, fields_max)? else {
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

/// A head before its meaning.
struct Parsed {
    version: u8,
    response: Reply<()>,
    says: Says,
}

fn parse(input: &mut BytesMut, fields_max: usize) -> Result<Option<Parsed>, WireError> {
    let mut usual = [const { MaybeUninit::uninit() }; FIELDS_USUAL];
    let usual_max = fields_max.min(FIELDS_USUAL);
    let mut many;
    let config = httparse::ParserConfig::default();
    let mut parsed = httparse::Response::new(&mut []);
    let usual = &mut usual[..usual_max];
    let mut outcome = config.parse_response_with_uninit_headers(&mut parsed, input, usual);
    if matches!(outcome, Err(httparse::Error::TooManyHeaders)) && fields_max > FIELDS_USUAL {
        many = vec![MaybeUninit::uninit(); fields_max];
        parsed = httparse::Response::new(&mut []);
        outcome = config.parse_response_with_uninit_headers(&mut parsed, input, &mut many);
    }
    let length = match outcome {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        // Few write so, and only they pay for it.
        Err(_) => {
            return match unfold(input) {
                Folded::Waits => Ok(None),
                Folded::Unfolded => parse(input, fields_max),
                Folded::Not => Err(WireError::Answer("its head is malformed")),
            };
        }
    };
    let (Some(version), Some(code)) = (parsed.version, parsed.code) else {
        return Err(WireError::Answer("it has no status line"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| WireError::Answer("its status is none"))?;
    let reason = parsed
        .reason
        .filter(|reason| Some(*reason) != status.canonical_reason())
        .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let (says, lines) = heard(&input[..length], parsed.headers, status)?;
    let mut response = match lines {
        Ok(lines) if !status.is_informational() => {
            Reply::with_lines(status, lines.of(input.split_to(length).freeze()), ())
        }
        _ => {
            let fields = fields(parsed.headers)?;
            input.advance(length);
            Reply::with_fields(status, fields, ())
        }
    };
    if let Some(reason) = reason {
        response.set_reason(reason);
    }
    Ok(Some(Parsed {
        version,
        response,
        says,
    }))
}

/// What a head is that could not be read.
#[derive(Debug, PartialEq, Eq)]
enum Folded {
    /// Not all of it is there.
    Waits,
    /// Some of its lines went on in the next one, and do so no more.
    Unfolded,
    Not,
}

/// Puts lines that were folded into one again, with spaces in place of their ends, as a gateway may (RFC 9112
/// section 5.2). Old programs write so, and their clients could read it.
fn unfold(input: &mut BytesMut) -> Folded {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let Some(first) = line_end(input) else {
        return Folded::Not;
    };
    // The status has no second line.
    let mut at = first + 1;
    if is_blank(input.get(at)) {
        return Folded::Not;
    }
    let mut folds = Vec::new();
    loop {
        let Some(end) = line_end(&input[at..]).map(|end| at + end) else {
            return match folds.is_empty() {
                true => Folded::Not,
                false => Folded::Waits,
            };
        };
        if matches!(&input[at..end], b"" | b"\r") {
            break;
        }
        if is_blank(input.get(end + 1)) {
            folds.push(end);
        }
        at = end + 1;
    }
    for &end in &folds {
        input[end] = b' ';
        if input[end - 1] == b'\r' {
            input[end - 1] = b' ';
        }
    }
    match folds.is_empty() {
        true => Folded::Not,
        false => Folded::Unfolded,
    }
}

/// Where a line ends.
fn line_end(text: &[u8]) -> Option<usize> {
    text.iter().position(|byte| *byte == b'\n')
}

/// What the fields of a head say of its body and its connection; and the lines that go down as they
/// are, where all of them may.
fn heard(
    head: &[u8],
    fields: &[httparse::Header<'_>],
    status: StatusCode,
) -> Result<(Says, Result<LinesBuilder, Unkept>), WireError> {
    let end = head.len().saturating_sub(2);
    let begin =
        |field: &httparse::Header<'_>| field.name.as_ptr() as usize - head.as_ptr() as usize;
    let mut says = Says::default();
    let mut lines = LinesBuilder::new(fields.first().map_or(end, begin), end);
    let mut good = head.ends_with(b"\r\n\r\n");
    for (index, field) in fields.iter().enumerate() {
        let goes = says.hear(field.name.as_bytes(), field.value)?;
        let from = begin(field);
        good &= goes != Goes::Apart && head.get(from.wrapping_sub(2)..from) == Some(b"\r\n");
        if goes == Goes::Nowhere {
            let to = fields.get(index + 1).map_or(end, begin);
            lines = lines.and_then(|lines| lines.without(from, to));
        }
    }
    // Beside chunks a length is not passed on; nor of no content.
    good &= (says.codings == 0 && status != StatusCode::NO_CONTENT) || says.length.is_none();
    let lines = lines.and_then(|lines| match good {
        true => Ok(lines.with((says.dated, says.located), says.length)),
        false => Err(Unkept),
    });
    Ok((says, lines))
}

/// The fields of a head, each in memory of its own.
fn fields(found: &[httparse::Header<'_>]) -> Result<HeaderMap, WireError> {
    let wrong = |_| WireError::Answer("a field is malformed");
    let mut map = HeaderMap::with_capacity(found.len());
    for field in found {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong(()))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| wrong(()))?;
        // What concerns this connection alone is heard and goes no further.
        if name != CONNECTION || !is_persistence(field.value) {
            map.append(name, value);
        }
    }
    Ok(map)
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
    if status == StatusCode::NO_CONTENT && says.length.is_some() {
        // No content has no length (RFC 9110 section 8.6), and HTTP/2 counts the bytes.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    let framing = if switches || bodiless || method == Method::HEAD {
        Framing::Over
    } else if says.codings > 0 {
        if version == 0 || says.codings > 1 || !says.chunked {
            return Err(WireError::Answer("a transfer coding other than chunked"));
        }
        // The chunks count; a length beside them is a sign of smuggling.
        if says.length.is_some() {
            stays = false;
            response.headers_mut().remove(CONTENT_LENGTH);
        }
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
        rests: says.rests,
    })
}

/// How far a field goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// Down, as it is.
    Down,
    /// It concerns this connection alone.
    Nowhere,
    /// It says more than a line that is left out or passed on can do.
    Apart,
}

/// What the fields say of the body and the connection, gathered as they are read.
#[derive(Debug, Default)]
struct Says {
    /// `close` beats `keep-alive`; HTTP/1.0 closes unless it says otherwise.
    close: bool,
    keep_alive: bool,
    rests: Option<Duration>,
    length: Option<u64>,
    codings: usize,
    chunked: bool,
    dated: bool,
    located: bool,
}

impl Says {
    fn hear(&mut self, name: &[u8], value: &[u8]) -> Result<Goes, WireError> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // Most names are known to be none of these by their lengths; and these are mostly written in
        // one of two ways, which takes less to see than to leave the case aside.
        Ok(match name.len() {
            4 if matches!(name, b"Date" | b"date") || is("date") => {
                self.dated = true;
                Goes::Down
            }
            10 if matches!(name, b"Connection" | b"connection") || is("connection") => {
                self.persists(value)
            }
            14 if matches!(name, b"Content-Length" | b"content-length") || is("content-length") => {
                let again = self.length.is_some();
                add_length(&mut self.length, value)?;
                match again || !is_plain_number(value) {
                    true => Goes::Apart,
                    false => Goes::Down,
                }
            }
            17 if is("transfer-encoding") => {
                self.codings += 1;
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
                Goes::Nowhere
            }
            8 if is("location") => {
                self.located = true;
                Goes::Down
            }
            16 if is("content-location") => {
                self.located = true;
                Goes::Down
            }
            10 if is("keep-alive") => {
                self.rests = rests(value);
                Goes::Nowhere
            }
            2 if is("te") => Goes::Apart,
            7 if is("upgrade") => Goes::Apart,
            16 if is("proxy-connection") => Goes::Apart,
            18 if is("proxy-authenticate") => Goes::Apart,
            19 if is("proxy-authorization") => Goes::Apart,
            // No name is as long, says `HeaderName`.
            length if length >= usize::from(u16::MAX) => {
                return Err(WireError::Answer("a field is malformed"));
            }
            _ => Goes::Down,
        })
    }
}

impl Says {
    /// What `connection` says.
    fn persists(&mut self, value: &[u8]) -> Goes {
        match value {
            b"keep-alive" => self.keep_alive = true,
            b"close" => self.close = true,
            _ => {
                for token in value.split(|byte| *byte == b',') {
                    let token = token.trim_ascii();
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
                if !is_persistence(value) {
                    return Goes::Apart;
                }
            }
        }
        Goes::Nowhere
    }
}

/// How long `keep-alive` says that a connection may rest (RFC 2068 section 19.7.1.1), less what a request takes
/// on its way: a second, or the half of a shorter time.
fn rests(value: &[u8]) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?;
    let timeout = value.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("timeout");
        named.then(|| value.trim().trim_matches('"').parse::<u32>().ok())?
    })?;
    let said = Duration::from_secs(timeout.into());
    Some(said.saturating_sub(Duration::from_secs(1)).max(said / 2))
}

/// Digits that everybody reads alike.
fn is_plain_number(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || !text.starts_with(b"0"))
}

/// Lengths that differ, or are no numbers, are an error.
fn add_length(found: &mut Option<u64>, value: &[u8]) -> Result<(), WireError> {
    for part in value.split(|byte| *byte == b',') {
        let length = number(part.trim_ascii()).ok_or(WireError::Answer("its length is none"))?;
        if found.is_some_and(|other| other != length) {
            return Err(WireError::Answer("its length is none"));
        }
        *found = Some(length);
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<u64> {
    let add = |sum: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add))?
}

/// The length that a head gives.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, WireError> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        add_length(&mut found, value.as_bytes())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str, method: Method) -> Result<Option<Head>, WireError> {
        read(&mut BytesMut::from(text), &method, 100, None)
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
        let fields: String = (0..90).map(|n| format!("x-{n}: v{n}\r\n")).collect();
        let text = format!("HTTP/1.1 299 Odd Reason\r\n{fields}\r\nbody");
        for end in 1..text.len() - 4 {
            let mut part = BytesMut::from(&text.as_bytes()[..end]);
            assert!(read(&mut part, &Method::GET, 100, None).unwrap().is_none());
        }
        let mut input = BytesMut::from(text.as_str());
        let head = read(&mut input, &Method::GET, 100, None);
        let mut head = head.unwrap().unwrap();
        assert_eq!(&input[..], b"body");
        assert_eq!(head.response.headers()["x-89"], "v89");
        let reason = head.response.reason().unwrap();
        assert_eq!(reason.as_bytes(), b"Odd Reason");
        let mut again = BytesMut::from(text.as_str());
        assert!(read(&mut again, &Method::GET, 80, None).is_err());
    }

    /// What goes down as lines, with what is left out, and what is read into fields at once.
    #[test]
    fn lines_go_down_as_they_are_where_they_may() {
        let kept = |fields: &str| {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let response = head(&text, Method::GET).unwrap().unwrap().response;
            let lines = response.lines()?;
            let written: Vec<u8> = lines.pieces().flatten().copied().collect();
            Some((
                String::from_utf8(written).unwrap(),
                lines.dated,
                lines.length.is_some(),
            ))
        };
        let all = |fields: &str| {
            (
                fields.to_owned(),
                fields.contains("ate:"),
                fields.contains("ength:"),
            )
        };
        for same in [
            "",
            "A: b\r\nDate: now\r\nContent-Length: 5\r\n",
            "a: 1\r\na: 2\r\n",
        ] {
            assert_eq!(kept(same), Some(all(same)));
        }
        for (fields, left) in [
            (
                "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nA: b\r\n",
                "A: b\r\n",
            ),
            (
                "A: b\r\nTransfer-Encoding: chunked\r\nc: d\r\n",
                "A: b\r\nc: d\r\n",
            ),
            ("connection: close\r\n", ""),
        ] {
            assert_eq!(kept(fields), Some(all(left)), "{fields}");
        }
        for odd in [
            "connection: close, x-a\r\nx-a: 1\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: 05\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "upgrade: h2c\r\n",
            "te: trailers\r\n",
            "proxy-authenticate: basic\r\n",
            "a: b\nc: d\r\n",
            "a: b\r\nc: d\n",
            "keep-alive: a\r\nkeep-alive: b\r\nkeep-alive: c\r\nkeep-alive: d\r\n",
        ] {
            assert_eq!(kept(odd), None, "{odd}");
        }
    }

    #[test]
    fn folded_lines_are_one() {
        let unfolded = |text: &str| {
            let mut input = BytesMut::from(text);
            let found = unfold(&mut input);
            (found, String::from_utf8(input.to_vec()).unwrap())
        };
        let text = "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\td\ne: f\n g\r\n\r\nbody\r\n rest";
        let expected = "HTTP/1.1 200 OK\r\na: b   c  \td\ne: f  g\r\n\r\nbody\r\n rest";
        assert_eq!(unfolded(text), (Folded::Unfolded, expected.to_owned()));
        for (text, found) in [
            ("HTTP/1.1 200 OK\r\n a: b\r\n\r\n", Folded::Not),
            ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n d", Folded::Not),
            ("HTTP/1.1 200 OK", Folded::Not),
            ("HTTP/1.1 200 OK\r\na: b\r\n", Folded::Not),
            ("HTTP/1.1 200 OK\r\na: b\r\n c", Folded::Waits),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\nd", Folded::Waits),
        ] {
            assert_eq!(unfolded(text), (found, text.to_owned()));
        }
    }

    proptest! {
        /// Nothing that an upstream sends goes on for ever, or is longer or shorter than it was.
        #[test]
        fn unfolding_comes_to_an_end(text in "(HTTP/1.1 200 OK)?(\r?\n|[ \ta:])*") {
            let mut input = BytesMut::from(text.as_str());
            let before = input.len();
            if unfold(&mut input) == Folded::Unfolded {
                prop_assert_ne!(unfold(&mut input), Folded::Unfolded);
            }
            prop_assert_eq!(input.len(), before);
        }
    }

    #[test]
    fn an_upstream_says_how_long_a_connection_rests() {
        let half = Duration::from_millis(500);
        for (text, expected) in [
            ("timeout=5", Some(8 * half)),
            ("timeout=2, max=100", Some(2 * half)),
            ("max=100, Timeout = \"3\"", Some(4 * half)),
            ("timeout=1", Some(half)),
            ("timeout=0", Some(Duration::ZERO)),
            ("timeout=-1", None),
            ("timeout=5s", None),
            ("max=5", None),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(rests(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(rests(b"timeout=\xff"), None);
    }

    proptest! {
        /// The lines that go down say what the fields do.
        #[test]
        fn lines_are_read_as_fields_are(
            fields in prop::collection::vec(
                (
                    prop_oneof![
                        "[A-Za-z][A-Za-z-]{0,9}",
                        Just("Keep-Alive".to_owned()),
                        Just("Set-Cookie".to_owned()),
                    ],
                    "[ \t]{0,2}([!-~\u{80}-\u{ff}]([ -~]{0,9}[!-~])?)?[ \t]{0,2}",
                ),
                0..9,
            ),
        ) {
            let lines = |(name, value): &(String, String)| format!("{name}:{value}\r\n");
            let lines: String = fields.iter().map(lines).collect();
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
            let found = head(&text, Method::GET);
            prop_assume!(matches!(&found, Ok(Some(head)) if head.response.lines().is_some()));
            let mut response = found.unwrap().unwrap().response;
            let mut found = [httparse::EMPTY_HEADER; 9];
            let (_, all) = httparse::parse_headers(lines_of(&text), &mut found).unwrap().unwrap();
            let mut expected = super::fields(all).unwrap();
            expected.remove("keep-alive");
            expected.remove("transfer-encoding");
            prop_assert_eq!(response.headers(), &expected);
        }
    }

    fn lines_of(text: &str) -> &[u8] {
        text.split_once('\n').unwrap().1.as_bytes()
    }
}
