//! A request's head as HTTP/1 writes it (RFC 9112). Read strictly: what another server could take
//! for another request is refused here or in `headers::check`.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request};

use super::line::Left;
use crate::chunks::Chunks;
use crate::error::Refusal;
use crate::kinds::{Kind, Kinds};
use crate::spelling::Spelled;

/// Fields of most heads: these need no memory of their own while they are read.
const FIELDS_USUAL: usize = 32;

/// Fields that the proxy adds on the way: room for them is made at once.
const FIELDS_ADDED: usize = 4;

/// Names that are remembered, and how long one may be.
const NAMES: usize = 256;
const NAME_MAX: usize = 64;

/// How a client wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// HTTP/1.0, which knows no chunks.
    pub(super) old: bool,
    /// The connection is to stay.
    pub(super) keeps: bool,
    /// HEAD: the answer has no body, whatever it says.
    pub(super) bodiless: bool,
    /// It reads trailers.
    pub(super) trailers: bool,
}

/// A whole head.
#[derive(Debug)]
pub(crate) struct Head {
    /// In a box from here to the upstream: it passes many hands, and to hand it on is to copy it.
    pub(crate) request: Box<request::Parts>,
    pub(crate) kinds: Kinds,
    pub(crate) body: Left,
    pub(super) expects: bool,
    pub(super) manner: Manner,
    /// Bytes of it.
    pub(crate) length: usize,
}

/// Names as clients write them, and what they mean: to compare one is far cheaper than to read it.
/// A name's place goes by its looks, and a place holds one.
#[derive(Debug)]
pub(crate) struct KnownNames(Box<[Option<Known>]>);

/// As it was written, what it is, and of which kinds.
type Known = (Box<[u8]>, HeaderName, Kind);

impl Default for KnownNames {
    fn default() -> Self {
        Self((0..NAMES).map(|_| None).collect())
    }
}

impl KnownNames {
    fn read(&mut self, text: &[u8]) -> Option<(HeaderName, Kind)> {
        let at = |index: usize| text.get(index).map_or(0, |byte| usize::from(*byte));
        let length = text.len();
        let looks = at(0) + 7 * at(length / 2) + 31 * at(length.wrapping_sub(1)) + 3 * length;
        let place = self.0.get_mut(looks % NAMES)?;
        if let Some((known, name, kind)) = place
            && **known == *text
        {
            return Some((name.clone(), *kind));
        }
        let name = HeaderName::from_bytes(text).ok()?;
        let kind = Kind::of(&name);
        if length <= NAME_MAX {
            *place = Some((text.into(), name.clone(), kind));
        }
        Some((name, kind))
    }
}

/// Reads a head from the beginning of `bytes`; `None` while it is not whole. `spells`: keeps how its names
/// are written ([`Spelled`]).
///
/// # Errors
/// Why this is no request; what follows on its connection cannot be understood then.
pub(crate) fn read(
    bytes: &[u8],
    (fields_max, spells): (usize, bool),
    names: &mut KnownNames,
) -> Result<Option<Head>, Refusal> {
    let mut usual = [const { MaybeUninit::uninit() }; FIELDS_USUAL];
    let mut many;
    let mut parsed = httparse::Request::new(&mut []);
    let usual_max = fields_max.min(FIELDS_USUAL);
    let mut outcome = parsed.parse_with_uninit_headers(bytes, &mut usual[..usual_max]);
    if matches!(outcome, Err(httparse::Error::TooManyHeaders)) && fields_max > FIELDS_USUAL {
        many = vec![MaybeUninit::uninit(); fields_max];
        parsed = httparse::Request::new(&mut []);
        outcome = parsed.parse_with_uninit_headers(bytes, &mut many);
    }
    let length = match outcome {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLong),
        Err(httparse::Error::Version) => return Err(Refusal::Malformed("its version")),
        Err(_) => return Err(Refusal::Malformed("its head")),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refusal::Malformed("its first line"));
    };
    let at = |part: &[u8]| part.as_ptr() as usize - bytes.as_ptr() as usize;
    check_lines(&bytes[..length], at(method.as_bytes()), || {
        parsed.headers.iter().map(|field| at(field.name.as_bytes()))
    })?;
    // One piece of memory of the right size, which all values share.
    let head = Bytes::copy_from_slice(&bytes[..length]);
    let share = |part: &[u8]| {
        let from = at(part);
        head.slice(from..from + part.len())
    };
    let (fields, kinds, says) = fields(parsed.headers, &share, names)?;
    let mut request = Box::new(Request::new(()).into_parts().0);
    let wrong = |_| Refusal::Malformed("the method");
    request.method = Method::from_bytes(method.as_bytes()).map_err(wrong)?;
    request.uri = uri(target, &share)?;
    let bare = request.uri.authority().is_some() && request.uri.scheme().is_none();
    if bare && request.method != Method::CONNECT {
        // A sole host is the target of a tunnel alone (RFC 9112 section 3.2.3).
        return Err(Refusal::Malformed("the target is not a path"));
    }
    request.version = match version {
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    request.headers = fields;
    if spells {
        let sent = parsed
            .headers
            .iter()
            .map(|field| share(field.name.as_bytes()));
        request.extensions.insert(Spelled::new(sent));
    }
    let old = version == 0;
    let body = says.body();
    Ok(Some(Head {
        body,
        expects: says.expects && !old && body != Left::Over,
        manner: Manner {
            old,
            keeps: !says.close && (!old || says.keep_alive),
            bodiless: request.method == Method::HEAD,
            trailers: says.trailers,
        },
        request,
        kinds,
        length,
    }))
}

fn fields(
    found: &[httparse::Header<'_>],
    share: &impl Fn(&[u8]) -> Bytes,
    names: &mut KnownNames,
) -> Result<(HeaderMap, Kinds, Says), Refusal> {
    let wrong = || Refusal::Malformed("a field");
    let (mut says, mut kinds) = (Says::default(), Kinds::default());
    let mut fields = HeaderMap::with_capacity(found.len() + FIELDS_ADDED);
    for field in found {
        let (name, kind) = names.read(field.name.as_bytes()).ok_or_else(wrong)?;
        let value = HeaderValue::from_maybe_shared(share(field.value)).map_err(|_| wrong())?;
        says.hear(&name, &value)?;
        kinds.add(kind, &value);
        fields.append(name, value);
    }
    Ok((fields, kinds, says))
}

fn uri(target: &str, share: &impl Fn(&[u8]) -> Bytes) -> Result<Uri, Refusal> {
    // Some servers would cut it off there, some would not.
    if target.contains('#') {
        return Err(Refusal::Malformed("the target has a fragment"));
    }
    let wrong = || Refusal::Malformed("the target");
    let uri = Uri::from_maybe_shared(share(target.as_bytes())).map_err(|_| wrong())?;
    match uri.path_and_query() {
        Some(asked) if asked.as_str().starts_with('?') => {
            // `http://shop.example?a` asks for `/?a` (RFC 9112 section 3.2.1).
            let asked =
                PathAndQuery::try_from(format!("/{}", asked.as_str())).map_err(|_| wrong())?;
            let mut parts = uri.into_parts();
            parts.path_and_query = Some(asked);
            Uri::from_parts(parts).map_err(|_| wrong())
        }
        _ => Ok(uri),
    }
}

/// Lines end with CR and LF. A sole LF is where servers differ (RFC 9112 section 2.2).
fn check_lines<I: Iterator<Item = usize>>(
    head: &[u8],
    begin: usize,
    fields: impl FnOnce() -> I,
) -> Result<(), Refusal> {
    let ends_line = |at: usize| at >= 2 && head.get(at - 2..at) == Some(b"\r\n");
    let blank = head.get(..begin).unwrap_or_default();
    let (lines, rest) = blank.as_chunks::<2>();
    let good = rest.is_empty()
        && lines.iter().all(|line| line == b"\r\n")
        && fields().all(ends_line)
        && head.ends_with(b"\r\n\r\n");
    if good {
        Ok(())
    } else {
        Err(Refusal::Malformed("a line does not end with CR and LF"))
    }
}

/// What the fields say of the body and the connection, gathered as they are read.
#[derive(Debug, Default)]
struct Says {
    close: bool,
    keep_alive: bool,
    length: Option<u64>,
    codings: usize,
    chunked: bool,
    expects: bool,
    trailers: bool,
}

impl Says {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
        let has = |word: &[u8]| {
            let mut words = value.as_bytes().split(|byte| *byte == b',');
            words.any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
        };
        if *name == CONTENT_LENGTH {
            // Twice the same is as odd as two lengths: who merges them, and who takes the first?
            let length = length(value).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(Refusal::Malformed("Content-Length"))?);
        } else if *name == CONNECTION {
            self.close |= has(b"close");
            self.keep_alive |= has(b"keep-alive");
        } else if *name == TRANSFER_ENCODING {
            self.codings += 1;
            self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
        } else if *name == EXPECT {
            self.expects |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        } else if *name == TE {
            self.trailers |= has(b"trailers");
        }
        Ok(())
    }

    /// Where the body ends (RFC 9112 section 6.3). Of odd codings and of both ways at once nothing
    /// is passed on (`headers::check`), and the connection ends.
    fn body(&self) -> Left {
        match (self.codings, self.chunked, self.length) {
            (1, true, None) => Left::Chunked(Chunks::Size),
            (0, _, Some(length)) if length > 0 => Left::Length(length),
            _ => Left::Over,
        }
    }
}

fn length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Option<Head>, Refusal> {
        read(text.as_bytes(), (100, false), &mut KnownNames::default())
    }

    #[test]
    fn a_whole_url_without_a_path_asks_for_the_root() {
        for (target, path) in [
            ("http://shop.example?a=1", "/?a=1"),
            ("http://shop.example", "/"),
            ("/?a=1", "/?a=1"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
            let uri = parsed(&text).unwrap().unwrap().request.uri;
            assert_eq!(uri.path_and_query().map(|asked| asked.as_str()), Some(path));
        }
    }

    #[test]
    fn a_head_says_how_long_its_body_is_and_how_it_wants_its_answer() {
        let chunked = Left::Chunked(Chunks::Size);
        for (text, body, keeps) in [
            ("GET / HTTP/1.1\r\n\r\n", Left::Over, true),
            ("\r\nGET / HTTP/1.1\r\nHost:a\r\n\r\nmore", Left::Over, true),
            ("GET / HTTP/1.0\r\n\r\n", Left::Over, false),
            (
                "GET / HTTP/1.0\r\nconnection: x, Keep-Alive\r\n\r\n",
                Left::Over,
                true,
            ),
            (
                "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
                Left::Over,
                false,
            ),
            (
                "PUT / HTTP/1.1\r\ncontent-length: 12\r\n\r\n",
                Left::Length(12),
                true,
            ),
            (
                "PUT / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
                Left::Over,
                true,
            ),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n",
                chunked,
                true,
            ),
        ] {
            let head = parsed(text).unwrap().unwrap();
            assert_eq!((head.body, head.manner.keeps), (body, keeps), "{text:?}");
            assert_eq!(
                &text[head.length..],
                if text.ends_with("more") { "more" } else { "" }
            );
        }
    }

    #[test]
    fn what_reads_two_ways_is_no_head() {
        for text in [
            "GET / HTTP/1.1\nhost: a\n\n",
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\nx: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET a.example HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 0x1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length:\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        ] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fields_are_bounded_and_names_are_read_as_they_are_written() {
        let many = |count| {
            (0..count)
                .map(|n| format!("X-{n}: v{n}\r\n"))
                .collect::<String>()
        };
        let names = &mut KnownNames::default();
        for _ in 0..2 {
            let text = format!("GET / HTTP/1.1\r\n{}\r\n", many(100));
            let head = read(text.as_bytes(), (100, false), names).unwrap().unwrap();
            let fields = &head.request.headers;
            assert!((0..100).all(|n| fields[format!("x-{n}")] == format!("v{n}")));
        }
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", many(101));
        assert!(matches!(
            read(text.as_bytes(), (100, false), names),
            Err(Refusal::HeadTooLong)
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall(bytes: Vec<u8>, tail in "[ -~\r\n\t]{0,200}") {
            let names = &mut KnownNames::default();
            let _ = read(&bytes, (100, false), names);
            let _ = read(format!("GET / HTTP/1.1\r\n{tail}\r\n\r\n").as_bytes(), (100, false), names);
        }

        /// A head is whole at its last byte and not before, wherever it was cut.
        #[test]
        fn a_head_is_whole_at_its_end(
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", "[!-~]{0,20}"), 0..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let lines: String = fields
                .iter()
                .map(|(name, value)| format!("x{name}: {value}\r\n"))
                .collect();
            let text = format!("GET /x HTTP/1.1\r\n{lines}\r\n");
            let part = &text[..cut.index(text.len())];
            let names = &mut KnownNames::default();
            prop_assert!(read(part.as_bytes(), (100, true), names).unwrap().is_none());
            let head = read(text.as_bytes(), (100, false), names).unwrap().unwrap();
            prop_assert_eq!(head.length, text.len());
            prop_assert_eq!(head.request.headers.len(), fields.len());
        }
    }
}
