//! Where tokens and values end, for whoever passes over them. Places are values and no fields, so
//! that they stay in registers: most of what is compared is only passed over.

/// Bytes that are looked at in one go.
const WORD: usize = 8;

/// This byte in every byte of a word.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; WORD])
}

/// The first byte that a string cannot have as it is: a quote, a backslash, a control. The lowest
/// bit that is set is true; those above it may come from a carry.
fn special(word: u64) -> u64 {
    let zero = |word: u64| word.wrapping_sub(each(0x01)) & !word;
    let control = word.wrapping_sub(each(0x20)) & !word;
    (zero(word ^ each(b'"')) | zero(word ^ each(b'\\')) | control) & each(0x80)
}

/// Where the first special byte is, from here on.
#[inline(always)]
fn plain(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut rest = bytes.get(at..)?;
    while let Some((word, after)) = rest.split_first_chunk() {
        let found = special(u64::from_le_bytes(*word));
        if found != 0 {
            // A place within a word.
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += WORD;
        rest = after;
    }
    let last = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    Some(at + rest.iter().position(last)?)
}

/// How long the escape is that this begins with. Halves of a character have no text.
fn escape(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => match unit(text)? {
            0xdc00..=0xdfff => None,
            0xd800..=0xdbff => {
                let second = text.get(6..)?;
                let whole = second.starts_with(b"\\u") && matches!(unit(second)?, 0xdc00..=0xdfff);
                whole.then_some(12)
            }
            _ => Some(6),
        },
        _ => None,
    }
}

/// The four digits of `\u0000`.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.get(2..6)?.iter();
    digits.copied().try_fold(0, |found, byte| {
        Some(found * 16 + char::from(byte).to_digit(16)?)
    })
}

/// Behind the spaces that are here.
#[inline]
pub(crate) fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Behind the string that begins here, and whether it has escapes.
#[inline(always)]
pub(crate) fn string(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    if *bytes.get(at)? != b'"' {
        return None;
    }
    let at = plain(bytes, at + 1)?;
    match *bytes.get(at)? {
        b'"' => Some((at + 1, false)),
        b'\\' => Some((escaped(bytes, at)?, true)),
        _ => None,
    }
}

/// Behind the string whose first escape is here.
fn escaped(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += escape(bytes.get(at..)?)?,
            _ => return None,
        }
        at = plain(bytes, at)?;
    }
}

fn digits(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while matches!(bytes.get(at), Some(b'0'..=b'9')) {
        at += 1;
    }
    (at > from).then_some(at)
}

/// Behind the number that begins here.
#[inline]
pub(crate) fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    at += usize::from(*bytes.get(at)? == b'-');
    at = match *bytes.get(at)? {
        b'0' => at + 1,
        _ => digits(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        at = digits(bytes, at)?;
    }
    Some(at)
}

#[inline]
pub(crate) fn word(bytes: &[u8], at: usize, wanted: &[u8]) -> Option<usize> {
    let rest = bytes.get(at..)?;
    rest.starts_with(wanted).then_some(at + wanted.len())
}

/// Behind the value that begins here, if it is no array and no object.
#[inline(always)]
pub(crate) fn scalar(bytes: &[u8], at: usize) -> Option<usize> {
    match *bytes.get(at)? {
        b'"' => string(bytes, at).map(|(end, _)| end),
        b'n' => word(bytes, at, b"null"),
        b't' => word(bytes, at, b"true"),
        b'f' => word(bytes, at, b"false"),
        _ => number(bytes, at),
    }
}

/// Behind this byte, and the spaces before it.
#[inline]
pub(crate) fn sign(bytes: &[u8], at: usize, wanted: u8) -> Option<usize> {
    let at = space(bytes, at);
    (*bytes.get(at)? == wanted).then_some(at + 1)
}

/// Behind the comma, or this end of an array or an object; whether it was the comma.
#[inline]
pub(crate) fn goes_on(bytes: &[u8], at: usize, close: u8) -> Option<(usize, bool)> {
    let at = space(bytes, at);
    let byte = *bytes.get(at)?;
    (byte == b',' || byte == close).then_some((at + 1, byte == b','))
}

/// Behind the sign that opens an array or an object, and behind all of it, where it is empty;
/// whether it is not.
#[inline]
pub(crate) fn opens(bytes: &[u8], at: usize, close: u8) -> Option<(usize, bool)> {
    let at = space(bytes, at + 1);
    let more = *bytes.get(at)? != close;
    Some((at + usize::from(!more), more))
}

/// Behind the value that comes here, of at most so many levels. `None` also where an array or an
/// object goes on beyond `most`.
#[inline(always)]
pub(crate) fn value(bytes: &[u8], at: usize, depth: usize, most: usize) -> Option<usize> {
    // A scalar is one level, and is read without a call.
    let depth = depth.checked_sub(1)?;
    let at = space(bytes, at);
    match *bytes.get(at)? {
        b'{' => object(bytes, at, depth, most),
        b'[' => array(bytes, at, depth, most),
        _ => scalar(bytes, at),
    }
}

fn object(bytes: &[u8], at: usize, depth: usize, most: usize) -> Option<usize> {
    let (mut at, mut more) = opens(bytes, at, b'}')?;
    while more {
        if at > most {
            return None;
        }
        at = string(bytes, space(bytes, at))?.0;
        at = sign(bytes, at, b':')?;
        at = value(bytes, at, depth, most)?;
        (at, more) = goes_on(bytes, at, b'}')?;
    }
    Some(at)
}

fn array(bytes: &[u8], at: usize, depth: usize, most: usize) -> Option<usize> {
    let (mut at, mut more) = opens(bytes, at, b']')?;
    while more {
        if at > most {
            return None;
        }
        at = value(bytes, at, depth, most)?;
        (at, more) = goes_on(bytes, at, b']')?;
    }
    Some(at)
}

/// Behind the object that begins here, with so many levels below it; its members are shown, each
/// by its name without the quotes, and its value. `None` also where a name has escapes.
#[inline]
pub(crate) fn members(
    bytes: &[u8],
    at: usize,
    depth: usize,
    mut each: impl FnMut((usize, usize), (usize, usize)),
) -> Option<usize> {
    let (mut at, mut more) = opens(bytes, at, b'}')?;
    while more {
        let name = space(bytes, at);
        let (over, escaped) = string(bytes, name)?;
        if escaped {
            return None;
        }
        let begin = space(bytes, sign(bytes, over, b':')?);
        let end = value(bytes, begin, depth, usize::MAX)?;
        each((name + 1, over - 1), (begin, end));
        (at, more) = goes_on(bytes, end, b'}')?;
    }
    Some(at)
}

/// A member whose value is a scalar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    /// Without its quotes.
    pub(crate) name: (usize, usize),
    pub(crate) value: (usize, usize),
    /// Behind it and the comma.
    pub(crate) end: usize,
    /// Whether another one comes.
    pub(crate) more: bool,
}

/// The member that comes here; `None` also where its value is no scalar, or its name has escapes.
#[inline]
pub(crate) fn member(bytes: &[u8], at: usize) -> Option<Member> {
    let from = space(bytes, at);
    let (to, escaped) = string(bytes, from)?;
    if escaped {
        return None;
    }
    let begin = space(bytes, sign(bytes, to, b':')?);
    if matches!(*bytes.get(begin)?, b'{' | b'[') {
        return None;
    }
    let over = scalar(bytes, begin)?;
    let (end, more) = goes_on(bytes, over, b'}')?;
    Some(Member {
        name: (from + 1, to - 1),
        value: (begin, over),
        end,
        more,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(bytes in prop::collection::vec(any::<u8>(), 0..40), from in 0usize..8) {
            let wanted = bytes.iter().skip(from).position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let wanted = wanted.map(|place| place + from);
            prop_assert_eq!(plain(&bytes, from), wanted);
        }
    }
}
