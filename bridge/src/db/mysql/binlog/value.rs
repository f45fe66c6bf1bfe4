//! A key's value in the log as the stream keeps it: the same text that the triggers write. Pure.

use time::OffsetDateTime;

use super::event::{Logged, code};
use super::rows::DIGITS;
use super::wire::{high, low};
use crate::bits;
use crate::db::keys::hex;
use crate::typed::{Class, Typed};

/// A key's column as it goes into the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Null,
    /// With its letter.
    Stored(String),
    /// Text in its column's own charset, which the server turns into ours.
    Foreign(Vec<u8>),
}

/// Why a type's values cannot be keys here; `None` when they can.
pub(super) fn unfit(kind: &Typed) -> Option<&str> {
    match kind.class {
        Class::Real | Class::Real4 => Some(&kind.base),
        Class::AsWritten if !matches!(kind.base.as_str(), "date" | "time") => Some(&kind.base),
        _ => None,
    }
}

/// A value in the one form of its class. `None` when it does not fit the column.
pub(super) fn part(kind: &Typed, column: &Logged, bytes: &[u8]) -> Option<Part> {
    let stored = |letter: char, text: String| Some(Part::Stored(format!("{letter}{text}")));
    match kind.class {
        Class::Int | Class::Bool => stored('i', number(column, bytes)?),
        Class::Decimal(_) if column.code == code::DECIMAL => stored('t', decimal(column, bytes)?),
        Class::Decimal(_) => stored('t', number(column, bytes)?),
        Class::Bits(Some(width)) => stored('t', bits::of_number(high(bytes), width)?),
        Class::Text => text(column, bytes).map(Part::Foreign),
        Class::Bytes => stored('b', hex(&padded(column, bytes)?)),
        Class::Uuid => stored('t', uuid(&padded(column, bytes)?)?),
        Class::Timestamp => stored('t', datetime(column, bytes)?),
        Class::Instant => stored('t', instant(column, bytes)?),
        Class::AsWritten if kind.base == "date" => stored('t', date(column, bytes)?),
        Class::AsWritten if kind.base == "time" => stored('t', clock(column, bytes)?),
        Class::AsWritten | Class::Bits(None) | Class::Real | Class::Real4 => None,
    }
}

fn number(column: &Logged, bytes: &[u8]) -> Option<String> {
    let found = low(bytes);
    match column.code {
        code::YEAR => Some(match found {
            0 => "0".to_owned(),
            since => since.checked_add(1_900)?.to_string(),
        }),
        code::BIT => Some(high(bytes).to_string()),
        code::TINY | code::SHORT | code::INT24 | code::LONG | code::LONGLONG => {
            if column.unsigned {
                return Some(found.to_string());
            }
            // The sign is in the highest bit of so many bytes.
            let unused = 64_u32.checked_sub(u32::try_from(bytes.len() * 8).ok()?)?;
            Some((found.checked_shl(unused)?.cast_signed() >> unused).to_string())
        }
        _ => None,
    }
}

/// Nine digits in four bytes, fewer in fewer; all bits turned round below zero.
fn decimal(column: &Logged, bytes: &[u8]) -> Option<String> {
    let [digits, after] = column.meta.to_be_bytes().map(usize::from);
    let before = digits.checked_sub(after)?;
    let negative = bytes.first()? & 0x80 == 0;
    let mut plain = bytes.to_vec();
    plain[0] ^= 0x80;
    if negative {
        plain.iter_mut().for_each(|b| *b = !*b);
    }
    let mut left = plain.as_slice();
    let mut group = |digits: usize| {
        let (head, rest) = left.split_at_checked(DIGITS[digits])?;
        left = rest;
        Some(format!("{:0digits$}", high(head)))
    };
    let mut whole = String::new();
    if before % 9 > 0 {
        whole.push_str(&group(before % 9)?);
    }
    for _ in 0..before / 9 {
        whole.push_str(&group(9)?);
    }
    let mut fraction = String::new();
    for _ in 0..after / 9 {
        fraction.push_str(&group(9)?);
    }
    if after % 9 > 0 {
        fraction.push_str(&group(after % 9)?);
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        some => some,
    };
    let sign = if negative { "-" } else { "" };
    let point = if after > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

/// In the column's own charset.
fn text(column: &Logged, bytes: &[u8]) -> Option<Vec<u8>> {
    match column.code {
        code::ENUM => match low(bytes) {
            // What was not one of them.
            0 => Some(Vec::new()),
            at => column.labels.get(usize::try_from(at).ok()? - 1).cloned(),
        },
        code::SET => {
            let bits = low(bytes);
            let labels = column.labels.iter().enumerate();
            let chosen: Vec<&[u8]> = labels
                .filter(|(at, _)| {
                    bits.checked_shr(u32::try_from(*at).unwrap_or(64))
                        .unwrap_or(0)
                        & 1
                        == 1
                })
                .map(|(_, label)| label.as_slice())
                .collect();
            Some(chosen.join(&b','))
        }
        code::STRING | code::VARCHAR | code::VAR_STRING | code::TINY_BLOB..=code::BLOB => {
            Some(bytes.to_vec())
        }
        _ => None,
    }
}

/// Bytes of a fixed length come without the zeros at their end.
fn padded(column: &Logged, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut all = bytes.to_vec();
    match column.code {
        code::STRING => {
            all.resize(usize::from(column.meta).max(bytes.len()), 0);
            Some(all)
        }
        code::VARCHAR | code::VAR_STRING | code::TINY_BLOB..=code::BLOB => Some(all),
        _ => None,
    }
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let text = hex(bytes);
    if text.len() != 32 {
        return None;
    }
    let part = |from: usize, to: usize| text.get(from..to);
    Some(format!(
        "{}-{}-{}-{}-{}",
        part(0, 8)?,
        part(8, 12)?,
        part(12, 16)?,
        part(16, 20)?,
        part(20, 32)?
    ))
}

/// Millionths, of the bytes behind the seconds.
fn micros(bytes: &[u8]) -> u64 {
    let scale = match bytes.len() {
        1 => 10_000,
        2 => 100,
        _ => 1,
    };
    high(bytes) * scale
}

/// Without zeros at the end, as the triggers have it.
fn fraction(micros: u64) -> String {
    let text = format!(".{micros:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn datetime(column: &Logged, bytes: &[u8]) -> Option<String> {
    if column.code == code::DATETIME {
        let all = low(bytes);
        let (day, clock) = (all / 1_000_000, all % 1_000_000);
        return Some(format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            day / 10_000,
            day / 100 % 100,
            day % 100,
            clock / 10_000,
            clock / 100 % 100,
            clock % 100
        ));
    }
    if column.code != code::DATETIME2 {
        return None;
    }
    let (head, rest) = bytes.split_at_checked(5)?;
    let all = high(head).checked_sub(0x80_0000_0000)?;
    let (day, clock) = (all >> 17, all & 0x1_ffff);
    let months = day >> 5;
    Some(format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{}",
        months / 13,
        months % 13,
        day & 31,
        clock >> 12,
        clock >> 6 & 63,
        clock & 63,
        fraction(micros(rest))
    ))
}

fn instant(column: &Logged, bytes: &[u8]) -> Option<String> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let seconds = match column.code {
        code::TIMESTAMP => low(head),
        code::TIMESTAMP2 => high(head),
        _ => return None,
    };
    if seconds == 0 && micros(rest) == 0 {
        return Some("0000-00-00T00:00:00Z".to_owned());
    }
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    Some(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        fraction(micros(rest))
    ))
}

fn date(column: &Logged, bytes: &[u8]) -> Option<String> {
    let all = low(bytes);
    matches!(column.code, code::DATE | code::NEWDATE)
        .then(|| format!("{:04}-{:02}-{:02}", all >> 9, all >> 5 & 15, all & 31))
}

/// With the digits of its column; hours as they are, a day has no end here.
fn clock(column: &Logged, bytes: &[u8]) -> Option<String> {
    if column.code != code::TIME2 {
        return None;
    }
    let rest = bytes.len().checked_sub(3)?;
    // The bytes of the fraction go on from those of the seconds, also below zero.
    let bits = rest.min(3) * 8;
    let all = i64::try_from(high(bytes)).ok()? - (0x80_0000_i64 << bits);
    let negative = all < 0;
    let all = all.unsigned_abs();
    let seconds = all >> bits;
    let parts = all & ((1 << bits) - 1);
    let micros = match rest {
        1 => parts * 10_000,
        2 => parts * 100,
        _ => parts,
    };
    let digits = usize::from(column.meta).min(6);
    let fraction = format!("{micros:06}");
    let point = if digits > 0 { "." } else { "" };
    Some(format!(
        "{}{:02}:{:02}:{:02}{point}{}",
        if negative { "-" } else { "" },
        seconds >> 12 & 0x3ff,
        seconds >> 6 & 63,
        seconds & 63,
        fraction.get(..digits)?
    ))
}
