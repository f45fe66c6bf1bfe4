//! Bytes of the log, taken from the front. Pure; never a panic, whatever the bytes are.

use std::io::Read;

/// More than a row may have; what says it has more is not a log.
const LARGEST: usize = 1 << 30;

/// What is left to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A whole number of so many bytes, the lowest first.
    pub(super) fn low(&mut self, length: usize) -> Option<u64> {
        self.take(length).map(low)
    }

    pub(super) fn size(&mut self, length: usize) -> Option<usize> {
        usize::try_from(self.low(length)?).ok()
    }

    /// A number that says itself how long it is.
    pub(super) fn packed(&mut self) -> Option<usize> {
        match self.byte()? {
            small @ 0..=250 => Some(usize::from(small)),
            252 => self.size(2),
            253 => self.size(3),
            254 => self.size(8),
            _ => None,
        }
    }

    /// Bytes after their length.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.packed()?;
        self.take(length)
    }

    /// A name after its length of one byte, with a zero at its end.
    pub(super) fn name(&mut self) -> Option<String> {
        let length = self.byte()?;
        let name = self.take(usize::from(length))?;
        self.take(1)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    pub(super) fn bits(&mut self, count: usize) -> Option<Bits<'a>> {
        self.take(count.div_ceil(8)).map(Bits)
    }
}

/// One bit each, the lowest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a>(&'a [u8]);

impl Bits<'_> {
    pub(super) fn has(self, at: usize) -> bool {
        self.0.get(at / 8).is_some_and(|b| b >> (at % 8) & 1 == 1)
    }

    pub(super) fn count(self, upto: usize) -> usize {
        (0..upto).filter(|&at| self.has(at)).count()
    }
}

/// A whole number, the lowest byte first; of at most eight bytes.
pub(super) fn low(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |all, b| all << 8 | u64::from(*b))
}

/// A whole number, the highest byte first; of at most eight bytes.
pub(super) fn high(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |all, b| all << 8 | u64::from(*b))
}

/// What MariaDB has compressed (`log_bin_compress`).
pub(super) fn inflate(data: &[u8]) -> Option<Vec<u8>> {
    let mut left = Reader(data);
    let head = left.byte()?;
    // Zlib is the only way there is.
    if head & 0x80 == 0 || head & 0x70 != 0 {
        return None;
    }
    let length = usize::try_from(high(left.take(usize::from(head & 7))?)).ok()?;
    if length > LARGEST {
        return None;
    }
    let mut plain = Vec::new();
    let limit = u64::try_from(length).ok()? + 1;
    let mut from = flate2::read::ZlibDecoder::new(left.0).take(limit);
    from.read_to_end(&mut plain).ok()?;
    (plain.len() == length).then_some(plain)
}
