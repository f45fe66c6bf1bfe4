//! The chunked coding of a body (RFC 9112 section 7.1), read strictly: what two readers could take
//! for two bodies is an error.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of a line with a chunk's size; extensions are rare and short.
const LINE_MAX: usize = 4_096;

/// Bytes of the trailers together.
const TRAILERS_MAX: usize = 16 * 1_024;

/// Fields in the trailers.
const TRAILERS_FIELDS: usize = 64;

/// The coding is broken: nobody can say where the body ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk is malformed")]
pub(crate) struct BadChunk;

/// Where in the coding the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    Size,
    Data(u64),
    /// The line end behind a chunk's data.
    Behind,
    Trailers,
}

/// One step of decoding.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Data(Bytes),
    End(Option<HeaderMap>),
    /// Nothing whole is there yet.
    More,
}

impl Chunks {
    pub(crate) fn step(&mut self, input: &mut BytesMut) -> Result<Step, BadChunk> {
        loop {
            match *self {
                Self::Size => match size(input)? {
                    None => return Ok(Step::More),
                    Some(0) => *self = Self::Trailers,
                    Some(length) => *self = Self::Data(length),
                },
                Self::Data(left) => {
                    if input.is_empty() {
                        return Ok(Step::More);
                    }
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    let data = input.split_to(most.min(input.len())).freeze();
                    let left = left - data.len() as u64;
                    *self = if left == 0 {
                        Self::Behind
                    } else {
                        Self::Data(left)
                    };
                    return Ok(Step::Data(data));
                }
                Self::Behind => {
                    let Some(end) = input.get(..2) else {
                        return Ok(Step::More);
                    };
                    if end != b"\r\n" {
                        return Err(BadChunk);
                    }
                    input.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => return trailers(input),
            }
        }
    }
}

/// A line with a size; `None` while it is not whole.
fn size(input: &mut BytesMut) -> Result<Option<u64>, BadChunk> {
    let within = &input[..input.len().min(LINE_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if within.len() < LINE_MAX {
            Ok(None)
        } else {
            Err(BadChunk)
        };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(BadChunk)?;
    let mut value: u64 = 0;
    let mut digits = 0;
    for byte in line {
        let Some(digit) = char::from(*byte).to_digit(16) else {
            break;
        };
        if value >> 60 != 0 {
            return Err(BadChunk);
        }
        value = (value << 4) | u64::from(digit);
        digits += 1;
    }
    let rest = line[digits..].trim_ascii_start();
    // Behind the size only an extension may stand; what it says is no concern of ours.
    if digits == 0 || !(rest.is_empty() || rest.starts_with(b";")) || line.contains(&b'\r') {
        return Err(BadChunk);
    }
    input.advance(end + 1);
    Ok(Some(value))
}

fn trailers(input: &mut BytesMut) -> Result<Step, BadChunk> {
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Step::End(None));
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_FIELDS];
    let (used, map) = match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Complete((used, fields))) => {
            let mut map = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadChunk)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| BadChunk)?;
                map.append(name, value);
            }
            (used, map)
        }
        Ok(httparse::Status::Partial) if input.len() < TRAILERS_MAX => return Ok(Step::More),
        Ok(httparse::Status::Partial) | Err(_) => return Err(BadChunk),
    };
    // A sole LF is an end to some readers and none to others.
    let bare = |(at, byte): (usize, &u8)| *byte == b'\n' && (at == 0 || input[at - 1] != b'\r');
    if input[..used].iter().enumerate().any(bare) {
        return Err(BadChunk);
    }
    input.advance(used);
    Ok(Step::End(Some(map)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `text` in parts of `part` bytes; the data, the trailers, and what is left over.
    fn read(text: &[u8], part: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), ()> {
        let (mut state, mut input) = (Chunks::Size, BytesMut::new());
        let mut data = Vec::new();
        for (at, piece) in text.chunks(part).enumerate() {
            input.extend_from_slice(piece);
            loop {
                match state.step(&mut input).map_err(drop)? {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::End(trailers) => {
                        let taken = (at * part + piece.len()) - input.len();
                        return Ok((data, trailers, text.len() - taken));
                    }
                    Step::More => break,
                }
            }
        }
        Err(())
    }

    #[test]
    fn malformed_chunks_are_errors() {
        for bad in [
            "zz\r\nabc\r\n0\r\n\r\n",
            "-1\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "\r\nabc\r\n0\r\n\r\n",
            "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
            "3 3\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\r\nabc\r\n0\r\n\r\n",
            "3\r\nabcXX0\r\n\r\n",
            "3\r\nabc\r\n0\r\nno field\r\n\r\n",
            "3\r\nabc\r\n0\r\n\n",
            "3\r\nabc\r\n0\r\na: b\n\r\n",
            "3\r\nabc\r\n0\r\na: b\r\n\n",
        ] {
            assert!(read(bad.as_bytes(), 1_000).is_err(), "{bad:?}");
            assert!(read(bad.as_bytes(), 1).is_err(), "{bad:?}");
        }
        let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(LINE_MAX));
        assert!(read(long.as_bytes(), 100).is_err());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_body(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            part in 1_usize..50,
            trailer in any::<bool>(),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:X} ;a=b\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(if trailer { b"0\r\nx-sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
            text.extend_from_slice(b"rest");
            let (data, trailers, left) = read(&text, part).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers.is_some_and(|map| map["x-sum"] == "1"), trailer);
            prop_assert!(left >= 4);
        }
    }
}
