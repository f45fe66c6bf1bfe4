//! The state of a slice: three axes, changed only by [`crate::advance`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Revision, Side, Weight};

/// Where a slice's read traffic stands.
///
/// Set by `route flip`, `route rollback`, a runbook step or the guard, always through the
/// store; survives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// All traffic on the legacy side, nothing mirrored.
    Legacy,
    /// All answers from the legacy side, a sample mirrored to the extracted side.
    Shadow,
    /// A share of the reads is answered by the extracted side.
    Canary(Weight),
    /// All reads are answered by the extracted side.
    Extracted,
    /// The legacy side is no longer asked nor kept in step. Terminal.
    Retired,
}

impl Traffic {
    /// The share of reads on the extracted side.
    pub fn weight(self) -> Weight {
        match self {
            Self::Legacy | Self::Shadow => Weight::ZERO,
            Self::Canary(weight) => weight,
            Self::Extracted | Self::Retired => Weight::FULL,
        }
    }

    /// Whether answers are mirrored to the other side for comparison.
    pub fn mirrors(self) -> bool {
        matches!(self, Self::Shadow | Self::Canary(_) | Self::Extracted)
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str("legacy"),
            Self::Shadow => f.write_str("shadow"),
            Self::Canary(weight) => write!(f, "canary {weight}"),
            Self::Extracted => f.write_str("extracted"),
            Self::Retired => f.write_str("retired"),
        }
    }
}

/// Where a slice's tables stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataPhase {
    /// Nothing installed in either database.
    Idle,
    /// The backfill runs, legacy to extracted, beside the change stream.
    Copying,
    /// The extracted side follows the legacy side.
    Following,
    /// The legacy side follows the extracted side.
    Reversed,
    /// Triggers, positions and fences are removed. Terminal.
    Closed,
}

impl DataPhase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Reversed => "reversed",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for DataPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The data axis with what can lie over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    pub phase: DataPhase,
    /// Set by `sync pause`, cleared by `sync resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Set by the bridge when it cannot go on by itself; cleared by `sync resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The whole state of a slice, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceState {
    pub revision: Revision,
    pub traffic: Traffic,
    /// The one side that takes the slice's writes. Changed only by the cutover.
    pub writer: Side,
    /// `None` for a slice without tables.
    pub data: Option<LinkState>,
    /// Counts rollbacks and aborts. A proxy that lowered a weight by itself obeys only a
    /// state of a later epoch, so an older promotion cannot undo a rollback.
    pub epoch: u64,
    /// Why no promotion may happen; rollback stays possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// Why nobody is served for a while; set and cleared by `route maintenance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<String>,
    /// Why nothing is mirrored, whatever the stage; set by the tripwire or `shadow pause`, cleared by
    /// `shadow resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmirrored: Option<String>,
    /// Routes of which nothing is mirrored, and why: the suspects of the tripwire. Cleared by
    /// `shadow resume`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmirrored_routes: BTreeMap<String, String>,
}

impl SliceState {
    /// The state of a slice that was just declared.
    pub fn new(has_tables: bool) -> Self {
        Self {
            revision: Revision(0),
            traffic: Traffic::Legacy,
            writer: Side::Legacy,
            data: has_tables.then_some(LinkState {
                phase: DataPhase::Idle,
                paused: None,
                failed: None,
            }),
            epoch: 0,
            frozen: None,
            maintenance: None,
            unmirrored: None,
            unmirrored_routes: BTreeMap::new(),
        }
    }

    /// Why not all that the stage mirrors is mirrored.
    pub fn not_mirrored(&self) -> Option<&str> {
        let of_routes = self.unmirrored_routes.values().next();
        self.unmirrored.as_ref().or(of_routes).map(String::as_str)
    }

    /// What a proxy must know of this state.
    pub fn live(&self) -> Live {
        Live {
            revision: self.revision,
            epoch: self.epoch,
            weight: self.traffic.weight(),
            writer: self.writer,
            mirror: self.traffic.mirrors() && self.unmirrored.is_none(),
            maintenance: self.maintenance.is_some(),
        }
    }
}

/// The part of a slice's state that the data plane acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub revision: Revision,
    pub epoch: u64,
    /// Share of reads on the extracted side.
    pub weight: Weight,
    /// The side that takes every write.
    pub writer: Side,
    /// Whether answered reads are offered to the shadow.
    pub mirror: bool,
    /// Nobody is served: neither side is asked.
    #[serde(default)]
    pub maintenance: bool,
}

impl Live {
    /// Everything on the legacy side: what a slice is before any state was read.
    pub fn legacy() -> Self {
        SliceState::new(false).live()
    }
}
