//! Ports over plain memory: they record every call, and can be told to fail or hang at any.
//!
//! One `World` stands for proxy, bridge and shadow; it outlives a controller, as the databases
//! and the network outlive a process.

mod figures;
mod home;
mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use outgrow_control::ports::{
    DataPlane, FencePosition, PortError, PortResult, Process, Sync as Bridge, Verification,
};
use outgrow_control::{Note, Ports};
use outgrow_rollout::bypass::{Changed, UnderWay};
use outgrow_rollout::{
    AskedFigures, BuildFigures, BuildTimes, BuildsState, CacheCounts, CacheFigures, CircuitFigures,
    ClientFigures, DataPhase, HoldFigures, LinesLost, Live, ProxyEvidence, RouteTimes,
    ServiceFigures, Side, SideCounts, SideTimes, SliceId, SourceFigures, SpanFigures, SyncEvidence,
    TableRows, UpstreamFigures, UpstreamState,
};
use serde_json::{Value, json};

pub(crate) use home::{Home, actions, catalog, weight};

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Every time.
    Fails,
    /// The next so many times.
    FailsTimes(u32),
    /// It never returns.
    Hangs,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub calls: Vec<String>,
    pub wrong: BTreeMap<String, Wrong>,
    pub live: BTreeMap<String, Live>,
    pub holding: BTreeSet<String>,
    pub fenced: BTreeSet<String>,
    /// The side that rows flow from.
    pub source: Option<Side>,
    pub phase: Option<DataPhase>,
    pub copied: bool,
    pub different: u64,
    /// Another server has taken a database's place.
    pub elsewhere: bool,
    pub lag_ms: Option<u64>,
    pub foreign_age_ms: Option<u64>,
    /// Rows that were changed beside the one of `foreign_age_ms`.
    pub foreign_more: u64,
    /// Routes that the extracted side was being asked by when it was changed; `None`: nobody knows.
    pub asked: Option<BTreeSet<String>>,
    /// How often somebody has looked at the bridge's evidence of the catalog.
    pub looks: u64,
    /// Which writes the proxy carried when somebody asks; `None`: nobody knows.
    pub under_way: Option<UnderWay>,
    /// Rows of the catalog that have changed, until they are told of.
    pub changed: Vec<Changed>,
    /// Routes that the shadow mirrors nothing of, and why.
    pub unmirrored: BTreeMap<String, String>,
    pub mismatched: u64,
    pub matched: u64,
    pub counts: ProxyEvidence,
    pub verified: bool,
    pub restored: Option<Value>,
    pub rules: Vec<Value>,
    /// Routes of the catalog whose writes the shadow has stopped, until they are told of.
    pub stopped: BTreeMap<String, String>,
    /// The same, until they are resumed.
    pub to_resume: Vec<String>,
    /// Of the service `catalog`; with none it has no builds.
    pub builds: Vec<BuildFigures>,
    pub builds_in_force: Vec<BuildsState>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct World(Arc<Mutex<Seen>>);

impl World {
    /// Everything is in order: whatever is asked for is met.
    pub(crate) fn healthy() -> Self {
        let world = Self::default();
        {
            let mut seen = world.see();
            seen.copied = true;
            seen.lag_ms = Some(5);
            seen.matched = 10_000;
            let side = SideCounts {
                requests: 0,
                errors: 0,
                p99_us: Some(1_000),
            };
            seen.counts = ProxyEvidence {
                legacy: side,
                extracted: side,
            };
        }
        world
    }

    pub(crate) fn see(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    pub(crate) fn go_wrong(&self, call: &str, wrong: Wrong) {
        self.see().wrong.insert(call.to_owned(), wrong);
    }

    pub(crate) fn mend(&self) {
        self.see().wrong.clear();
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.see().calls.clone()
    }

    /// How often a call was made, by its beginning.
    pub(crate) fn called(&self, call: &str) -> usize {
        self.see()
            .calls
            .iter()
            .filter(|c| c.starts_with(call))
            .count()
    }

    pub(crate) fn serve(&self, requests: u64) {
        let mut seen = self.see();
        seen.counts.legacy.requests += requests;
        seen.counts.extracted.requests += requests;
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports {
            data_plane: Arc::new(self.clone()),
            sync: Arc::new(self.clone()),
            shadow: Arc::new(self.clone()),
            process: Arc::new(self.clone()),
        }
    }

    /// Records the call and goes wrong if so told.
    async fn call(&self, name: &str, detail: &str) -> PortResult<()> {
        let wrong = {
            let mut seen = self.see();
            seen.calls
                .push(format!("{name} {detail}").trim().to_owned());
            let wrong = seen.wrong.get(name).copied();
            match wrong {
                Some(Wrong::FailsTimes(0)) => None,
                Some(Wrong::FailsTimes(n)) => {
                    seen.wrong.insert(name.to_owned(), Wrong::FailsTimes(n - 1));
                    wrong
                }
                other => other,
            }
        };
        match wrong {
            Some(Wrong::Hangs) => std::future::pending().await,
            Some(_) => Err(PortError(format!("{name} does not work"))),
            None => Ok(()),
        }
    }

    fn rows(&self) -> BTreeMap<String, TableRows> {
        let rows = TableRows {
            legacy: 100,
            extracted: 100,
            different: self.see().different,
        };
        BTreeMap::from([("products".to_owned(), rows)])
    }
}

impl DataPlane for World {
    fn apply(&self, slice: &SliceId, live: Live) {
        let mut seen = self.see();
        seen.calls
            .push(format!("apply {} {}", live.weight, live.writer));
        seen.live.insert(slice.to_string(), live);
    }

    fn live(&self, slice: &SliceId) -> Option<Live> {
        self.see().live.get(slice.as_str()).copied()
    }

    fn under_way(&self, _: &SliceId, _: &RangeInclusive<i64>) -> Option<UnderWay> {
        self.see().under_way.clone()
    }

    fn hold<'a>(&'a self, slice: &'a SliceId, _: Duration) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.see().holding.insert(slice.to_string());
            self.call("hold", "").await
        })
    }

    fn release(&self, slice: &SliceId) {
        let mut seen = self.see();
        seen.calls.push("release".to_owned());
        seen.holding.remove(slice.as_str());
    }

    fn held(&self, _: &SliceId) -> u64 {
        7
    }

    fn counts(&self, _: &SliceId) -> Option<ProxyEvidence> {
        Some(self.see().counts)
    }

    fn routes(&self) -> Vec<RouteTimes> {
        let times = |errors| SideTimes {
            errors,
            sum_us: 6_000,
            within_us: vec![(512, 0), (1_024, 6)],
            above: 0,
        };
        let of = |slice: Option<&str>, route: &str, errors| RouteTimes {
            slice: slice.map(|id| SliceId::new(id).unwrap()),
            route: route.to_owned(),
            side: Side::Legacy,
            times: times(errors),
            classes: vec![("2xx", 6 - errors), ("5xx", errors)],
        };
        vec![
            of(Some("catalog"), "GET /api/products/{id}", 2),
            of(None, "other", 3),
        ]
    }

    fn build_times(&self) -> Vec<BuildTimes> {
        let seen = self.see();
        let of = |figures: &BuildFigures| BuildTimes {
            slice: Some(SliceId::new("catalog").unwrap()),
            service: "catalog".to_owned(),
            build: figures.build.clone(),
            times: SideTimes {
                errors: figures.failures,
                sum_us: 1_000 * figures.requests,
                within_us: vec![(512, 0), (1_024, figures.requests)],
                above: 0,
            },
            classes: vec![("2xx", figures.requests), ("none", 0)],
        };
        seen.builds.iter().map(of).collect()
    }

    fn services(&self) -> Vec<ServiceFigures> {
        let upstream = UpstreamFigures {
            upstream: "10.0.0.1:80".to_owned(),
            state: UpstreamState::Ejected,
            requests: 50,
            failures: 5,
            in_flight: 3,
            waiting: 1,
            connected: 4,
            reused: 46,
            idle: 2,
            ejections: 1,
        };
        vec![ServiceFigures {
            service: "catalog".to_owned(),
            build: None,
            upstreams: vec![upstream],
            circuit: Some(CircuitFigures {
                state: "open".to_owned(),
                opened: 2,
            }),
            retries: 8,
            retries_refused: 9,
            sources: vec![SourceFigures {
                source: "consul:catalog".to_owned(),
                failing: true,
                failures: 6,
                age_s: Some(1.5),
            }],
        }]
    }

    fn apply_builds(&self, _: &str, state: &BuildsState) {
        self.see().builds_in_force.push(state.clone());
    }

    fn builds(&self, service: &str) -> Vec<BuildFigures> {
        assert_eq!(service, "catalog");
        self.see().builds.clone()
    }

    fn holds(&self) -> Vec<HoldFigures> {
        vec![HoldFigures {
            slice: SliceId::new("catalog").unwrap(),
            held: false,
            waiting: 0,
            waited: 7,
            refused: 1,
            waited_us: 250_000,
        }]
    }

    fn clients(&self) -> ClientFigures {
        ClientFigures {
            open: 12,
            most: Some(15_000),
            shut: 3,
        }
    }

    fn lines_lost(&self) -> Option<LinesLost> {
        Some(LinesLost { queue: 7, write: 2 })
    }

    fn spans(&self) -> Option<SpanFigures> {
        Some(SpanFigures {
            sent: 90,
            queue: 5,
            refused: 1,
            failed: 4,
        })
    }

    fn refusals(&self) -> Vec<(&'static str, u64)> {
        vec![("malformed", 4), ("held", 0)]
    }

    fn cache(&self) -> Option<CacheFigures> {
        Some(CacheFigures {
            entries: 12,
            bytes: 34_567,
            size: 1 << 20,
            waiting: 3,
            slices: vec![CacheCounts {
                slice: SliceId::new("catalog").unwrap(),
                outcomes: vec![("hit", 40), ("miss", 9)],
            }],
        })
    }

    fn asked(&self) -> Vec<AskedFigures> {
        figures::asked()
    }

    fn times(&self, _: &SliceId, side: Side) -> Option<SideTimes> {
        let counts = self.see().counts;
        let counts = match side {
            Side::Legacy => counts.legacy,
            Side::Extracted => counts.extracted,
        };
        Some(SideTimes {
            errors: counts.errors,
            sum_us: 1_000 * counts.requests,
            within_us: vec![(512, 0), (1_024, counts.requests)],
            above: 0,
        })
    }

    fn describe(&self) -> Value {
        json!({"listening": true})
    }

    fn explain(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
    ) -> PortResult<Value> {
        if target.starts_with('/') {
            Ok(json!({"method": method, "target": target, "headers": headers.len()}))
        } else {
            Err(PortError(format!("`{target}` is no path")))
        }
    }
}

impl Bridge for World {
    fn preflight<'a>(&'a self, _: &'a SliceId) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            self.call("preflight", "").await?;
            Ok(json!({"tables": 1}))
        })
    }

    fn ensure<'a>(
        &'a self,
        _: &'a SliceId,
        phase: DataPhase,
        source: Side,
    ) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.call("ensure", &format!("{phase} {source}")).await?;
            let mut seen = self.see();
            (seen.phase, seen.source) = (Some(phase), Some(source));
            Ok(())
        })
    }

    fn pause<'a>(
        &'a self,
        _: &'a SliceId,
        phase: DataPhase,
        source: Side,
    ) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move { self.call("pause", &format!("{phase} {source}")).await })
    }

    fn watch_over<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move { self.call("watch_over", slice.as_str()).await })
    }

    fn evidence(&self, slice: &SliceId) -> Option<SyncEvidence> {
        let rows = self.rows();
        let mut seen = self.see();
        seen.looks += u64::from(*slice == catalog());
        let verified = seen.verified.then_some(rows);
        Some(SyncEvidence {
            source: seen.source?,
            copied_rows: 100,
            total_rows: 100,
            applied_rows: 7,
            copied: seen.copied,
            lag_ms: seen.lag_ms,
            reverse_lag_ms: seen.lag_ms,
            backlog: 0,
            backlog_bytes: 0,
            parked: 0,
            conflicts: 0,
            foreign_writes: u64::from(seen.foreign_age_ms.is_some()) + seen.foreign_more,
            foreign_write_age_ms: seen.foreign_age_ms,
            foreign_between_ms: seen.foreign_age_ms.map(|_| (1_000_000, 1_000_999)),
            last_foreign: None,
            verified_age_ms: verified.as_ref().map(|_| 0),
            log_kept_bytes: BTreeMap::from([(Side::Legacy, 5)]),
            log_limit_bytes: 10,
            noted_bytes: BTreeMap::from([(Side::Legacy, 3), (Side::Extracted, 0)]),
            noted_limit_bytes: 6,
            load: BTreeMap::from([(
                Side::Legacy,
                outgrow_rollout::SideLoad {
                    running: 3,
                    most: 25,
                },
            )]),
            verified,
        })
    }

    fn changed(&self, slice: &SliceId) -> Vec<Changed> {
        match *slice == catalog() {
            true => std::mem::take(&mut self.see().changed),
            false => Vec::new(),
        }
    }

    fn describe(&self, _: &SliceId) -> Option<Value> {
        Some(json!({"tables": ["products"]}))
    }

    fn fence<'a>(&'a self, _: &'a SliceId, side: Side) -> BoxFuture<'a, PortResult<FencePosition>> {
        Box::pin(async move {
            // As in life: a fence that is reported as failed may stand.
            self.see().fenced.insert(side.to_string());
            self.call("fence", side.as_str()).await?;
            Ok(FencePosition(42))
        })
    }

    fn unfence<'a>(&'a self, _: &'a SliceId, side: Side) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.call("unfence", side.as_str()).await?;
            self.see().fenced.remove(side.as_str());
            Ok(())
        })
    }

    fn drain<'a>(
        &'a self,
        _: &'a SliceId,
        position: FencePosition,
        _: Duration,
    ) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move { self.call("drain", &position.0.to_string()).await })
    }

    fn check<'a>(
        &'a self,
        _: &'a SliceId,
    ) -> BoxFuture<'a, PortResult<BTreeMap<String, TableRows>>> {
        Box::pin(async move {
            self.call("check", "").await?;
            Ok(self.rows())
        })
    }

    fn turn<'a>(&'a self, _: &'a SliceId, source: Side) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.call("turn", source.as_str()).await?;
            let mut seen = self.see();
            let both = [Side::Legacy, Side::Extracted];
            if !both.iter().all(|side| seen.fenced.contains(side.as_str())) {
                return Err(PortError("both sides must be fenced".to_owned()));
            }
            seen.source = Some(source);
            Ok(())
        })
    }

    fn verify<'a>(
        &'a self,
        _: &'a SliceId,
        wanted: &'a Verification,
    ) -> BoxFuture<'a, PortResult<(BTreeMap<String, TableRows>, Value)>> {
        Box::pin(async move {
            let how = wanted
                .share
                .map_or(String::new(), |share| share.to_string());
            self.call("verify", &how).await?;
            self.see().verified |= wanted.share.is_none();
            Ok((self.rows(), json!({"chunks": 1})))
        })
    }

    fn repair<'a>(&'a self, _: &'a SliceId, dry_run: bool) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            self.call("repair", &dry_run.to_string()).await?;
            if !dry_run {
                self.see().different = 0;
            }
            Ok(json!({"dry_run": dry_run}))
        })
    }

    fn fail_over<'a>(&'a self, _: &'a SliceId) -> BoxFuture<'a, PortResult<Option<Value>>> {
        Box::pin(async move {
            self.call("fail_over", "").await?;
            let elsewhere = self.see().elsewhere;
            Ok(elsewhere.then(|| json!([{"now": "server_id 8"}])))
        })
    }

    fn resume_events<'a>(&'a self, _: &'a SliceId) -> BoxFuture<'a, PortResult<bool>> {
        Box::pin(async move {
            self.call("resume_events", "").await?;
            Ok(true)
        })
    }

    fn settle<'a>(
        &'a self,
        _: &'a SliceId,
        conflict: Option<&'a str>,
        take: Side,
        dry_run: bool,
    ) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            let which = conflict.unwrap_or("all");
            let said = format!("{which} {take} {dry_run}");
            self.call("settle", &said).await?;
            Ok(json!({"dry_run": dry_run, "settled": [which]}))
        })
    }

    fn conflicts<'a>(
        &'a self,
        _: &'a SliceId,
        rows: u32,
        page: u32,
    ) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move { Ok(json!({"parked": [], "rows": rows, "page": page})) })
    }

    fn close<'a>(&'a self, _: &'a SliceId) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.call("close", "").await?;
            self.see().fenced.clear();
            Ok(())
        })
    }
}

impl Process for World {
    fn reload(&self, note: Note) -> BoxFuture<'_, outgrow_control::Result<Value>> {
        Box::pin(async move {
            self.call("reload", &note.by).await?;
            Ok(json!({"config": 2}))
        })
    }

    fn upgrade(&self, note: Note) -> BoxFuture<'_, outgrow_control::Result<Value>> {
        Box::pin(async move {
            self.call("upgrade", &note.by).await?;
            Ok(json!({"pid": 42}))
        })
    }
}
