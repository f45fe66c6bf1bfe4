//! How a line is written. Into a buffer that is there already; nothing is allocated.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Uri, Version};
use time::{Month, OffsetDateTime};

use crate::slice::Slice;
use crate::trail::Ending;

/// What is told of a client that left before there was an answer, as nginx has it.
const CLIENT_LEFT: u16 = 499;

/// The calendar, worked out once a second.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    /// `2026-11-21T12:44:20`, empty before the first.
    iso: String,
    /// `21/Nov/2026:12:44:20 +0000`.
    common: String,
}

/// A moment as lines tell it.
pub(super) struct Stamp<'a> {
    clock: &'a Clock,
    millis: u32,
}

impl Clock {
    pub(super) fn at(&mut self, now: SystemTime) -> Stamp<'_> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if self.second != second || self.iso.is_empty() {
            self.second = second;
            self.turn();
        }
        Stamp {
            clock: self,
            millis: since.subsec_millis(),
        }
    }

    fn turn(&mut self) {
        let at = i64::try_from(self.second).ok();
        let at = at.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = (at.year(), at.month(), at.day());
        let (hour, minute, second) = at.to_hms();
        self.iso.clear();
        self.common.clear();
        // A string takes whatever is written.
        let _ = write!(
            self.iso,
            "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}",
            u8::from(month)
        );
        let _ = write!(
            self.common,
            "{day:02}/{}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000",
            short(month)
        );
    }
}

fn short(month: Month) -> &'static str {
    match month {
        Month::January => "Jan",
        Month::February => "Feb",
        Month::March => "Mar",
        Month::April => "Apr",
        Month::May => "May",
        Month::June => "Jun",
        Month::July => "Jul",
        Month::August => "Aug",
        Month::September => "Sep",
        Month::October => "Oct",
        Month::November => "Nov",
        Month::December => "Dec",
    }
}

impl Stamp<'_> {
    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self.clock.iso.as_bytes());
        into.push(b'.');
        for unit in [100, 10, 1] {
            into.push(digit(u64::from(self.millis / unit)));
        }
        into.push(b'Z');
    }
}

/// The last digit of a number.
fn digit(number: u64) -> u8 {
    b"0123456789"[(number % 10) as usize]
}

fn target(uri: &Uri, query: bool) -> &str {
    match uri.path_and_query() {
        Some(whole) if query => whole.as_str(),
        Some(whole) => whole.path(),
        None => "/",
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("unknown")
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// `docs/config.md` lists the fields. Written by hand: names need no look at their letters, and most
/// texts only one.
pub(super) fn json(
    into: &mut Vec<u8>,
    now: &Stamp<'_>,
    ending: &Ending,
    (took, query): (Duration, bool),
    slices: &[Arc<Slice>],
) {
    let trail = &ending.trail;
    let known = trail.known.borrow();
    let slice = known.slice.and_then(|index| slices.get(index));
    into.extend_from_slice(b"{\"time\":\"");
    now.write(into);
    into.push(b'"');
    texts(into, ",\"id\":", trail.id.as_ref().map(text));
    texts(into, ",\"client\":", Some(text(&trail.peer.client)));
    texts(into, ",\"method\":", Some(trail.method.as_str()));
    texts(into, ",\"target\":", Some(target(&trail.target, query)));
    let status = ending.status.map_or(CLIENT_LEFT, |status| status.as_u16());
    numbers(into, ",\"status\":", Some(u64::from(status)));
    numbers(into, ",\"bytes\":", Some(ending.bytes));
    numbers(into, ",\"duration_us\":", Some(micros(took)));
    numbers(into, ",\"upstream_us\":", known.upstream_took.map(micros));
    texts(into, ",\"route\":", known.route.as_deref());
    let slice = slice.map(|slice| slice.settings.id.as_str());
    texts(into, ",\"slice\":", slice);
    numbers(into, ",\"bucket\":", known.bucket.map(u64::from));
    texts(into, ",\"side\":", known.side.map(|side| side.as_str()));
    texts(into, ",\"build\":", known.build.as_deref());
    let upstream = known.upstream.as_ref().map(|to| to.as_str());
    texts(into, ",\"upstream\":", upstream);
    texts(into, ",\"caller\":", known.caller.as_deref());
    texts(into, ",\"refusal\":", known.refusal);
    texts(into, ",\"cache\":", known.cache);
    // Only where it is true: the body did not reach its end.
    if !ending.whole {
        into.extend_from_slice(b",\"cut\":true");
    }
    into.extend_from_slice(b"}\n");
}

fn texts(into: &mut Vec<u8>, name: &str, text: Option<&str>) {
    let Some(text) = text else { return };
    into.extend_from_slice(name.as_bytes());
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        into.push(b'"');
        into.extend_from_slice(text.as_bytes());
        into.push(b'"');
    } else {
        // Memory takes all bytes, and every text has a form in JSON.
        let _ = serde_json::to_writer(into, text);
    }
}

fn numbers(into: &mut Vec<u8>, name: &str, number: Option<u64>) {
    let Some(mut number) = number else { return };
    into.extend_from_slice(name.as_bytes());
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[from..]);
}

pub(super) fn combined(into: &mut Vec<u8>, now: &Stamp<'_>, ending: &Ending, query: bool) {
    let trail = &ending.trail;
    let status = ending.status.map_or(CLIENT_LEFT, |status| status.as_u16());
    let version = match trail.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    };
    let (client, common) = (text(&trail.peer.client), &now.clock.common);
    // Memory takes all bytes.
    let _ = write!(into, "{client} - - [{common}] \"{} ", trail.method);
    quote(into, target(&trail.target, query).as_bytes());
    let _ = write!(into, " {version}\" {status} {} \"", ending.bytes);
    field(into, trail.referer.as_ref());
    into.extend_from_slice(b"\" \"");
    field(into, trail.agent.as_ref());
    into.extend_from_slice(b"\"\n");
}

fn field(into: &mut Vec<u8>, value: Option<&HeaderValue>) {
    quote(into, value.map_or(b"-", HeaderValue::as_bytes));
}

/// Between quotes nothing may end them, or the line, or do something to a terminal.
fn quote(into: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                // Memory takes all bytes.
                let _ = write!(into, "\\x{byte:02X}");
            }
            plain => into.push(*plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_told_in_both_ways() {
        let mut clock = Clock::default();
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        for (millis, iso, common) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (
                951_827_696_789,
                "2000-02-29T12:34:56.789Z",
                "29/Feb/2000:12:34:56 +0000",
            ),
            (
                951_827_696_790,
                "2000-02-29T12:34:56.790Z",
                "29/Feb/2000:12:34:56 +0000",
            ),
        ] {
            let stamp = clock.at(at(millis));
            let mut told = Vec::new();
            stamp.write(&mut told);
            assert_eq!(
                (&told[..], stamp.clock.common.as_str()),
                (iso.as_bytes(), common)
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_stays_between_its_quotes(bytes: Vec<u8>) {
            let mut told = Vec::new();
            quote(&mut told, &bytes);
            prop_assert!(told.iter().all(|b| (0x20..0x7f).contains(b) && *b != b'"'));
        }

        #[test]
        fn what_is_told_in_json_reads_the_same(text: String, number: u64) {
            let mut told = b"{\"a\":0".to_vec();
            texts(&mut told, ",\"text\":", Some(&text));
            numbers(&mut told, ",\"number\":", Some(number));
            texts(&mut told, ",\"none\":", None);
            told.push(b'}');
            let read: serde_json::Value = serde_json::from_slice(&told).unwrap();
            prop_assert_eq!(read, serde_json::json!({"a": 0, "text": text, "number": number}));
        }
    }
}
