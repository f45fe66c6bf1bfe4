//! Compares: mirrors answered requests to the other side, says what differs, and how sure that is.
//!
//! Never on the client's path: the tap is bounded and drops with a reason; everything else runs
//! on the back office's runtime. Knows no database.

mod align;
mod arrays;
mod asking;
mod bodies;
mod body;
mod breaker;
mod budget;
mod causes;
mod clusters;
mod compare;
mod comparer;
mod diff;
mod door;
mod draft;
mod endpoints;
mod error;
mod features;
mod fields;
mod flights;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod graphql;
mod hidden;
mod history;
mod inbox;
mod json;
mod latency;
mod matcher;
mod mirror;
mod mutants;
mod noise;
mod path;
mod places;
mod rate;
mod raw;
mod reasons;
mod record;
mod recording;
mod redact;
mod renaming;
mod render;
mod replay;
mod report;
mod rewrite;
mod rules;
mod samples;
mod seen;
mod settings;
mod shadow;
mod slice;
mod stored;
mod tap;
mod twin;
mod what_if;
mod witnesses;
mod writes;

pub use asking::{AskedIds, check_asked};
pub use clusters::{ClusterField, ClusterRow};
pub use comparer::{Comparer, Finding};
pub use draft::Draft;
pub use error::Error;
pub use latency::LatencyDifference;
pub use places::{Dial, Dialed, Dialing, Io, Place, Places};
pub use raw::Raw;
pub use reasons::ReasonRow;
pub use recording::{Recorded, Recording, RecordingError, head};
pub use render::{Format, render};
pub use replay::{AcceptedDifference, Pace, Progress, ReplaySettings, Replayed, replay};
pub use report::{Report, RouteRow, RuleRow};
pub use rewrite::{Cookies, Pass, Query, Rewrite, Rewrites};
pub use settings::{
    Accept, ArrayBy, ArrayRule, Flow, Freshness, Known, Limits, Posts, RouteShadow, Rule,
    ShadowSettings, SliceShadow, Writes,
};
pub use shadow::Shadow;
pub use tap::{
    CapturedRequest, CapturedResponse, Exchange, Issuer, Lost, SHADOW_MARK, SideTargets, Tap,
    Ticket,
};
pub use what_if::{Changed, Comparing, Excused, Hides, Judged, Score, WhatIf};
pub use writes::DRY_RUN;
