//! Answers that are kept and given again (RFC 9111), for routes that the config names. One store for
//! all cores, bounded in bytes.
//!
//! What is kept belongs to a side, and to the state of its slice in force when it was asked: after a
//! flip, a rollback or any other change of that state nothing from before is given. It is known up
//! to when it has all writes, and nobody is given less than it has written itself.

mod counts;
mod entry;
mod flights;
mod keep;
mod rules;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::{
    CONTENT_LENGTH, CONTENT_LOCATION, HOST, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LOCATION,
    RANGE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, request};
use outgrow_rollout::{CacheFigures, Live, Side};
use quick_cache::sync::{Cache as Kept, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::moment::Moment;
use crate::recent::millis;
use crate::settings::SliceSettings;
use counts::Counts;
use rules::Times;

pub(crate) use counts::Outcome;
pub(crate) use entry::Entry;
pub(crate) use flights::{Flights, Leads, Turn, Word};
pub(crate) use keep::Keep;
pub(crate) use rules::{Directives, has_conditions, is_known};

/// How its part in an answer is told (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Of one URL: a client that varies a field of its own choice must not fill the memory.
const VARIANTS_MAX: usize = 16;
/// Marks of writes; URLs that share one only keep each other from being kept for a moment.
const MARKS: usize = 4_096;
/// Shards of the store, each with a lock of its own.
const SHARDS: usize = 4;
/// Answers that there is room for from the start; the store grows.
const ITEMS: std::ops::RangeInclusive<usize> = 128..=65_536;
/// Share of the size that bodies on their way into the store may take beside it.
const GATHERING: u64 = 4;

/// How much is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bytes of all answers together.
    pub size: u64,
    /// Bytes of one body; a longer one is not kept.
    pub body_max: usize,
    /// How long a request waits for another one's answer.
    pub wait: Duration,
}

impl CacheSettings {
    /// The longest body that a store of this size can hold.
    pub fn longest(size: u64) -> u64 {
        size / (2 * SHARDS as u64)
    }
}

/// What of a route is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheRule {
    /// How long at the most an answer is good that does not say so itself; none is good for nothing.
    pub heuristic_max: Option<Duration>,
}

/// Of one URL.
#[derive(Debug)]
struct Slot {
    /// Oldest first. Empty: the last answer could not be kept, and it is of no use to wait.
    entries: Vec<Arc<Entry>>,
    weight: u64,
}

impl Slot {
    fn new(key: &str, entries: Vec<Arc<Entry>>) -> Arc<Self> {
        let all: u64 = entries.iter().map(|entry| entry.weight()).sum();
        Arc::new(Self {
            weight: (entry::OVERHEAD + key.len()) as u64 + all,
            entries,
        })
    }
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Box<str>, Arc<Slot>> for Bytes {
    fn weight(&self, _: &Box<str>, slot: &Arc<Slot>) -> u64 {
        slot.weight
    }
}

/// The store.
pub(crate) struct Cache {
    kept: Kept<Box<str>, Arc<Slot>, Bytes, RandomState>,
    size: u64,
    body_max: usize,
    pub(crate) wait: Duration,
    /// Bytes of one URL: no more than a shard can hold beside others.
    url_max: u64,
    /// Bytes of bodies that are not complete yet.
    gathering: AtomicUsize,
    gathering_max: usize,
    /// When what a URL names was last written, in milliseconds since 1970.
    marks: Box<[AtomicU64]>,
    hasher: RandomState,
    pub(crate) flights: Arc<Flights>,
    counts: Counts,
    /// Another proxy carries what is written now: nothing is kept or given any more.
    closed: AtomicBool,
    next: ArcSwapOption<Cache>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// What a URL has in the store for one request.
#[derive(Debug)]
pub(crate) enum Found {
    /// To be given without asking.
    Fresh(Arc<Entry>),
    /// To be asked about, or to stand in for a side that fails.
    Stale(Arc<Entry>),
    /// By these words of RFC 9211.
    Nothing(&'static str),
    /// It is of no use to wait for another request's answer.
    Passed,
}

/// Who asks for what, of whom.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) key: Box<str>,
    /// Its number: HEAD and GET of a URL may be of two, and these of two slices.
    pub(crate) route: usize,
    pub(crate) side: Side,
    pub(crate) live: Live,
    /// The side can tell who asks.
    pub(crate) known: bool,
    pub(crate) wants: Directives,
    /// When the client last wrote, in milliseconds since 1970.
    pub(crate) wrote: u64,
    /// Up to when the side has all writes, likewise.
    pub(crate) seen: u64,
    pub(crate) asked: Moment,
    pub(crate) heuristic_max: Option<Duration>,
}

impl Question {
    /// Those who ask the same wait for each other.
    pub(crate) fn flight(&self) -> Box<str> {
        let Self {
            side, live, key, ..
        } = self;
        format!("{} {side} {} {key}", self.route, live.revision.0).into_boxed_str()
    }
}

/// Whether a request is one that the store has no answers to.
pub(crate) fn passes_by(parts: &request::Parts) -> bool {
    const CONDITIONS: [HeaderName; 4] = [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE];
    let read = parts.method == Method::GET || parts.method == Method::HEAD;
    !read
        || CONDITIONS
            .iter()
            .any(|name| parts.headers.contains_key(name))
}

fn path(target: &Uri) -> &str {
    target.path_and_query().map_or("/", |whole| whole.as_str())
}

/// As keys begin with it.
pub(crate) fn host(fields: &HeaderMap) -> String {
    let host = fields.get(HOST).and_then(|host| host.to_str().ok());
    host.unwrap_or_default().to_ascii_lowercase()
}

/// Under which a URL is kept.
pub(crate) fn key(fields: &HeaderMap, target: &Uri) -> Box<str> {
    let mut key = host(fields);
    key.push_str(path(target));
    key.into_boxed_str()
}

impl Cache {
    /// `None` for a size that no store can have.
    pub(crate) fn new(
        settings: &CacheSettings,
        slices: &[SliceSettings],
        cores: usize,
    ) -> Option<Self> {
        let items = usize::try_from(settings.size / 4_096).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(items.clamp(*ITEMS.start(), *ITEMS.end()))
            .weight_capacity(settings.size)
            .build()
            .ok()?;
        let lifecycle = DefaultLifecycle::default();
        Some(Self {
            kept: Kept::with_options(options, Bytes, RandomState::new(), lifecycle),
            size: settings.size,
            body_max: settings.body_max,
            wait: settings.wait,
            url_max: CacheSettings::longest(settings.size),
            gathering: AtomicUsize::new(0),
            gathering_max: usize::try_from(settings.size / GATHERING).unwrap_or(usize::MAX),
            marks: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            flights: Arc::default(),
            counts: Counts::new(slices, cores),
            closed: AtomicBool::new(false),
            next: ArcSwapOption::empty(),
        })
    }

    fn mark(&self, key: &str) -> &AtomicU64 {
        let hash = self.hasher.hash_one(key);
        &self.marks[usize::try_from(hash % MARKS as u64).unwrap_or_default()]
    }

    pub(crate) fn find(&self, question: &Question, fields: &HeaderMap, now: Moment) -> Found {
        if self.closed.load(Acquire) {
            return Found::Passed;
        }
        let Some(slot) = self.kept.get(&*question.key) else {
            return Found::Nothing("uri-miss");
        };
        if slot.entries.is_empty() {
            return Found::Passed;
        }
        let unsaid = rules::unsaid(fields);
        let of_state = |entry: &&Arc<Entry>| entry.is_of(question);
        let fits = |entry: &&Arc<Entry>| of_state(entry) && entry.fits(fields, &unsaid);
        // The newest first.
        let Some(entry) = slot.entries.iter().rev().find(fits) else {
            return Found::Nothing(match slot.entries.iter().any(|entry| of_state(&entry)) {
                true => "vary-miss",
                false => "uri-miss",
            });
        };
        if question.known && !entry.freshness.is_for_all() {
            return Found::Passed;
        }
        let serves = entry.freshness.serves(&question.wants, now);
        match serves && entry.has_writes_of(question) {
            true => Found::Fresh(entry.clone()),
            false => Found::Stale(entry.clone()),
        }
    }

    /// What an answer would be kept as; `None` where it may not be.
    pub(crate) fn entry(
        &self,
        question: &Question,
        fields: &HeaderMap,
        (status, answer): (StatusCode, &HeaderMap),
        now: Moment,
    ) -> Option<Entry> {
        let length = answer.get(CONTENT_LENGTH).and_then(|own| own.to_str().ok());
        let length = length.and_then(|text| text.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.body_max) || self.closed.load(Acquire) {
            return None;
        }
        let entry = Entry::new(question, fields, (status, answer), now)?;
        let may = rules::may_keep(fields, question.known, (status, answer), &entry.freshness);
        may.then_some(entry)
    }

    /// Says that answers of this URL are not kept.
    pub(crate) fn pass(&self, question: &Question) {
        if self.kept.get(&*question.key).is_none() {
            let slot = Slot::new(&question.key, Vec::new());
            self.kept.insert(question.key.clone(), slot);
        }
    }

    /// What the side says now may not be kept: nor is what it said before.
    pub(crate) fn forget(&self, question: &Question) {
        self.kept.remove(&*question.key);
    }

    /// The longest body that is kept.
    pub(crate) fn body_max(&self) -> usize {
        self.body_max
    }

    /// Keeps an answer in place of the one that it replaces, unless it may lack a write.
    pub(crate) fn put(
        &self,
        (question, fields): (&Question, &HeaderMap),
        entry: Entry,
        now: Moment,
    ) {
        let slot = self.kept.get(&*question.key);
        let mark = self.mark(&question.key);
        // Behind the look: what a write has not taken out yet is not put back.
        let written = mark.load(Acquire);
        let lacks = |entry: &Entry| entry.seen_by(now) <= written;
        if entry.body.len() > self.body_max || lacks(&entry) || self.closed.load(Acquire) {
            return;
        }
        let mut entries = slot.map_or_else(Vec::new, |slot| slot.entries.clone());
        // An answer that was long on its way comes too late for another state.
        let (route, revision) = (question.route, question.live.revision);
        if entries
            .iter()
            .any(|old| old.route == route && old.live.revision > revision)
        {
            return;
        }
        let unsaid = rules::unsaid(fields);
        entries.retain(|old| {
            let of_state = old.route != route || old.live == question.live;
            of_state && !lacks(old) && !(old.is_of(question) && old.fits(fields, &unsaid))
        });
        entries.push(Arc::new(entry));
        let heavy = |entries: &[Arc<Entry>]| {
            entries.iter().map(|entry| entry.weight()).sum::<u64>() > self.url_max
        };
        while entries.len() > VARIANTS_MAX || entries.len() > 1 && heavy(&entries) {
            entries.remove(0);
        }
        let slot = Slot::new(&question.key, entries);
        self.kept.insert(question.key.clone(), slot);
        if mark.load(Acquire) != written {
            // The write came in between, and may have found nothing to take out.
            self.kept.remove(&*question.key);
        }
        self.flights.end(&question.flight());
    }

    /// After a 304: the answer is good again, with what was said now (RFC 9111 section 4.3.4).
    pub(crate) fn renew(
        &self,
        question: &Question,
        fields: &HeaderMap,
        (old, said): (&Entry, &HeaderMap),
        now: Moment,
    ) -> Arc<Entry> {
        let merged = old.freshened(said);
        let about = rules::is_about(said, &old.fields);
        let kept = about.then(|| self.entry(question, fields, (old.status, &merged), now));
        if let Some(mut renewed) = kept.flatten() {
            renewed.body = old.body.clone();
            self.put((question, fields), renewed.clone(), now);
            return Arc::new(renewed);
        }
        // Good for this one, and not to be kept any more.
        self.kept.remove(&*question.key);
        let times = Times {
            asked: question.asked,
            came: now,
        };
        Arc::new(old.said_again(merged, times))
    }

    /// A write was carried out, or nobody knows whether: what is kept of its URL, and of those that
    /// its answer names, is of no use any more (RFC 9111 section 4.4).
    pub(crate) fn changed(
        &self,
        (host, target): (&str, &Uri),
        answer: Option<&HeaderMap>,
        now: Moment,
    ) {
        if let Some(next) = &*self.next.load() {
            next.changed((host, target), answer, now);
        }
        self.drop_one(&format!("{host}{}", path(target)), now);
        let named = answer.into_iter().flat_map(|answer| {
            let names = [LOCATION, CONTENT_LOCATION];
            names.map(|name| answer.get(name).and_then(|value| value.to_str().ok()))
        });
        for uri in named.flatten().filter_map(|text| text.parse::<Uri>().ok()) {
            let own = uri.authority().map(|own| own.as_str().to_ascii_lowercase());
            if let Some(path) = uri.path_and_query()
                && own.is_none_or(|own| own == host)
            {
                self.drop_one(&format!("{host}{path}"), now);
            }
        }
    }

    fn drop_one(&self, key: &str, now: Moment) {
        self.mark(key).fetch_max(millis(now.wall), AcqRel);
        self.kept.remove(key);
    }

    /// Another proxy is about to take over, with a store of its own or without one.
    pub(crate) fn close(&self, next: Option<Arc<Self>>) {
        self.next.store(next);
        self.closed
            .store(true, std::sync::atomic::Ordering::Release);
        self.kept.clear();
    }

    /// Called on the core's own thread only.
    pub(crate) fn count(&self, core: usize, slice: usize, outcome: Outcome) {
        self.counts.count(core, slice, outcome);
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        CacheFigures {
            entries: self.kept.len() as u64,
            bytes: self.kept.weight(),
            size: self.size,
            waiting: self.flights.waiting() as u64,
            slices: self.counts.read(),
        }
    }
}

#[cfg(test)]
mod tests;
