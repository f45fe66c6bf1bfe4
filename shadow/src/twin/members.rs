//! Objects of both texts: in step for as long as the names are the same, then each side for
//! itself, and what is left is put together by name.

use std::cmp::Ordering;
use std::ops::Range;

use super::{FEW, Member, Part, Twin, Twins, rows};
use crate::json::{Reader, scan};
use crate::path::Step;

/// Fewer bytes are hardly a member with its name.
const MEMBER: usize = 12;

fn has_twice<'a>(names: &[&'a str], rest: impl ExactSizeIterator<Item = &'a str>) -> bool {
    if rest.len() == 0 && names.len() <= FEW {
        let known = |(at, name): (usize, &&str)| names[..at].contains(name);
        return names.iter().enumerate().any(known);
    }
    let mut all: Vec<&str> = names.iter().copied().chain(rest).collect();
    all.sort_unstable();
    all.windows(2).any(|pair| pair[0] == pair[1])
}

/// Passes over the members that are left of an object, if there are `more`.
pub(super) fn members<'a>(
    reader: &mut Reader<'a>,
    mut more: bool,
    depth: usize,
    mut each: impl FnMut(Part<'a>),
) -> Option<()> {
    while more {
        let name = reader.name()?;
        reader.space();
        let from = reader.at();
        reader.skip(depth)?;
        each(Part {
            name,
            span: (from, reader.at()),
        });
        more = reader.goes_on(b'}')?;
    }
    Some(())
}

impl<'a> Twins<'a, '_> {
    /// Of two objects. `None` within where they are elements with different keys, which are hardly
    /// a pair: such are passed over.
    pub(super) fn object(&mut self, depth: usize, of_row: bool) -> Option<Option<Twin<'a>>> {
        let begin = (self.names.len(), self.parts.len());
        let mut kept = Vec::new();
        let mut is_pair = !of_row;
        let mut strangers = of_row && self.again == 0;
        let mut more = self.both(|reader| reader.opens(b'{', b'}'))?;
        // In step for as long as the names are the same.
        while more == (true, true) && !strangers {
            self.look_ahead();
            // A scalar is one level.
            if depth > 0 {
                let (goes_on, named) = self.same_members(of_row);
                is_pair |= named;
                more = (goes_on, goes_on);
                if !goes_on {
                    break;
                }
            }
            self.begin()?;
            let before = self.ats();
            let (name, other) = self.both(Reader::name)?;
            if name != other {
                self.put(before);
                break;
            }
            self.names.push(name);
            self.begin()?;
            let from = self.ats();
            let twin = self.below(|| Step::Name(name.to_owned()), |twins| twins.value(depth))?;
            let same = matches!(twin, Twin::Same);
            if of_row && let Some(no) = rows::key(name) {
                self.note(no, from, same);
                is_pair |= same;
                strangers = !is_pair;
            }
            if !same {
                kept.push((name, Member::Both(twin)));
            }
            more = self.both(|reader| reader.goes_on(b'}'))?;
        }
        let rest = self.rest(more, depth, of_row)?;
        let found = match strangers {
            true => None,
            false => Some(self.members(begin.0, rest, depth, kept)?),
        };
        self.names.truncate(begin.0);
        self.parts.truncate(begin.1);
        Some(found)
    }

    /// Passes over members that are scalars and the same in both, where that is soon known: whether
    /// another one comes. Whether there was one that may name the object.
    fn same_members(&mut self, of_row: bool) -> (bool, bool) {
        let bytes = self.a.bytes();
        let mut at = self.a.at();
        let (mut more, mut named) = (true, false);
        while more && at + MEMBER <= self.alike {
            let Some(member) = scan::member(bytes, at).filter(|one| one.end < self.alike) else {
                break;
            };
            let name = self.ours(member.name);
            self.names.push(name);
            if of_row && let Some(no) = rows::key(name) {
                self.note_same(no, member.value);
                named = true;
            }
            (at, more) = (member.end, member.more);
        }
        self.put_on(at);
        (more, named)
    }

    /// Reads the members that are left, each side for itself.
    fn rest(
        &mut self,
        more: (bool, bool),
        depth: usize,
        of_row: bool,
    ) -> Option<(Range<usize>, Range<usize>)> {
        let begin = self.parts.len();
        members(&mut self.a, more.0, depth, |part| self.parts.push(part))?;
        let middle = self.parts.len();
        members(&mut self.b, more.1, depth, |part| self.parts.push(part))?;
        let end = self.parts.len();
        if begin < end {
            self.alike = 0;
        }
        if of_row {
            self.note_parts(begin..middle, true);
            self.note_parts(middle..end, false);
        }
        Some((begin..middle, middle..end))
    }

    /// Puts together what differs: the names in step, and those of the rest.
    fn members(
        &mut self,
        names: usize,
        (ours, theirs): (Range<usize>, Range<usize>),
        depth: usize,
        mut kept: Vec<(&'a str, Member<'a>)>,
    ) -> Option<Twin<'a>> {
        if kept.is_empty() && ours.is_empty() && theirs.is_empty() {
            return Some(Twin::Same);
        }
        let twice = |rest: &Range<usize>| {
            let rest = self.parts[rest.clone()].iter().map(|part| part.name);
            has_twice(&self.names[names..], rest)
        };
        if twice(&ours) || twice(&theirs) {
            return None;
        }
        for rest in [&ours, &theirs] {
            self.parts[rest.clone()].sort_unstable_by(|a, b| a.name.cmp(b.name));
        }
        let (mut i, mut j) = (ours.start, theirs.start);
        while i < ours.end || j < theirs.end {
            let a = self.parts[i..ours.end].first().copied();
            let b = self.parts[j..theirs.end].first().copied();
            let order = match (a, b) {
                (Some(a), Some(b)) => a.name.cmp(b.name),
                (Some(_), None) => Ordering::Less,
                _ => Ordering::Greater,
            };
            let ours = a.filter(|_| order.is_le());
            let theirs = b.filter(|_| order.is_ge());
            i += usize::from(ours.is_some());
            j += usize::from(theirs.is_some());
            if let Some(found) = self.member(ours, theirs, depth)? {
                kept.push(found);
            }
        }
        kept.sort_unstable_by(|a, b| a.0.cmp(b.0));
        Some(match kept.is_empty() {
            true => Twin::Same,
            false => Twin::Object(kept),
        })
    }

    /// Of the values of one name; nothing where they are the same.
    fn member(
        &mut self,
        ours: Option<Part<'a>>,
        theirs: Option<Part<'a>>,
        depth: usize,
    ) -> Option<Option<(&'a str, Member<'a>)>> {
        Some(Some(match (ours, theirs) {
            (Some(a), Some(b)) => {
                let step = || Step::Name(a.name.to_owned());
                let look = |twins: &mut Self| twins.elsewhere(a.span, b.span, depth);
                match self.below(step, look)? {
                    Twin::Same => return Some(None),
                    twin => (a.name, Member::Both(twin)),
                }
            }
            (Some(a), None) => {
                let value = Reader::new(self.ours(a.span)).value(depth)?;
                (a.name, Member::Missing(value))
            }
            (None, Some(b)) => {
                let value = Reader::new(self.theirs(b.span)).value(depth)?;
                (b.name, Member::Extra(value))
            }
            (None, None) => return Some(None),
        }))
    }
}
