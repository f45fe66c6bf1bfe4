//! What control may ask of a running proxy.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use outgrow_rollout::bypass::{NO_SLICE, UnderWay};
use outgrow_rollout::{
    AskedFigures, BuildFigures, BuildName, BuildTimes, BuildsState, CacheFigures, ClientFigures,
    HoldFigures, LinesLost, Live, ProxyEvidence, RouteTimes, ServiceFigures, Side, SideTimes,
    SliceId, SpanFigures, bucket, side_for,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::cohort;
use crate::cookies::CookieKeys;
use crate::core::Shared;
use crate::error::HoldError;
use crate::forward::is_read;
use crate::guard::Act;
use crate::routes::Ambiguous;
use crate::saved;
use crate::slice::Slice;
use crate::upstreams::builds::Builds;

/// A handle on a proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    acts: Arc<Mutex<Option<mpsc::Receiver<Act>>>>,
}

/// What would become of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// `None`: no route; the legacy side answers.
    pub slice: Option<SliceId>,
    pub route: Option<String>,
    pub side: Side,
    /// Of the extracted side, where its service has several and the client is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildName>,
    /// Of a read: 0 to 9,999; below the weight means the extracted side.
    pub bucket: Option<u16>,
    pub reason: String,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>, acts: mpsc::Receiver<Act>) -> Self {
        Self {
            shared,
            acts: Arc::new(Mutex::new(Some(acts))),
        }
    }

    fn slice(&self, id: &SliceId) -> Option<&Arc<Slice>> {
        self.shared
            .slices
            .iter()
            .find(|slice| slice.settings.id == *id)
    }

    /// Puts a state into force for every request that begins from now on. Unknown slices and
    /// states older than the one in force are ignored.
    pub fn apply(&self, id: &SliceId, live: Live) {
        if let Some(slice) = self.slice(id) {
            slice.apply(live);
        }
    }

    /// The state in force, after what the guard may have lowered.
    pub fn live(&self, id: &SliceId) -> Option<Live> {
        Some(self.slice(id)?.live())
    }

    /// Makes new writes of the slice wait; ready when none is in flight.
    ///
    /// # Errors
    /// [`HoldError::InFlight`] after `within`. The hold stays in place, also when this is
    /// dropped: [`Handle::release`] ends it.
    pub async fn hold(&self, id: &SliceId, within: Duration) -> Result<(), HoldError> {
        let slice = self.slice(id).ok_or(HoldError::UnknownSlice)?;
        slice.gate.hold(within).await
    }

    /// Lets held writes go to the writer that is in force now. Idempotent.
    pub fn release(&self, id: &SliceId) {
        if let Some(slice) = self.slice(id) {
            slice.gate.release();
        }
    }

    /// Writes that waited in the present or last hold.
    pub fn held(&self, id: &SliceId) -> u64 {
        self.slice(id).map_or(0, |slice| slice.gate.waited())
    }

    /// Requests and errors of both sides since the start, and their times since the share of reads was last changed.
    pub fn counts(&self, id: &SliceId) -> Option<ProxyEvidence> {
        Some(self.slice(id)?.counts.read())
    }

    /// Errors and times of one side since the start.
    pub fn times(&self, id: &SliceId, side: Side) -> Option<SideTimes> {
        Some(self.slice(id)?.counts.times(side))
    }

    /// Errors and times of each route and side that has had requests, since the start.
    pub fn routes(&self) -> Vec<RouteTimes> {
        self.shared.routes.read(&self.shared.settings.slices)
    }

    /// Answers by build, of each slice whose service has several, and of the legacy side.
    pub fn build_times(&self) -> Vec<BuildTimes> {
        let of = |slice: &Arc<Slice>| {
            let builds = self
                .builds(&slice.settings.service)
                .zip(slice.by_build.as_ref());
            builds.map_or_else(Vec::new, |(builds, counts)| {
                builds.times(Some(slice), counts)
            })
        };
        let builds = self.builds(&self.shared.settings.legacy.name);
        let legacy = builds.zip(self.shared.legacy_builds.as_ref());
        let legacy = legacy.map(|(builds, counts)| builds.times(None, counts));
        let slices = self.shared.slices.iter().flat_map(of);
        legacy.into_iter().flatten().chain(slices).collect()
    }

    /// Clients that are connected, how many may be, and how often the door was shut for that.
    pub fn clients(&self) -> ClientFigures {
        let clients = &self.shared.clients;
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        ClientFigures {
            open: number(clients.open()),
            most: Some(clients.most())
                .filter(|most| *most < usize::MAX)
                .map(number),
            shut: clients.shut(),
        }
    }

    /// Services, their upstreams and connections, the legacy side first.
    pub fn services(&self) -> Vec<ServiceFigures> {
        self.shared.services.iter().map(|s| s.figures()).collect()
    }

    /// Puts into force which builds of a service are asked, for every request that begins from now on. A
    /// state older than the one in force, and a service without builds, are ignored.
    pub fn apply_builds(&self, service: &str, state: &BuildsState) {
        if let Some(builds) = self.builds(service) {
            builds.apply(state);
        }
    }

    /// How the builds of a service are, in the order of the settings; empty where it has none.
    pub fn build_figures(&self, service: &str) -> Vec<BuildFigures> {
        self.builds(service)
            .map_or_else(Vec::new, |builds| builds.figures())
    }

    fn builds(&self, service: &str) -> Option<&Arc<Builds>> {
        let mut builds = self.shared.builds.iter();
        builds.find(|builds| builds.service() == service)
    }

    /// Writes that wait, and have waited, for a cutover, by slice.
    pub fn holds(&self) -> Vec<HoldFigures> {
        let figures = |slice: &Arc<Slice>| slice.gate.figures(&slice.settings.id);
        self.shared.slices.iter().map(figures).collect()
    }

    /// Lines that the access log lacks; `None` where there is none.
    pub fn lines_lost(&self) -> Option<LinesLost> {
        Some(self.shared.lines_lost.as_ref()?.read())
    }

    /// What became of spans; `None` where nobody is told of them.
    pub fn spans(&self) -> Option<SpanFigures> {
        Some(self.shared.spans.as_ref()?.read())
    }

    /// Requests that the proxy itself has refused, by the code that `x-outgrow-error` has, and
    /// connections that came to none.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.shared.refusals.read()
    }

    /// The store of answers; `None` where there is none.
    pub fn cache(&self) -> Option<CacheFigures> {
        Some(self.shared.cache.as_ref()?.figures())
    }

    /// Those who are asked who may ask, or about tokens.
    pub fn asked(&self) -> Vec<AskedFigures> {
        self.shared.doorman.figures()
    }

    /// What is in force of all slices, for a proxy in another process.
    pub fn orders(&self) -> serde_json::Value {
        let slices = self.shared.slices.iter();
        let all: saved::Saved = slices
            .map(|slice| (slice.settings.id.clone(), slice.orders()))
            .collect();
        // Plain data with text keys always serializes.
        serde_json::to_value(all).unwrap_or_default()
    }

    /// Puts into force what a proxy in another process has in force. What its guard has lowered stays
    /// lowered.
    ///
    /// # Errors
    /// Says what is not understood; nothing is changed then.
    pub fn adopt(&self, orders: serde_json::Value) -> Result<(), String> {
        let all: saved::Saved =
            serde_json::from_value(orders).map_err(|error| error.to_string())?;
        for (id, orders) in all {
            if let Some(slice) = self.slice(&id) {
                slice.adopt(orders);
            }
        }
        Ok(())
    }

    /// Whether a proxy in another process takes writes, too. While that is so, reads of a slice whose
    /// sides differ go to its writer, and nothing that is kept is given.
    pub fn share(&self, shared: bool) {
        for slice in &self.shared.slices {
            match shared {
                true => slice.recent.share(),
                false => slice.recent.share_no_more(SystemTime::now()),
            }
            slice.writes.restart();
        }
        self.shared.writes.restart();
    }

    /// Which writes were on their way at some moment between these, in Unix milliseconds; `None` where
    /// nobody knows: of what was before the first call, is more than a minute ago, or while a proxy in
    /// another process takes writes, too.
    pub fn under_way(&self, id: &SliceId, between: &RangeInclusive<i64>) -> Option<UnderWay> {
        let slice = self.slice(id)?;
        if slice.recent.is_shared() {
            return None;
        }
        let mut found = UnderWay {
            own: slice.writes.within(between)?,
            others: BTreeSet::new(),
        };
        for other in self.shared.slices.iter().filter(|s| s.settings.id != *id) {
            if other.writes.within(between)? {
                found.others.insert(other.settings.id.to_string());
            }
        }
        if self.shared.writes.within(between)? {
            found.others.insert(NO_SLICE.to_owned());
        }
        Some(found)
    }

    /// What the guard does by itself; the first caller gets it.
    pub fn take_acts(&self) -> Option<mpsc::Receiver<Act>> {
        self.acts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Everything that the writer committed before `through` is on the other side; `None` while
    /// that is not known. Never called for a slice without a link, whose readers wait for nothing.
    pub fn set_applied_through(&self, id: &SliceId, through: Option<SystemTime>) {
        if let Some(slice) = self.slice(id) {
            slice.recent.set_applied_through(through);
        }
    }

    /// For `status`.
    pub fn describe(&self) -> serde_json::Value {
        let slice = |slice: &Arc<Slice>| {
            let orders = slice.orders();
            serde_json::json!({
                "slice": slice.settings.id,
                "live": slice.live(),
                "lowered_in_epoch": orders.lowered,
                "holding": slice.gate.is_held(),
                "writes_in_flight": slice.gate.in_flight(),
                "counts": slice.counts.read(),
            })
        };
        serde_json::json!({
            "listen": self.shared.settings.listen,
            "workers": self.shared.settings.workers,
            "slices": self.shared.slices.iter().map(slice).collect::<Vec<_>>(),
            "services": self.shared.services.iter().map(|s| s.describe()).collect::<Vec<_>>(),
            "builds": self.shared.builds.iter().map(|b| b.describe()).collect::<Vec<_>>(),
        })
    }

    /// What would become of a request.
    ///
    /// # Errors
    /// Says which part of the request is none.
    pub fn explain(
        &self,
        method: &str,
        target: &str,
        fields: &[(String, String)],
    ) -> Result<Explanation, String> {
        let method: Method = method
            .parse()
            .map_err(|_| format!("`{method}` is no method"))?;
        let uri: Uri = target
            .parse()
            .map_err(|_| format!("`{target}` is no path"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no header"))?;
            let value: HeaderValue = value
                .parse()
                .map_err(|_| format!("`{value}` is no header value"))?;
            headers.append(name, value);
        }
        let host = headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok());
        let elsewhere = self.shared.settings.filters.as_deref();
        let found = self
            .shared
            .table
            .find((&method, host), uri.path(), elsewhere);
        let refused = |Ambiguous| {
            format!("`{target}` can be read as a path of another route: it is refused (400)")
        };
        let Some(found) = found.map_err(refused)? else {
            return Ok(Explanation {
                slice: None,
                route: None,
                side: Side::Legacy,
                build: self.legacy_build(&headers),
                bucket: None,
                reason: "no slice has this route".to_owned(),
            });
        };
        let slice = &self.shared.slices[found.slice];
        let cookies = &self.shared.cookies;
        let mut told = explained((slice, cookies), &found.label, &method, &headers);
        let cohort = cohort::of(
            &slice.settings,
            (&self.shared.cookies, true),
            &headers,
            || None,
        );
        if told.side == Side::Extracted
            && cohort.is_known()
            && let Some(builds) = self.builds(&slice.settings.service)
        {
            told.build = builds.name_for(cohort.hash).cloned();
        }
        if told.side == Side::Legacy {
            told.build = self.legacy_build(&headers);
        }
        Ok(told)
    }

    /// Which build of the legacy side answers; `None` where it is a matter of the client's address.
    fn legacy_build(&self, headers: &HeaderMap) -> Option<BuildName> {
        let settings = &self.shared.settings;
        let builds = self.builds(&settings.legacy.name)?;
        let keys = &settings.legacy_clients.cohort;
        match cohort::of_legacy(&settings.legacy.name, keys, &self.shared.cookies, headers) {
            Some(client) => builds.name_for(client),
            None => builds.only(),
        }
        .cloned()
    }
}

fn explained(
    (slice, cookies): (&Slice, &CookieKeys),
    label: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Explanation {
    let live = slice.live();
    let explain = |side, bucket, reason| Explanation {
        slice: Some(slice.settings.id.clone()),
        route: Some(label.to_owned()),
        side,
        build: None,
        bucket,
        reason,
    };
    if live.maintenance {
        let reason = "nobody is served: maintenance".to_owned();
        return explain(live.writer, None, reason);
    }
    if !is_read(method) {
        return explain(
            live.writer,
            None,
            format!("a write: the writer is {}", live.writer),
        );
    }
    let cohort = cohort::of(&slice.settings, (cookies, true), headers, || None);
    let bucket = bucket(cohort.hash);
    let side = side_for(bucket, live.weight);
    if cohort.is_known() && side != live.writer && slice.recent.ahead(cohort.hash, cohort.wrote) {
        let reason = format!("it has just written; the {side} side may not have that yet");
        return explain(live.writer, Some(bucket), reason);
    }
    if !cohort.is_known() {
        let reason = format!(
            "no cohort key in the request: {} of such clients go across",
            live.weight
        );
        return explain(side, None, reason);
    }
    let points = live.weight.basis_points();
    explain(
        side,
        Some(bucket),
        format!("bucket {bucket} against a weight of {points}"),
    )
}
