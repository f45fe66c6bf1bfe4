//! A copy of an exchange while it is taken down on a client's path.
//!
//! Whoever judges runs on other cores: each line of memory that the tap writes has to come from them
//! and goes to them. So a draft is small, its heads and bodies are one piece of memory, and what few
//! copies have is beside it. An [`Exchange`] is made of it by whoever judges.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use outgrow_rollout::Side;

use crate::raw::Raw;
use crate::tap::{CapturedRequest, CapturedResponse, Exchange, Lost, SideTargets, Ticket};

/// What is known of an exchange until now.
#[derive(Debug)]
pub struct Draft {
    ticket: Ticket,
    raw: Raw,
    method: Method,
    status: StatusCode,
    primary: Side,
    /// All of the request's body is here.
    is_asked_whole: bool,
    /// All of the answer's body is here.
    is_answered_whole: bool,
    latency: Duration,
    finished: SystemTime,
    rare: Option<Box<Rare>>,
}

/// What few exchanges have.
#[derive(Debug, Default)]
struct Rare {
    sides: SideTargets,
    body: Bytes,
    trailers: HeaderMap,
    identity: Option<HeaderValue>,
}

impl Draft {
    /// That of a request whose answer is still to come, of the legacy side it is assumed. A box
    /// from the first on, for it is handed on many times on its way.
    pub fn begin(ticket: Ticket, method: Method, raw: Raw) -> Box<Self> {
        Box::new(Self {
            ticket,
            raw,
            method,
            status: StatusCode::OK,
            primary: Side::Legacy,
            is_asked_whole: true,
            is_answered_whole: true,
            latency: Duration::ZERO,
            finished: SystemTime::UNIX_EPOCH,
            rare: None,
        })
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Notes who has answered, and how long it took.
    pub fn answered(&mut self, primary: Side, status: StatusCode, latency: Duration) {
        (self.primary, self.status, self.latency) = (primary, status, latency);
    }

    /// The answer's fields; once, and before its body.
    pub fn says(&mut self, fields: &HeaderMap) {
        self.raw.answered(fields);
    }

    /// The same, as the lines of HTTP/1, each with its end.
    pub fn says_in<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) {
        self.raw.answered_in(lines);
    }

    /// What the sides are asked where the proxy rewrites paths.
    pub fn asks(&mut self, sides: SideTargets) {
        if sides != SideTargets::default() {
            self.rare().sides = sides;
        }
    }

    /// The request's body, or what there is of it.
    pub fn brought(&mut self, body: Bytes, is_whole: bool) {
        self.is_asked_whole = is_whole;
        if !body.is_empty() {
            self.rare().body = body;
        }
    }

    /// Who asks.
    pub fn is_of(&mut self, identity: Option<HeaderValue>) {
        if identity.is_some() {
            self.rare().identity = identity;
        }
    }

    /// Adds a part of the answer's body, up to what is kept of one. False where the slice's memory
    /// has no room for it: the draft is to be [lost](Self::lose) then.
    pub fn keep(&mut self, part: &[u8]) -> bool {
        let is_too_long = self.raw.body() + part.len() > self.ticket.body_cap();
        if !self.is_answered_whole || is_too_long {
            self.is_answered_whole = false;
            self.raw.forget_body();
            self.ticket.release();
            return true;
        }
        let has_room = self.ticket.hold(part.len());
        if has_room {
            self.raw.keep(part);
        }
        has_room
    }

    /// The answer's trailers.
    pub fn trailed(&mut self, trailers: &HeaderMap) {
        if !trailers.is_empty() {
            self.rare().trailers = trailers.clone();
        }
    }

    /// The answer has ended now, with all of its body or not.
    pub fn ended(&mut self, is_whole: bool) {
        self.finished = SystemTime::now();
        self.is_answered_whole &= is_whole;
    }

    /// Gives it to whoever has admitted it. Never blocks.
    pub fn offer(self: Box<Self>) {
        if let Some(issuer) = self.ticket.issuer() {
            issuer.take(self);
        }
    }

    /// Gives it up, for this reason.
    pub fn lose(self, reason: Lost) {
        self.ticket.lose(reason);
    }

    /// Bytes of both heads.
    pub(crate) fn head_bytes(&self) -> usize {
        self.raw.heads()
    }

    /// `None` where nothing was taken down.
    pub fn open(self) -> Option<Exchange> {
        let opened = self.raw.open()?;
        let rare = self.rare.map(|rare| *rare).unwrap_or_default();
        let route = self.ticket.route().clone();
        Some(Exchange {
            endpoint: route.clone(),
            route,
            ticket: self.ticket,
            primary: self.primary,
            request: CapturedRequest {
                method: self.method,
                target: opened.target,
                sides: rare.sides,
                headers: opened.asked,
                body: rare.body,
                whole: self.is_asked_whole,
            },
            response: CapturedResponse {
                status: self.status,
                headers: opened.answered,
                body: opened.body,
                whole: self.is_answered_whole,
                trailers: rare.trailers,
            },
            finished: self.finished,
            latency: self.latency,
            identity: rare.identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_stays_small() {
        // Four lines of memory.
        assert!(size_of::<Draft>() <= 256, "{}", size_of::<Draft>());
    }
}
