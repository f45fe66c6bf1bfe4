//! Types whose binary form is the same in every server (manual, "Message Formats", and each type's
//! `send` function), so that a value of the log can go into an array as it came. Where it has to be
//! looked at, its text is made here, as the server would have it (ISO dates, UTC), but for floats,
//! whose text only has to mean the very same. Pure.

use std::fmt::Write as _;

use crate::db::keys::hex;
use crate::value::Kind;

/// Days from 0000-03-01 to 2000-01-01.
const TO_2000: i64 = 730_425;
const DAY: i64 = 86_400_000_000;
/// Digits of a decimal come by four.
const GROUP: usize = 4;

/// A type by its name as SQL text; itself and its arrays (`pg_type.dat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::db) struct Native {
    pub(super) name: &'static str,
    pub(super) id: u32,
    pub(super) array: u32,
}

const fn native(name: &'static str, id: u32, array: u32) -> Native {
    Native { name, id, array }
}

const TYPES: [Native; 19] = [
    native("boolean", 16, 1000),
    native("bytea", 17, 1001),
    native("name", 19, 1003),
    native("bigint", 20, 1016),
    native("smallint", 21, 1005),
    native("integer", 23, 1007),
    native("text", 25, 1009),
    native("oid", 26, 1028),
    native("json", 114, 199),
    native("real", 700, 1021),
    native("double precision", 701, 1022),
    native("bpchar", 1042, 1014),
    native("character varying", 1043, 1015),
    native("date", 1082, 1182),
    native("timestamp without time zone", 1114, 1115),
    native("timestamp with time zone", 1184, 1185),
    native("numeric", 1700, 1231),
    native("uuid", 2950, 2951),
    native("jsonb", 3802, 3807),
];

impl Native {
    /// The type of a column, if it is one of these.
    pub(in crate::db) fn of(kind: &Kind) -> Option<Self> {
        let Kind::Postgres(kind) = kind else {
            return None;
        };
        TYPES.into_iter().find(|native| native.name == kind.base)
    }
}

/// The text of a value of this type; `None` for types that are not known, and for what is none of
/// their values.
pub(in crate::db) fn text(id: u32, bytes: &[u8]) -> Option<String> {
    Some(match id {
        16 => match bytes {
            [0] => "f".to_owned(),
            [1] => "t".to_owned(),
            _ => return None,
        },
        17 => format!("\\x{}", hex(bytes)),
        19 | 25 | 114 | 1042 | 1043 => plain(bytes)?,
        20 => i64::from_be_bytes(exact(bytes)?).to_string(),
        21 => i16::from_be_bytes(exact(bytes)?).to_string(),
        23 => i32::from_be_bytes(exact(bytes)?).to_string(),
        26 => u32::from_be_bytes(exact(bytes)?).to_string(),
        700 => f32::from_be_bytes(exact(bytes)?).to_string(),
        701 => f64::from_be_bytes(exact(bytes)?).to_string(),
        1082 => date(i32::from_be_bytes(exact(bytes)?)),
        1114 => clock(i64::from_be_bytes(exact(bytes)?), ""),
        1184 => clock(i64::from_be_bytes(exact(bytes)?), "+00"),
        1700 => decimal(bytes)?,
        2950 => uuid(exact(bytes)?),
        // Of the one version that there is.
        3802 => plain(bytes.strip_prefix(&[1])?)?,
        _ => return None,
    })
}

fn exact<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn plain(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = hex(&bytes);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

/// Year, month and day of days since 2000; the year 0 is the first before Christ.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let days = days + TO_2000;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    // Years begin in March here.
    let (later, month) = if month < 10 {
        (0, month + 3)
    } else {
        (1, month - 9)
    };
    (year + era * 400 + later, month, day)
}

/// A day's text, and what comes behind all else.
fn day_text(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        _ => {
            let (day, era) = day_text(days.into());
            format!("{day}{era}")
        }
    }
}

fn clock(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let (day, era) = day_text(micros.div_euclid(DAY));
    let time = micros.rem_euclid(DAY);
    let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{day} {hour:02}:{minute:02}:{second:02}");
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push_str(zone);
    text.push_str(era);
    text
}

/// A decimal: how many groups of digits, the weight of the first, the sign, how many digits are
/// shown behind the point, and the groups.
fn decimal(bytes: &[u8]) -> Option<String> {
    let (words, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let mut words = words.iter().map(|word| u16::from_be_bytes(*word));
    let count = usize::from(words.next()?);
    let weight = words.next()?.cast_signed();
    let sign = words.next()?;
    let scale = usize::from(words.next()?);
    let groups: Vec<u16> = words.collect();
    if groups.len() != count || groups.iter().any(|group| *group > 9_999) {
        return None;
    }
    let mut text = match sign {
        0 => String::new(),
        0x4000 => "-".to_owned(),
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    // The group of this weight; those that are not told are zero.
    let group = |of: i32| {
        let at = usize::try_from(i32::from(weight) - of).ok();
        at.and_then(|at| groups.get(at)).copied().unwrap_or(0)
    };
    let first = i32::from(weight).max(0);
    // Writing to a string cannot fail.
    let _ = write!(text, "{}", group(first));
    for of in (0..first).rev() {
        let _ = write!(text, "{:04}", group(of));
    }
    if scale > 0 {
        text.push('.');
        let end = text.len() + scale;
        let mut of = -1;
        while text.len() < end {
            let _ = write!(text, "{:0width$}", group(of), width = GROUP);
            of -= 1;
        }
        text.truncate(end);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_have_the_digits_that_they_show() {
        let of = |weight: i16, sign: u16, scale: u16, groups: &[u16]| {
            let mut bytes = u16::try_from(groups.len()).unwrap().to_be_bytes().to_vec();
            bytes.extend(weight.to_be_bytes());
            bytes.extend(sign.to_be_bytes());
            bytes.extend(scale.to_be_bytes());
            groups.iter().for_each(|g| bytes.extend(g.to_be_bytes()));
            text(1700, &bytes)
        };
        for (expected, found) in [
            ("0", of(0, 0, 0, &[])),
            ("0.00", of(0, 0, 2, &[])),
            ("1.50", of(0, 0, 2, &[1, 5000])),
            ("-12345.6", of(1, 0x4000, 1, &[1, 2345, 6000])),
            ("100000000", of(2, 0, 0, &[1])),
            ("0.0001", of(-1, 0, 4, &[1])),
            ("0.00000012", of(-2, 0, 8, &[12])),
            ("NaN", of(0, 0xC000, 0, &[])),
        ] {
            assert_eq!(found.as_deref(), Some(expected));
        }
        assert_eq!(text(1700, &[0, 1, 0, 0, 0, 0, 0, 0]), None, "cut short");
    }

    #[test]
    fn clocks_are_those_of_the_server() {
        for (days, expected) in [
            (0, "2000-01-01"),
            (8_825, "2024-02-29"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (2_921_939, "9999-12-31"),
            (2_921_940, "10000-01-01"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(text(1082, &days.to_be_bytes()).as_deref(), Some(expected));
        }
        for (micros, expected) in [
            (0, "2000-01-01 00:00:00"),
            (-1, "1999-12-31 23:59:59.999999"),
            (1_500_000, "2000-01-01 00:00:01.5"),
            (i64::MAX, "infinity"),
        ] {
            let bytes = i64::to_be_bytes(micros);
            assert_eq!(text(1114, &bytes).as_deref(), Some(expected));
        }
        let instant = text(1184, &10i64.to_be_bytes());
        assert_eq!(instant.as_deref(), Some("2000-01-01 00:00:00.00001+00"));
    }

    #[test]
    fn uuids_have_their_hyphens() {
        let text = text(2950, &std::array::from_fn::<u8, 16, _>(|at| at as u8));
        assert_eq!(
            text.as_deref(),
            Some("00010203-0405-0607-0809-0a0b0c0d0e0f")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0..TYPES.len(), bytes: Vec<u8>) {
            let _ = text(TYPES[at].id, &bytes);
        }

        #[test]
        fn days_follow_one_another(days in -2_000_000i64..4_000_000) {
            let (before, after) = (civil(days), civil(days + 1));
            let next = (before.0, before.1, before.2 + 1);
            let month = (before.0, before.1 + 1, 1);
            let year = (before.0 + 1, 1, 1);
            prop_assert!(after == next || after == month || (after == year && before.1 == 12));
        }
    }
}
