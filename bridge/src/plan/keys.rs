//! Keys that a table writes otherwise than the first legacy table of its group: as a number of
//! another width, as a decimal, a `uuid`, or by a transform of the mapping.
//!
//! All over the bridge (in streams once they are read, in books, cursors and parked rows) a key is
//! as that first table writes it. It is translated where a table's rows are read and written, and
//! nowhere else: [`Table::known`] and [`Table::own`]. Both are one to one. A key that would not
//! come back the same has no form in the other table, so no row of that table can have it; what is
//! made of its row is refused when it is mapped. An extracted key without a legacy form is a
//! *stray*: it is known by a value that no legacy key has, so that its row is parked and found.
//!
//! Where the order of keys stays the same, both sides are walked together, up to bounds that lie
//! between the same keys of both. Where it does not, a verification walks the one and looks the
//! other up.

mod order;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::check::problem;
use super::{Group, Image, Plan, Problem, Table};
use crate::bits;
use crate::db::keys::{key_cell, key_text};
use crate::pieces::Pieces;
use crate::spec::{ColumnSpec, Source};
use crate::transform::{Transform, Unmappable};
use crate::value::{Cell, Key, Kind};
pub(crate) use order::exactly;
use order::{Shape, by_number, fits, floor};

/// How a table writes one column of its key.
#[derive(Clone)]
pub(crate) struct KeyForm(Arc<Form>);

struct Form {
    by: By,
    /// Of the first legacy table's column, and of its own.
    first: Kind,
    own: Kind,
    /// Whether both are in one order.
    ordered: bool,
    /// By what, in words that tell two forms apart.
    said: String,
}

enum By {
    /// The first legacy table itself: it can have no strays.
    Itself,
    Transform(Transform),
    Text(Pieces),
}

impl PartialEq for KeyForm {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        (&a.said, &a.first, &a.own) == (&b.said, &b.first, &b.own)
    }
}

impl Eq for KeyForm {}

impl fmt::Debug for KeyForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.said)
    }
}

/// Before a key that has no form in the first legacy table.
const STRAY: &[u8] = b"outgrow\0";

fn strayed(own: &Cell) -> Cell {
    let mut bytes = STRAY.to_vec();
    bytes.extend(key_text(own).unwrap_or_default().into_bytes());
    Cell::Blob(bytes)
}

/// The extracted side's form of a key that has no other.
fn stray(key: &Cell) -> Option<Cell> {
    let Cell::Blob(bytes) = key else { return None };
    let text = std::str::from_utf8(bytes.strip_prefix(STRAY)?).ok()?;
    Some(key_cell(&Cell::from(text)))
}

/// A key as people read it, who must not take an extracted one for a legacy one.
pub(crate) fn shown(key: &[Cell]) -> String {
    let parts = key.iter().map(|cell| match stray(cell) {
        Some(own) => format!("{own} of the extracted side"),
        None => cell.to_string(),
    });
    parts.collect::<Vec<_>>().join(",")
}

impl KeyForm {
    /// The key as this table writes it; `None` where it can have no such key.
    fn own(&self, key: &Cell) -> Option<Cell> {
        let form = &*self.0;
        if let Some(own) = stray(key) {
            let mine = !matches!(form.by, By::Itself) && form.takes(&own);
            return mine.then_some(own);
        }
        if matches!(form.by, By::Itself) {
            return (!key.is_null()).then(|| key.clone());
        }
        let own = form.there(key)?;
        (form.back(&own).as_ref() == Some(key)).then_some(own)
    }

    /// The key as the first legacy table writes it.
    fn known(&self, own: &Cell) -> Cell {
        let form = &*self.0;
        if own.is_null() || matches!(form.by, By::Itself) {
            return own.clone();
        }
        let key = form.back(own);
        key.filter(|key| form.there(key).as_ref() == Some(own))
            .unwrap_or_else(|| strayed(own))
    }

    /// The last value of this table's that does not come after a key.
    fn bound(&self, key: &Cell) -> Cell {
        let form = &*self.0;
        match (stray(key), &form.by) {
            (Some(own), _) if form.takes(&own) => own,
            (Some(own), _) => floor(own, &form.own),
            (None, By::Itself) => key.clone(),
            (None, _) => match self.own(key) {
                Some(own) => own,
                None if form.ordered => floor(key.clone(), &form.own),
                None => key.clone(),
            },
        }
    }
}

impl Form {
    fn there(&self, key: &Cell) -> Option<Cell> {
        let made = match &self.by {
            By::Itself => key.clone(),
            By::Transform(by) => by.forward(key).ok()?,
            By::Text(text) => text.join(&[(key, &self.first)], &self.own).ok()?,
        };
        let made = made.stored_in(&self.own);
        fits(&made, &self.own).then_some(made)
    }

    fn back(&self, own: &Cell) -> Option<Cell> {
        let made = match &self.by {
            By::Itself => own.clone(),
            By::Transform(by) => by.reverse(own).ok()?,
            By::Text(text) => text.split((own, &self.own), &[&self.first]).ok()?.pop()?,
        };
        let made = made.stored_in(&self.first);
        fits(&made, &self.first).then_some(made)
    }

    /// Whether the table may be asked for this value. SQLite may be for any.
    fn takes(&self, own: &Cell) -> bool {
        matches!(self.own, Kind::Sqlite(_)) || fits(own, &self.own)
    }
}

/// What a column of a key may be made by: one legacy column, and nothing that others may change.
pub(super) fn makes_key(source: &Source, of: &str) -> bool {
    let one = matches!(
        source,
        Source::Rename(_)
            | Source::Cents { .. }
            | Source::Map { .. }
            | Source::LocalTime { .. }
            | Source::ZonedTime { .. }
            | Source::Expr { .. }
            | Source::Join { .. }
    );
    one && source.from() == [of]
}

/// Gives a table the forms that its key has, as the columns of its entry make it.
pub(super) fn forms(
    first: &mut Table,
    other: &mut Table,
    columns: Option<&[ColumnSpec]>,
    problems: &mut Vec<Problem>,
) {
    let mut found = Vec::with_capacity(other.key.len());
    for (&here, &there) in first.key.iter().zip(&other.key) {
        let (a, b) = (&first.columns[here], &other.columns[there]);
        let source = columns.and_then(|columns| columns.get(there));
        match form(&a.kind, &b.kind, source.map(|column| &column.source)) {
            Ok(form) => found.push(form),
            Err((what, fix)) => {
                let label = format!("{} -> {}", first.name, other.name);
                problems.push(problem(&label, Some(&b.name), what, &fix));
            }
        }
    }
    if found.iter().all(Option::is_none) {
        return;
    }
    first.forms.resize(first.key.len(), None);
    for (at, form) in first.forms.iter_mut().enumerate() {
        if found.get(at).is_some_and(Option::is_some) {
            let kind = &first.columns[first.key[at]].kind;
            *form = Some(KeyForm(Arc::new(Form {
                by: By::Itself,
                first: kind.clone(),
                own: kind.clone(),
                ordered: true,
                said: "itself".to_owned(),
            })));
        }
    }
    other.forms = found;
}

fn form(
    first: &Kind,
    own: &Kind,
    source: Option<&Source>,
) -> Result<Option<KeyForm>, (String, String)> {
    let (mut by, mut ordered) = (By::Transform(Transform::Same), false);
    match source {
        None | Some(Source::Rename(_)) => match (Shape::of(first), Shape::of(own)) {
            (Shape::Bits(a), Shape::Bits(b)) if a == b => return Ok(None),
            // Which would have to be cut at bounds that no bit field is.
            (Shape::Bits(_), _) | (_, Shape::Bits(_)) => {
                by = By::Transform(bits::between(first, own)?);
            }
            (Shape::Number, Shape::Number) | (Shape::Text, Shape::Uuid) if first != own => {
                ordered = true;
            }
            (Shape::Uuid, Shape::Text) => ordered = true,
            (Shape::Number, Shape::Text) | (Shape::Text, Shape::Number) => {}
            (a, b) if a == b => return Ok(None),
            (Shape::AsWritten, Shape::Text | Shape::Uuid)
            | (Shape::Text | Shape::Uuid, Shape::AsWritten) => return Ok(None),
            _ => {
                return Err((
                    format!(
                        "the key is {} in the legacy table and {} here",
                        first.family(),
                        own.family()
                    ),
                    "give both key columns one type; a key may change between whole numbers, \
                     decimals and text, and between text and `uuid`, or by a `template` of one \
                     column, `map`, `cents`, `local_time`, or `forward` with `reverse`"
                        .to_owned(),
                ));
            }
        },
        Some(Source::Join {
            literals,
            empty_is_null,
            ..
        }) => by = By::Text(Pieces::new(literals, *empty_is_null)?),
        Some(other) => by = By::Transform(Transform::compile(other)?),
    }
    let form = Form {
        by,
        first: first.clone(),
        own: own.clone(),
        ordered,
        said: format!("{source:?}"),
    };
    Ok(Some(KeyForm(Arc::new(form))))
}

impl Table {
    fn each<'k>(
        &self,
        key: &'k [Cell],
        of: impl Fn(&KeyForm, &Cell) -> Option<Cell>,
    ) -> Option<Cow<'k, [Cell]>> {
        if self.forms.is_empty() {
            return Some(Cow::Borrowed(key));
        }
        let cells = key.iter().enumerate().map(|(at, cell)| {
            let form = self.forms.get(at).and_then(Option::as_ref);
            form.map_or_else(|| Some(cell.clone()), |form| of(form, cell))
        });
        cells.collect::<Option<Key>>().map(Cow::Owned)
    }

    /// A key that the link knows, as this table writes it; `None` where it has no such row.
    pub(crate) fn own<'k>(&self, key: &'k [Cell]) -> Option<Cow<'k, [Cell]>> {
        self.each(key, KeyForm::own)
    }

    /// A key of this table as the link knows it.
    pub(crate) fn known(&self, own: Key) -> Key {
        match self.each(&own, |form, cell| Some(form.known(cell))) {
            Some(Cow::Owned(key)) => key,
            Some(Cow::Borrowed(_)) | None => own,
        }
    }

    /// What this table's keys are compared with, so that they are cut where the first legacy
    /// table's are cut by this key.
    pub(crate) fn bound<'k>(&self, key: &'k [Cell]) -> Cow<'k, [Cell]> {
        let bound = self.each(key, |form, cell| Some(form.bound(cell)));
        bound.unwrap_or(Cow::Borrowed(key))
    }
}

impl Plan {
    /// The group and the key of a row that a side's table writes so. `None` for tables that are not
    /// mapped.
    pub(crate) fn known(
        &self,
        side: outgrow_rollout::Side,
        table: &str,
        columns: &[Cell],
    ) -> Option<(usize, Key)> {
        let group = self.group_of(side, table)?;
        let mut tables = self.groups[group].tables(side).iter();
        let table = tables.find(|t| t.name == table)?;
        let own = columns.iter().take(table.key.len()).cloned().collect();
        Some((group, table.known(own)))
    }
}

impl Group {
    /// The order in which both sides are walked.
    pub(crate) fn key_order(&self, a: &[Cell], b: &[Cell]) -> Ordering {
        let first = &self.legacy.tables[0];
        for ((&at, a), b) in first.key.iter().zip(a).zip(b) {
            let (a, b) = match (stray(a), stray(b)) {
                (None, None) => (Cow::Borrowed(a), Cow::Borrowed(b)),
                (x, y) => (
                    x.map_or(Cow::Borrowed(a), Cow::Owned),
                    y.map_or(Cow::Borrowed(b), Cow::Owned),
                ),
            };
            let order = match Shape::of(&first.columns[at].kind) {
                Shape::Number => by_number(&a, &b),
                _ => a.cmp(&b),
            };
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Whether keys come in another order on the other side.
    pub(crate) fn keys_apart(&self) -> bool {
        let tables = self.legacy.tables.iter().chain(&self.parts);
        let mut forms = tables.flat_map(|table| table.forms.iter().flatten());
        forms.any(|form| !form.0.ordered)
    }

    /// Refuses rows whose key is not the one that they are known by.
    pub(super) fn keeps_key(
        &self,
        from: (&[Table], &Image),
        into: (&[Table], &Image),
    ) -> Result<(), Unmappable> {
        if self.legacy.tables[0].forms.is_empty() {
            return Ok(());
        }
        let rows = |(tables, image): (&[Table], &Image)| -> Vec<(String, Key)> {
            let rows = tables.iter().zip(image);
            let there = rows.filter_map(|(table, row)| Some((table, row.as_ref()?)));
            there
                .map(|(table, row)| (table.name.clone(), table.key_of(row)))
                .collect()
        };
        let Some((name, key)) = rows(from).into_iter().next() else {
            return Ok(());
        };
        let other = rows(into).into_iter().find(|(_, other)| *other != key);
        match other {
            None => Ok(()),
            Some((there, other)) => Err(Unmappable(format!(
                "{name}: the key {} would come back from `{there}` as {}",
                shown(&key),
                shown(&other)
            ))),
        }
    }
}
