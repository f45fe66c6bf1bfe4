//! An answer that is kept.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use outgrow_rollout::{Live, Side};

use super::Question;
use super::rules::{self, Chosen, Freshness, Times};
use crate::body::Body;
use crate::moment::Moment;
use crate::reply::Reply;

/// Bytes that an entry takes beside its text.
pub(super) const OVERHEAD: usize = 256;
/// Likewise one of its fields.
const FIELD: usize = 48;

/// An answer with all that says for whom, and for how long, it is good.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(super) route: usize,
    pub(super) side: Side,
    pub(super) live: Live,
    /// Up to when it has all writes, in milliseconds since 1970.
    pub(super) seen: u64,
    /// By whose wall's clock that is.
    asked: Moment,
    chosen_by: Chosen,
    unsaid: Box<[u8]>,
    pub(crate) freshness: Freshness,
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(crate) body: Bytes,
}

/// Copies: what came in is a part of a larger buffer, which would be kept as long.
fn own(fields: &HeaderMap) -> HeaderMap {
    let mut copies = HeaderMap::with_capacity(fields.keys_len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Some(value)) = (name, rules::copy(value)) {
            copies.append(name, value);
        }
    }
    copies
}

impl Entry {
    /// Of an answer, still without its body; `None` where it cannot be told for whom it is.
    pub(super) fn new(
        question: &Question,
        fields: &HeaderMap,
        (status, answer): (StatusCode, &HeaderMap),
        now: Moment,
    ) -> Option<Self> {
        let times = Times {
            asked: question.asked,
            came: now,
        };
        let mut kept = own(answer);
        if !kept.contains_key(DATE) {
            let date = HeaderValue::try_from(httpdate::fmt_http_date(now.wall));
            kept.insert(DATE, date.ok()?);
        }
        Some(Self {
            route: question.route,
            side: question.side,
            live: question.live,
            seen: question.seen,
            asked: question.asked,
            chosen_by: rules::chosen_by(fields, answer)?,
            unsaid: rules::unsaid(fields),
            freshness: Freshness::of(status, answer, times, question.heuristic_max),
            status,
            fields: kept,
            body: Bytes::new(),
        })
    }

    pub(super) fn weight(&self) -> u64 {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD);
        let by = self.chosen_by.iter().flat_map(|(_, values)| values);
        let by = by.map(|value| value.len() + FIELD);
        let text: usize = fields.chain(by).sum();
        (OVERHEAD + text + self.unsaid.len() + self.body.len()) as u64
    }

    /// Whether it is of the same side, in the state that is in force.
    pub(super) fn is_of(&self, question: &Question) -> bool {
        (self.route, self.side) == (question.route, question.side) && self.live == question.live
    }

    /// Whether another request would have been given the same.
    pub(super) fn fits(&self, fields: &HeaderMap, unsaid: &[u8]) -> bool {
        *self.unsaid == *unsaid && rules::chooses(&self.chosen_by, fields)
    }

    /// Up to when it has all writes by the clock as it is set now: one that was set back makes times of
    /// before seem later than they were.
    pub(super) fn seen_by(&self, now: Moment) -> u64 {
        let back = now.set_back_since(self.asked).as_millis();
        self.seen
            .saturating_sub(u64::try_from(back).unwrap_or(u64::MAX))
    }

    /// Whether nothing that the client has written is missing.
    pub(super) fn has_writes_of(&self, question: &Question) -> bool {
        self.seen_by(question.asked) > question.wrote
    }

    /// Whether what another request brings will do for this one, too.
    pub(crate) fn is_worth_waiting_for(&self, question: &Question) -> bool {
        self.freshness.is_for_next() && self.has_writes_of(question)
    }

    /// Whether it may be given, stale, while the side is asked.
    pub(crate) fn stays(&self, question: &Question, now: Moment) -> bool {
        self.has_writes_of(question) && self.freshness.stays(&question.wants, now)
    }

    /// Whether it may be given, stale, because the side fails.
    pub(crate) fn stands_in(&self, question: &Question, now: Moment) -> bool {
        self.has_writes_of(question) && self.freshness.stands_in(&question.wants, now)
    }

    /// Has the side asked whether this is still good. Whether it can be.
    pub(crate) fn ask_whether(&self, request: &mut HeaderMap) -> bool {
        rules::ask_whether(&self.fields, request)
    }

    /// Its fields with those of a 304, which says nothing of the body (RFC 9111 section 3.2).
    pub(super) fn freshened(&self, said: &HeaderMap) -> HeaderMap {
        const OF_BODY: [HeaderName; 4] = [
            CONTENT_ENCODING,
            CONTENT_LENGTH,
            CONTENT_RANGE,
            CONTENT_TYPE,
        ];
        let mut fields = self.fields.clone();
        for name in [AGE, DATE] {
            fields.remove(name);
        }
        for name in said.keys().filter(|name| !OF_BODY.contains(name)) {
            fields.remove(name);
            for value in said.get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        fields
    }

    /// Itself with these fields.
    pub(super) fn said_again(&self, fields: HeaderMap, times: Times) -> Self {
        Self {
            freshness: Freshness::of(self.status, &fields, times, None),
            fields,
            ..self.clone()
        }
    }

    /// As its client gets it, before filters.
    pub(crate) fn give(&self, (method, asked): (&Method, &HeaderMap), now: Moment) -> Reply<Body> {
        const OF_BODY: [HeaderName; 4] = [
            CONTENT_ENCODING,
            CONTENT_LANGUAGE,
            CONTENT_LENGTH,
            CONTENT_TYPE,
        ];
        let mut answer = Reply::with_fields(self.status, self.fields.clone(), Body::Empty);
        let fields = answer.headers_mut();
        fields.insert(AGE, HeaderValue::from(self.freshness.age(now).as_secs()));
        if self.status == StatusCode::OK && rules::has_it(asked, &self.fields) {
            for name in OF_BODY {
                fields.remove(name);
            }
            answer.set_status(StatusCode::NOT_MODIFIED);
            return answer;
        }
        if self.status == StatusCode::NO_CONTENT {
            fields.remove(CONTENT_LENGTH);
        } else if *method == Method::HEAD {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        } else if !self.body.is_empty() {
            *answer.body_mut() = Body::Full(Some(self.body.clone()));
        }
        answer
    }

    /// Time that it is still good.
    pub(crate) fn left(&self, now: Moment) -> Duration {
        self.freshness.left(now).unwrap_or_default()
    }
}
