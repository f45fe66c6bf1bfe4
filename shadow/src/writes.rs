//! Copies of writes: asked once, of a candidate that takes back what it has done, or of one with a
//! store of its own.
//!
//! A candidate that does not say that it has taken a write back may have kept it: of that route
//! nothing more is sent, until somebody says so. What is not proven yet is sent one at a time, so
//! that such a candidate costs one write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderValue, Method};
use outgrow_rollout::Side;
use serde::{Deserialize, Serialize};

use crate::align::{Found, compared, ended, given, unanswered};
use crate::compare::Answer;
use crate::record::Outcome;
use crate::renaming::Book;
use crate::settings::{RouteShadow, Writes};
use crate::slice::{Held, NoAnswer, Slice};
use crate::tap::Exchange;

/// Asks a candidate to take back what it does, and is the field by which it says that it has.
pub const DRY_RUN: &str = "x-outgrow-dry-run";

/// The whole value, and the only one.
const ROLLED_BACK: &[u8] = b"rolled-back";

/// Why a request that came to a mirrored route is not compared.
const NO_READ: &str = "method";
const UNKNOWN: &str = "unknown-method";
const RECORDED: &str = "record-only";
const STOPPED: &str = "dry-run-not-honoured";
const REVERSED: &str = "write-after-flip";

/// What is mirrored of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write(Writes),
}

impl Kind {
    /// # Errors
    /// Why it is not.
    pub(crate) fn of(method: &Method, route: RouteShadow) -> Result<Self, &'static str> {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Ok(Self::Read),
            Method::POST if route.posts.is_some() => Ok(Self::Read),
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
                route.writes.map(Self::Write).ok_or(NO_READ)
            }
            _ => Err(UNKNOWN),
        }
    }
}

/// A route of which no write is sent any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopped {
    reason: String,
    /// The journal has it.
    told: bool,
}

/// What is known of the routes with dry runs. As many as the config names.
#[derive(Debug, Default)]
pub(crate) struct DryRuns {
    routes: Mutex<Routes>,
    /// Who asks a candidate that has not proven itself.
    alone: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Routes {
    stopped: BTreeMap<String, Stopped>,
    /// By the generation of evidence in which the candidate has last taken a write back: another
    /// build has to do so, too.
    proven: BTreeMap<String, u64>,
}

impl DryRuns {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self, route: &str) -> bool {
        self.routes().stopped.contains_key(route)
    }

    /// By route, why.
    pub(crate) fn reasons(&self) -> BTreeMap<String, String> {
        let routes = self.routes();
        let all = routes.stopped.iter();
        all.map(|(route, stopped)| (route.clone(), stopped.reason.clone()))
            .collect()
    }

    /// Those that were stopped since the last call.
    pub(crate) fn news(&self) -> BTreeMap<String, String> {
        let mut routes = self.routes();
        let untold = routes.stopped.iter_mut().filter(|(_, one)| !one.told);
        let news = untold.map(|(route, one)| {
            one.told = true;
            (route.clone(), one.reason.clone())
        });
        news.collect()
    }

    pub(crate) fn saved(&self) -> BTreeMap<String, Stopped> {
        self.routes().stopped.clone()
    }

    pub(crate) fn restore(&self, saved: BTreeMap<String, Stopped>) {
        self.routes().stopped.extend(saved);
    }

    /// Sends writes of these routes again, or with `None` of all, to candidates that have to prove
    /// themselves anew. Which of them were stopped.
    pub(crate) fn resume(&self, wanted: Option<&BTreeSet<String>>) -> Vec<String> {
        let is_wanted = |route: &String| wanted.is_none_or(|wanted| wanted.contains(route));
        let mut routes = self.routes();
        routes.proven.retain(|route, _| !is_wanted(route));
        let all = std::mem::take(&mut routes.stopped).into_iter();
        let (resumed, kept) = all.partition::<BTreeMap<_, _>, _>(|(route, _)| is_wanted(route));
        routes.stopped = kept;
        resumed.into_keys().collect()
    }

    fn is_proven(&self, route: &str, generation: u64) -> bool {
        self.routes().proven.get(route) == Some(&generation)
    }

    fn proves(&self, route: &str, generation: u64) {
        self.routes().proven.insert(route.to_owned(), generation);
    }

    /// No answer says nothing, not even that the last one still holds.
    fn doubts(&self, route: &str) {
        self.routes().proven.remove(route);
    }

    fn stop(&self, route: &str, reason: String) {
        let told = false;
        let stopped = Stopped { reason, told };
        self.routes()
            .stopped
            .entry(route.to_owned())
            .or_insert(stopped);
    }
}

/// Whether an answer says that its write was taken back: once, and in this word.
fn is_rolled_back(headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(DRY_RUN).iter();
    said.next().map(HeaderValue::as_bytes) == Some(ROLLED_BACK) && said.next().is_none()
}

impl Slice {
    fn of_route(&self, route: &str) -> RouteShadow {
        let known = self.settings.flow.routes.get(route);
        known.copied().unwrap_or_default()
    }

    /// Whose answers are compared. Those of a dry run name ids that are taken back with it, and one
    /// that refuses something may name what there is not.
    pub(crate) fn book(&self, exchange: &Exchange) -> Book {
        match Kind::of(&exchange.request.method, self.of_route(&exchange.route)) {
            Ok(Kind::Write(Writes::Sandbox)) => Book::Sandbox,
            Ok(Kind::Write(Writes::DryRun)) => Book::Once,
            _ if exchange.response.status.is_client_error() => Book::Once,
            _ => Book::Sides,
        }
    }

    /// What is mirrored of a request to this route, now.
    ///
    /// # Errors
    /// Why nothing is.
    pub(crate) fn kind(&self, route: &str, method: &Method) -> Result<Kind, &'static str> {
        let kind = Kind::of(method, self.of_route(route))?;
        match kind {
            Kind::Write(Writes::DryRun) if self.dry_runs.is_stopped(route) => Err(STOPPED),
            // Nobody wants the copy.
            Kind::Write(Writes::Record) if !self.capture.is_on() => Err(RECORDED),
            kind => Ok(kind),
        }
    }
}

/// Judges a write by one answer of the candidate. As for reads, `generation` is the evidence that
/// it belongs to.
///
/// # Errors
/// Why it was not sent.
pub(crate) async fn judge(
    slice: &Slice,
    exchange: &Exchange,
    writes: Writes,
    generation: &mut u64,
) -> Result<Outcome, &'static str> {
    if writes == Writes::Record {
        return Err(RECORDED);
    }
    let of_route = slice.of_route(&exchange.route);
    if exchange.primary == Side::Extracted && !of_route.writes_reverse {
        return Err(REVERSED);
    }
    if !exchange.response.whole {
        return Ok(Outcome::NotComparable("cut-off"));
    }
    if exchange.response.status.is_server_error() {
        // Nobody knows what it has done.
        return Ok(Outcome::NotComparable("primary-error"));
    }
    let candidate = exchange.primary.other();
    let asked = match writes {
        Writes::DryRun => dry_run(slice, exchange, candidate, *generation).await?,
        _ => slice.write(candidate, writes, exchange).await,
    };
    // What was sent is to be proven, whatever comes of this one.
    if !matches!(asked, Err(NoAnswer::NotAsked(_))) {
        slice.wants(exchange);
    }
    let given = given(exchange);
    let answer = match asked {
        Ok(answer) => answer,
        Err(why) => return Ok(unanswered(slice, exchange, &given, why)),
    };
    let (legacy, extracted) = match candidate {
        Side::Extracted => (&given, &*answer),
        Side::Legacy => (&*answer, &given),
    };
    let belongs = match writes {
        Writes::Sandbox => slice.builds_beside(legacy, extracted, *generation),
        _ => slice.builds(legacy, extracted, *generation),
    };
    match belongs {
        Some(belongs) => *generation = belongs,
        None => return Ok(Outcome::NotComparable("stale-build")),
    }
    Ok(match compared(slice, exchange, (legacy, extracted)) {
        Err(outcome) => outcome,
        Ok(found) => finished(slice, exchange, writes, (legacy, extracted), found),
    })
}

fn finished(
    slice: &Slice,
    exchange: &Exchange,
    writes: Writes,
    answers: (&Answer, &Answer),
    found: Found,
) -> Outcome {
    // Rows of before may be missing, and those of the write itself may be there already. It cannot
    // be asked again, so nobody will know.
    if writes == Writes::DryRun && slice.has_link() && !found.counts.is_empty() {
        return Outcome::NotComparable("lag");
    }
    ended(slice, exchange, answers, found, false)
}

/// Asks the candidate to do a write and to take it back.
async fn dry_run(
    slice: &Slice,
    exchange: &Exchange,
    candidate: Side,
    generation: u64,
) -> Result<Result<Held, NoAnswer>, &'static str> {
    let (route, runs) = (&*exchange.route, &slice.dry_runs);
    let mut alone = None;
    if !runs.is_proven(route, generation) {
        alone = Some(runs.alone.lock().await);
    }
    if runs.is_proven(route, generation) {
        alone = None;
    }
    // Others have come before, on the way here.
    if runs.is_stopped(route) {
        return Err(STOPPED);
    }
    let asked = slice.write(candidate, Writes::DryRun, exchange).await;
    match &asked {
        Ok(answer) if is_rolled_back(&answer.headers) => runs.proves(route, generation),
        Ok(answer) => {
            let reason = format!(
                "the {candidate} side has answered a dry run by {} without \
                 `{DRY_RUN}: rolled-back`, so it may have written; mend it, look after its rows, \
                 then `outgrow shadow resume {}`",
                answer.status, slice.settings.id
            );
            runs.stop(route, reason);
        }
        Err(NoAnswer::NotAsked(_)) => {}
        Err(_) => runs.doubts(route),
    }
    drop(alone);
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_method_is_depends_on_its_route() {
        let plain = RouteShadow::default();
        let own = RouteShadow {
            writes: Some(Writes::DryRun),
            ..plain
        };
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(Kind::of(&method, own), Ok(Kind::Read));
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(Kind::of(&method, plain), Err("method"));
            assert_eq!(Kind::of(&method, own), Ok(Kind::Write(Writes::DryRun)));
        }
        let unknown = ["TRACE", "CONNECT", "PURGE", "get", "PROPFIND"];
        for method in unknown.map(|name| Method::from_bytes(name.as_bytes()).unwrap()) {
            assert_eq!(Kind::of(&method, own), Err("unknown-method"));
        }
    }

    #[test]
    fn only_the_very_word_says_that_a_write_was_taken_back() {
        let said = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(DRY_RUN, HeaderValue::from_static(value));
            }
            is_rolled_back(&headers)
        };
        assert!(said(&["rolled-back"]));
        for values in [
            &[][..],
            &["1"],
            &["Rolled-Back"],
            &["rolled-back, rolled-back"],
            &["rolled-back;q=1"],
            &["rolled-back", "rolled-back"],
            &["rolled-back", "committed"],
        ] {
            assert!(!said(values), "{values:?}");
        }
    }

    #[test]
    fn a_stop_is_told_once_and_outlives_its_process() {
        let runs = DryRuns::default();
        runs.proves("PUT /a", 3);
        assert!(runs.is_proven("PUT /a", 3) && !runs.is_proven("PUT /a", 4));
        runs.stop("PUT /a", "why".to_owned());
        runs.stop("PUT /a", "another".to_owned());
        assert_eq!(runs.news()["PUT /a"], "why");
        assert!(runs.news().is_empty());
        let next = DryRuns::default();
        let saved = serde_json::to_string(&runs.saved()).unwrap();
        next.restore(serde_json::from_str(&saved).unwrap());
        assert!(next.is_stopped("PUT /a") && next.news().is_empty());
        next.stop("PUT /b", "why".to_owned());
        let unknown = BTreeSet::from(["PUT /c".to_owned()]);
        assert!(next.resume(Some(&unknown)).is_empty());
        let one = BTreeSet::from(["PUT /a".to_owned()]);
        assert_eq!(next.resume(Some(&one)), ["PUT /a"]);
        assert!(!next.is_stopped("PUT /a") && next.is_stopped("PUT /b"));
        assert_eq!(next.resume(None), ["PUT /b"]);
        assert!(!next.is_stopped("PUT /b"));
    }
}
