//! The judgement of one exchange, with the bridge in mind.
//!
//! A pair that differs is no mismatch yet: a row may be on its way. The judge waits until the
//! bridge has passed the moment of the answer, then reads both sides again, each side twice around
//! a wait, so that rows that change meanwhile are noticed. Only what differs between two sides
//! that both stand still, with the bridge past both reads, speaks against the candidate.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use outgrow_rollout::Side;
use tokio::time::{Instant, sleep};

use crate::bodies::Bodies;
use crate::compare::{Answer, By, compare, document};
use crate::diff::{Difference, diff};
use crate::features;
use crate::hidden::Hidden;
use crate::mutants::mutants;
use crate::path::Root;
use crate::record::{Outcome, Pair};
use crate::renaming::Book;
use crate::rules::{Rules, today};
use crate::seen::Shown;
use crate::slice::{Held, NoAnswer, Slice, unix_now};
use crate::tap::Exchange;

/// Reads of both sides before a pair is called racing.
const ROUNDS: usize = 3;

/// Between two looks at the bridge; a fraction of its heartbeat.
const LOOK: Duration = Duration::from_millis(20);

/// Differences in a stored pair.
pub(crate) const SHOWN_MAX: usize = 50;

/// A build that runs no more has answered.
const STALE: Outcome = Outcome::NotComparable("stale-build");

/// Judges one exchange. `generation` is the evidence that it belongs to: that of its request, and
/// of each answer that comes in.
pub(crate) async fn judge(slice: &Slice, exchange: &Exchange, generation: &mut u64) -> Outcome {
    if !exchange.response.whole {
        return Outcome::NotComparable("cut-off");
    }
    if exchange.response.status.is_server_error() && exchange.primary == Side::Legacy {
        return Outcome::NotComparable("primary-error");
    }
    let given = given(exchange);
    let candidate = exchange.primary.other();
    let asked = match slice.ask(candidate, exchange).await {
        Ok(answer) => answer,
        Err(why) => return unanswered(slice, exchange, &given, why),
    };
    let (legacy, extracted) = match candidate {
        Side::Extracted => (&given, &*asked),
        Side::Legacy => (&*asked, &given),
    };
    match slice.builds(legacy, extracted, *generation) {
        Some(belongs) => *generation = belongs,
        None => return STALE,
    }
    match compared(slice, exchange, (legacy, extracted)) {
        Err(outcome) => outcome,
        Ok(found) if found.counts.is_empty() || !slice.has_link() => {
            ended(slice, exchange, (legacy, extracted), found, false)
        }
        Ok(_) => settle(slice, exchange, generation).await,
    }
}

/// What the client was answered.
pub(crate) fn given(exchange: &Exchange) -> Answer {
    let response = &exchange.response;
    Answer {
        status: response.status,
        headers: response.headers.clone(),
        body: response.body.clone(),
        trailers: response.trailers.clone(),
    }
}

/// What it says of a pair that the candidate has given no answer.
pub(crate) fn unanswered(
    slice: &Slice,
    exchange: &Exchange,
    given: &Answer,
    why: NoAnswer,
) -> Outcome {
    match (exchange.primary, why) {
        (_, NoAnswer::Memory) => Outcome::NotComparable("memory"),
        (_, NoAnswer::NotAsked(reason)) => Outcome::NotComparable(reason),
        // The legacy side as candidate is no measure of the extracted one.
        (Side::Extracted, NoAnswer::Failed(_)) => Outcome::NotComparable("legacy-unreachable"),
        (Side::Legacy, NoAnswer::Failed(why)) => {
            let pair = pair(slice, exchange, Some(given), None, &[]);
            Outcome::CandidateError(why, pair)
        }
    }
}

/// What differs between two answers that are there, or why they say nothing.
pub(crate) fn compared(
    slice: &Slice,
    exchange: &Exchange,
    (legacy, extracted): (&Answer, &Answer),
) -> Result<Found, Outcome> {
    if legacy.status.is_server_error() {
        return Err(Outcome::NotComparable("legacy-error"));
    }
    if extracted.status.is_server_error() {
        let pair = pair(slice, exchange, Some(legacy), Some(extracted), &[]);
        let text = format!("it answered {}", extracted.status);
        return Err(Outcome::CandidateError(text, pair));
    }
    differences(slice, exchange, legacy, extracted).map_err(Outcome::NotComparable)
}

/// Differences of one pair.
pub(crate) struct Found {
    pub(crate) all: Vec<Difference>,
    /// Those that are no noise.
    pub(crate) counts: Vec<Difference>,
    /// What rules have hidden.
    hidden: Vec<Hidden>,
}

impl Found {
    /// The fields that were excused.
    fn noisy(&self) -> Vec<String> {
        let fields = |all: &[Difference]| -> BTreeSet<String> {
            all.iter().map(|one| one.place.general()).collect()
        };
        let counts = fields(&self.counts);
        fields(&self.all).difference(&counts).cloned().collect()
    }
}

/// The end of a pair whose differences are final.
pub(crate) fn ended(
    slice: &Slice,
    exchange: &Exchange,
    (legacy, extracted): (&Answer, &Answer),
    found: Found,
    aligned: bool,
) -> Outcome {
    slice.judged(&exchange.endpoint, &found.all);
    if found.counts.is_empty() {
        let excused = !found.all.is_empty();
        seed(slice, &exchange.endpoint, extracted);
        let witness = witness(slice, exchange, (legacy, extracted), found);
        return Outcome::Matched {
            aligned,
            excused,
            witness,
        };
    }
    let noisy = found.noisy();
    let redacted = |difference| slice.redactor.difference(difference);
    let counts: Vec<Difference> = found.counts.into_iter().map(redacted).collect();
    let mut pair = pair(slice, exchange, Some(legacy), Some(extracted), &counts);
    (pair.hidden, pair.noisy) = (found.hidden, noisy);
    Outcome::Mismatched(counts, pair)
}

/// A matching pair that is to be kept: only those are made into text.
fn witness(
    slice: &Slice,
    exchange: &Exchange,
    (legacy, extracted): (&Answer, &Answer),
    found: Found,
) -> Option<Box<Pair>> {
    let most = slice.limits.examples;
    let drawn = slice
        .notes()
        .draw_witness(&exchange.endpoint, &found.hidden, most);
    let id = drawn?;
    let mut pair = pair(slice, exchange, Some(legacy), Some(extracted), &[]);
    let noisy = found.noisy();
    (pair.id, pair.hidden, pair.noisy) = (id, found.hidden, noisy);
    Some(pair)
}

/// Seeds faults in a matched answer, and books what the rules catch of them.
fn seed(slice: &Slice, route: &str, answer: &Answer) {
    if !slice.wants_seeds(route) {
        return;
    }
    let Some(json) = document(answer, slice.limits.body) else {
        return;
    };
    let (rules, today) = (slice.rules().of_one_side(), today());
    // Its own ids stand for themselves, as those of both sides are known by now.
    diff(&json, &json, &Root::Body, &rules, today);
    let (mut faults, mut caught) = (0, 0);
    for spoilt in mutants(&json) {
        let found = diff(&json, &spoilt, &Root::Body, &rules, today);
        faults += 1;
        caught += u64::from(!slice.kept(route, found).is_empty());
    }
    slice.seeded(route, faults, caught);
}

/// Reads again until both sides stand still.
async fn settle(slice: &Slice, exchange: &Exchange, generation: &mut u64) -> Outcome {
    if !passed(slice, exchange.finished).await {
        return Outcome::NotComparable("lag");
    }
    for _ in 0..ROUNDS {
        let (legacy, extracted) = match both(slice, exchange, generation).await {
            Ok(answers) => answers,
            Err(outcome) => return outcome,
        };
        match differences(slice, exchange, &legacy, &extracted) {
            Err(reason) => return Outcome::NotComparable(reason),
            Ok(found) if found.counts.is_empty() => {
                return ended(slice, exchange, (&*legacy, &*extracted), found, true);
            }
            Ok(_) => {}
        }
        if !passed(slice, SystemTime::now()).await {
            return Outcome::NotComparable("lag");
        }
        let (legacy_again, extracted_again) = match both(slice, exchange, generation).await {
            Ok(answers) => answers,
            Err(outcome) => return outcome,
        };
        match stood_still(
            slice,
            exchange,
            (&legacy, &legacy_again),
            (&extracted, &extracted_again),
        ) {
            Err(reason) => return Outcome::NotComparable(reason),
            Ok(false) => continue,
            Ok(true) => {}
        }
        return match differences(slice, exchange, &legacy_again, &extracted_again) {
            Err(reason) => Outcome::NotComparable(reason),
            Ok(found) => {
                let answers: (&Answer, &Answer) = (&legacy_again, &extracted_again);
                ended(slice, exchange, answers, found, true)
            }
        };
    }
    Outcome::NotComparable("racing")
}

async fn both(
    slice: &Slice,
    exchange: &Exchange,
    generation: &mut u64,
) -> Result<(Held, Held), Outcome> {
    let failed = |why| {
        Outcome::NotComparable(match why {
            NoAnswer::NotAsked(reason) => reason,
            NoAnswer::Failed(_) | NoAnswer::Memory => "recheck-failed",
        })
    };
    let legacy = slice.ask(Side::Legacy, exchange).await.map_err(failed)?;
    let extracted = slice.ask(Side::Extracted, exchange).await.map_err(failed)?;
    let belongs = slice.builds(&legacy, &extracted, *generation);
    *generation = belongs.ok_or(STALE)?;
    Ok((legacy, extracted))
}

/// Whether each side agrees with itself. Not booked as noise: these reads stand apart by a wait,
/// and rows that change in it would be taken for noise of their field.
fn stood_still(
    slice: &Slice,
    exchange: &Exchange,
    legacy: (&Answer, &Answer),
    extracted: (&Answer, &Answer),
) -> Result<bool, &'static str> {
    for (first, again) in [legacy, extracted] {
        // Ids may be given anew with each answer, by a search; but once in each.
        let found = by_rules(slice, &slice.rules().of_one_side(), first, again)?;
        if !slice.kept(&exchange.endpoint, found).is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks the legacy side twice and the extracted side once, the latter two in random order, and
/// books which of them differ. Not before the bridge has passed the answer: a row on its way
/// would speak against the extracted side.
pub(crate) async fn learn_noise(slice: &Slice, exchange: &Exchange) {
    if slice.has_link() && !passed(slice, exchange.finished).await {
        return;
    }
    let Ok(first) = slice.ask(Side::Legacy, exchange).await else {
        return;
    };
    let order = match slice.draw(0.5) {
        true => [Side::Legacy, Side::Extracted],
        false => [Side::Extracted, Side::Legacy],
    };
    let (mut own, mut theirs) = (None, None);
    let mut took = Vec::new();
    for side in order {
        let Ok((answer, latency)) = slice.timed(side, exchange).await else {
            continue;
        };
        took.push((side, latency));
        let book = match side {
            Side::Legacy => Book::Legacy,
            Side::Extracted => slice.book(exchange),
        };
        let found = raw(slice, book, &first, &answer).ok();
        match side {
            Side::Legacy => own = found,
            Side::Extracted => theirs = found,
        }
    }
    took.sort_by_key(|(side, _)| *side != Side::Legacy);
    if let [(_, legacy), (_, extracted)] = took.as_slice() {
        slice.notes().latencies.add(*legacy, *extracted);
    }
    // Without an answer of the extracted side there is still something to learn of the legacy one.
    if let Some(own) = own {
        let theirs = theirs.unwrap_or_else(|| own.clone());
        slice.noise(&exchange.endpoint, &own, &theirs);
    }
}

/// What no rule accepts, of answers of these.
pub(crate) fn raw(
    slice: &Slice,
    book: Book,
    a: &Answer,
    b: &Answer,
) -> Result<Vec<Difference>, &'static str> {
    by_rules(slice, &slice.rules().of(book), a, b)
}

fn by_rules(
    slice: &Slice,
    rules: &Rules,
    a: &Answer,
    b: &Answer,
) -> Result<Vec<Difference>, &'static str> {
    let by = By {
        headers: slice.settings.headers.as_deref(),
        rules,
        body_cap: slice.limits.body,
        today: today(),
    };
    compare(a, b, by)
}

fn differences(
    slice: &Slice,
    exchange: &Exchange,
    legacy: &Answer,
    extracted: &Answer,
) -> Result<Found, &'static str> {
    let rules = slice.rules().of(slice.book(exchange)).watched(false);
    let all = by_rules(slice, &rules, legacy, extracted)?;
    let counts = slice.kept(&exchange.endpoint, all.clone());
    let hidden = rules.hidden();
    Ok(Found {
        all,
        counts,
        hidden,
    })
}

/// Waits until the bridge has passed `moment`; false when it takes too long.
async fn passed(slice: &Slice, moment: SystemTime) -> bool {
    let until = Instant::now() + slice.limits.lag;
    while slice
        .applied_through()
        .is_none_or(|through| through < moment)
    {
        if Instant::now() >= until {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

pub(crate) fn pair(
    slice: &Slice,
    exchange: &Exchange,
    legacy: Option<&Answer>,
    extracted: Option<&Answer>,
    found: &[Difference],
) -> Box<Pair> {
    let target = slice.redactor.text(exchange.request.target.as_str());
    let curl = |side| slice.curl(side, exchange);
    Box::new(Pair {
        id: String::new(),
        at: unix_now(),
        route: exchange.endpoint.to_string(),
        request: format!("{} {target}", exchange.request.method),
        curl: [Side::Legacy, Side::Extracted]
            .iter()
            .filter_map(curl)
            .collect(),
        primary: exchange.primary.to_string(),
        book: slice.book(exchange),
        legacy_status: legacy.map(|answer| answer.status.as_u16()),
        extracted_status: extracted.map(|answer| answer.status.as_u16()),
        legacy_body: String::new(),
        extracted_body: String::new(),
        bodies: Some(Box::new(Bodies {
            redactor: slice.redactor.clone(),
            headers: slice.settings.headers.clone(),
            cap: slice.limits.body,
            legacy: legacy.cloned(),
            extracted: extracted.cloned(),
        })),
        legacy_head: None,
        extracted_head: None,
        differences: found.iter().take(SHOWN_MAX).map(Shown::of).collect(),
        hidden: Vec::new(),
        noisy: Vec::new(),
        features: features::of(exchange, &slice.redactor),
    })
}
