//! Messages of the connection in the bytes that have come of it (PostgreSQL manual, "Message
//! Formats" and "Streaming Replication Protocol"). Pure; whatever comes in, it answers or says what
//! is wrong.

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorResponseBody, Header, Message};

use super::client::Broken;

/// No message is longer: the server itself makes none of more than a gigabyte.
const MOST: usize = 1 << 30;
/// A kind and a length.
const HEAD: usize = 5;
/// Of a piece of the log: its kind, its two places and its time, which say nothing that it does not.
const PIECE: usize = 25;
/// Of a sign of life: its kind, a place, a time, and whether an answer is wanted.
const SIGN: usize = 18;

/// What has come.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Bytes of messages that are there whole.
    pub(super) whole: usize,
    /// Some of these are of the log.
    pub(super) data: bool,
    /// The server wants to hear where we are.
    pub(super) asks: bool,
    /// How long the one behind them is, as far as that is known.
    pub(super) next: usize,
    /// What has ended the stream behind them.
    pub(super) end: Option<Broken>,
}

/// Looks at what has come of a stream.
///
/// # Errors
/// When something is not of this protocol.
pub(super) fn scan(bytes: &[u8]) -> Result<Found, Broken> {
    let mut found = Found::default();
    while let Some(rest) = bytes.get(found.whole..) {
        let Some((kind, length)) = head(rest, MOST)? else {
            break;
        };
        let Some(body) = rest.get(HEAD..length) else {
            found.next = length;
            break;
        };
        found.whole += length;
        match (kind, body) {
            (b'd', [b'w', ..]) if body.len() >= PIECE => found.data = true,
            (b'd', [b'k', .., asks]) if body.len() == SIGN => found.asks |= *asks != 0,
            (b'd', _) => return Err(Broken::Odd("a message that is no piece of the log")),
            // Settings and notices.
            (b'S' | b'N' | b'A', _) => {}
            (b'E', _) => found.end = Some(refusal(rest.get(..length).unwrap_or_default())),
            (b'c' | b'C' | b'Z', _) => found.end = Some(Broken::Ended),
            _ => return Err(Broken::Odd("a message of an unknown kind")),
        }
        if found.end.is_some() {
            break;
        }
    }
    Ok(found)
}

/// The kind of the message in front and its length, once that is known.
///
/// # Errors
/// When it is longer than this.
pub(super) fn head(bytes: &[u8], most: usize) -> Result<Option<(u8, usize)>, Broken> {
    let Some(header) = Header::parse(bytes).map_err(|_| LENGTH)? else {
        return Ok(None);
    };
    // Its length has all but the kind.
    let length = usize::try_from(header.len()).map_err(|_| LENGTH)? + 1;
    if length > most {
        return Err(LENGTH);
    }
    Ok(Some((header.tag(), length)))
}

const LENGTH: Broken = Broken::Odd("a message of an impossible length");

/// Why the server does not go on.
fn refusal(message: &[u8]) -> Broken {
    match Message::parse(&mut BytesMut::from(message)) {
        Ok(Some(Message::ErrorResponse(body))) => refused(&body),
        _ => Broken::Odd("an error that cannot be read"),
    }
}

/// What a server's error says.
pub(super) fn refused(body: &ErrorResponseBody) -> Broken {
    let (mut text, mut state) = (None, None);
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = || Some(String::from_utf8_lossy(field.value_bytes()).into_owned());
        match field.type_() {
            b'M' => text = value(),
            b'C' => state = value(),
            _ => {}
        }
    }
    let text = text.unwrap_or_else(|| "it does not say why".to_owned());
    Broken::Refused(match state {
        Some(state) => format!("{text} (SQLSTATE {state})"),
        None => text,
    })
}

/// Whether there is a piece of the log in messages that were looked at; it is in front then.
pub(super) fn leads(messages: &mut Bytes) -> bool {
    while let Ok(Some((kind, length))) = head(messages, MOST) {
        if kind == b'd' && messages.get(HEAD) == Some(&b'w') {
            return true;
        }
        messages.advance(length.min(messages.len()));
    }
    messages.clear();
    false
}

/// The next piece of the log in messages that were looked at.
pub(super) fn next(messages: &mut Bytes) -> Option<Bytes> {
    if !leads(messages) {
        return None;
    }
    let (_, length) = head(messages, MOST).ok()??;
    let mut message = messages.split_to(length.min(messages.len()));
    message.advance((HEAD + PIECE).min(message.len()));
    Some(message)
}

/// See [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(found) = scan(data) {
        let mut messages = Bytes::copy_from_slice(&data[..found.whole]);
        let any = std::iter::from_fn(|| next(&mut messages)).count() > 0;
        assert_eq!(any, found.data);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message.
    pub(in super::super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], &length.to_be_bytes()[..], body].concat()
    }

    pub(in super::super) fn piece(data: &[u8]) -> Vec<u8> {
        message(b'd', &[b"w", &[0; 24][..], data].concat())
    }

    pub(in super::super) fn sign(asks: bool) -> Vec<u8> {
        message(b'd', &[b"k", &[0; 16][..], &[u8::from(asks)]].concat())
    }

    #[test]
    fn pieces_are_found_between_other_messages() {
        let all = [
            sign(false),
            piece(b"one"),
            message(b'N', b"\0"),
            piece(b"two"),
            sign(true),
        ]
        .concat();
        let cut = [&all[..], &piece(b"three")[..7]].concat();
        let found = scan(&cut).unwrap();
        assert_eq!(
            (found.whole, found.data, found.asks),
            (all.len(), true, true)
        );
        assert_eq!(found.next, piece(b"three").len());
        assert!(found.end.is_none());
        let mut messages = Bytes::from(cut).split_to(found.whole);
        let mut pieces = Vec::new();
        while let Some(piece) = next(&mut messages) {
            pieces.push(piece);
        }
        assert_eq!(pieces, [&b"one"[..], b"two"]);
        assert!(!leads(&mut Bytes::from(sign(true))));
    }

    #[test]
    fn what_ends_a_stream_is_told_behind_what_came_before() {
        let error = message(b'E', b"SERROR\0C57P01\0Mterminating \xff connection\0\0");
        let found = scan(&[piece(b"one"), error.clone(), piece(b"none")].concat()).unwrap();
        assert_eq!(found.whole, piece(b"one").len() + error.len());
        let said = found.end.unwrap().to_string();
        assert_eq!(
            said,
            "server error: terminating \u{fffd} connection (SQLSTATE 57P01)"
        );
        let end = scan(&message(b'c', b"")).unwrap().end.unwrap();
        assert_eq!(end.to_string(), "the replication stream has ended");
        let silent = scan(&message(b'E', b"\0")).unwrap().end.unwrap();
        assert_eq!(silent.to_string(), "server error: it does not say why");
    }

    #[test]
    fn what_is_not_of_this_protocol_is_refused() {
        for (bytes, what) in [
            (b"d\0\0\0\x03".to_vec(), "impossible length"),
            (b"d\x7f\xff\xff\xff".to_vec(), "impossible length"),
            (message(b'd', b""), "no piece of the log"),
            (message(b'd', b"w123"), "no piece of the log"),
            (message(b'd', b"k123"), "no piece of the log"),
            (message(b'?', b""), "unknown kind"),
            (message(b'E', b"Mno end"), "does not say why"),
        ] {
            let said = match scan(&bytes) {
                Ok(found) => found.end.unwrap().to_string(),
                Err(broken) => broken.to_string(),
            };
            assert!(said.contains(what), "{bytes:?}: {said}");
        }
    }
}
