//! gRPC: messages with a length before each. Without a schema a message is read by its wire
//! format, so that fields are compared by their numbers, in whatever order they were written.
//!
//! What the wire does not say is guessed for display only: bytes of a field are shown as text,
//! as a message or as a hash, and equal trees come from equal fields alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;

use super::coding::plain;
use super::forms::hash;
use crate::json::{Json, parse};

/// All messages of an answer when their compression is taken off: what clients accept of one
/// message, unless they say else.
const PLAIN_MAX: usize = 4 << 20;

/// Messages within messages; what is deeper is shown as bytes.
const DEPTH_MAX: usize = 32;

/// The flag of a message that is compressed, and of one that is none but trailers (gRPC-Web).
const COMPRESSED: u8 = 0x01;
const TRAILERS: u8 = 0x80;

/// The messages in order; `None` where the frames are not whole.
pub(super) fn messages(content_type: &str, headers: &HeaderMap, body: &Bytes) -> Option<Json> {
    let encoding = headers.get("grpc-encoding");
    let encoding = encoding
        .and_then(|value| value.to_str().ok())
        .unwrap_or("identity");
    let is_json = content_type.contains("json");
    let (mut rest, mut found, mut room) = (body.clone(), Vec::new(), PLAIN_MAX);
    while !rest.is_empty() {
        let (flags, message) = frame(&mut rest)?;
        if flags & TRAILERS != 0 {
            let trailers = std::str::from_utf8(&message).ok()?;
            found.push(Json::object(vec![(
                "trailers".to_owned(),
                fields(trailers),
            )]));
            continue;
        }
        if flags & COMPRESSED == 0 {
            found.push(read(&message, is_json));
            continue;
        }
        found.push(match plain(encoding, &message, room) {
            Ok(message) => {
                room -= message.len();
                read(&message, is_json)
            }
            Err(reason) => {
                // What was unpacked of it is gone; another one would do the same again.
                if reason != "encoding" {
                    room = 0;
                }
                Json::String(format!("compressed, {}", hash(&message)))
            }
        });
    }
    Some(Json::Array(found))
}

/// Flags, and a message of the length that stands before it.
fn frame(rest: &mut Bytes) -> Option<(u8, Bytes)> {
    let head = rest.get(..5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let (flags, end) = (head[0], 5_usize.checked_add(usize::try_from(length).ok()?)?);
    rest.get(..end)?;
    let mut frame = rest.split_to(end);
    Some((flags, frame.split_off(5)))
}

/// Trailers as lines of a head.
fn fields(text: &str) -> Json {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let one = |(name, value): (&str, &str)| {
        let value = Json::String(value.trim().to_owned());
        (name.trim().to_ascii_lowercase(), value)
    };
    Json::object(lines.map(one).collect())
}

fn read(message: &[u8], is_json: bool) -> Json {
    let tree = match is_json {
        true => parse(message),
        false => protobuf(message, 0),
    };
    tree.unwrap_or_else(|| Json::String(hash(message)))
}

/// The fields by number, each with its values in order; `None` for what is no message.
fn protobuf(mut rest: &[u8], depth: usize) -> Option<Json> {
    /// The largest number that a field can have.
    const NUMBER_MAX: u64 = (1 << 29) - 1;
    if depth >= DEPTH_MAX {
        return None;
    }
    let mut fields: BTreeMap<u64, Vec<Json>> = BTreeMap::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let number = tag >> 3;
        if !(1..=NUMBER_MAX).contains(&number) {
            return None;
        }
        let value = match tag & 7 {
            0 => parse(varint(&mut rest)?.to_string().as_bytes())?,
            1 => fixed("fixed64", take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                delimited(take(&mut rest, length)?, depth)
            }
            5 => fixed("fixed32", take(&mut rest, 4)?),
            _ => return None,
        };
        fields.entry(number).or_default().push(value);
    }
    let member = |(number, values): (u64, Vec<Json>)| (number.to_string(), Json::Array(values));
    Some(Json::object(fields.into_iter().map(member).collect()))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// At most ten bytes with seven bits each, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A number or a float: the wire does not say which.
fn fixed(name: &str, little: &[u8]) -> Json {
    let digits: String = little
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Json::String(format!("{name} 0x{digits}"))
}

/// Text, a message, or bytes. A message whose first field is number 1 begins like a line end, so
/// text that begins so is looked at as a message first.
fn delimited(bytes: &[u8], depth: usize) -> Json {
    let text = std::str::from_utf8(bytes).ok();
    let is_text = |text: &&str| {
        let inside = |at: usize, c: char| at > 0 && matches!(c, '\n' | '\r' | '\t');
        text.char_indices()
            .all(|(at, c)| !c.is_control() || inside(at, c))
    };
    if let Some(text) = text.filter(is_text) {
        return Json::String(text.to_owned());
    }
    protobuf(bytes, depth + 1).unwrap_or_else(|| match text {
        Some(text) => Json::String(text.to_owned()),
        None => Json::String(hash(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// A field of bytes.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [&[number << 3 | 2, length][..], value].concat()
    }

    fn framed(flags: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flags][..], &length, message].concat()
    }

    fn of(body: Vec<u8>) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        let found = messages("application/grpc", &headers, &Bytes::from(body))?;
        Some(shown(&found))
    }

    fn shown(json: &Json) -> String {
        let all = |parts: Vec<String>| parts.join(",");
        match json {
            Json::Array(items) => format!("[{}]", all(items.iter().map(shown).collect())),
            Json::Object(members) => {
                let member = |(name, value): &(String, Json)| format!("{name:?}:{}", shown(value));
                format!("{{{}}}", all(members.iter().map(member).collect()))
            }
            Json::Number(number) => number.to_string(),
            other => other.brief(),
        }
    }

    #[test]
    fn fields_are_read_by_their_numbers_in_any_order() {
        let (id, name) = (vec![0x08, 0x96, 0x01], bytes(2, b"lamp"));
        let inner = bytes(3, &bytes(1, &[b'x'; 32]));
        let double = [&[0x21][..], &1.5_f64.to_le_bytes()].concat();
        let one = framed(0, &[&id[..], &name, &inner, &double].concat());
        let expected = format!(
            r#"[{{"1":[150],"2":["lamp"],"3":[{{"1":["{}"]}}],"4":["fixed64 0x3ff8000000000000"]}}]"#,
            "x".repeat(32)
        );
        assert_eq!(of(one.clone()).unwrap(), expected);
        let other = framed(0, &[&double[..], &inner, &name, &id].concat());
        assert_eq!(of(other), of(one));
        let twice = framed(0, &[&id[..], &id].concat());
        assert_eq!(of(twice).unwrap(), r#"[{"1":[150,150]}]"#);
    }

    #[test]
    fn compression_is_taken_off_and_trailers_in_the_body_are_read() {
        let name = bytes(1, b"lamp");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&name).unwrap();
        let compressed = framed(COMPRESSED, &gzip.finish().unwrap());
        assert_eq!(of(compressed), of(framed(0, &name)));
        let web = [
            framed(0, &name),
            framed(TRAILERS, b"grpc-status: 5\r\nGrpc-Message:none\r\n"),
        ];
        assert_eq!(
            of(web.concat()).unwrap(),
            r#"[{"1":["lamp"]},{"trailers":{"grpc-message":"none","grpc-status":"5"}}]"#
        );
        let broken = of(framed(COMPRESSED, b"no gzip")).unwrap();
        assert!(broken.starts_with(r#"["compressed, 7 bytes"#), "{broken}");
    }

    #[test]
    fn what_is_no_message_is_bytes_and_what_is_cut_is_no_frame() {
        let odd = of(framed(0, &[0xff; 12])).unwrap();
        assert!(odd.starts_with(r#"["12 bytes, xxh3 "#), "{odd}");
        assert_eq!(of(framed(0, b"")).unwrap(), "[{}]");
        assert_eq!(of(framed(0, b"abc")[..7].to_vec()), None);
        assert_eq!(of(vec![0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail_and_other_numbers_are_told_apart(
            body in prop::collection::vec(any::<u8>(), 0..200),
            a in any::<u64>(),
            b in any::<u64>(),
        ) {
            let _ = of(body.clone());
            let _ = of(framed(0, &body));
            let number = |mut n: u64| {
                let mut message = vec![0x08];
                while n >= 0x80 {
                    message.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
                    n >>= 7;
                }
                message.push(u8::try_from(n).unwrap());
                of(framed(0, &message)).unwrap()
            };
            prop_assert_eq!(number(a), format!("[{{\"1\":[{a}]}}]"));
            prop_assert_eq!(number(a) == number(b), a == b);
        }
    }
}
