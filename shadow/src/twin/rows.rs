//! Arrays of both texts: their elements are passed over side by side, then paired as
//! [`crate::arrays`] pairs whole trees, and only the pairs that differ are looked at.
//!
//! Elements that are at the same place are looked at as they come, because they are a pair nearly
//! always. Where they turn out to be none, they are looked at again; this has a bound for the
//! whole document, beyond which elements are only passed over at first.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::members::members;
use super::{Elements, Order, Part, Span, Twin, Twins};
use crate::arrays::{self, KEYS, Pairing};
use crate::diff::ELEMENTS_SHOWN;
use crate::json::{Json, Reader, scan};
use crate::path::Step;
use crate::settings::ArrayBy;

/// Numbers that are so short and have digits only are written in one way.
const PLAIN_MAX: usize = 20;

/// Whether a byte begins one of the names that elements are known by: most members' names do not.
const IS_FIRST: [bool; 256] = {
    let mut found = [false; 256];
    let mut no = 0;
    while no < KEYS.len() {
        found[KEYS[no].as_bytes()[0] as usize] = true;
        no += 1;
    }
    found
};

/// Of which side something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Ours,
    Theirs,
}

/// A member of an element that may name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    /// In [`KEYS`].
    no: usize,
    of: Of,
    text: &'a str,
}

/// Two elements that are at the same place, or one that is alone.
#[derive(Debug)]
pub(super) struct Row<'a> {
    ours: Option<Span>,
    theirs: Option<Span>,
    /// Where the keys of both are, from and to.
    keys: (usize, usize),
    /// What differs between both; `None` where nobody has looked.
    twin: Option<Twin<'a>>,
}

impl Row<'_> {
    fn is_same(&self) -> bool {
        matches!(self.twin, Some(Twin::Same))
    }

    /// Bytes that were read for a look that nobody needs.
    fn in_vain(&self) -> usize {
        let len = |span: Option<Span>| span.map_or(0, |(from, to)| to - from);
        match self.twin {
            None | Some(Twin::Same) => 0,
            Some(_) => len(self.ours) + len(self.theirs),
        }
    }
}

/// Which of the names this one is that elements are known by.
pub(super) fn key(name: &str) -> Option<usize> {
    let first = *name.as_bytes().first()?;
    if !IS_FIRST[usize::from(first)] {
        return None;
    }
    KEYS.iter().position(|key| *key == name)
}

/// The value of a key in one way of writing, with a quote in front if it is a text; `None` for
/// what names nothing.
fn plain(text: &str) -> Option<Cow<'_, str>> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match text.as_bytes().first()? {
        b'"' if !text.contains('\\') => text.get(..text.len() - 1).map(Cow::Borrowed),
        b'0'..=b'9' if text.len() <= PLAIN_MAX && digits(text) => Some(Cow::Borrowed(text)),
        _ => match Reader::new(text).value(1)? {
            Json::String(text) => Some(Cow::Owned(format!("\"{text}"))),
            Json::Number(number) => Some(Cow::Owned(number.to_string())),
            _ => None,
        },
    }
}

/// What one side's elements are named by this key; `None` where one has it not, or not once.
fn named<'a>(rows: &[Row<'_>], keys: &[Key<'a>], no: usize, of: Of) -> Option<Vec<Cow<'a, str>>> {
    let own = rows.iter().filter(|row| match of {
        Of::Ours => row.ours.is_some(),
        _ => row.theirs.is_some(),
    });
    let mut found = Vec::with_capacity(rows.len());
    for row in own {
        let known = keys.get(row.keys.0..row.keys.1)?.iter();
        let mut known = known.filter(|key| key.no == no && (key.of == Of::Both || key.of == of));
        let key = known.next()?;
        found.push(known.next().is_none().then(|| plain(key.text))??);
    }
    Some(found)
}

/// Whether nothing by this key is of one side alone.
fn is_of_both(rows: &[Row<'_>], keys: &[Key<'_>], no: usize) -> bool {
    let whole = |row: &Row<'_>| row.ours.is_some() && row.theirs.is_some();
    // Those in front are of arrays around this one.
    let own = rows.first().and_then(|row| keys.get(row.keys.0..));
    let of_both = |key: &Key<'_>| key.no != no || key.of == Of::Both;
    rows.iter().all(whole) && own.unwrap_or_default().iter().all(of_both)
}

/// How elements are paired by the field that names them, where one does: see
/// [`arrays::pair`], which decides so of trees.
fn by_key(rows: &[Row<'_>], keys: &[Key<'_>]) -> Option<Pairing> {
    let count = |own: fn(&Row<'_>) -> bool| rows.iter().filter(|row| own(row)).count();
    if count(|row| row.ours.is_some()) < 2 && count(|row| row.theirs.is_some()) < 2 {
        return None;
    }
    (0..KEYS.len()).find_map(|no| {
        let ours = named(rows, keys, no, Of::Ours)?;
        let theirs = match is_of_both(rows, keys, no) {
            true => None,
            false => Some(named(rows, keys, no, Of::Theirs)?),
        };
        // In order, none comes twice.
        let rises = |(a, b): (&Cow<'_, str>, &Cow<'_, str>)| (a.len(), a) < (b.len(), b);
        let is_sorted = ours.iter().zip(ours.iter().skip(1)).all(rises);
        let of_all = || ours.iter().map(AsRef::as_ref).collect::<HashSet<&str>>();
        let known = (!is_sorted).then(of_all);
        if known.as_ref().is_some_and(|known| known.len() < ours.len()) {
            return None;
        }
        let Some(theirs) = theirs.filter(|theirs| *theirs != ours) else {
            return Some(Pairing {
                pairs: (0..ours.len()).map(|index| (index, index)).collect(),
                ..Pairing::default()
            });
        };
        let known = known.unwrap_or_else(of_all);
        let places = theirs.iter().enumerate().map(|(j, key)| (&**key, j));
        let places: HashMap<&str, usize> = places.collect();
        let common = ours
            .iter()
            .filter(|key| places.contains_key(&***key))
            .count();
        let least = ours.len().min(theirs.len()).max(1);
        if places.len() < theirs.len() || common * 2 < least {
            return None;
        }
        let mut found = Pairing::default();
        for (index, key) in ours.iter().enumerate() {
            match places.get(&**key) {
                Some(partner) => found.pairs.push((index, *partner)),
                None => found.missing.push(index),
            }
        }
        let extra = theirs
            .iter()
            .enumerate()
            .filter(|(_, key)| !known.contains(&***key));
        found.extra = extra.map(|(index, _)| index).collect();
        found.order = arrays::order(&found.pairs);
        Some(found)
    })
}

impl<'a> Twins<'a, '_> {
    /// Notes the value that may name both elements, and is the same.
    pub(super) fn note_same(&mut self, no: usize, span: Span) {
        let (of, text) = (Of::Both, self.ours(span));
        self.keys.push(Key { no, of, text });
    }

    /// Notes the values that may name both elements, and have just been read.
    pub(super) fn note(&mut self, no: usize, from: (usize, usize), same: bool) {
        let (a, b) = self.ats();
        if same {
            return self.note_same(no, (from.0, a));
        }
        let sides = [
            (Of::Ours, self.ours((from.0, a))),
            (Of::Theirs, self.theirs((from.1, b))),
        ];
        for (of, text) in sides {
            self.keys.push(Key { no, of, text });
        }
    }

    /// The same of members that were read each for itself.
    pub(super) fn note_parts(&mut self, parts: Range<usize>, of_ours: bool) {
        for part in &self.parts[parts] {
            if let Some(no) = key(part.name) {
                let (of, side) = match of_ours {
                    true => (Of::Ours, &self.a),
                    false => (Of::Theirs, &self.b),
                };
                let text = side.part(part.span.0, part.span.1);
                self.keys.push(Key { no, of, text });
            }
        }
    }

    /// Of two arrays.
    pub(super) fn array(&mut self, depth: usize) -> Option<Twin<'a>> {
        let begin = (self.rows.len(), self.keys.len());
        let mut index = 0;
        let mut differ = false;
        let mut more = self.both(|reader| reader.opens(b'[', b']'))?;
        while more == (true, true) {
            self.begin()?;
            let row = self.row(index, depth, &mut more)?;
            index += usize::from(row.ours.is_some());
            differ |= !row.is_same();
            self.rows.push(row);
        }
        let found = if differ || more != (false, false) {
            self.left(more, depth)?;
            let rows = self.rows.split_off(begin.0);
            match by_key(&rows, &self.keys) {
                Some(pairing) => self.paired(rows, pairing, depth)?,
                None => self.ordered(rows, depth)?,
            }
        } else {
            Twin::Same
        };
        self.rows.truncate(begin.0);
        self.keys.truncate(begin.1);
        Some(found)
    }

    /// Two elements that come at the same place, or one of them, where the other one is equal to
    /// the next.
    fn row(&mut self, index: usize, depth: usize, more: &mut (bool, bool)) -> Option<Row<'a>> {
        let (from, keys) = (self.ats(), self.keys.len());
        let twin = self.below(|| Step::Index(index), |twins| twins.looked(depth))?;
        let to = self.ats();
        #[cfg(test)]
        {
            self.read += (to.0 - from.0) + (to.1 - from.1);
        }
        *more = self.both(|reader| reader.goes_on(b']'))?;
        let (ours, theirs) = ((from.0, to.0), (from.1, to.1));
        let mut row = Row {
            ours: Some(ours),
            theirs: Some(theirs),
            keys: (keys, self.keys.len()),
            twin,
        };
        self.same_row = if row.is_same() { to.0 - from.0 } else { 0 };
        let has_key = || self.keys[keys..].iter().any(|key| key.of == Of::Both);
        if row.is_same() || self.again == 0 || has_key() {
            return Some(row);
        }
        let read = (to.0 - from.0) + (to.1 - from.1);
        if more.1 && self.b.is_next(self.ours(ours)) {
            (row.ours, row.twin, more.0) = (None, None, true);
            self.put((from.0, self.b.at()));
        } else if more.0 && self.a.is_next(self.theirs(theirs)) {
            (row.theirs, row.twin, more.1) = (None, None, true);
            self.put((self.a.at(), from.1));
        } else {
            return Some(row);
        }
        self.again = self.again.saturating_sub(read);
        Some(row)
    }

    /// What differs between two elements; `None` within where they were only passed over.
    fn looked(&mut self, depth: usize) -> Option<Option<Twin<'a>>> {
        if (self.a.peek()?, self.b.peek()?) == (b'{', b'{') {
            let depth = depth.checked_sub(1)?;
            return match self.same_object(depth) {
                true => Some(Some(Twin::Same)),
                false => self.object(depth, true),
            };
        }
        if self.again > 0 {
            return self.value(depth).map(Some);
        }
        let (ours, theirs) = self.skipped(depth)?;
        Some((self.ours(ours) == self.theirs(theirs)).then_some(Twin::Same))
    }

    /// Passes over an element that is the same in both, where the one before was, and notes its keys;
    /// false, with nothing done, where it is not soon known to be. What is tried in vain is less than
    /// what was read.
    fn same_object(&mut self, depth: usize) -> bool {
        let from = self.a.at();
        let most = self.same_row * 2;
        if most == 0 || self.tried + most > from {
            return false;
        }
        let (text, keys, known) = (self.a, self.keys.len(), &mut self.keys);
        let end = self.alike.min(from + most);
        // Nothing behind the end is looked at.
        let alike = text.bytes().get(..end).unwrap_or_default();
        let found = scan::members(alike, from, depth, |name, value| {
            let first = alike
                .get(name.0)
                .is_some_and(|byte| IS_FIRST[usize::from(*byte)]);
            if first && let Some(no) = key(text.part(name.0, name.1)) {
                let (of, text) = (Of::Both, text.part(value.0, value.1));
                known.push(Key { no, of, text });
            }
        });
        match found {
            Some(end) => self.put_on(end),
            None => {
                known.truncate(keys);
                self.tried += most;
            }
        }
        found.is_some()
    }

    /// The elements that only one side has left.
    fn left(&mut self, more: (bool, bool), depth: usize) -> Option<()> {
        let sides = [
            (&mut self.a, more.0, Of::Ours),
            (&mut self.b, more.1, Of::Theirs),
        ];
        for (reader, mut more, of) in sides {
            while more {
                reader.space();
                let (from, keys) = (reader.at(), self.keys.len());
                element(reader, of, depth, &mut self.keys)?;
                let span = Some((from, reader.at()));
                let (ours, theirs) = match of {
                    Of::Ours => (span, None),
                    _ => (None, span),
                };
                self.rows.push(Row {
                    ours,
                    theirs,
                    keys: (keys, self.keys.len()),
                    twin: None,
                });
                more = reader.goes_on(b']')?;
                self.alike = 0;
            }
        }
        Some(())
    }

    /// What differs, where it is known which elements are pairs.
    fn paired(
        &mut self,
        mut rows: Vec<Row<'a>>,
        pairing: Pairing,
        depth: usize,
    ) -> Option<Twin<'a>> {
        let places = |own: fn(&Row<'_>) -> bool| -> Vec<usize> {
            let all = rows.iter().enumerate().filter(|(_, row)| own(row));
            all.map(|(place, _)| place).collect()
        };
        let ours = places(|row| row.ours.is_some());
        let theirs = places(|row| row.theirs.is_some());
        let mut found = Elements::default();
        for (index, partner) in pairing.pairs {
            let (i, j) = (ours[index], theirs[partner]);
            let twin = match (i == j).then(|| rows[i].twin.take()).flatten() {
                Some(twin) => twin,
                None => {
                    let (a, b) = (rows[i].ours?, rows[j].theirs?);
                    let look = |twins: &mut Self| twins.elsewhere(a, b, depth);
                    self.below(|| Step::Index(index), look)?
                }
            };
            if !matches!(twin, Twin::Same) {
                found.pairs.push((index, twin));
            }
        }
        self.forget(&rows);
        let a = |twins: &Self, index: usize| {
            Reader::new(twins.ours(rows[ours[index]].ours?)).value(depth)
        };
        let b = |twins: &Self, index: usize| {
            Reader::new(twins.theirs(rows[theirs[index]].theirs?)).value(depth)
        };
        for index in pairing.missing {
            found.missing.push((index, a(self, index)?));
        }
        for index in pairing.extra {
            found.extra.push((index, b(self, index)?));
        }
        if let Some(indices) = pairing.order {
            let most = indices.len().min(ELEMENTS_SHOWN);
            found.order = Some(Order {
                legacy: (0..most.min(ours.len()))
                    .map(|i| a(self, i))
                    .collect::<Option<_>>()?,
                extracted: (0..most.min(theirs.len()))
                    .map(|i| b(self, i))
                    .collect::<Option<_>>()?,
                indices,
            });
        }
        Some(found.or_same())
    }

    /// What was looked at in vain is counted: see [`Twins::again`].
    fn forget(&mut self, rows: &[Row<'_>]) {
        let in_vain = rows.iter().map(Row::in_vain).sum();
        self.again = self.again.saturating_sub(in_vain);
    }

    /// How many elements are equal in front, of whom all have been looked at.
    fn equal_front(&mut self, rows: &mut [Row<'a>], depth: usize) -> Option<usize> {
        for (index, row) in rows.iter_mut().enumerate() {
            if let (Some(ours), Some(theirs), None) = (row.ours, row.theirs, &row.twin) {
                let look = |twins: &mut Self| twins.elsewhere(ours, theirs, depth);
                row.twin = Some(self.below(|| Step::Index(index), look)?);
            }
            if !row.is_same() {
                return Some(index);
            }
        }
        Some(rows.len())
    }

    /// See [`arrays::strangers`].
    fn strangers(&self, ours: Span, theirs: Span, depth: usize) -> Option<bool> {
        let (a, b) = (self.ours(ours), self.theirs(theirs));
        if !a.starts_with('{') || !b.starts_with('{') {
            return Some(false);
        }
        let tree = |text| Reader::new(text).value(depth);
        Some(arrays::strangers(&tree(a)?, &tree(b)?))
    }

    /// The same where nothing names the elements: equal ones at both ends are pairs, those between
    /// them are trees, and are paired as such.
    fn ordered(&mut self, mut rows: Vec<Row<'a>>, depth: usize) -> Option<Twin<'a>> {
        let start = self.equal_front(&mut rows, depth)?;
        let ours: Vec<Span> = rows.iter().filter_map(|row| row.ours).collect();
        let theirs: Vec<Span> = rows.iter().filter_map(|row| row.theirs).collect();
        let back = ours[start..].iter().rev().zip(theirs[start..].iter().rev());
        let end = back
            .take_while(|(a, b)| self.ours(**a) == self.theirs(**b))
            .count();
        let (a, b) = (
            &ours[start..ours.len() - end],
            &theirs[start..theirs.len() - end],
        );
        if let ([ours], [theirs]) = (a, b) {
            let mut pairing = Pairing::default();
            if self.strangers(*ours, *theirs, depth)? {
                pairing.missing.push(start);
                pairing.extra.push(start);
            } else {
                pairing.pairs.push((start, start));
            }
            return self.paired(rows, pairing, depth);
        }
        self.forget(&rows);
        let read = |text: &'a str| Reader::new(text).value(depth);
        let a: Option<Vec<Json>> = a.iter().map(|span| read(self.ours(*span))).collect();
        let b: Option<Vec<Json>> = b.iter().map(|span| read(self.theirs(*span))).collect();
        let (a, b) = (a?, b?);
        let pairing = arrays::pair(&a, &b, Some(&ArrayBy::Order), &mut self.work);
        // Each element is in one place.
        let (mut a, mut b) = (Taken::of(a), Taken::of(b));
        let mut found = Elements::default();
        for (i, j) in pairing.pairs {
            let both = Box::new((a.take(i)?, b.take(j)?));
            found.pairs.push((start + i, Twin::Values(both)));
        }
        for i in pairing.missing {
            found.missing.push((start + i, a.take(i)?));
        }
        for j in pairing.extra {
            found.extra.push((start + j, b.take(j)?));
        }
        found.by_position = pairing.by_position.then_some((ours.len(), theirs.len()));
        Some(found.or_same())
    }
}

/// Trees that are taken out one by one.
struct Taken(Vec<Option<Json>>);

impl Taken {
    fn of(all: Vec<Json>) -> Self {
        Self(all.into_iter().map(Some).collect())
    }

    fn take(&mut self, index: usize) -> Option<Json> {
        self.0.get_mut(index)?.take()
    }
}

impl<'a> Elements<'a> {
    fn or_same(self) -> Twin<'a> {
        let none = self.pairs.is_empty() && self.missing.is_empty() && self.extra.is_empty();
        match none && self.order.is_none() && self.by_position.is_none() {
            true => Twin::Same,
            false => Twin::Array(Box::new(self)),
        }
    }
}

/// Passes over one element, and notes what may name it.
fn element<'a>(
    reader: &mut Reader<'a>,
    of: Of,
    depth: usize,
    keys: &mut Vec<Key<'a>>,
) -> Option<()> {
    if reader.peek()? != b'{' {
        return reader.skip(depth);
    }
    let depth = depth.checked_sub(1)?;
    let more = reader.opens(b'{', b'}')?;
    let text = *reader;
    members(reader, more, depth, |Part { name, span }| {
        if let Some(no) = key(name) {
            let text = text.part(span.0, span.1);
            keys.push(Key { no, of, text });
        }
    })
}
