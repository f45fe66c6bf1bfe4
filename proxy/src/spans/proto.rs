//! As much of protobuf's wire format as spans need, written straight into a buffer; and a reader
//! for the little that a collector answers.

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Base 128, the lowest seven bits first.
pub(super) fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The lowest seven bits, and that more come.
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push((value & 0x7f) as u8);
}

/// How many bytes [`varint`] writes.
fn width(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn key(to: &mut Vec<u8>, field: u32, kind: u64) {
    varint(to, u64::from(field) << 3 | kind);
}

pub(super) fn number(to: &mut Vec<u8>, field: u32, value: u64) {
    key(to, field, VARINT);
    varint(to, value);
}

pub(super) fn fixed64(to: &mut Vec<u8>, field: u32, value: u64) {
    key(to, field, FIXED64);
    to.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn fixed32(to: &mut Vec<u8>, field: u32, value: u32) {
    key(to, field, FIXED32);
    to.extend_from_slice(&value.to_le_bytes());
}

/// Text, bytes, or a message that is written already.
pub(super) fn bytes(to: &mut Vec<u8>, field: u32, value: &[u8]) {
    prefix(to, field, value.len());
    to.extend_from_slice(value);
}

/// What stands before so many bytes.
pub(super) fn prefix(to: &mut Vec<u8>, field: u32, len: usize) {
    key(to, field, BYTES);
    varint(to, len as u64);
}

/// An attribute (`KeyValue`) with text.
pub(super) fn text(to: &mut Vec<u8>, field: u32, name: &str, value: &str) {
    attribute(to, (field, name), 1 + sized(value.len()));
    bytes(to, 1, value.as_bytes());
}

/// An attribute with a whole number.
pub(super) fn whole(to: &mut Vec<u8>, field: u32, name: &str, value: u64) {
    attribute(to, (field, name), 1 + width(value));
    number(to, 3, value);
}

/// An attribute that is so.
pub(super) fn truth(to: &mut Vec<u8>, field: u32, name: &str) {
    attribute(to, (field, name), 2);
    number(to, 2, 1);
}

fn sized(len: usize) -> usize {
    width(len as u64) + len
}

/// All of an attribute but its value of so many bytes.
fn attribute(to: &mut Vec<u8>, (field, name): (u32, &str), value: usize) {
    prefix(to, field, 1 + sized(name.len()) + 1 + sized(value));
    bytes(to, 1, name.as_bytes());
    prefix(to, 2, value);
}

/// A field as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u32, u64),
    Bytes(u32, &'a [u8]),
    /// Of no interest here.
    Other,
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The next field of a message; `None` at its end, or where it is none.
pub(super) fn next<'a>(from: &mut &'a [u8]) -> Option<Field<'a>> {
    let key = take_varint(from)?;
    let field = u32::try_from(key >> 3).ok()?;
    let mut skip = |len: usize| {
        let (skipped, rest) = from.split_at_checked(len)?;
        *from = rest;
        Some(skipped)
    };
    match key & 7 {
        VARINT => Some(Field::Number(field, take_varint(from)?)),
        FIXED64 => skip(8).map(|_| Field::Other),
        FIXED32 => skip(4).map(|_| Field::Other),
        BYTES => {
            let len = usize::try_from(take_varint(from)?).ok()?;
            let (value, rest) = from.split_at_checked(len)?;
            *from = rest;
            Some(Field::Bytes(field, value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_as_the_format_has_them() {
        let written = |value| {
            let mut to = Vec::new();
            varint(&mut to, value);
            assert_eq!(width(value), to.len(), "{value}");
            to
        };
        assert_eq!(written(0), [0]);
        assert_eq!(written(127), [127]);
        // The example of the format's own description.
        assert_eq!(written(150), [0x96, 0x01]);
        assert_eq!(written(u64::MAX).len(), 10);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            fields in prop::collection::vec((1..3000_u32, any::<u64>(), any::<Vec<u8>>()), 0..8)
        ) {
            let mut to = Vec::new();
            for (field, value, text) in &fields {
                number(&mut to, *field, *value);
                bytes(&mut to, *field, text);
                fixed64(&mut to, *field, *value);
                fixed32(&mut to, *field, 7);
            }
            let mut from = &to[..];
            for (field, value, text) in &fields {
                prop_assert_eq!(next(&mut from), Some(Field::Number(*field, *value)));
                prop_assert_eq!(next(&mut from), Some(Field::Bytes(*field, text)));
                prop_assert_eq!(next(&mut from), Some(Field::Other));
                prop_assert_eq!(next(&mut from), Some(Field::Other));
            }
            prop_assert_eq!(next(&mut from), None);
        }

        #[test]
        fn nothing_that_comes_is_too_much(bytes in any::<Vec<u8>>()) {
            let mut from = &bytes[..];
            while next(&mut from).is_some() {}
        }
    }
}
