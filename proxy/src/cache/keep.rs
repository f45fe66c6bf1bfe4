//! An answer on its way to a client and into the store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::flights::{Leads, Word};
use super::{Cache, Entry, Question};
use crate::moment::Moment;

/// Gathers a body; complete, it is kept.
pub(crate) struct Keep {
    cache: Arc<Cache>,
    question: Question,
    /// With which it was asked for.
    fields: HeaderMap,
    /// `None` once it is clear that it is not kept.
    entry: Option<Entry>,
    gathered: BytesMut,
    /// Who waits for it.
    leads: Option<Leads>,
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep").finish_non_exhaustive()
    }
}

impl Keep {
    pub(crate) fn new(
        cache: Arc<Cache>,
        (question, fields): (Question, HeaderMap),
        entry: Entry,
        leads: Option<Leads>,
    ) -> Self {
        if let Some(leads) = leads.as_ref().filter(|_| !entry.freshness.is_for_all()) {
            leads.tell(Word::NotForKnown);
        }
        Self {
            cache,
            question,
            fields,
            entry: Some(entry),
            gathered: BytesMut::new(),
            leads,
        }
    }

    pub(crate) fn take(&mut self, data: &Bytes) {
        if self.entry.is_none() {
            return;
        }
        if self.gathered.len() + data.len() > self.cache.body_max {
            self.cache.pass(&self.question);
            self.give_up();
            return;
        }
        let before = self.cache.gathering.fetch_add(data.len(), Relaxed);
        self.gathered.extend_from_slice(data);
        if before + data.len() > self.cache.gathering_max {
            self.give_up();
        }
    }

    /// Nobody is to wait for what will not be there.
    fn give_up(&mut self) {
        self.entry = None;
        self.forget();
        self.end();
    }

    fn end(&mut self) {
        if let Some(leads) = self.leads.take() {
            leads.tell(Word::Over);
        }
    }

    fn forget(&mut self) {
        self.cache.gathering.fetch_sub(self.gathered.len(), Relaxed);
        self.gathered = BytesMut::new();
    }

    /// The body is complete.
    pub(crate) fn finish(mut self) {
        if let Some(mut entry) = self.entry.take() {
            // Copied, because what it was gathered in is larger.
            entry.body = Bytes::copy_from_slice(&self.gathered);
            let asked = (&self.question, &self.fields);
            self.cache.put(asked, entry, Moment::now());
        }
        self.end();
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.forget();
    }
}
