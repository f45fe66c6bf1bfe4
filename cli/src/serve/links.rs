//! The bridge behind control's port, and its progress for the proxy and the shadow.
//!
//! A link is opened at its first use, because an extracted service may create its database only
//! when it starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use outgrow_bridge::events::Events;
use outgrow_bridge::{Link, LinkSpec, Page, Preflight, VerifyOptions, Which};
use outgrow_control::Controller;
use outgrow_control::ports::{
    FencePosition, PortError, PortResult, Sync as SyncPort, Verification,
};
use outgrow_rollout::bypass::Changed;
use outgrow_rollout::{DataPhase, Side, SliceId, SyncEvidence, TableRows};
use outgrow_shadow::Freshness;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::settings;
use crate::broker;
use crate::commands::check::Finding;
use crate::config::Config;

/// How often a link that is not open yet is looked for, to watch it for failures.
const OPEN_PERIOD: Duration = Duration::from_millis(200);

/// Every slice's link.
#[derive(Debug)]
pub(super) struct Links {
    by_slice: BTreeMap<SliceId, Slot>,
}

#[derive(Debug)]
struct Slot {
    spec: LinkSpec,
    events: Option<Events>,
    link: OnceCell<Link>,
}

fn refused(error: impl Into<anyhow::Error>) -> PortError {
    PortError(format!("{:#}", error.into()))
}

impl Links {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let mut by_slice = BTreeMap::new();
        for slice in &config.slices {
            if let Some(spec) = settings::link(config, slice)? {
                by_slice.insert(
                    slice.id.clone(),
                    Slot {
                        spec,
                        events: broker::events(slice),
                        link: OnceCell::new(),
                    },
                );
            }
        }
        Ok(Self { by_slice })
    }

    async fn link(&self, slice: &SliceId) -> PortResult<&Link> {
        let slot = self.by_slice.get(slice).ok_or_else(|| {
            PortError(format!("slice `{slice}` has no tables, so it has no link"))
        })?;
        slot.link
            .get_or_try_init(|| Link::open_with(slot.spec.clone(), slot.events.clone()))
            .await
            .map_err(refused)
    }

    fn opened(&self, slice: &SliceId) -> Option<&Link> {
        self.by_slice.get(slice)?.link.get()
    }

    /// How far each link has come.
    pub(super) fn applied_through(&self) -> Vec<(SliceId, Option<SystemTime>)> {
        let through = |(id, slot): (&SliceId, &Slot)| {
            (id.clone(), slot.link.get().and_then(Link::applied_through))
        };
        self.by_slice.iter().map(through).collect()
    }

    /// Tells control of every link that cannot go on. Ends with `cancel`.
    pub(super) async fn report_failures(
        self: Arc<Self>,
        controller: Controller,
        cancel: CancellationToken,
    ) {
        let watchers = TaskTracker::new();
        for id in self.by_slice.keys() {
            let (links, controller, cancel) = (self.clone(), controller.clone(), cancel.clone());
            let id = id.clone();
            watchers.spawn(async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = links.watch(&id, &controller) => {}
                }
            });
        }
        watchers.close();
        watchers.wait().await;
    }

    async fn watch(&self, id: &SliceId, controller: &Controller) {
        let mut tick = tokio::time::interval(OPEN_PERIOD);
        let link = loop {
            tick.tick().await;
            if let Some(link) = self.opened(id) {
                break link;
            }
        };
        let (mut failures, mut moves) = (link.failures(), link.moves());
        let mut has_moved = true;
        loop {
            let moved = has_moved.then(|| moves.borrow_and_update().clone());
            if let Some(moved) = moved.filter(|moved| !moved.is_empty()) {
                let noted = match serde_json::to_value(&moved) {
                    Ok(moved) => controller.link_moved(id.as_str(), moved).await,
                    Err(_) => Ok(()),
                };
                if let Err(error) = noted {
                    warn!(slice = %id, %error, "another server could not be journaled");
                }
            }
            let reason = failures.borrow_and_update().clone();
            if let Some(reason) = reason
                && let Err(error) = controller.link_failed(id.as_str(), &reason).await
            {
                warn!(slice = %id, %error, "a failed link could not be journaled");
            }
            let changed;
            (has_moved, changed) = tokio::select! {
                changed = failures.changed() => (false, changed),
                changed = moves.changed() => (true, changed),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Ends every link's workers.
    pub(super) async fn shutdown(&self) {
        for slot in self.by_slice.values() {
            if let Some(link) = slot.link.get() {
                link.shutdown().await;
            }
        }
    }
}

impl Freshness for Links {
    fn applied_through(&self, slice: &SliceId) -> Option<SystemTime> {
        self.opened(slice)?.applied_through()
    }

    fn has_link(&self, slice: &SliceId) -> bool {
        self.by_slice.contains_key(slice)
    }
}

impl SyncPort for Links {
    fn preflight<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            let found = self.link(slice).await?.preflight().await.map_err(refused)?;
            serde_json::to_value(found).map_err(refused)
        })
    }

    fn ensure<'a>(
        &'a self,
        slice: &'a SliceId,
        phase: DataPhase,
        source: Side,
    ) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.link(slice)
                .await?
                .ensure(phase, source)
                .await
                .map_err(refused)
        })
    }

    fn pause<'a>(
        &'a self,
        slice: &'a SliceId,
        phase: DataPhase,
        source: Side,
    ) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            let link = self.link(slice).await?;
            link.pause().await.map_err(refused)?;
            link.keep(phase, source).await.map_err(refused)
        })
    }

    fn watch_over<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.link(slice).await?.watch_over();
            Ok(())
        })
    }

    fn fail_over<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<Option<Value>>> {
        Box::pin(async move {
            let moved = self.link(slice).await?.fail_over().await.map_err(refused)?;
            let moved = (!moved.is_empty()).then_some(moved);
            moved.map(serde_json::to_value).transpose().map_err(refused)
        })
    }

    fn evidence(&self, slice: &SliceId) -> Option<SyncEvidence> {
        self.opened(slice)?.evidence()
    }

    fn changed(&self, slice: &SliceId) -> Vec<Changed> {
        self.opened(slice)
            .map_or_else(Vec::new, |link| link.changed())
    }

    fn describe(&self, slice: &SliceId) -> Option<Value> {
        Some(self.opened(slice)?.describe())
    }

    fn fence<'a>(
        &'a self,
        slice: &'a SliceId,
        side: Side,
    ) -> BoxFuture<'a, PortResult<FencePosition>> {
        Box::pin(async move {
            let position = self.link(slice).await?.fence(side).await.map_err(refused)?;
            Ok(FencePosition(position))
        })
    }

    fn unfence<'a>(&'a self, slice: &'a SliceId, side: Side) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move { self.link(slice).await?.unfence(side).await.map_err(refused) })
    }

    fn drain<'a>(
        &'a self,
        slice: &'a SliceId,
        position: FencePosition,
        within: Duration,
    ) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.link(slice)
                .await?
                .drain(position.0, within)
                .await
                .map_err(refused)
        })
    }

    fn check<'a>(
        &'a self,
        slice: &'a SliceId,
    ) -> BoxFuture<'a, PortResult<BTreeMap<String, TableRows>>> {
        Box::pin(async move { self.link(slice).await?.check().await.map_err(refused) })
    }

    fn turn<'a>(&'a self, slice: &'a SliceId, source: Side) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move { self.link(slice).await?.turn(source).await.map_err(refused) })
    }

    fn verify<'a>(
        &'a self,
        slice: &'a SliceId,
        wanted: &'a Verification,
    ) -> BoxFuture<'a, PortResult<(BTreeMap<String, TableRows>, Value)>> {
        Box::pin(async move {
            let options = VerifyOptions {
                share: wanted.share,
                resume: wanted.resume,
                by_rows: wanted.by_rows,
                keep: wanted.keep,
                gently: false,
            };
            let link = self.link(slice).await?;
            let report = link.verify_with(&options).await.map_err(refused)?;
            let rows = report.rows();
            Ok((rows, serde_json::to_value(report).map_err(refused)?))
        })
    }

    fn repair<'a>(&'a self, slice: &'a SliceId, dry_run: bool) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            let report = self
                .link(slice)
                .await?
                .repair(dry_run)
                .await
                .map_err(refused)?;
            serde_json::to_value(report).map_err(refused)
        })
    }

    fn settle<'a>(
        &'a self,
        slice: &'a SliceId,
        conflict: Option<&'a str>,
        take: Side,
        dry_run: bool,
    ) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            let which = conflict.map_or(Which::All, |id| Which::One(id.to_owned()));
            let link = self.link(slice).await?;
            let report = link.settle(&which, take, dry_run).await.map_err(refused)?;
            serde_json::to_value(report).map_err(refused)
        })
    }

    fn conflicts<'a>(
        &'a self,
        slice: &'a SliceId,
        rows: u32,
        page: u32,
    ) -> BoxFuture<'a, PortResult<Value>> {
        Box::pin(async move {
            let page = Page { number: page, rows };
            let link = self.link(slice).await?;
            let found = link.conflicts_on(page).await.map_err(refused)?;
            serde_json::to_value(found).map_err(refused)
        })
    }

    fn resume_events<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<bool>> {
        Box::pin(async move {
            self.link(slice)
                .await?
                .resume_events()
                .await
                .map_err(refused)
        })
    }

    fn close<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move { self.link(slice).await?.close().await.map_err(refused) })
    }
}

/// The bridge's preflight of every slice with tables.
pub(super) async fn preflight(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for slice in config
        .slices
        .iter()
        .filter(|slice| !slice.tables.is_empty())
    {
        let finding = |ok, detail| Finding {
            what: format!("tables of `{}`", slice.id),
            ok,
            detail,
        };
        match preflight_one(config, slice).await {
            Ok(seen) => {
                let problems = seen.problems.iter().map(ToString::to_string);
                found.extend(problems.map(|text| finding(false, text)));
                if seen.ok() {
                    let holds = "mapping holds both ways on sampled rows";
                    found.push(finding(true, holds.to_owned()));
                }
                let advice = seen.advice.iter();
                found.extend(advice.map(|one| finding(true, format!("advice: {one}"))));
            }
            Err(error) => found.push(finding(false, format!("{error:#}"))),
        }
        found.extend(broker::check(slice).await);
    }
    found
}

async fn preflight_one(config: &Config, slice: &crate::config::Slice) -> anyhow::Result<Preflight> {
    let Some(spec) = settings::link(config, slice)? else {
        return Ok(Preflight::default());
    };
    let link = Link::open_with(spec, broker::events(slice)).await?;
    let seen = link.preflight().await;
    link.shutdown().await;
    Ok(seen?)
}
