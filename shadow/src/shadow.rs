//! The handle: takes exchanges from the tap, has them judged, answers questions about them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use outgrow_rollout::{ShadowEvidence, Side, SliceId};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::align;
use crate::draft::Draft;
use crate::error::Error;
use crate::flights::ROUTE_STOPPED;
use crate::inbox::Inbox;
use crate::record::{Outcome, Record};
use crate::report::Report;
use crate::rules::{Accepted, today};
use crate::settings::{Freshness, Rule, ShadowSettings};
use crate::slice::{Offered, Slice, unix_now};
use crate::tap::{Issuer, Lost, Tap, Ticket};
use crate::what_if::{self, WhatIf};
use crate::writes::{self, Kind, Stopped};

/// Pairs under judgement may end after the proxy has; then they are counted as not comparable.
const GRACE: Duration = Duration::from_secs(2);

/// The shadow. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shadow {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    slices: BTreeMap<SliceId, Arc<Slice>>,
    inbox: Arc<Inbox<Offered>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// What outlives a restart, of one slice.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    record: Record,
    /// Those that were added while it ran; the others are the config's.
    rules: Vec<Rule>,
    /// Of the config's rules that the record was gathered under.
    #[serde(default)]
    fingerprint: u64,
    /// What each rule has hidden of it.
    #[serde(default)]
    hits: Vec<(Rule, u64)>,
    /// Routes whose writes are sent no more.
    #[serde(default)]
    stopped: BTreeMap<String, Stopped>,
}

impl Shadow {
    /// Builds every slice; its tasks run on `runtime`.
    ///
    /// # Errors
    /// [`Error`] for a rule that is none.
    pub fn start(
        settings: ShadowSettings,
        freshness: Arc<dyn Freshness>,
        runtime: &Handle,
    ) -> Result<Self, Error> {
        let mut slices = BTreeMap::new();
        let inbox = Arc::new(Inbox::new());
        for slice in settings.slices.clone() {
            let made = Slice::new(slice, &settings, freshness.clone(), inbox.clone())?;
            slices.insert(made.settings.id.clone(), Arc::new(made));
        }
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let (own, begun, until) = (inbox.clone(), tasks.clone(), cancel.clone());
        // One of the tasks, so that all that was put down is begun before they have ended.
        let emptying = async move {
            let judge = |(slice, draft): Offered| {
                // Their number is bounded by `waiting`, checked at admission.
                begun.spawn(Self::judge(slice, until.clone(), draft));
            };
            own.empty(judge).await;
        };
        tasks.spawn_on(emptying, runtime);
        let inner = Inner {
            slices,
            inbox,
            tasks,
            cancel,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Lets pairs under judgement end for a moment, then counts the rest as not comparable.
    pub async fn shutdown(&self) {
        self.inner.tasks.close();
        self.inner.inbox.close();
        if tokio::time::timeout(GRACE, self.inner.tasks.wait())
            .await
            .is_err()
        {
            self.inner.cancel.cancel();
            self.inner.tasks.wait().await;
        }
    }

    fn slice(&self, id: &SliceId) -> Option<&Arc<Slice>> {
        self.inner.slices.get(id)
    }

    /// What is known of the builds that run now.
    pub fn evidence(&self, id: &SliceId) -> Option<ShadowEvidence> {
        let slice = self.slice(id)?;
        let stopped = slice.dry_runs.reasons();
        let evidence = slice.record().evidence();
        Some(ShadowEvidence {
            stopped,
            ..evidence
        })
    }

    /// Routes whose writes were stopped since the last call, and why.
    pub fn stopped(&self, id: &SliceId) -> BTreeMap<String, String> {
        let slice = self.slice(id);
        slice.map_or_else(BTreeMap::new, |slice| slice.dry_runs.news())
    }

    /// Mirrors the writes of these routes again, or with `None` of all. Which of them were stopped.
    pub fn resume(&self, id: &SliceId, routes: Option<&BTreeSet<String>>) -> Vec<String> {
        let slice = self.slice(id);
        slice.map_or_else(Vec::new, |slice| slice.dry_runs.resume(routes))
    }

    /// Mirrors nothing of these routes of a slice, for these reasons, and of all others what the
    /// bounds let in. What is under way is not called back; what waits is not sent any more.
    pub fn stop_routes(&self, id: &SliceId, routes: &BTreeMap<String, String>) {
        if let Some(slice) = self.slice(id) {
            slice.stop_routes(routes);
        }
    }

    /// Routes of a slice of which a copy was under way to this side at some moment between these,
    /// in Unix milliseconds; `None` where that is too long ago to be known.
    pub fn asked(
        &self,
        id: &SliceId,
        side: Side,
        between: &RangeInclusive<i64>,
    ) -> Option<BTreeSet<String>> {
        self.slice(id)?.flights.between(side, between)
    }

    /// The whole picture of a slice.
    pub fn report(&self, id: &SliceId) -> Option<Report> {
        let slice = self.slice(id)?;
        // A copy, so that nobody waits for the causes to be found.
        let (rules, record) = (slice.rules(), slice.record().clone());
        let rate = slice.settings.mismatch_max;
        let mut report = Report::new(id, &record, &rules, rate, today());
        report.memory = slice.held();
        report.stopped(slice.dry_runs.reasons(), &slice.flights.stopped());
        Some(report)
    }

    /// A stored pair by its id, `SLICE:pN`.
    pub fn pair(&self, id: &str) -> Option<Value> {
        let (slice, _) = id.split_once(':')?;
        let (_, slice) = self
            .inner
            .slices
            .iter()
            .find(|(id, _)| id.as_str() == slice)?;
        let record = slice.record();
        let witness = || record.witnesses.pairs.get(id);
        let pair = record.pairs.get(id).or_else(witness).cloned()?;
        drop(record);
        serde_json::to_value(pair).ok()
    }

    /// What other rules would have said of the pairs that are stored. Changes nothing, and takes
    /// as long as it takes to compare them again.
    ///
    /// # Errors
    /// [`Error`] for a rule that is none, one to be dropped that there is not, or an unknown slice.
    pub fn what_if(&self, id: &SliceId, changed: &Value) -> Result<WhatIf, Error> {
        let slice = self
            .slice(id)
            .ok_or_else(|| Error::UnknownSlice(id.clone()))?;
        let changed = serde_json::from_value(changed.clone()).map_err(Error::Changed)?;
        let (rules, record) = (slice.rules(), slice.record().clone());
        what_if::ask(&slice.settings, &rules, &record, changed, today())
    }

    /// The rules with what they have hidden.
    pub fn rules(&self, id: &SliceId) -> Option<Value> {
        serde_json::to_value(self.report(id)?.rules).ok()
    }

    /// Adds a rule; what was gathered without it is dropped.
    ///
    /// # Errors
    /// [`Error`] for a rule without a reason, with a bad path or date, or of an unknown slice.
    pub fn add_rule(&self, id: &SliceId, rule: &Value) -> Result<(), Error> {
        let slice = self
            .slice(id)
            .ok_or_else(|| Error::UnknownSlice(id.clone()))?;
        let rule: Rule = serde_json::from_value(rule.clone()).map_err(Error::Rule)?;
        slice.add_rules([Accepted::added(&rule)?]);
        slice.replace(Record::expire);
        Ok(())
    }

    /// Drops the evidence.
    pub fn reset(&self, id: &SliceId) {
        if let Some(slice) = self.slice(id) {
            slice.replace(Record::expire);
        }
    }

    /// Everything that must outlive a restart. What is too old is dropped first.
    pub fn snapshot(&self) -> Value {
        let one = |(id, slice): (&SliceId, &Arc<Slice>)| {
            let keep = i64::try_from(slice.settings.keep.as_secs()).unwrap_or(i64::MAX);
            slice.record().forget(unix_now().saturating_sub(keep));
            let saved = Saved {
                rules: slice.rules().added(),
                hits: slice.rules().hits(),
                fingerprint: slice.settings.fingerprint(),
                record: slice.record().clone(),
                stopped: slice.dry_runs.saved(),
            };
            // Plain data; what cannot be written is gathered anew.
            let saved = serde_json::to_value(saved).unwrap_or_default();
            (id.to_string(), saved)
        };
        Value::Object(self.inner.slices.iter().map(one).collect())
    }

    /// Takes a snapshot back in. Slices that it does not know start empty. Evidence that was
    /// gathered under other rules of the config is kept as expired only.
    ///
    /// # Errors
    /// [`Error`] for what is no snapshot, or a rule in it that is none; nothing is changed then.
    pub fn restore(&self, snapshot: Value) -> Result<(), Error> {
        let all: BTreeMap<SliceId, Saved> =
            serde_json::from_value(snapshot).map_err(Error::Snapshot)?;
        let mut checked = Vec::new();
        for (id, saved) in all {
            let Some(slice) = self.slice(&id) else {
                continue;
            };
            let rules = saved.rules.iter().map(Accepted::added);
            let rules = rules.collect::<Result<Vec<_>, _>>()?;
            checked.push((slice, saved, rules));
        }
        for (slice, mut saved, added) in checked {
            saved.record.restarted(&slice.settings.id, unix_now());
            let as_before = saved.fingerprint == slice.settings.fingerprint();
            if !as_before {
                saved.record.expire();
            }
            slice.dry_runs.restore(std::mem::take(&mut saved.stopped));
            slice.add_rules(added);
            slice.replace(|record| *record = saved.record);
            if as_before {
                slice.rules().recall_hits(&saved.hits);
            }
        }
        Ok(())
    }

    /// Begins to record a slice's requests, or goes on: what has come in since the last call, as
    /// `{lines, lost}`. It ends when nobody calls for a while. `recorder` tells apart who asks.
    ///
    /// # Errors
    /// [`Error`] when another one records, or of an unknown slice.
    pub fn record(&self, id: &SliceId, recorder: &str) -> Result<Value, Error> {
        let slice = self
            .slice(id)
            .ok_or_else(|| Error::UnknownSlice(id.clone()))?;
        let fetched = slice.capture.fetch(recorder, Instant::now());
        let fetched = fetched.map_err(Error::Recording)?;
        serde_json::to_value(fetched).map_err(Error::Json)
    }

    async fn judge(slice: Arc<Slice>, cancel: CancellationToken, draft: Box<Draft>) {
        // One that says nothing counts as abandoned.
        let Some(mut exchange) = draft.open() else {
            return;
        };
        match slice.endpoint(&exchange) {
            Ok(endpoint) => exchange.endpoint = endpoint,
            Err(reason) => {
                exchange.ticket.lose(Lost::Ineligible(reason));
                return;
            }
        }
        let (capture, redactor) = (&slice.capture, &slice.redactor);
        capture.take(&exchange, redactor, Instant::now());
        slice.took(exchange.primary, exchange.latency);
        let mut generation = exchange.ticket.generation();
        let judged = async {
            if let Kind::Write(writes) = slice.kind(&exchange.route, &exchange.request.method)? {
                return writes::judge(&slice, &exchange, writes, &mut generation).await;
            }
            if slice.draw(slice.settings.noise_sample) {
                align::learn_noise(&slice, &exchange).await;
            }
            Ok(align::judge(&slice, &exchange, &mut generation).await)
        };
        let judged = tokio::select! {
            judged = judged => judged,
            () = cancel.cancelled() => Ok(Outcome::NotComparable("shutdown")),
        };
        let outcome = match judged {
            Ok(outcome) => outcome,
            Err(reason) => {
                exchange.ticket.lose(Lost::Ineligible(reason));
                return;
            }
        };
        slice.settle(&exchange, outcome, generation);
        // Only now: a judge that dies drops the ticket, which counts the pair as abandoned.
        exchange.ticket.settle();
    }
}

impl Tap for Shadow {
    fn admit(
        &self,
        id: &SliceId,
        route: &Arc<str>,
        method: &Method,
        client: u64,
    ) -> Option<Ticket> {
        let slice = self.slice(id)?;
        let kind = slice.kind(route, method);
        let in_sample = slice.samples(route, client);
        let mut door = slice.door();
        door.eligible += 1;
        if let Err(reason) = kind {
            door.ineligible(reason);
            return None;
        }
        if door.is_stopped(route) {
            door.ineligible(ROUTE_STOPPED);
            return None;
        }
        if !in_sample {
            door.sampled_out += 1;
            return None;
        }
        if self.inner.tasks.is_closed() {
            door.shed("shutdown");
            return None;
        }
        if !door.admit(route, Instant::now) {
            return None;
        }
        drop(door);
        let (of, label) = (slice.clone(), route.clone());
        let ticket = Ticket::new(slice.limits.body, label, of);
        Some(ticket.since(slice.generation(), slice.share(route)))
    }
}

impl Issuer for Slice {
    fn take(self: Arc<Self>, draft: Box<Draft>) {
        if !draft.ticket().hold(draft.head_bytes()) {
            draft.lose(Lost::Shed("memory"));
            return;
        }
        self.inbox.put((self.clone(), draft));
    }

    fn lose(&self, route: &str, why: Lost) {
        self.door().lose(route, why);
    }
}
