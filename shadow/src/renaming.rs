//! Ids that the extracted side gives anew: each legacy id must stand for one new id and the other
//! way round, in all answers of a slice.
//!
//! The first pair that is seen is believed; what contradicts it is a difference, whichever of the
//! two is the wrong one. An id that is equal on both sides stands for itself; of URLs only the
//! parts that differ are looked at, for nobody says which of the others are ids. Learnt anew after
//! a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outgrow_rollout::Side;
use serde::{Deserialize, Serialize};

use crate::json::Json;

/// Ids that are remembered in one book of a rule; further ones are shown as differences. Some
/// 20 MB.
const IDS_MAX: usize = 100_000;

/// Whose answers are compared, and so in which book their ids are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Book {
    /// Those of both sides.
    #[default]
    Sides,
    /// Two of the legacy side.
    Legacy,
    /// Those of the legacy side and of the sandbox, which gives ids of its own.
    Sandbox,
    /// What is new in such answers is true of these two alone.
    Once,
}

/// What is known of one rule's ids. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renaming {
    books: Arc<Books>,
    /// Ids of both sides that hold beside those of [`Book::Once`].
    sides: Option<Arc<Books>>,
}

#[derive(Debug, Default)]
struct Books {
    /// Of [`Book::Sides`] or [`Book::Once`].
    sides: Mutex<Known>,
    legacy: Mutex<Known>,
    sandbox: Mutex<Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    there: HashMap<String, String>,
    back: HashMap<String, String>,
}

/// What speaks against an id that both sides have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// What it is elsewhere on the extracted side.
    pub(crate) there: Option<String>,
    /// What it was elsewhere on the legacy side.
    pub(crate) back: Option<String>,
}

/// Plain texts: a panic elsewhere leaves nothing half done that matters.
fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An id is the same as a number and as text: in a URL it is always text.
fn text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with('/') || text.contains("://")
}

/// The parts in which two values differ: of URLs those between the signs, else the whole. `None`
/// where they are not built alike.
fn ids<'a>(legacy: &'a str, extracted: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    const SIGNS: [char; 5] = ['/', '?', '&', '=', '#'];
    if !is_url(legacy) {
        return Some(vec![(legacy, extracted)]);
    }
    let signs = |text: &'a str| text.matches(SIGNS);
    if !signs(legacy).eq(signs(extracted)) {
        return None;
    }
    let parts = legacy.split(SIGNS).zip(extracted.split(SIGNS));
    Some(parts.filter(|(old, new)| old != new).collect())
}

impl Known {
    fn fits(&self, old: &str, new: &str) -> bool {
        let has_room = self.there.len() < IDS_MAX;
        self.says(old, new).unwrap_or(has_room)
    }

    /// Whether these two are one id; `None` where neither is known.
    fn says(&self, old: &str, new: &str) -> Option<bool> {
        match (self.there.get(old), self.back.get(new)) {
            (Some(known), Some(back)) => Some(known == new && back == old),
            (None, None) => None,
            _ => Some(false),
        }
    }

    fn learn(&mut self, old: &str, new: &str) -> bool {
        let fits = self.fits(old, new);
        if fits && !self.there.contains_key(old) {
            self.there.insert(old.to_owned(), new.to_owned());
            self.back.insert(new.to_owned(), old.to_owned());
        }
        fits
    }

    fn taken(&self, id: &str) -> Taken {
        let other = |known: Option<&String>| known.filter(|known| *known != id).cloned();
        Taken {
            there: other(self.there.get(id)),
            back: other(self.back.get(id)),
        }
    }
}

impl Renaming {
    fn book(&self, book: Book) -> MutexGuard<'_, Known> {
        lock(match book {
            Book::Sides | Book::Once => &self.books.sides,
            Book::Legacy => &self.books.legacy,
            Book::Sandbox => &self.books.sandbox,
        })
    }

    /// What is known of both sides, where it is in no book of its own.
    fn beside(&self) -> Option<MutexGuard<'_, Known>> {
        self.sides.as_ref().map(|books| lock(&books.sides))
    }

    /// Whether these may be the same id on both sides, or URLs with such ids; remembers it.
    pub(crate) fn agrees(&self, book: Book, legacy: &Json, extracted: &Json) -> bool {
        let (Some(legacy), Some(extracted)) = (text(legacy), text(extracted)) else {
            return false;
        };
        let Some(ids) = ids(&legacy, &extracted) else {
            return false;
        };
        let beside = self.beside();
        let mut known = self.book(book);
        let said = |old: &str, new: &str| beside.as_ref().and_then(|known| known.says(old, new));
        let fits =
            |(old, new): &(&str, &str)| said(old, new).unwrap_or_else(|| known.fits(old, new));
        // All or nothing: what contradicts is not learnt from.
        if !ids.iter().all(fits) {
            return false;
        }
        let new = ids.iter().filter(|(old, new)| said(old, new).is_none());
        new.fold(true, |all, (old, new)| known.learn(old, new) && all)
    }

    /// Whether both sides may have this id, which then stands for itself.
    ///
    /// # Errors
    /// What it is known to be elsewhere.
    pub(crate) fn stays(&self, book: Book, id: &Json) -> Result<(), Taken> {
        let Some(id) = text(id).filter(|id| !is_url(id)) else {
            return Ok(());
        };
        let taken = |known: &Known| match known.taken(&id) {
            taken if taken == Taken::default() => Ok(()),
            taken => Err(taken),
        };
        if let Some(beside) = self.beside() {
            taken(&beside)?;
        }
        let mut known = self.book(book);
        taken(&known)?;
        // Where there is no room to remember it, nothing speaks against it.
        known.learn(&id, &id);
        Ok(())
    }

    /// What an id of one side is on the other one, where that is known.
    pub(crate) fn other(&self, book: Book, of: Side, id: &str) -> Option<String> {
        let find = |known: &Known| {
            let ids = match of {
                Side::Legacy => &known.there,
                Side::Extracted => &known.back,
            };
            ids.get(id).cloned()
        };
        let beside = self.beside().and_then(|known| find(&known));
        beside.or_else(|| find(&self.book(book)))
    }

    /// What an id of one side is called where elements of both sides are paired: as on the
    /// extracted side, and null where that is not known, or not an id.
    pub(crate) fn called(&self, book: Book, of: Side, id: &Json) -> Json {
        let id = text(id).filter(|id| !is_url(id));
        let known = id.and_then(|id| {
            let other = self.other(book, of, &id)?;
            Some(if of == Side::Legacy { other } else { id })
        });
        known.map_or(Json::Null, Json::String)
    }

    /// A copy that learns for itself.
    pub(crate) fn aside(&self) -> Self {
        let copy = |known: &Mutex<Known>| Mutex::new(lock(known).clone());
        let books = Books {
            sides: copy(&self.books.sides),
            legacy: copy(&self.books.legacy),
            sandbox: copy(&self.books.sandbox),
        };
        Self {
            books: Arc::new(books),
            sides: self.sides.clone(),
        }
    }

    /// One that knows what is known of both sides, and remembers nothing new for them.
    pub(crate) fn beside_sides(&self) -> Self {
        Self {
            books: Arc::default(),
            sides: Some(self.books.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
