//! The fields of an answer as its upstream wrote them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Lines that are left out: those of `connection`, `keep-alive` and `transfer-encoding`.
const CUTS: usize = 3;

/// Where something is in a head: from, to.
type Span = (u32, u32);

/// Lines of a head that are well-formed, end with CR and LF, and do not concern one hop alone.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    head: Bytes,
    all: Span,
    /// In order; those that are not used are empty, and at the end.
    cuts: [Span; CUTS],
    /// There is a `date`.
    pub(crate) dated: bool,
    /// There is a `location` or a `content-location`.
    pub(crate) located: bool,
    /// What `content-length` says, where there is one, and it is a plain number.
    pub(crate) length: Option<u64>,
}

/// Why a head is to be read into fields at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unkept;

/// What is known of a head's lines before the head itself is cut off its input.
#[derive(Debug)]
pub(crate) struct LinesBuilder {
    all: Span,
    cuts: [Span; CUTS],
    used: usize,
    dated: bool,
    located: bool,
    length: Option<u64>,
}

impl LinesBuilder {
    /// Of the lines between these places.
    ///
    /// # Errors
    /// There are no heads of 4 GB.
    pub(crate) fn new(from: usize, to: usize) -> Result<Self, Unkept> {
        let end = place(to)?;
        Ok(Self {
            all: (place(from)?, end),
            cuts: [(end, end); CUTS],
            used: 0,
            dated: false,
            located: false,
            length: None,
        })
    }

    /// Leaves out a line, behind those that were left out before.
    ///
    /// # Errors
    /// There is no room to note another one.
    pub(crate) fn without(mut self, from: usize, to: usize) -> Result<Self, Unkept> {
        *self.cuts.get_mut(self.used).ok_or(Unkept)? = (place(from)?, place(to)?);
        self.used += 1;
        Ok(self)
    }

    /// Whether there is a `date`, and one of another place, and what `content-length` says.
    pub(crate) fn with(mut self, (dated, located): (bool, bool), length: Option<u64>) -> Self {
        (self.dated, self.located, self.length) = (dated, located, length);
        self
    }

    pub(crate) fn of(self, head: Bytes) -> Lines {
        Lines {
            head,
            all: self.all,
            cuts: self.cuts,
            dated: self.dated,
            located: self.located,
            length: self.length,
        }
    }
}

fn place(at: usize) -> Result<u32, Unkept> {
    u32::try_from(at).map_err(|_| Unkept)
}

impl Lines {
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        let (mut from, end) = self.all;
        let cuts = self.cuts.into_iter().chain([(end, end)]);
        cuts.map(move |(cut, behind)| {
            let piece = (from as usize, cut as usize);
            from = behind;
            piece
        })
        .filter(|(from, to)| from < to)
    }

    /// Whole lines, one behind the other, each with its end.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let piece = |(from, to)| self.head.get(from..to);
        self.spans().filter_map(piece)
    }

    /// The value of the first line with this name.
    pub(crate) fn find(&self, name: &[u8]) -> Option<&[u8]> {
        let mut lines = self
            .pieces()
            .flat_map(|piece| piece.split(|byte| *byte == b'\n'));
        lines.find_map(|line| {
            let (own, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            own.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
        })
    }

    /// The lines as fields, which share the head's memory.
    pub(crate) fn read(&self) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(8);
        for (from, to) in self.spans() {
            let mut at = from;
            while at < to {
                let rest = self.head.get(at..to).unwrap_or_default();
                let length = rest.iter().position(|byte| *byte == b'\n');
                let length = length.map_or(rest.len(), |end| end + 1);
                // Each was found well-formed when it came.
                if let Some((name, value)) = field(&self.head, &rest[..length]) {
                    fields.append(name, value);
                }
                at += length;
            }
        }
        fields
    }
}

fn field(head: &Bytes, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let name = HeaderName::from_bytes(name).ok()?;
    let value = head.slice_ref(value.get(1..)?.trim_ascii());
    let value = HeaderValue::from_maybe_shared(value).ok()?;
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(head: &'static str, cuts: &[&str]) -> Lines {
        let from = head.find('\n').unwrap() + 1;
        let mut built = LinesBuilder::new(from, head.len() - 2).unwrap();
        for cut in cuts {
            let at = head.find(cut).unwrap();
            built = built.without(at, at + cut.len()).unwrap();
        }
        built.of(Bytes::from_static(head.as_bytes()))
    }

    #[test]
    fn what_is_cut_is_neither_written_nor_read() {
        let head =
            "HTTP/1.1 200 OK\r\nA: 1\r\nConnection: close\r\nb:\t2 \r\nB:\r\nKeep-Alive: 5\r\n\r\n";
        let cuts = ["Connection: close\r\n", "Keep-Alive: 5\r\n"];
        let lines = lines(head, &cuts);
        let written: Vec<u8> = lines.pieces().flatten().copied().collect();
        assert_eq!(written, b"A: 1\r\nb:\t2 \r\nB:\r\n");
        let fields = lines.read();
        let read = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        assert_eq!(
            read.collect::<Vec<_>>(),
            [("a", "1"), ("b", "2"), ("b", "")]
        );
        let found = |name: &str| lines.find(name.as_bytes());
        assert_eq!(found("b"), Some(&b"2"[..]));
        assert_eq!(found("A"), Some(&b"1"[..]));
        assert_eq!(found("connection"), None);
    }

    #[test]
    fn a_head_may_have_no_lines_and_only_so_many_are_cut() {
        let empty = lines("HTTP/1.1 200 OK\r\n\r\n", &[]);
        assert_eq!(empty.pieces().count() + empty.read().len(), 0);
        let cut = |lines: LinesBuilder, at: usize| lines.without(at, at + 9);
        let three =
            LinesBuilder::new(0, 40).and_then(|lines| [0, 10, 20].into_iter().try_fold(lines, cut));
        assert_eq!(three.unwrap().without(30, 39).unwrap_err(), Unkept);
    }
}
