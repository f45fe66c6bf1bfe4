//! PostgreSQL's own hash of a row's values, made by us of the values of a SQLite row: 64 bits, for a
//! fifth of what text and its MD5 cost either side. Pure.
//!
//! Its hash of bytes is Bob Jenkins' lookup3 with a seed (PostgreSQL: `hash_bytes_extended` in
//! `src/common/hashfn.c`), that of a record joins those of its columns (`hash_record_extended` in
//! `src/backend/utils/adt/rowtypes.c`). None of it is promised from one version or machine to the
//! next, so a verification asks the server for a sample first, and goes by MD5 where it differs.

use crate::typed::{Class, Typed};
use crate::value::Cell;

use super::SEED;

/// Between 1970 and 2000, where PostgreSQL's times begin.
const DAYS: i64 = 10_957;
const MICROS_A_DAY: i64 = 86_400_000_000;

/// How a type's values are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Whole, of 32 bits at the most.
    Word,
    /// Whole, of up to 64, which the server's own hash would fold to 32.
    Long,
    Bool,
    /// Its bits: to the server's own hash 0 and -0 are one.
    Float,
    Bytes,
    Uuid,
    /// Microseconds, of a clock.
    Local,
    /// Microseconds, in UTC.
    Instant,
    /// Its text, byte for byte, whatever collations call equal.
    Chars,
}

impl Form {
    pub(super) fn of(kind: &Typed) -> Self {
        match kind.class {
            Class::Int if matches!(kind.base.as_str(), "smallint" | "integer") => Self::Word,
            Class::Int => Self::Long,
            Class::Bool => Self::Bool,
            Class::Real | Class::Real4 => Self::Float,
            Class::Bytes => Self::Bytes,
            Class::Uuid => Self::Uuid,
            Class::Timestamp => Self::Local,
            Class::Instant => Self::Instant,
            Class::Decimal(_) | Class::Text | Class::Bits(_) | Class::AsWritten => Self::Chars,
        }
    }

    /// What the server puts into the record of a column; `text` is the value's canonical text.
    pub(super) fn sql(self, name: &str, text: &str) -> String {
        match self {
            Self::Word => format!("{name}::int4"),
            Self::Long => format!("int8send({name}::int8)"),
            Self::Bool => format!("{name}::boolean"),
            Self::Float => format!("float8send({name}::float8)"),
            Self::Bytes => format!("{name}::bytea"),
            Self::Uuid => format!("{name}::uuid"),
            Self::Local => format!("timestamp_send({name})"),
            Self::Instant => format!("timestamptz_send({name})"),
            Self::Chars => format!("({text})::text COLLATE \"C\""),
        }
    }

    /// The hash of a value in its column's canonical form; `None` where the column has no such value.
    pub(super) fn hash(self, cell: &Cell) -> Option<u64> {
        Some(match (self, cell) {
            (_, Cell::Null) => 0,
            (Self::Word, Cell::Int(i)) => word(i32::try_from(*i).ok()?.cast_unsigned()),
            (Self::Long, Cell::Int(i)) => bytes(&i.to_be_bytes(), SEED),
            (Self::Bool, Cell::Int(i @ (0 | 1))) => word(u32::from(*i == 1)),
            (Self::Float, Cell::Real(r)) => bytes(&r.to_bits().to_be_bytes(), SEED),
            (Self::Bytes, Cell::Blob(blob)) => bytes(blob, SEED),
            (Self::Uuid, Cell::Text(text)) => bytes(&uuid(text.as_bytes())?, SEED),
            (Self::Local, Cell::Text(text)) => bytes(&moment(text, b' ', "")?.to_be_bytes(), SEED),
            (Self::Instant, Cell::Text(text)) => {
                bytes(&moment(text, b'T', "Z")?.to_be_bytes(), SEED)
            }
            (Self::Chars, Cell::Text(text)) => bytes(text.as_bytes(), SEED),
            _ => return None,
        })
    }
}

/// The hash of a row while its columns come one after another.
#[derive(Debug, Default)]
pub(super) struct Record(u64);

impl Record {
    pub(super) fn add(&mut self, hash: u64) {
        self.0 = (self.0 << 5).wrapping_sub(self.0).wrapping_add(hash);
    }

    fn take(&mut self) -> i64 {
        std::mem::take(&mut self.0).cast_signed()
    }

    /// As the server sums it up. Nothing is left for the next row.
    pub(super) fn finish(&mut self) -> i64 {
        bytes(itoa::Buffer::new().format(self.take()).as_bytes(), 0).cast_signed()
    }

    /// Of a row that was given up.
    pub(super) fn clear(&mut self) {
        self.0 = 0;
    }
}

/// A sample: text of every length up to 64, and a value of each type.
pub(crate) const SAMPLED: &str = "pine\u{e9} \u{1f600}\u{20ac}|^N'\" 0123456789 abcdefghijklmnopqrstuvwxyz \u{e4}\u{f6}\u{fc}\u{df} ABCDEFGHIJKLMNO";

/// What a server says of the sample ([`crate::db::Database::hashed_sample`]) if its functions are
/// what ours are.
pub(crate) fn sample() -> String {
    let hash = |form: Form, cell: Cell| form.hash(&cell).unwrap_or(0);
    let text = |text: &str| Cell::Text(text.to_owned());
    let mut record = Record::default();
    for hash in [
        hash(Form::Word, Cell::Int(-2)),
        hash(Form::Word, Cell::Int(70_000)),
        hash(Form::Long, Cell::Int(-30_000_000_000)),
        hash(Form::Bool, Cell::Int(1)),
        hash(Form::Chars, text("a b")),
        hash(Form::Chars, text("b")),
        // Base 10,000: three digits, the first of 10,000s, negative, three of them after the point.
        bytes(&[0, 3, 0, 1, 64, 0, 0, 3, 0, 123, 17, 215, 34, 196], SEED),
        hash(Form::Bytes, Cell::Blob(vec![0, 255, 1, 2])),
        hash(Form::Float, Cell::Real(-0.1)),
        bytes(&0.1_f32.to_bits().to_be_bytes(), SEED),
        hash(Form::Uuid, text("0f14d0ab-9605-4a62-a9e4-5ed26688389b")),
        // 29 February 2020, a number of 32 bits.
        word(7_364),
        bytes(&45_296_789_000_i64.to_be_bytes(), SEED),
        hash(Form::Local, text("1999-12-31 23:59:59.5")),
        hash(Form::Instant, text("2020-02-29T12:00:00Z")),
        0,
    ] {
        record.add(hash);
    }
    let mut said = record.take().to_string();
    for (length, at) in (0..=64_u64).zip(ends()) {
        let hash = bytes(&SAMPLED.as_bytes()[..at], length * 99_999_999_999);
        said.push_str(&format!(",{}", hash.cast_signed()));
    }
    said
}

/// Where each letter of the sample begins, and where it ends.
fn ends() -> impl Iterator<Item = usize> {
    let starts = SAMPLED.char_indices().map(|(at, _)| at);
    starts.chain([SAMPLED.len()])
}

/// `hash_bytes_uint32_extended`.
fn word(word: u32) -> u64 {
    let (a, b, c) = begun(4, SEED);
    last(a.wrapping_add(word), b, c)
}

/// `hash_bytes_extended`.
fn bytes(bytes: &[u8], seed: u64) -> u64 {
    let (mut a, mut b, mut c) = begun(bytes.len(), seed);
    let mut chunks = bytes.chunks_exact(12);
    for chunk in &mut chunks {
        let (one, two, three) = words(chunk);
        a = a.wrapping_add(one);
        b = b.wrapping_add(two);
        c = c.wrapping_add(three);
        (a, b, c) = mixed(a, b, c);
    }
    let mut rest = [0; 12];
    let left = chunks.remainder();
    // The lowest byte of the third is that of the length.
    let (most, more) = left.split_at(left.len().min(8));
    rest[..most.len()].copy_from_slice(most);
    rest[9..9 + more.len()].copy_from_slice(more);
    let (one, two, three) = words(&rest);
    last(
        a.wrapping_add(one),
        b.wrapping_add(two),
        c.wrapping_add(three),
    )
}

fn words(twelve: &[u8]) -> (u32, u32, u32) {
    let at = |at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&twelve[at..at + 4]);
        u32::from_le_bytes(four)
    };
    (at(0), at(4), at(8))
}

#[allow(clippy::cast_possible_truncation)] // As the server does.
fn begun(length: usize, seed: u64) -> (u32, u32, u32) {
    let all = 0x9e37_79b9_u32.wrapping_add(length as u32);
    let all = all.wrapping_add(3_923_095);
    if seed == 0 {
        return (all, all, all);
    }
    let (high, low) = ((seed >> 32) as u32, seed as u32);
    mixed(all.wrapping_add(high), all.wrapping_add(low), all)
}

fn mixed(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for (one, two, three) in [(4, 6, 8), (16, 19, 4)] {
        a = a.wrapping_sub(c) ^ c.rotate_left(one);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(two);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(three);
        b = b.wrapping_add(a);
    }
    (a, b, c)
}

fn last(mut a: u32, mut b: u32, mut c: u32) -> u64 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    u64::from(b) << 32 | u64::from(c)
}

/// A UUID's bytes, of its canonical text alone.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let (mut made, mut digits) = ([0; 16], 0);
    for (at, &byte) in text.iter().enumerate() {
        let digit = match byte {
            b'-' if matches!(at, 8 | 13 | 18 | 23) => continue,
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        let place: &mut u8 = made.get_mut(digits / 2)?;
        *place = *place << 4 | digit;
        digits += 1;
    }
    (digits == 32).then_some(made)
}

/// Microseconds since 2000 of a moment's canonical text, and of no other text, so that no two texts
/// have the same.
fn moment(text: &str, between: u8, end: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, before) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let text = text.strip_suffix(end)?.as_bytes();
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (year, rest) = text.split_at(digits);
    // Years of more than four digits have no zeros before them.
    if !(4..=6).contains(&digits) || digits > 4 && year[0] == b'0' || rest.len() < 15 {
        return None;
    }
    let (clock, fraction) = rest.split_at(15);
    let [b'-', _, _, b'-', _, _, sign, _, _, b':', _, _, b':', _, _] = clock else {
        return None;
    };
    let two = |at: usize| number(&clock[at..at + 2]);
    let (month, day, hour, minute, second) = (two(1)?, two(4)?, two(7)?, two(10)?, two(13)?);
    let year = match (number(year)?, before) {
        (0, _) => return None,
        (year, true) => 1 - year,
        (year, false) => year,
    };
    let fits = *sign == between
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let micros = match fraction {
        [] => 0,
        [b'.', .., b'0'] | [b'.'] => return None,
        [b'.', digits @ ..] if digits.len() <= 6 => {
            number(digits)? * 10_i64.pow(6 - u32::try_from(digits.len()).ok()?)
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute) * 60 + second;
    if !fits {
        return None;
    }
    // Years that the server does not know may have more microseconds than it counts, or as many as it
    // has for no moment.
    let days = (days(year, month, day) - DAYS).checked_mul(MICROS_A_DAY)?;
    let moment = days.checked_add(seconds * 1_000_000 + micros)?;
    (i64::MIN + 1..i64::MAX).contains(&moment).then_some(moment)
}

/// A number of few digits and of nothing else.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + i64::from(byte - b'0'))
    })
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970. Years begin in March, so that a leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = match month {
        ..=2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_server() {
        // SELECT hashtextextended('', 0), hashtextextended('a', 0), hashtextextended('é€ 0123456789', 4711)
        assert_eq!(bytes(b"", 0).cast_signed(), -6_939_563_903_564_495_251);
        assert_eq!(bytes(b"a", 0).cast_signed(), 3_591_986_179_850_072_241);
        let long = "\u{e9}\u{20ac} 0123456789";
        assert_eq!(
            bytes(long.as_bytes(), SEED).cast_signed(),
            7_797_151_480_909_574_592
        );
        // SELECT hashint4extended(-5, 4711)
        assert_eq!(
            word((-5_i32).cast_unsigned()).cast_signed(),
            -3_539_582_187_361_868_153
        );
        assert_eq!(
            sample().split(',').count(),
            66,
            "a record, and 0 to 64 letters"
        );
    }

    #[test]
    fn only_canonical_texts_are_moments() {
        let local = |text: &str| moment(text, b' ', "");
        assert_eq!(local("2000-01-01 00:00:00"), Some(0));
        assert_eq!(local("1999-12-31 23:59:59.5"), Some(-500_000));
        assert_eq!(
            local("2024-02-29 00:00:00.000001"),
            Some(762_480_000_000_001)
        );
        // SELECT extract(epoch FROM t - timestamp '2000-01-01') * 1000000
        assert_eq!(
            local("0001-01-01 00:00:00 BC"),
            Some(-63_113_904_000_000_000)
        );
        assert_eq!(
            local("294276-12-31 23:59:59.999999"),
            Some(9_223_371_331_199_999_999)
        );
        assert_eq!(local("infinity"), Some(i64::MAX));
        assert_eq!(moment("2000-01-01T00:00:01Z", b'T', "Z"), Some(1_000_000));
        for other in [
            "2000-01-01T00:00:00",
            "2000-01-01 00:00:00Z",
            "2000-01-01 00:00:00.10",
            "2000-01-01 00:00:00.",
            "2000-01-01 00:00:00.1234567",
            "2000-01-01 24:00:00",
            "2000-01-01 23:59:60",
            "2023-02-29 00:00:00",
            "1900-02-29 00:00:00",
            "2000-00-01 00:00:00",
            "0000-01-01 00:00:00",
            "02000-01-01 00:00:00",
            "2000-1-01 00:00:00",
            "2000-01-01 00:00:00 AD",
            "+2000-01-01 00:00:00",
            "",
            "999999-12-31 23:59:59",
            "294277-01-09 04:00:54.775807",
            "294277-01-10 23:59:59.999999",
        ] {
            assert_eq!(local(other), None, "{other}");
        }
    }

    #[test]
    fn only_canonical_texts_are_uuids() {
        let made = uuid(b"0f14d0ab-9605-4a62-a9e4-5ed26688389b");
        assert_eq!(made.map(|bytes| (bytes[0], bytes[15])), Some((0x0f, 0x9b)));
        assert_eq!(uuid(b"0F14d0ab-9605-4a62-a9e4-5ed26688389b"), None);
        assert_eq!(uuid(b"0f14d0ab96054a62a9e45ed26688389b0000"), None);
        assert_eq!(uuid(b"0f14d0ab-9605-4a62-a9e4-5ed26688389"), None);
    }
}
