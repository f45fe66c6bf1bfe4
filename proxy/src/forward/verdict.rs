//! Answers that turn out to be failures behind their heads: calls that say so at their end (gRPC), and
//! upstreams that fall silent or break off.

use std::rc::Rc;

use http::HeaderMap;
use outgrow_rollout::Side;

use crate::core::Core;
use crate::grpc;
use crate::guard::ErrorEvent;

/// Counts such an answer. It was counted as an answer when its head came.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(super) core: Rc<Core>,
    /// Where it belongs to one.
    pub(super) slice: Option<usize>,
    /// What the guard is told.
    pub(super) event: Option<ErrorEvent>,
    pub(super) route: usize,
    pub(super) side: Side,
}

impl Verdict {
    pub(crate) fn hear(&self, trailers: &HeaderMap) {
        if grpc::has_failed(trailers) {
            self.fail();
        }
    }

    pub(crate) fn fail(&self) {
        let index = self.core.index;
        self.core.shared.routes.fail(index, self.route, self.side);
        let mut by_build = self.core.shared.legacy_builds.as_ref();
        if let Some(slice) = self.slice.map(|slice| &self.core.shared.slices[slice]) {
            slice.counts.fail(index, self.side);
            if self.side == Side::Extracted {
                by_build = slice.by_build.as_ref();
            }
        }
        let Some(event) = self.event else { return };
        if let (Some(counts), Some(build)) = (by_build, event.build) {
            counts.fail((index, build));
        }
        tell(&self.core, event);
    }
}

/// Tells the guard.
pub(super) fn tell(core: &Core, event: ErrorEvent) {
    // Full means a storm; the guard has enough to judge by, and reads the counts too.
    let _ = core.shared.errors.try_send(event);
}
