//! Two JSON texts read side by side: what is equal in both is looked at once, and nothing is built
//! of it.
//!
//! Most answers that differ, differ in a few places. For as long as the bytes of both texts are
//! alike, one of them is read, and the other one is known to say the same. What comes out are the
//! differences alone, as the diff of both whole documents would find them: values that differ,
//! names that one side lacks, and elements that are paired as everywhere (see [`rows`]).
//!
//! Both texts are read to their end, and as strictly as everywhere: what is no JSON on either side
//! has no twin.

mod members;
mod rows;

use rows::{Key, Row};

use crate::arrays::WORK_MAX;
use crate::json::{DEPTH_MAX, Json, Reader};
use crate::path::{Root, Step};
use crate::rules::Rules;

/// So few names are searched for one that comes twice without sorting.
const FEW: usize = 16;

/// Elements and their keys that are looked for without growing.
const MORE: usize = 64;

/// Bytes of an array or an object that is tried as a whole, where the texts are alike.
const SHORT: usize = 128;

/// What differs between two values at the same place.
#[derive(Debug)]
pub(crate) enum Twin<'a> {
    Same,
    /// Both as a whole.
    Values(Box<(Json, Json)>),
    /// By name.
    Object(Vec<(&'a str, Member<'a>)>),
    Array(Box<Elements<'a>>),
}

/// A member that is not the same on both sides.
#[derive(Debug)]
pub(crate) enum Member<'a> {
    Both(Twin<'a>),
    Missing(Json),
    Extra(Json),
}

/// What differs between two arrays, by the indices of each side.
#[derive(Debug, Default)]
pub(crate) struct Elements<'a> {
    /// Indices are those of the legacy side.
    pub(crate) pairs: Vec<(usize, Twin<'a>)>,
    pub(crate) missing: Vec<(usize, Json)>,
    pub(crate) extra: Vec<(usize, Json)>,
    pub(crate) order: Option<Order>,
    /// How many each side has, where they were paired by position.
    pub(crate) by_position: Option<(usize, usize)>,
}

/// Common elements in another order.
#[derive(Debug)]
pub(crate) struct Order {
    /// The legacy indices in the extracted order.
    pub(crate) indices: Vec<usize>,
    /// The first elements of each side.
    pub(crate) legacy: Vec<Json>,
    pub(crate) extracted: Vec<Json>,
}

/// What differs between both texts; `None` where they have to be read apart: one is no JSON, an
/// object that differs has a name twice, or a name is written with escapes.
pub(crate) fn read<'a>(a: &'a [u8], b: &'a [u8], rules: &Rules) -> Option<Twin<'a>> {
    read_within(a, b, rules, a.len() + b.len())
}

/// `again`: see [`Twins::again`].
fn read_within<'a>(a: &'a [u8], b: &'a [u8], rules: &Rules, again: usize) -> Option<Twin<'a>> {
    let (a, b) = (std::str::from_utf8(a).ok()?, std::str::from_utf8(b).ok()?);
    let mut twins = Twins::new(a, b, rules, again);
    twins.a.space();
    twins.b.space();
    let found = twins.value(DEPTH_MAX)?;
    (twins.a.is_over() && twins.b.is_over()).then_some(found)
}

/// A value's text, by its begin and end.
type Span = (usize, usize);

/// A member that is read on its side alone.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    name: &'a str,
    span: Span,
}

/// The lists are those of all objects and arrays that are being read, one behind the other, so
/// that none is made for each of them.
struct Twins<'a, 'r> {
    a: Reader<'a>,
    b: Reader<'a>,
    /// Until here in `a`, and as far in `b`, the bytes that come are the same.
    alike: usize,
    /// Bytes that were tried as a whole in vain.
    tried: usize,
    /// Bytes of the last element, where it was the same; else none.
    same_row: usize,
    names: Vec<&'a str>,
    parts: Vec<Part<'a>>,
    rows: Vec<Row<'a>>,
    keys: Vec<Key<'a>>,
    /// What may still be spent on pairing elements.
    work: usize,
    /// Bytes that may still be read again because elements were no pair. Without it, elements that
    /// are no pairs within elements that are no pairs would be read over and over.
    again: usize,
    rules: &'r Rules,
    /// Where we are, if anybody wants to know: where no rule is about an array, nobody does.
    at: Vec<Step>,
    /// Bytes of all elements that were looked at or passed over.
    #[cfg(test)]
    read: usize,
}

/// How many bytes two texts have in common at their front.
fn common(a: &[u8], b: &[u8]) -> usize {
    const BLOCK: usize = 64;
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK));
    let from = BLOCK * blocks.take_while(|(a, b)| a == b).count();
    let (mut a, mut b) = (&a[from..], &b[from..]);
    let mut found = from;
    while let (Some((x, rest)), Some((y, other))) = (a.split_first_chunk(), b.split_first_chunk()) {
        let unlike = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if unlike != 0 {
            return found + unlike.trailing_zeros() as usize / 8;
        }
        (a, b, found) = (rest, other, found + 8);
    }
    found + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<'a, 'r> Twins<'a, 'r> {
    fn new(a: &'a str, b: &'a str, rules: &'r Rules, again: usize) -> Self {
        Self {
            a: Reader::new(a),
            b: Reader::new(b),
            alike: 0,
            tried: 0,
            same_row: 0,
            names: Vec::with_capacity(FEW),
            parts: Vec::with_capacity(FEW),
            rows: Vec::with_capacity(MORE),
            keys: Vec::with_capacity(MORE),
            work: WORK_MAX,
            again,
            rules,
            at: Vec::new(),
            #[cfg(test)]
            read: 0,
        }
    }
}

impl<'a> Twins<'a, '_> {
    /// Looks how far the texts are alike from here.
    fn look_ahead(&mut self) {
        if self.a.at() >= self.alike {
            self.alike = self.a.at() + common(self.a.rest(), self.b.rest());
        }
    }

    /// Reads the same on both sides; once, where the bytes are alike up to the one behind it.
    fn both<T: Copy>(&mut self, read: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<(T, T)> {
        let from = self.a.at();
        let ours = read(&mut self.a)?;
        if self.a.at() < self.alike {
            self.b.put(self.b.at() + (self.a.at() - from));
            return Some((ours, ours));
        }
        Some((ours, read(&mut self.b)?))
    }

    /// Goes to where a name or a value begins.
    fn begin(&mut self) -> Option<()> {
        self.both(|reader| {
            reader.space();
            Some(())
        })?;
        self.look_ahead();
        Some(())
    }

    fn ats(&self) -> (usize, usize) {
        (self.a.at(), self.b.at())
    }

    /// Goes on to here in `a`, and as far in `b`.
    fn put_on(&mut self, at: usize) {
        self.b.put(self.b.at() + (at - self.a.at()));
        self.a.put(at);
    }

    /// Goes to other places, of which nothing is known yet.
    fn put(&mut self, (a, b): (usize, usize)) {
        self.a.put(a);
        self.b.put(b);
        self.alike = 0;
    }

    fn ours(&self, span: Span) -> &'a str {
        self.a.part(span.0, span.1)
    }

    fn theirs(&self, span: Span) -> &'a str {
        self.b.part(span.0, span.1)
    }

    /// Looks at what lies one step below here.
    fn below<T>(
        &mut self,
        step: impl FnOnce() -> Step,
        look: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        if self.rules.arrays_have_none() {
            return look(self);
        }
        self.at.push(step());
        let found = look(self)?;
        self.at.pop();
        Some(found)
    }

    /// Reads on in `a`, if there and up to the next byte the texts are alike.
    #[inline]
    fn ahead<T>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<T> {
        let mut reader = self.a;
        let found = read(&mut reader)?;
        (reader.at() < self.alike).then(|| {
            self.put_on(reader.at());
            found
        })
    }

    /// Passes over a value that is the same in both, where that is soon known; false, with nothing
    /// done, where it is not. Of longer ones the parts are, one by one; and all that is tried in
    /// vain is less than half of the text.
    #[inline]
    fn same(&mut self, depth: usize) -> bool {
        let at = self.a.at();
        if at >= self.alike {
            return false;
        }
        if matches!(self.a.peek(), Some(b'{' | b'[')) {
            let end = at + SHORT;
            if self.tried + SHORT > at / 2 || end >= self.alike {
                return false;
            }
            let same = self.ahead(|reader| reader.skip_within(depth, end));
            self.tried += if same.is_some() { 0 } else { SHORT };
            return same.is_some();
        }
        self.ahead(|reader| reader.skip(depth)).is_some()
    }

    /// Of two values that begin here, with so many levels left.
    fn value(&mut self, depth: usize) -> Option<Twin<'a>> {
        if self.same(depth) {
            return Some(Twin::Same);
        }
        match (self.a.peek()?, self.b.peek()?) {
            (b'{', b'{') => self.object(depth.checked_sub(1)?, false)?,
            (b'[', b'[') if self.has_rule() => self.as_a_whole(depth),
            (b'[', b'[') => self.array(depth.checked_sub(1)?),
            _ => self.as_a_whole(depth),
        }
    }

    /// Whether a rule says how the elements of the array that begins here are paired.
    fn has_rule(&self) -> bool {
        !self.rules.arrays_have_none() && self.rules.array(&Root::Body, &self.at).is_some()
    }

    fn as_a_whole(&mut self, depth: usize) -> Option<Twin<'a>> {
        let (ours, theirs) = self.skipped(depth)?;
        let (a, b) = (self.ours(ours), self.theirs(theirs));
        if a == b {
            return Some(Twin::Same);
        }
        let read = |text| Reader::new(text).value(depth);
        let (a, b) = (read(a)?, read(b)?);
        Some(match a == b {
            true => Twin::Same,
            false => Twin::Values(Box::new((a, b))),
        })
    }

    /// Passes over a value on both sides.
    fn skipped(&mut self, depth: usize) -> Option<(Span, Span)> {
        let from = self.ats();
        self.both(|reader| reader.skip(depth))?;
        let to = self.ats();
        Some(((from.0, to.0), (from.1, to.1)))
    }

    /// The same of two values that are somewhere else.
    fn elsewhere(&mut self, ours: Span, theirs: Span, depth: usize) -> Option<Twin<'a>> {
        if self.ours(ours) == self.theirs(theirs) {
            return Some(Twin::Same);
        }
        let back = self.ats();
        self.put((ours.0, theirs.0));
        let found = self.value(depth)?;
        self.put(back);
        Some(found)
    }
}

#[cfg(test)]
mod tests;
