//! The handle: takes exchanges from the tap, has them judged, answers questions about them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::Method;
use outgrow_rollout::{ShadowEvidence, Side, SliceId};
use serde_json::Value;
use time::Date;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xxhash_rust::xxh3::xxh3_64;

use crate::align;
use crate::compare::Answer;
use crate::diff::Difference;
use crate::error::Error;
use crate::mirror::Mirror;
use crate::record::{Outcome, Record};
use crate::report::Report;
use crate::rules::{Ignore, Rules, today};
use crate::settings::{Freshness, IgnoreRule, Limits, ShadowSettings, SliceShadow};
use crate::tap::{Exchange, Tap, Ticket};

/// Pairs under judgement may end after the proxy has; then they are counted as shed.
const GRACE: Duration = Duration::from_secs(2);

/// The shadow. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shadow {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    slices: BTreeMap<SliceId, Arc<Slice>>,
    runtime: Handle,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// One slice at work.
pub(crate) struct Slice {
    pub(crate) settings: SliceShadow,
    pub(crate) limits: Limits,
    build_header: http::HeaderName,
    mirror: Mirror,
    freshness: Arc<dyn Freshness>,
    /// Pairs that may be judged at the same time.
    turns: Semaphore,
    dice: AtomicU64,
    record: Mutex<Record>,
    rules: Mutex<Rules>,
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

impl Slice {
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    pub(crate) fn with_rules<T>(&self, look: impl FnOnce(&Rules) -> T) -> T {
        look(&lock(&self.rules))
    }

    pub(crate) async fn ask(&self, side: Side, exchange: &Exchange) -> Result<Answer, String> {
        let (answer, latency) = self.mirror.ask(&self.settings, side, exchange).await?;
        let took = |wanted| (side == wanted).then_some(latency);
        self.record()
            .times(took(Side::Legacy), took(Side::Extracted));
        Ok(answer)
    }

    /// Learns which builds have answered.
    pub(crate) fn builds(&self, legacy: &Answer, extracted: &Answer) {
        let build = |answer: &Answer| {
            let value = answer.headers.get(&self.build_header)?;
            value.to_str().ok().map(str::to_owned)
        };
        self.record()
            .builds(build(legacy).as_deref(), build(extracted).as_deref());
    }

    pub(crate) fn noise(&self, route: &str, found: &[Difference]) {
        self.record().noise(route, found);
    }

    /// What is neither ignored nor noise.
    pub(crate) fn kept(&self, route: &str, found: Vec<Difference>, today: Date) -> Vec<Difference> {
        let mut rules = lock(&self.rules);
        let record = self.record();
        found
            .into_iter()
            .filter(|difference| !rules.ignores(&difference.place, today))
            .filter(|difference| !record.is_noise(route, difference))
            .collect()
    }

    pub(crate) fn has_link(&self) -> bool {
        self.freshness.has_link(&self.settings.id)
    }

    pub(crate) fn applied_through(&self) -> Option<SystemTime> {
        self.freshness.applied_through(&self.settings.id)
    }

    /// True for this share of the calls, evenly spread.
    fn draw(&self, share: f64) -> bool {
        let count = self.dice.fetch_add(1, Relaxed);
        let drawn = xxh3_64(&count.to_le_bytes()) as f64 / u64::MAX as f64;
        share >= 1.0 || drawn < share
    }
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
        for slice in settings.slices {
            let rules = Rules::new(&slice.ignore, &slice.arrays)?;
            let made = Slice {
                build_header: settings.build_header.clone(),
                mirror: Mirror::new(&settings.limits),
                freshness: freshness.clone(),
                turns: Semaphore::new(settings.limits.in_flight),
                dice: AtomicU64::new(0),
                record: Mutex::default(),
                rules: Mutex::new(rules),
                limits: settings.limits.clone(),
                settings: slice,
            };
            slices.insert(made.settings.id.clone(), Arc::new(made));
        }
        let inner = Inner {
            slices,
            runtime: runtime.clone(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Lets pairs under judgement end for a moment, then counts the rest as shed.
    pub async fn shutdown(&self) {
        self.inner.tasks.close();
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
        Some(self.slice(id)?.record().evidence())
    }

    /// The whole picture of a slice.
    pub fn report(&self, id: &SliceId) -> Option<Report> {
        let slice = self.slice(id)?;
        let rules = lock(&slice.rules);
        Some(Report::new(id, &slice.record(), &rules, today()))
    }

    /// A stored pair by its id, `SLICE:pN` or, where only one slice has it, `pN`.
    pub fn pair(&self, id: &str) -> Option<Value> {
        let (wanted, id) = id
            .split_once(':')
            .map_or((None, id), |(slice, id)| (Some(slice), id));
        let named =
            |slice: &&Arc<Slice>| wanted.is_none_or(|wanted| slice.settings.id.as_str() == wanted);
        self.inner.slices.values().filter(named).find_map(|slice| {
            let pair = slice.record().pairs.get(id).cloned()?;
            serde_json::to_value(pair).ok()
        })
    }

    /// The ignore rules with what they have hidden.
    pub fn rules(&self, id: &SliceId) -> Option<Value> {
        serde_json::to_value(self.report(id)?.rules).ok()
    }

    /// Adds an ignore rule; what was gathered without it is dropped.
    ///
    /// # Errors
    /// [`Error`] for a rule without a reason, with a bad path or date, or of an unknown slice.
    pub fn add_rule(&self, id: &SliceId, rule: &Value) -> Result<(), Error> {
        let slice = self
            .slice(id)
            .ok_or_else(|| Error::UnknownSlice(id.clone()))?;
        let rule: IgnoreRule = serde_json::from_value(rule.clone()).map_err(Error::Rule)?;
        let ignore = Ignore::new(&rule)?;
        lock(&slice.rules).ignore.push(ignore);
        slice.record().expire();
        Ok(())
    }

    /// Drops the evidence.
    pub fn reset(&self, id: &SliceId) {
        if let Some(slice) = self.slice(id) {
            slice.record().expire();
        }
    }

    /// Everything that must outlive a restart.
    pub fn snapshot(&self) -> Value {
        let one = |(id, slice): (&SliceId, &Arc<Slice>)| {
            let rules: Vec<IgnoreRule> = lock(&slice.rules)
                .ignore
                .iter()
                .map(|ignore| ignore.rule.clone())
                .collect();
            let record = slice.record().clone();
            (
                id.to_string(),
                serde_json::json!({ "record": record, "rules": rules }),
            )
        };
        Value::Object(self.inner.slices.iter().map(one).collect())
    }

    /// Takes a snapshot back in. Slices that it does not know start empty.
    ///
    /// # Errors
    /// [`Error::Snapshot`]; nothing is changed then.
    pub fn restore(&self, snapshot: Value) -> Result<(), Error> {
        #[derive(serde::Deserialize)]
        struct Saved {
            record: Record,
            rules: Vec<IgnoreRule>,
        }
        let all: BTreeMap<SliceId, Saved> =
            serde_json::from_value(snapshot).map_err(Error::Snapshot)?;
        for (id, mut saved) in all {
            let Some(slice) = self.slice(&id) else {
                continue;
            };
            saved.record.restarted();
            *slice.record() = saved.record;
            let mut rules = lock(&slice.rules);
            for rule in saved.rules {
                let known = rules.ignore.iter().any(|ignore| ignore.rule == rule);
                if !known {
                    rules.ignore.push(Ignore::new(&rule)?);
                }
            }
        }
        Ok(())
    }

    async fn judge(slice: Arc<Slice>, cancel: CancellationToken, exchange: Exchange) {
        let class = format!("{}xx", exchange.response.status.as_u16() / 100);
        let judged = async {
            // Closed never: the semaphore lives as long as the slice.
            let _turn = slice.turns.acquire().await.ok();
            if slice.draw(slice.settings.noise_sample) {
                align::learn_noise(&slice, &exchange).await;
            }
            align::judge(&slice, &exchange).await
        };
        let outcome = tokio::select! {
            outcome = judged => outcome,
            () = cancel.cancelled() => Outcome::NotComparable("shutdown"),
        };
        let examples = slice.limits.examples;
        slice
            .record()
            .settle(&exchange.route, &class, outcome, examples);
    }
}

impl Tap for Shadow {
    fn admit(&self, id: &SliceId, _route: &Arc<str>, method: &Method) -> Option<Ticket> {
        let slice = self.slice(id)?;
        let mut record = slice.record();
        record.eligible += 1;
        if !matches!(*method, Method::GET | Method::HEAD) {
            record.ineligible("method");
            return None;
        }
        if !slice.draw(slice.settings.sample) {
            record.sampled_out += 1;
            return None;
        }
        if record.waiting >= slice.limits.waiting as u64 {
            record.shed("busy");
            return None;
        }
        if self.inner.tasks.is_closed() {
            record.shed("shutdown");
            return None;
        }
        record.waiting += 1;
        drop(record);
        let slice = slice.clone();
        Some(Ticket::new(slice.limits.body, move || {
            slice.record().abandoned()
        }))
    }

    fn offer(&self, exchange: Exchange) {
        // Dropping the exchange drops its ticket, which counts it as abandoned.
        let Some(slice) = self.slice(&exchange.slice).cloned() else {
            return;
        };
        if self.inner.tasks.is_closed() {
            return;
        }
        let Exchange {
            ticket,
            slice: id,
            route,
            primary,
            request,
            response,
            finished,
            latency,
            identity,
        } = exchange;
        let limits = slice.limits.body;
        ticket.settle();
        // Already counted as waiting; this ticket only completes the value.
        let ticket = Ticket::new(limits, || {});
        let side = |wanted| (primary == wanted).then_some(latency);
        slice
            .record()
            .times(side(Side::Legacy), side(Side::Extracted));
        let exchange = Exchange {
            ticket,
            slice: id,
            route,
            primary,
            request,
            response,
            finished,
            latency,
            identity,
        };
        // The number of these tasks is bounded by `waiting`, checked at admission.
        let judging = Self::judge(slice, self.inner.cancel.clone(), exchange);
        self.inner.tasks.spawn_on(judging, &self.inner.runtime);
    }
}
