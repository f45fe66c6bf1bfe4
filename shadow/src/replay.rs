//! Replays a recording against two builds, and compares their answers as live traffic is compared.
//!
//! Each session's requests are asked in their order, each of both sides at the same time; no
//! request is asked twice but a read that differed, of the reference side, to see whether that
//! side agrees with itself. Writes are asked only when told to, and once.

mod accepted;
mod ask;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method};
use outgrow_rollout::{Side, SliceId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::align::{compared, ended, pair, raw};
use crate::compare::Answer;
use crate::error::Error;
use crate::inbox::Inbox;
use crate::places::{Place, Places};
use crate::record::Outcome;
use crate::recording::{Recorded, Recording};
use crate::renaming::Book;
use crate::report::Report;
use crate::rules::today;
use crate::settings::{Freshness, Limits, RouteShadow, ShadowSettings, SliceShadow, Writes};
use crate::slice::Slice;
use crate::tap::{CapturedRequest, CapturedResponse, Exchange, SideTargets, Ticket};
use crate::writes::Kind;

pub use accepted::AcceptedDifference;
use accepted::Accepting;
use ask::{Asked, Asker};
use session::{Dressed, Identity};

/// Sessions that wait for their next moment at the same time; each holds little.
const SESSIONS_MAX: usize = 10_000;

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As recorded, this many times as fast.
    Times(f64),
    /// As fast as the two sides answer.
    Max,
}

/// A replay.
#[derive(Debug)]
pub struct ReplaySettings {
    /// How answers are compared. Its sides: `legacy` is the reference, `extracted` is compared
    /// with it.
    pub slice: SliceShadow,
    /// The response header by which a side names its build.
    pub build_header: HeaderName,
    pub limits: Limits,
    /// Fields that the reference, and that the other side always gets.
    pub own: [HeaderMap; 2],
    /// The side whose paths the reference, and the other build know; `None`: the clients'.
    pub sides: [Option<Side>; 2],
    pub pace: Pace,
    /// Requests of the recording at the same time.
    pub jobs: usize,
    /// Whether requests are sent that may change something.
    pub writes: bool,
    /// Played first, on both sides, whatever methods it has: who it logs in, asks everything.
    pub login: Option<Recording>,
    pub accepted: Vec<AcceptedDifference>,
}

/// What a replay has found.
#[derive(Debug)]
pub struct Replayed {
    pub report: Report,
    /// Differences that were accepted by the file.
    pub accepted: u64,
    /// Of the file, what no longer differs.
    pub unused: Vec<AcceptedDifference>,
    /// What came later than the pace wanted, at the most.
    pub behind: Duration,
}

/// Called after each request with the number of those that are done.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// No bridge connects two builds that are replayed against.
struct NoBridge;

impl Freshness for NoBridge {
    fn applied_through(&self, _: &SliceId) -> Option<SystemTime> {
        None
    }

    fn has_link(&self, _: &SliceId) -> bool {
        false
    }
}

struct Replay {
    slice: Slice,
    reference: Authority,
    other: Authority,
    own: [HeaderMap; 2],
    sides: [Option<Side>; 2],
    asker: Asker,
    accepting: Accepting,
    pace: Pace,
    writes: bool,
    begun: Instant,
    turns: Semaphore,
    named: AtomicBool,
    done: AtomicU64,
    behind: Mutex<Duration>,
    progress: Progress,
}

/// Plays a recording to its end. Cancel safe: dropped, it sends nothing more.
///
/// # Errors
/// [`Error`] for a rule that is none, a side without an upstream, or a login that fails.
pub async fn replay(
    settings: ReplaySettings,
    recording: Recording,
    progress: Progress,
) -> Result<Replayed, Error> {
    let first = |side: &Places| match side.at(0) {
        Some(Place::Tcp(authority)) => Ok(authority),
        Some(Place::Unix(_) | Place::Dialed(_)) | None => Err(Error::NoSide),
    };
    let all = ShadowSettings {
        slices: Vec::new(),
        build_header: settings.build_header,
        limits: settings.limits.clone(),
    };
    // Nothing is put into it: a replay judges what it asks, as it asks.
    let inbox = Arc::new(Inbox::new());
    let run = Replay {
        reference: first(&settings.slice.legacy)?,
        other: first(&settings.slice.extracted)?,
        slice: Slice::new(settings.slice, &all, Arc::new(NoBridge), inbox)?,
        own: settings.own,
        sides: settings.sides,
        asker: Asker::new(&settings.limits),
        accepting: Accepting::new(settings.accepted)?,
        pace: settings.pace,
        writes: settings.writes,
        begun: Instant::now(),
        turns: Semaphore::new(settings.jobs.max(1)),
        named: AtomicBool::new(false),
        done: AtomicU64::new(0),
        behind: Mutex::default(),
        progress,
    };
    let known = match settings.login {
        Some(login) => run.login(login).await?,
        None => [Identity::default(), Identity::default()],
    };
    let run = Arc::new(Replay {
        begun: Instant::now(),
        ..run
    });
    run.clone()
        .play(recording, known, settings.jobs.max(1))
        .await;
    let run = &*run;
    let rules = run.slice.rules();
    let rate = run.slice.settings.mismatch_max;
    let record = run.slice.record();
    Ok(Replayed {
        report: Report::new(&run.slice.settings.id, &record, &rules, rate, today()),
        accepted: run.accepting.hits(),
        unused: run.accepting.unused(),
        behind: *run.behind.lock().unwrap_or_else(PoisonError::into_inner),
    })
}

/// Sessions by the time of their first request, each in its order.
fn sessions(recording: Recording) -> Vec<Vec<Recorded>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut sessions: Vec<Vec<Recorded>> = Vec::new();
    for request in recording.requests {
        let next = sessions.len();
        let place = *places.entry(request.session.clone()).or_insert(next);
        match sessions.get_mut(place) {
            Some(session) => session.push(request),
            None => sessions.push(vec![request]),
        }
    }
    sessions
}

/// A label for a request without one: parts of the path that look like ids have one name.
fn label(request: &Recorded) -> String {
    let is_id = |part: &str| {
        let digits = part.bytes().filter(u8::is_ascii_digit).count();
        let hex = part.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        !part.is_empty() && digits == part.len() || hex && digits > 0 && part.len() >= 8
    };
    let parts = request.target.path().split('/');
    let parts: Vec<&str> = parts
        .map(|part| if is_id(part) { "{id}" } else { part })
        .collect();
    format!("{} {}", request.method, parts.join("/"))
}

fn may_write(method: &Method) -> bool {
    Kind::of(method, RouteShadow::default()) != Ok(Kind::Read)
}

/// Why a request is not sent.
fn refused(method: &Method, writes: bool) -> Option<&'static str> {
    let route = RouteShadow {
        writes: writes.then_some(Writes::Sandbox),
        ..RouteShadow::default()
    };
    Kind::of(method, route).err()
}

impl Replay {
    /// Plays the login on both sides, uncompared.
    async fn login(&self, login: Recording) -> Result<[Identity; 2], Error> {
        let mut known = [Identity::default(), Identity::default()];
        for session in sessions(login) {
            let carried = session::carried(&session);
            for request in &session {
                let answers = self.both(request, &known).await;
                for (answer, to) in answers.iter().zip([&self.reference, &self.other]) {
                    let refused = match answer {
                        Ok(asked) if asked.answer.status.as_u16() < 400 => continue,
                        Ok(asked) => format!("it answered {}", asked.answer.status),
                        Err(why) => why.clone(),
                    };
                    return Err(Error::Login {
                        to: to.to_string(),
                        request: format!("{} {}", request.method, request.target.path()),
                        refused,
                    });
                }
                learn(&mut known, request, &carried, &answers);
            }
        }
        Ok(known)
    }

    async fn play(self: Arc<Self>, recording: Recording, known: [Identity; 2], jobs: usize) {
        let open = match self.pace {
            Pace::Max => jobs,
            Pace::Times(_) => SESSIONS_MAX,
        };
        let mut running = JoinSet::new();
        for session in sessions(recording) {
            if let Some(due) = session.first().and_then(|first| self.due(first)) {
                sleep_until(due).await;
            }
            if running.len() >= open {
                running.join_next().await;
            }
            while running.try_join_next().is_some() {}
            running.spawn(self.clone().session(session, known.clone()));
        }
        while running.join_next().await.is_some() {}
    }

    /// When a request is to be sent; `None` for at once.
    fn due(&self, request: &Recorded) -> Option<Instant> {
        match self.pace {
            Pace::Max => None,
            Pace::Times(times) => {
                let at = Duration::from_millis(request.at_ms).as_secs_f64() / times;
                self.begun
                    .checked_add(Duration::try_from_secs_f64(at).ok()?)
            }
        }
    }

    async fn session(self: Arc<Self>, session: Vec<Recorded>, mut known: [Identity; 2]) {
        let carried = session::carried(&session);
        for request in &session {
            if let Some(due) = self.due(request) {
                sleep_until(due).await;
            }
            if let Some(reason) = refused(&request.method, self.writes) {
                let mut door = self.slice.door();
                door.eligible += 1;
                door.ineligible(reason);
            } else {
                self.request(request, &carried, &mut known).await;
            }
            (self.progress)(self.done.fetch_add(1, Relaxed) + 1);
        }
    }

    async fn request(
        &self,
        request: &Recorded,
        carried: &BTreeSet<String>,
        known: &mut [Identity; 2],
    ) {
        {
            let mut door = self.slice.door();
            door.eligible += 1;
            door.let_in();
        }
        // Closed never: the semaphore lives as long as the replay.
        let _turn = self.turns.acquire().await.ok();
        if let Some(due) = self.due(request) {
            let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
            *behind = (*behind).max(Instant::now().saturating_duration_since(due));
        }
        let as_asked = known[0].dress(request, &self.own[0], self.sides[0]);
        let answers = self.both(request, known).await;
        learn(known, request, carried, &answers);
        let route: Arc<str> = match &request.route {
            Some(route) => route.as_str().into(),
            None => label(request).into(),
        };
        let exchange = exchange(&self.slice, &route, request, &as_asked, &answers[0]);
        let outcome = self.outcome(request, &as_asked, &exchange, answers).await;
        let generation = self.slice.generation();
        self.slice.settle(&exchange, outcome, generation);
    }

    /// Both sides at once, each with its own cookies and values.
    async fn both(&self, request: &Recorded, known: &[Identity; 2]) -> [Result<Asked, String>; 2] {
        let ask = |to, index: usize| {
            let dressed = known[index].dress(request, &self.own[index], self.sides[index]);
            self.asker
                .ask(to, &request.method, self.rewritten(index, dressed))
        };
        let (a, b) = tokio::join!(ask(&self.reference, 0), ask(&self.other, 1));
        [a, b]
    }

    /// As the config has requests to a side, where it is said which one the build is of; but for what
    /// the command line says itself.
    fn rewritten(&self, index: usize, mut dressed: Dressed) -> Dressed {
        let Some(side) = self.sides[index] else {
            return dressed;
        };
        let rewrite = self.slice.settings.rewrites.of(side).replayed();
        rewrite.fields(&mut dressed.headers);
        for name in self.own[index].keys() {
            dressed.headers.remove(name);
        }
        for (name, value) in &self.own[index] {
            dressed.headers.append(name.clone(), value.clone());
        }
        dressed.target = rewrite.target(&dressed.target);
        dressed
    }

    async fn outcome(
        &self,
        request: &Recorded,
        as_asked: &Dressed,
        exchange: &Exchange,
        answers: [Result<Asked, String>; 2],
    ) -> Outcome {
        let (reference, other) = match answers {
            [Err(_), _] => return Outcome::NotComparable("legacy-unreachable"),
            [Ok(given), Err(why)] => {
                let pair = pair(&self.slice, exchange, Some(&given.answer), None, &[]);
                return Outcome::CandidateError(why, pair);
            }
            [Ok(reference), Ok(other)] => (reference, other),
        };
        self.slice
            .notes()
            .times(Some(reference.latency), Some(other.latency));
        let (reference, other) = (reference.answer, other.answer);
        if !self.named.swap(true, Relaxed) {
            // Of the first pair: two builds that answer in turns would begin all anew each time.
            let now = self.slice.generation();
            self.slice.builds(&reference, &other, now);
        }
        let mut found = match compared(&self.slice, exchange, (&reference, &other)) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let route = &exchange.route;
        found
            .counts
            .retain(|difference| !self.accepting.accepts(route, difference));
        if !found.counts.is_empty() && !may_write(&request.method) {
            let unsure = self.unsure(request, as_asked, &reference).await;
            found
                .counts
                .retain(|difference| !unsure.contains(&difference.place.general()));
        }
        ended(&self.slice, exchange, (&reference, &other), found, false)
    }

    /// The fields in which the reference side differs from itself when it is asked again.
    async fn unsure(
        &self,
        request: &Recorded,
        as_asked: &Dressed,
        first: &Answer,
    ) -> HashSet<String> {
        let method = &request.method;
        let asked = self.rewritten(0, as_asked.clone());
        let again = self.asker.ask(&self.reference, method, asked);
        let Ok(again) = again.await else {
            return HashSet::new();
        };
        let own = raw(&self.slice, Book::Legacy, first, &again.answer).unwrap_or_default();
        let places = own.iter().map(|difference| difference.place.general());
        places.collect()
    }
}

fn learn(
    known: &mut [Identity; 2],
    request: &Recorded,
    carried: &BTreeSet<String>,
    answers: &[Result<Asked, String>; 2],
) {
    for (known, answer) in known.iter_mut().zip(answers) {
        if let Ok(Asked { answer, .. }) = answer {
            let given = request.answer.as_ref();
            known.learn(given, carried, &answer.headers, &answer.body);
        }
    }
}

/// What the report keeps of a request: as the reference side got it.
fn exchange(
    slice: &Slice,
    route: &Arc<str>,
    request: &Recorded,
    as_asked: &Dressed,
    answer: &Result<Asked, String>,
) -> Exchange {
    let (response, latency) = match answer {
        Ok(asked) => {
            let response = CapturedResponse {
                status: asked.answer.status,
                headers: asked.answer.headers.clone(),
                body: asked.answer.body.clone(),
                whole: true,
                trailers: asked.answer.trailers.clone(),
            };
            (response, asked.latency)
        }
        Err(_) => {
            let response = CapturedResponse {
                status: http::StatusCode::BAD_GATEWAY,
                headers: HeaderMap::new(),
                body: bytes::Bytes::new(),
                whole: false,
                trailers: HeaderMap::new(),
            };
            (response, Duration::ZERO)
        }
    };
    Exchange {
        ticket: Ticket::of_nobody(slice.limits.body, route.clone()),
        route: route.clone(),
        endpoint: route.clone(),
        primary: Side::Legacy,
        request: CapturedRequest {
            method: request.method.clone(),
            target: as_asked.asked.clone(),
            sides: SideTargets::default(),
            headers: as_asked.headers.clone(),
            body: as_asked.body.clone(),
            whole: true,
        },
        response,
        finished: SystemTime::now(),
        latency,
        identity: None,
    }
}
