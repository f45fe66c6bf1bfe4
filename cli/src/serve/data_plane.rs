//! The proxy behind control's port.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::BoxFuture;
use outgrow_control::ports::{DataPlane, PortError, PortResult};
use outgrow_proxy::Handle;
use outgrow_rollout::bypass::UnderWay;
use outgrow_rollout::{
    AskedFigures, BuildFigures, BuildTimes, BuildsState, CacheFigures, ClientFigures, HoldFigures,
    LinesLost, Live, ProxyEvidence, RouteTimes, ServiceFigures, Side, SideTimes, SliceId,
    SpanFigures,
};
use serde_json::Value;

use super::handover::Word;
use super::upgrade::Earlier;

/// The one proxy of this process.
#[derive(Debug)]
pub(super) struct Carrier {
    proxy: Handle,
    /// The process before, at its last connections.
    earlier: Option<Earlier>,
}

impl Carrier {
    pub(super) fn new(proxy: Handle, earlier: Option<Earlier>) -> Self {
        Self { proxy, earlier }
    }

    fn tell(&self, word: impl FnOnce() -> Word) {
        if let Some(earlier) = &self.earlier {
            earlier.tell(word());
        }
    }
}

impl DataPlane for Carrier {
    fn apply(&self, slice: &SliceId, live: Live) {
        self.proxy.apply(slice, live);
        self.tell(|| Word::Live(slice.clone(), live));
    }

    fn live(&self, slice: &SliceId) -> Option<Live> {
        self.proxy.live(slice)
    }

    fn under_way(&self, slice: &SliceId, between: &RangeInclusive<i64>) -> Option<UnderWay> {
        self.proxy.under_way(slice, between)
    }

    fn hold<'a>(&'a self, slice: &'a SliceId, within: Duration) -> BoxFuture<'a, PortResult<()>> {
        Box::pin(async move {
            self.proxy
                .hold(slice, within)
                .await
                .map_err(|error| PortError(error.to_string()))
        })
    }

    fn release(&self, slice: &SliceId) {
        self.proxy.release(slice);
    }

    fn held(&self, slice: &SliceId) -> u64 {
        self.proxy.held(slice)
    }

    fn counts(&self, slice: &SliceId) -> Option<ProxyEvidence> {
        self.proxy.counts(slice)
    }

    fn times(&self, slice: &SliceId, side: Side) -> Option<SideTimes> {
        self.proxy.times(slice, side)
    }

    fn routes(&self) -> Vec<RouteTimes> {
        self.proxy.routes()
    }

    fn build_times(&self) -> Vec<BuildTimes> {
        self.proxy.build_times()
    }

    fn services(&self) -> Vec<ServiceFigures> {
        self.proxy.services()
    }

    fn apply_builds(&self, service: &str, state: &BuildsState) {
        self.proxy.apply_builds(service, state);
        self.tell(|| Word::Builds(service.to_owned(), state.clone()));
    }

    fn builds(&self, service: &str) -> Vec<BuildFigures> {
        self.proxy.build_figures(service)
    }

    fn holds(&self) -> Vec<HoldFigures> {
        self.proxy.holds()
    }

    fn lines_lost(&self) -> Option<LinesLost> {
        self.proxy.lines_lost()
    }

    fn spans(&self) -> Option<SpanFigures> {
        self.proxy.spans()
    }

    fn clients(&self) -> ClientFigures {
        self.proxy.clients()
    }

    fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.proxy.refusals()
    }

    fn cache(&self) -> Option<CacheFigures> {
        self.proxy.cache()
    }

    fn asked(&self) -> Vec<AskedFigures> {
        self.proxy.asked()
    }

    fn describe(&self) -> Value {
        self.proxy.describe()
    }

    fn explain(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
    ) -> PortResult<Value> {
        let found = self
            .proxy
            .explain(method, target, headers)
            .map_err(PortError)?;
        serde_json::to_value(found).map_err(|error| PortError(error.to_string()))
    }
}
