//! One slice at work: its settings, its record, its rules, and the way to ask its two sides.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use outgrow_rollout::Side;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::asking;
use crate::breaker::Breaker;
use crate::budget::{Budget, Share};
use crate::compare::Answer;
use crate::diff::Difference;
use crate::door::Door;
use crate::draft::Draft;
use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::features;
use crate::flights::{Flight, Flights, ROUTE_STOPPED};
use crate::graphql;
use crate::inbox::Inbox;
use crate::mirror::Mirror;
use crate::places::Place;
use crate::record::{Of, Outcome, Record};
use crate::recording::Capture;
use crate::redact::Redactor;
use crate::rules::{Accepted, Rules};
use crate::settings::{Freshness, Limits, Posts, ShadowSettings, SliceShadow, Writes};
use crate::tap::{Exchange, SHADOW_MARK};
use crate::writes::{DRY_RUN, DryRuns, Kind};

/// Answers of one route in which faults are seeded, the first ones of the builds that run now.
pub(crate) const SEEDED_ANSWERS: u64 = 10;

/// Routes in whose answers faults are seeded.
const SEEDED_ROUTES_MAX: usize = 500;

/// An answer to the shadow, with its part of the slice's memory.
pub(crate) struct Held {
    answer: Answer,
    _memory: Share,
}

impl std::ops::Deref for Held {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.answer
    }
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// The side has failed, so.
    Failed(String),
    /// The slice's memory has no room for it.
    Memory,
    /// Nothing was asked that says anything, because of this.
    NotAsked(&'static str),
}

/// A copy, and the slice that it belongs to.
pub(crate) type Offered = (Arc<Slice>, Box<Draft>);

/// What cores take from each other in turns, in lines of memory with nothing else in them.
#[repr(align(128))]
struct OwnLine<T>(T);

/// Locks are taken in the order rules, record, door.
pub(crate) struct Slice {
    pub(crate) settings: SliceShadow,
    pub(crate) limits: Limits,
    /// Where its exchanges wait to be judged.
    pub(crate) inbox: Arc<Inbox<Offered>>,
    build_header: http::HeaderName,
    mirror: Mirror,
    /// Of the legacy side, of the extracted one, and of the sandbox.
    breakers: [Breaker; 3],
    memory: Arc<Budget>,
    /// Of routes that have their own.
    memories: HashMap<String, Arc<Budget>>,
    endpoints: Endpoints,
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) capture: Capture,
    pub(crate) dry_runs: DryRuns,
    pub(crate) flights: Flights,
    freshness: Arc<dyn Freshness>,
    /// Requests to the sides at the same time.
    turns: Semaphore,
    dice: AtomicU64,
    /// Which evidence is gathered now: see [`Record::generation`]. A copy, for the tap.
    generation: AtomicU64,
    door: OwnLine<Mutex<Door>>,
    record: Mutex<Record>,
    /// Replaced as a whole, so that pairs are compared side by side.
    rules: Mutex<Arc<Rules>>,
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slice")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Plain counts and texts: a panic elsewhere leaves nothing half done that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the status that the client got.
fn class(exchange: &Exchange) -> String {
    format!("{}xx", exchange.response.status.as_u16() / 100)
}

pub(crate) fn unix_now() -> i64 {
    unix_now_ms() / 1_000
}

pub(crate) fn unix_now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

impl Slice {
    pub(crate) fn new(
        slice: SliceShadow,
        all: &ShadowSettings,
        freshness: Arc<dyn Freshness>,
        inbox: Arc<Inbox<Offered>>,
    ) -> Result<Self, Error> {
        let memory = Budget::new(slice.flow.memory);
        let routes = slice.flow.routes.iter();
        let memories = routes.filter_map(|(name, route)| {
            let own = memory.part(route.memory?);
            Some((name.clone(), own))
        });
        Ok(Self {
            memories: memories.collect(),
            memory,
            inbox,
            build_header: all.build_header.clone(),
            mirror: Mirror::new(&all.limits, slice.flow.in_flight),
            breakers: Default::default(),
            endpoints: Endpoints::default(),
            redactor: Arc::new(Redactor::new(&slice.redact)?),
            capture: Capture::default(),
            dry_runs: DryRuns::default(),
            flights: Flights::default(),
            freshness,
            turns: Semaphore::new(slice.flow.in_flight),
            dice: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            door: OwnLine(Mutex::new(Door::new(&slice.flow))),
            record: Mutex::new(Record::of(&slice.id)),
            rules: Mutex::new(Arc::new(Rules::new(&slice.rules, &slice.arrays)?)),
            limits: all.limits.clone(),
            settings: slice,
        })
    }

    /// For a client's path: held for a few additions by everybody.
    pub(crate) fn door(&self) -> MutexGuard<'_, Door> {
        lock(&self.door.0)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The record, with all that came in until now: for whoever looks at its counts.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        let mut record = self.notes();
        let came = self.door().take();
        record.take_in(&came);
        record
    }

    /// The record without what came in since somebody looked: for what is noted of a pair. The
    /// door, which clients' requests pass, is left alone.
    pub(crate) fn notes(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    /// Changes which evidence is gathered.
    pub(crate) fn replace(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.record();
        let before = record.generation;
        change(&mut record);
        if record.generation > before {
            record.history.mark(unix_now());
        }
        self.generation.store(record.generation, Relaxed);
        let anew = record.generation != before;
        // Before the rules are looked at: that is the order of the locks.
        drop(record);
        if anew {
            self.rules().forget_hits();
        }
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        lock(&self.rules).clone()
    }

    /// Adds the rules that are not there yet.
    pub(crate) fn add_rules(&self, added: impl IntoIterator<Item = Accepted>) {
        let mut rules = lock(&self.rules);
        for one in added {
            if !rules.accepted.iter().any(|known| known.rule == one.rule) {
                Arc::make_mut(&mut rules).add(one);
            }
        }
    }

    /// Asks one side; waits for a turn first.
    pub(crate) async fn ask(&self, side: Side, exchange: &Exchange) -> Result<Held, NoAnswer> {
        Ok(self.timed(side, exchange).await?.0)
    }

    /// The same, with the time to the answer's head.
    pub(crate) async fn timed(
        &self,
        side: Side,
        exchange: &Exchange,
    ) -> Result<(Held, Duration), NoAnswer> {
        let breaker = &self.breakers[usize::from(side == Side::Extracted)];
        let (held, latency) = self.sent((side, Kind::Read), breaker, exchange).await?;
        self.took(side, latency);
        Ok((held, latency))
    }

    /// Asks for a write, once.
    pub(crate) async fn write(
        &self,
        side: Side,
        writes: Writes,
        exchange: &Exchange,
    ) -> Result<Held, NoAnswer> {
        let breaker = match (writes, side) {
            (Writes::Sandbox, _) => &self.breakers[2],
            (_, side) => &self.breakers[usize::from(side == Side::Extracted)],
        };
        let whom = (side, Kind::Write(writes));
        let (held, latency) = self.sent(whom, breaker, exchange).await?;
        if writes != Writes::Sandbox {
            self.took(side, latency);
        }
        Ok(held)
    }

    async fn sent(
        &self,
        whom: (Side, Kind),
        breaker: &Breaker,
        exchange: &Exchange,
    ) -> Result<(Held, Duration), NoAnswer> {
        let to_ask = self.asked(whom, exchange).map_err(NoAnswer::NotAsked)?;
        // Closed never: the semaphore lives as long as the slice.
        let _turn = self.turns.acquire().await.ok();
        if !breaker.admits(Instant::now()) {
            let text = "not asked: it has failed again and again".to_owned();
            return Err(NoAnswer::Failed(text));
        }
        let flight = self.sets_off(whom, &exchange.route)?;
        let asked = self.mirror.ask(&self.settings, whom, exchange, &to_ask);
        let asked = asked.await;
        drop(flight);
        let is_down = asked.as_ref().is_err_and(|failure| failure.is_down);
        breaker.ended(!is_down, Instant::now());
        let (answer, latency) = asked.map_err(|failure| NoAnswer::Failed(failure.text))?;
        if to_ask.is_blind && !asking::is_gone(answer.status) {
            return Err(NoAnswer::NotAsked(asking::UNKNOWN));
        }
        let memory = self.share(&exchange.route);
        if !memory.grow(answer.body.len()) {
            return Err(NoAnswer::Memory);
        }
        let held = Held {
            answer,
            _memory: memory,
        };
        Ok((held, latency))
    }

    /// Notes that a copy is on its way to a side from now on; a sandbox is none.
    fn sets_off<'a>(
        &'a self,
        (side, kind): (Side, Kind),
        route: &'a str,
    ) -> Result<Option<Flight<'a>>, NoAnswer> {
        let stopped = NoAnswer::NotAsked(ROUTE_STOPPED);
        match kind {
            Kind::Write(Writes::Sandbox) if self.flights.is_stopped(route) => Err(stopped),
            Kind::Write(Writes::Sandbox) => Ok(None),
            _ => self.flights.sets_off(route, side).ok_or(stopped).map(Some),
        }
    }

    /// Mirrors nothing of these routes, for these reasons, and of all others what the bounds let
    /// in.
    pub(crate) fn stop_routes(&self, routes: &BTreeMap<String, String>) {
        self.door().stop(routes.keys());
        self.flights.stop(routes);
    }

    /// Books how long a side has taken to an answer's head.
    pub(crate) fn took(&self, side: Side, latency: Duration) {
        let took = |wanted| (side == wanted).then_some(latency);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut record = self.notes();
        record.times(took(Side::Legacy), took(Side::Extracted));
        record.history.answered(unix_now(), side, micros);
    }

    fn build(&self, answer: &Answer) -> Option<String> {
        let value = answer.headers.get(&self.build_header)?;
        value.to_str().ok().map(str::to_owned)
    }

    /// Learns which builds have answered a pair that began in generation `since`. The generation
    /// that the pair belongs to from now on; `None` when it was answered by a build that runs no
    /// more.
    pub(crate) fn builds(&self, legacy: &Answer, extracted: &Answer, since: u64) -> Option<u64> {
        let (legacy, extracted) = (self.build(legacy), self.build(extracted));
        self.learn(legacy, extracted, since)
    }

    /// The same where another instance has answered for the extracted side: of another build it
    /// says nothing of that side.
    pub(crate) fn builds_beside(
        &self,
        legacy: &Answer,
        beside: &Answer,
        since: u64,
    ) -> Option<u64> {
        let (legacy, beside) = (self.build(legacy), self.build(beside));
        let known = self.notes().extracted_build.clone();
        match (known, beside) {
            (Some(known), Some(beside)) if known != beside => None,
            _ => self.learn(legacy, None, since),
        }
    }

    fn learn(&self, legacy: Option<String>, extracted: Option<String>, since: u64) -> Option<u64> {
        let known = self.notes().knows(legacy.as_deref(), extracted.as_deref());
        if known.is_some() {
            return known;
        }
        let mut belongs = None;
        self.replace(|record| {
            belongs = record.builds(legacy.as_deref(), extracted.as_deref(), since);
        });
        belongs
    }

    pub(crate) fn noise(&self, route: &str, own: &[Difference], theirs: &[Difference]) {
        self.notes().noise(route, own, theirs);
    }

    /// Counts a pair whose differences are final.
    pub(crate) fn judged(&self, route: &str, found: &[Difference]) {
        self.notes().judged(route, found);
    }

    /// Asks for evidence of what an exchange is of.
    pub(crate) fn wants(&self, exchange: &Exchange) {
        self.notes().wants(&Of::new(exchange, &class(exchange)));
    }

    /// Books how a pair of this generation ended, and frees its place.
    pub(crate) fn settle(&self, exchange: &Exchange, outcome: Outcome, generation: u64) {
        let examples = self.limits.examples;
        let class = class(exchange);
        let of = Of::new(exchange, &class);
        let features = || features::of(exchange, &self.redactor);
        let mut record = self.notes();
        if record.waiting == 0 {
            // This one has come in, at the least.
            record.take_in(&self.door().take());
        }
        let counted = record.settle(of, outcome, generation, examples, features);
        if let Some(against) = counted {
            record.history.compared(unix_now(), against);
        }
        self.door().leave(&exchange.route);
    }

    /// What is no noise.
    pub(crate) fn kept(&self, route: &str, mut found: Vec<Difference>) -> Vec<Difference> {
        if !found.is_empty() {
            let record = self.notes();
            let mut known = HashMap::new();
            found.retain(|difference| {
                let field = difference.place.general();
                let is_noise = known.entry(field);
                !*is_noise.or_insert_with_key(|field| record.is_noise(route, field))
            });
        }
        found
    }

    /// A line for a shell that asks a side again. Without credentials; those are nowhere kept.
    pub(crate) fn curl(&self, side: &Side, exchange: &Exchange) -> Option<String> {
        let route = self.settings.flow.routes.get(&*exchange.route);
        let method = &exchange.request.method;
        let kind = Kind::of(method, route.copied().unwrap_or_default());
        let asked = self.asked((*side, kind.unwrap_or(Kind::Read)), exchange);
        let request = &exchange.request;
        let (target, body) = match &asked {
            Ok(asked) => (&asked.target, &asked.body),
            Err(_) => (&request.target, &request.body),
        };
        let target = self.redactor.text(target.as_str());
        let upstreams = match (side, kind) {
            // It would write, without being asked to take that back.
            (side, Ok(Kind::Write(_))) if *side == exchange.primary => return None,
            (_, Ok(Kind::Write(Writes::Sandbox))) => &self.settings.sandbox,
            (Side::Legacy, _) => &self.settings.legacy,
            (Side::Extracted, _) => &self.settings.extracted,
        };
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let mut line = "curl -sS -i".to_owned();
        match *method {
            http::Method::HEAD => line.push_str(" --head"),
            http::Method::GET | http::Method::POST => {}
            _ => line.push_str(&format!(" -X {method}")),
        }
        if *method == http::Method::POST || !body.is_empty() {
            let body = String::from_utf8_lossy(body);
            let body = self.redactor.text(&body);
            line.push_str(&format!(" --data-binary {}", quoted(&body)));
        }
        if kind == Ok(Kind::Write(Writes::DryRun)) {
            line.push_str(&format!(" -H '{SHADOW_MARK}: 1' -H '{DRY_RUN}: 1'"));
        }
        let headers = exchange.request.headers.iter();
        for (name, value) in headers.filter(|(name, _)| features::looked_at(name.as_str())) {
            if let Ok(value) = value.to_str()
                && name != http::header::HOST
                && !self.redactor.is_secret(name.as_str())
            {
                let field = format!("{name}: {}", self.redactor.text(value));
                line.push_str(&format!(" -H {}", quoted(&field)));
            }
        }
        let url = match upstreams.at(0)? {
            Place::Tcp(authority) => format!("http://{authority}{target}"),
            Place::Unix(path) => {
                let path = path.display().to_string();
                line.push_str(&format!(" --unix-socket {}", quoted(&path)));
                format!("http://localhost{target}")
            }
            Place::Dialed(by) => format!("{}{target}", by.url()),
        };
        Some(format!("{line} {}", quoted(&url)))
    }

    /// Whether faults are still to be seeded in an answer of this route; counts it.
    pub(crate) fn wants_seeds(&self, route: &str) -> bool {
        let mut record = self.notes();
        if !record.seeded.contains_key(route) && record.seeded.len() >= SEEDED_ROUTES_MAX {
            return false;
        }
        let seeded = record.seeded.entry(route.to_owned()).or_default();
        seeded.answers += 1;
        seeded.answers <= SEEDED_ANSWERS
    }

    /// Books seeded faults.
    pub(crate) fn seeded(&self, route: &str, faults: u64, caught: u64) {
        if let Some(seeded) = self.notes().seeded.get_mut(route) {
            seeded.faults += faults;
            seeded.caught += caught;
        }
    }

    pub(crate) fn has_link(&self) -> bool {
        self.freshness.has_link(&self.settings.id)
    }

    pub(crate) fn applied_through(&self) -> Option<SystemTime> {
        self.freshness.applied_through(&self.settings.id)
    }

    /// Bytes of copies that are in memory.
    pub(crate) fn held(&self) -> usize {
        self.memory.held()
    }

    /// What an exchange is counted as.
    ///
    /// # Errors
    /// Why it is not compared.
    pub(crate) fn endpoint(&self, exchange: &Exchange) -> Result<Arc<str>, &'static str> {
        let of_route = self.settings.flow.routes.get(&*exchange.route);
        let posts = of_route.and_then(|route| route.posts);
        let request = &exchange.request;
        match posts {
            _ if !request.whole => Err("long-request"),
            Some(Posts::Graphql) if request.method == http::Method::POST => {
                let name = graphql::query(request)?;
                Ok(self.endpoints.operation(&exchange.route, &name))
            }
            _ => {
                let path = request.target.path();
                Ok(self.endpoints.path(&exchange.route, path))
            }
        }
    }

    /// Of the memory for copies of a route, a part that is empty yet.
    pub(crate) fn share(&self, route: &str) -> Share {
        self.memories.get(route).unwrap_or(&self.memory).share()
    }

    /// Whether this read of this client is in the sample of its route.
    pub(crate) fn samples(&self, route: &str, client: u64) -> bool {
        let flow = &self.settings.flow;
        let own = flow.routes.get(route).and_then(|route| route.sample);
        let share = own.unwrap_or(self.settings.sample);
        if !flow.by_client {
            return self.draw(share);
        }
        // With a seed, so that slices do not all mirror the same clients.
        let seed = xxh3_64(self.settings.id.as_str().as_bytes());
        let drawn = xxh3_64_with_seed(&client.to_le_bytes(), seed) as f64 / u64::MAX as f64;
        share >= 1.0 || drawn < share
    }

    /// True for this share of the calls, evenly spread.
    pub(crate) fn draw(&self, share: f64) -> bool {
        // All or nothing needs no dice, which other cores throw, too.
        if share >= 1.0 || share <= 0.0 {
            return share >= 1.0;
        }
        let count = self.dice.fetch_add(1, Relaxed);
        let drawn = xxh3_64(&count.to_le_bytes()) as f64 / u64::MAX as f64;
        drawn < share
    }
}
