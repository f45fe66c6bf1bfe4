//! A read of a route whose answers are kept: what the store gives, and what goes into it.

mod behind;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use outgrow_rollout::{Live, Side};
use tokio::time::{Instant, timeout_at};

use super::call::{Answered, failed};
use super::copied::Copied;
use super::{Call, hand_down, is_read};
use crate::body::Body;
use crate::cache::{
    self, CACHE_STATUS, Cache, CacheRule, Directives, Entry, Found, Keep, Leads, Outcome, Question,
    Turn, Word,
};
use crate::cookies;
use crate::core::Core;
use crate::error::Refusal;
use crate::headers;
use crate::inbound::ClientHalf;
use crate::moment::Moment;
use crate::pool::Outgoing;
use crate::reply::Reply;

/// Where answers are kept, and which.
type Store = (Arc<Cache>, CacheRule);

/// What the store says of a request.
enum Look {
    Given(Reply<Body>),
    /// Given, and the side is to be asked behind it.
    Stays(Reply<Body>, Box<Asks>),
    Asks(Box<Asks>),
}

/// Why something is given from the store without asking for this request.
enum Given {
    Fresh,
    /// Somebody else has asked, for this reason.
    Waited(&'static str),
    /// It is stale, and will do while somebody asks.
    Stays,
}

/// The side is to be asked, and what it says may be kept.
struct Asks {
    question: Question,
    /// With which the client has asked.
    fields: HeaderMap,
    method: Method,
    live: Live,
    /// What may be good still.
    stale: Option<Arc<Entry>>,
    /// The side is asked whether it is.
    conditional: bool,
    leads: Option<Leads>,
    /// Why it is asked, in words of RFC 9211.
    why: &'static str,
    /// Nobody waits for the answer.
    behind: bool,
}

/// What a write may change. Dropped without a word of how it ended, it may have changed it.
pub(super) struct Touched {
    cache: Arc<Cache>,
    host: String,
    target: Uri,
    over: bool,
}

impl Touched {
    /// `None` for a read, and where nothing is kept.
    pub(super) fn by(core: &Core, out: &Outgoing) -> Option<Self> {
        let cache = core.shared.cache.as_ref()?;
        (!is_read(&out.parts.method)).then(|| Self {
            cache: cache.clone(),
            host: cache::host(&out.parts.headers),
            target: out.parts.uri.clone(),
            over: false,
        })
    }

    /// How the write ended. What was refused has changed nothing.
    pub(super) fn after(mut self, response: Option<&mut Reply<()>>) {
        self.over = true;
        match response {
            None => self.tell(None),
            Some(response) if response.status().is_client_error() => {}
            // What it names is all that is looked for: lines without a name are not read for it.
            Some(response) if response.lines().is_some_and(|lines| !lines.located) => {
                self.tell(None);
            }
            Some(response) => self.tell(Some(response.headers())),
        }
    }

    fn tell(&self, answer: Option<&HeaderMap>) {
        let of = (&*self.host, &self.target);
        self.cache.changed(of, answer, Moment::now());
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        if !self.over {
            self.tell(None);
        }
    }
}

impl Call {
    /// Whether answers of this route are kept.
    pub(super) fn keeps(&self) -> Option<Store> {
        let rule = self.filters()?.cache.as_ref()?;
        Some((self.core.shared.cache.clone()?, rule.clone()))
    }

    /// A read of such a route.
    pub(super) async fn keep(
        &self,
        (cache, rule): Store,
        (live, copied): (&Live, Option<Copied>),
        out: &mut Outgoing,
        client: Option<ClientHalf>,
    ) -> Result<Reply<Body>, Refusal> {
        let wants = Directives::read(&out.parts.headers);
        // Testers and the shadow are to see the side itself, and a cutover is to be seen at once.
        let apart = copied.is_some() || self.mirrored || self.wish.is_some();
        let apart = apart || self.slice().recent.is_shared();
        let other = client.is_some() || out.body.is_some() || cache::passes_by(&out.parts);
        if apart || other || wants.no_store || self.slice().gate.is_held() {
            if wants.only_if_cached {
                return Err(Refusal::NotKept);
            }
            self.note(&cache, Outcome::Bypass);
            let mut response = self.pass((live, copied), out, client).await?;
            tell(&mut response, "outgrow; fwd=bypass");
            return Ok(response);
        }
        let mut asks = match self.look((&cache, &rule), out, wants).await? {
            Look::Given(given) => return Ok(given),
            Look::Stays(given, asks) => {
                behind::ask(self, &cache, asks, out);
                return Ok(given);
            }
            Look::Asks(asks) => asks,
        };
        asks.ask_whether(out);
        let restored = |out: &mut Outgoing| out.parts.headers.clone_from(&asks.fields);
        let side = asks.question.side;
        let answered = self.ask_in_turn(side, out, true, restored).await;
        self.settle(&cache, *asks, answered)
    }

    fn question(
        &self,
        rule: &CacheRule,
        (side, live): (Side, Live),
        out: &Outgoing,
        wants: Directives,
    ) -> Question {
        let asked = Moment::now();
        let recent = &self.slice().recent;
        let guarded = self.filters().is_some_and(|own| own.auth.is_some());
        let fields = &out.parts.headers;
        Question {
            key: cache::key(fields, &out.parts.uri),
            route: self.kept_as(side),
            side,
            live,
            known: guarded || self.caller.is_some() || cache::is_known(fields, cookies::NAME),
            wants,
            wrote: recent.last(self.cohort.hash).max(self.cohort.wrote),
            seen: recent.seen(side == live.writer, asked.wall),
            asked,
            heuristic_max: rule.heuristic_max,
        }
    }

    /// Looks whether the side must be asked; and waits, where another request asks it the same. Cancel
    /// safe.
    async fn look(
        &self,
        (cache, rule): (&Arc<Cache>, &CacheRule),
        out: &Outgoing,
        wants: Directives,
    ) -> Result<Look, Refusal> {
        let (fields, method) = (&out.parts.headers, &out.parts.method);
        let until = Instant::now() + cache.wait;
        // What is asked for with conditions may bring nothing that others could use.
        let mut waits = *method == Method::GET && !cache.wait.is_zero();
        let mut waited = None;
        loop {
            // Anew behind each wait: what is in force may have changed.
            let live = self.slice().live();
            self.open(&live)?;
            let side = self.side_of_read(&live);
            let question = self.question(rule, (side, live), out, wants.clone());
            let mut found = cache.find(&question, fields, Moment::now());
            let mut leads = None;
            if let Some(entry) = stays(&found, method, &question) {
                let given = self.give(cache, entry, out, (&live, Given::Stays));
                return Ok(match cache.flights.join(question.flight()) {
                    // Somebody asks already.
                    Turn::Waits(_) => Look::Given(given),
                    Turn::Goes(own) => {
                        // Whoever went before may have come back since the look.
                        found = cache.find(&question, fields, Moment::now());
                        if !matches!(found, Found::Stale(_)) {
                            return Ok(Look::Given(given));
                        }
                        let own = Some(own);
                        let asks = Asks::new(question, (fields, method), (live, found), own);
                        Look::Stays(given, Box::new(asks))
                    }
                });
            }
            if waits && may_wait(&found, &question, fields) && !question.wants.only_if_cached {
                match cache.flights.join(question.flight()) {
                    Turn::Waits(flight) => {
                        waited.get_or_insert(why(&found, &question));
                        let ended = timeout_at(until, flight.end(question.known)).await;
                        waits = ended == Ok(Word::Lost);
                        continue;
                    }
                    Turn::Goes(own) => {
                        leads = Some(own);
                        // Whoever went before may have come back since the look.
                        found = cache.find(&question, fields, Moment::now());
                    }
                }
            }
            if let Found::Fresh(entry) = &found {
                let given = waited.map_or(Given::Fresh, Given::Waited);
                return Ok(Look::Given(self.give(cache, entry, out, (&live, given))));
            }
            if question.wants.only_if_cached {
                return Err(Refusal::NotKept);
            }
            let asks = Asks::new(question, (fields, method), (live, found), leads);
            return Ok(Look::Asks(Box::new(asks)));
        }
    }

    /// What is kept, without asking.
    fn give(
        &self,
        cache: &Cache,
        entry: &Entry,
        out: &Outgoing,
        (live, given): (&Live, Given),
    ) -> Reply<Body> {
        let now = Moment::now();
        let mut answer = entry.give((&out.parts.method, &out.parts.headers), now);
        let (outcome, text) = match given {
            Given::Fresh => {
                let left = entry.left(now).as_secs();
                (Outcome::Hit, format!("outgrow; hit; ttl={left}"))
            }
            Given::Waited(why) => (Outcome::Collapsed, format!("outgrow; fwd={why}; collapsed")),
            Given::Stays => {
                // Below zero: it has not been good for so long (RFC 9211 section 2.4).
                let over = i64::try_from(entry.freshness.over(now).as_secs());
                let left = -over.unwrap_or(i64::MAX);
                let text = format!("outgrow; hit; ttl={left}; detail=stale-while-revalidate");
                (Outcome::Updating, text)
            }
        };
        self.note(cache, outcome);
        tell(&mut answer, &text);
        self.dress(live, &mut answer);
        answer
    }

    /// The end of a request whose side was asked.
    fn settle(
        &self,
        cache: &Arc<Cache>,
        asks: Asks,
        mut answered: Result<Answered, Refusal>,
    ) -> Result<Reply<Body>, Refusal> {
        let live = asks.live;
        let asked = (&asks.method, &asks.fields);
        let now = Moment::now();
        let kept = match &asks.stale {
            None => None,
            Some(stale) if asks.is_confirmed(&answered) => {
                let said = fields_of(&mut answered);
                let renewed = cache.renew(&asks.question, &asks.fields, (stale, &said), now);
                let why = asks.why;
                let text = format!("outgrow; fwd={why}; fwd-status=304");
                Some((renewed.give(asked, now), Outcome::Revalidated, text))
            }
            Some(stale) if failed(&answered) && stale.stands_in(&asks.question, now) => {
                let status = answered.as_ref().ok().map(|said| said.response.status());
                let status = status.map_or_else(String::new, |status| {
                    format!("; fwd-status={}", status.as_u16())
                });
                let text = format!("outgrow; fwd=stale{status}; detail=stale-if-error");
                Some((stale.give(asked, now), Outcome::Stale, text))
            }
            Some(_) => None,
        };
        let Some((mut given, outcome, text)) = kept else {
            self.noted(cache, Outcome::Miss, asks.behind);
            let answered = answered.inspect_err(|_| asks.end())?;
            let mut response = self.take(cache, asks, answered);
            self.stick(&live, &mut response, None);
            return Ok(response);
        };
        asks.end();
        let behind = asks.behind;
        if let Ok(said) = answered {
            // What has come whole gives its connection back.
            drop(Body::answer(said.lent, None));
        }
        self.noted(cache, outcome, behind);
        tell(&mut given, &text);
        self.dress(&live, &mut given);
        Ok(given)
    }

    /// The side's answer for the client, kept on its way where it may be.
    fn take(&self, cache: &Arc<Cache>, asks: Asks, mut answered: Answered) -> Reply<Body> {
        let status = answered.response.status();
        let fields = stripped(answered.response.headers());
        let own = asks.method == Method::GET && answered.side == asks.question.side;
        let may = own && !answered.lent.flow.ends_unsaid();
        let entry = || {
            let answer = (status, &fields);
            cache.entry(&asks.question, &asks.fields, answer, Moment::now())
        };
        let entry = may.then(entry).flatten();
        let verdict = || self.verdict(answered.side, answered.build);
        let answer = (answered.response, answered.lent);
        let mut response = hand_down(answer, None, None, self.filters(), verdict);
        let mut text = format!("outgrow; fwd={}; fwd-status={}", asks.why, status.as_u16());
        match entry {
            Some(entry) => {
                text.push_str("; stored");
                let leads = asks.leads.filter(|leads| {
                    // Each of those who wait would have to ask about it all the same.
                    let worth = entry.freshness.is_for_next();
                    if !worth {
                        leads.tell(Word::Over);
                    }
                    worth
                });
                let asked = (asks.question, asks.fields);
                let keep = Keep::new(cache.clone(), asked, entry, leads);
                response.body_mut().keep(keep);
            }
            None => {
                if own && status != StatusCode::NOT_MODIFIED {
                    // Asked again and again behind it, what it says now would be seen by nobody.
                    if asks.behind && !status.is_server_error() {
                        cache.forget(&asks.question);
                    }
                    cache.pass(&asks.question);
                }
                asks.end();
            }
        }
        tell(&mut response, &text);
        response
    }

    /// A kept answer for this client.
    fn dress(&self, live: &Live, given: &mut Reply<Body>) {
        if let Some(filters) = self.filters() {
            filters.response(given.headers_mut());
        }
        self.stick(live, given, None);
    }

    /// What nobody waits for is no request's outcome.
    fn noted(&self, cache: &Cache, outcome: Outcome, behind: bool) {
        if !behind {
            self.note(cache, outcome);
        }
    }

    fn note(&self, cache: &Cache, outcome: Outcome) {
        cache.count(self.core.index, self.index, outcome);
        if let Some(trail) = &self.trail {
            trail.kept(outcome.name());
        }
    }
}

impl Asks {
    fn new(
        question: Question,
        (fields, method): (&HeaderMap, &Method),
        (live, found): (Live, Found),
        leads: Option<Leads>,
    ) -> Self {
        let why = why(&found, &question);
        Self {
            question,
            fields: fields.clone(),
            method: method.clone(),
            live,
            stale: match found {
                Found::Stale(entry) => Some(entry),
                _ => None,
            },
            conditional: false,
            leads,
            why,
            behind: false,
        }
    }

    /// Has the side say whether what is kept is still good.
    fn ask_whether(&mut self, out: &mut Outgoing) {
        if self.method == Method::GET
            && let Some(entry) = &self.stale
        {
            self.conditional = entry.ask_whether(&mut out.parts.headers);
        }
    }

    /// Those who wait shall see for themselves.
    fn end(&self) {
        if let Some(leads) = &self.leads {
            leads.tell(Word::Over);
        }
    }

    /// Whether the side has said so.
    fn is_confirmed(&self, answered: &Result<Answered, Refusal>) -> bool {
        answered.as_ref().is_ok_and(|said| {
            self.conditional
                && said.side == self.question.side
                && said.response.status() == StatusCode::NOT_MODIFIED
        })
    }
}

/// What may be given, stale, while the side is asked.
fn stays<'a>(found: &'a Found, method: &Method, question: &Question) -> Option<&'a Arc<Entry>> {
    match found {
        Found::Stale(entry) if *method == Method::GET => {
            let stays = entry.stays(question, Moment::now());
            stays.then_some(entry)
        }
        _ => None,
    }
}

/// Whether another request's answer would do.
fn may_wait(found: &Found, question: &Question, fields: &HeaderMap) -> bool {
    question.wants.is_content()
        && match found {
            Found::Nothing(_) => !cache::has_conditions(fields),
            Found::Stale(entry) => entry.is_worth_waiting_for(question),
            Found::Fresh(_) | Found::Passed => false,
        }
}

/// Why the side is asked, in words of RFC 9211.
fn why(found: &Found, question: &Question) -> &'static str {
    match found {
        Found::Nothing(why) => why,
        Found::Stale(_) if !question.wants.is_content() => "request",
        Found::Stale(_) => "stale",
        Found::Fresh(_) | Found::Passed => "miss",
    }
}

fn stripped(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    headers::strip_hop_by_hop(&mut fields);
    fields
}

fn fields_of(answered: &mut Result<Answered, Refusal>) -> HeaderMap {
    let fields = answered.as_mut().map(|said| said.response.headers());
    fields.map(stripped).unwrap_or_default()
}

fn tell(response: &mut Reply<Body>, text: &str) {
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append(CACHE_STATUS, value);
    }
}
