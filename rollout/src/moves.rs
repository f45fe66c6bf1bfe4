//! The legal moves of a slice. [`advance`] is the only way from one state to the next.

use std::collections::BTreeSet;

use crate::ids::{Side, Weight};
use crate::state::{DataPhase, SliceState, Traffic};

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Move {
    /// Move reads forward or back by the operator's or the runbook's wish.
    Traffic(Traffic),
    /// Take the reads back at once; allowed while frozen. Ends at shadow, or at legacy.
    Rollback {
        to_legacy: bool,
    },
    /// Change the writer. Only the cutover asks for this.
    Writer(Side),
    /// Change the data axis.
    Data(DataPhase),
    PauseLink(String),
    ResumeLink,
    FailLink(String),
    Freeze(String),
    Unfreeze,
    /// Serve nobody for a while, for this reason; also where the slice is frozen or retired.
    Maintain(String),
    /// Serve again.
    EndMaintenance,
    /// Mirror nothing, for this reason, whatever the stage.
    StopMirror(String),
    /// Mirror nothing of these routes, for this reason.
    StopRoutes {
        routes: BTreeSet<String>,
        reason: String,
    },
    /// Mirror again, routes that were stopped included.
    ResumeMirror,
    /// Mirror these routes again; those that were not stopped are as they were.
    ResumeRoutes(BTreeSet<String>),
}

/// Why a move is not possible from this state. The text says what would make it possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalMove {
    #[error("the slice is retired; nothing moves any more")]
    Retired,
    #[error("the slice is frozen ({0}); `route unfreeze` it first, or `route rollback`")]
    Frozen(String),
    #[error(
        "not all is mirrored ({0}), so not all is proven; see to it, then `shadow resume`, or \
         `route rollback`"
    )]
    Unmirrored(String),
    #[error("traffic cannot go from {from} to {to}: {remedy}")]
    Traffic {
        from: Traffic,
        to: Traffic,
        remedy: &'static str,
    },
    #[error("the writer is already {0}")]
    SameWriter(Side),
    #[error("the writer cannot change: {0}")]
    Writer(&'static str),
    #[error("data cannot go from {from} to {to}: {remedy}")]
    Data {
        from: DataPhase,
        to: DataPhase,
        remedy: &'static str,
    },
    #[error("the slice has no tables, so it has no link")]
    NoTables,
    #[error("the state is already as asked")]
    Unchanged,
}

/// The state after `wanted`, with the revision raised by one.
///
/// # Errors
/// Returns [`IllegalMove`] with the remedy; the state is unchanged then.
pub fn advance(state: &SliceState, wanted: &Move) -> Result<SliceState, IllegalMove> {
    if state.traffic == Traffic::Retired
        && !matches!(
            wanted,
            Move::Data(DataPhase::Closed)
                | Move::FailLink(_)
                | Move::Maintain(_)
                | Move::EndMaintenance
        )
    {
        return Err(IllegalMove::Retired);
    }
    let mut next = state.clone();
    match wanted {
        Move::Traffic(to) => traffic(state, &mut next, *to)?,
        Move::Rollback { to_legacy } => {
            next.traffic = if *to_legacy {
                Traffic::Legacy
            } else {
                Traffic::Shadow
            };
            next.epoch += 1;
        }
        Move::Writer(side) => writer(state, &mut next, *side)?,
        Move::Data(to) => data(state, &mut next, *to)?,
        Move::PauseLink(_) | Move::ResumeLink | Move::FailLink(_) => link(&mut next, wanted)?,
        Move::Freeze(reason) => next.frozen = Some(reason.clone()),
        Move::Unfreeze => next.frozen = None,
        Move::Maintain(reason) => next.maintenance = Some(reason.clone()),
        Move::EndMaintenance => next.maintenance = None,
        Move::StopMirror(reason) => next.unmirrored = Some(reason.clone()),
        Move::StopRoutes { routes, reason } => {
            for route in routes {
                // Known by what stopped it first.
                let known = next.unmirrored_routes.entry(route.clone());
                known.or_insert_with(|| reason.clone());
            }
        }
        Move::ResumeMirror => {
            next.unmirrored = None;
            next.unmirrored_routes.clear();
        }
        Move::ResumeRoutes(routes) => {
            next.unmirrored_routes
                .retain(|route, _| !routes.contains(route));
        }
    }
    // A rollback is always a new epoch, even where the stage is the same already.
    if next == *state {
        return Err(IllegalMove::Unchanged);
    }
    next.revision = state.revision.next();
    Ok(next)
}

fn traffic(state: &SliceState, next: &mut SliceState, to: Traffic) -> Result<(), IllegalMove> {
    let from = state.traffic;
    let refuse = |remedy| Err(IllegalMove::Traffic { from, to, remedy });
    if to == from {
        return Err(IllegalMove::Unchanged);
    }
    let lowers = to.weight() < from.weight() || to == Traffic::Legacy;
    if lowers {
        next.epoch += 1;
    } else if let Some(reason) = &state.frozen {
        return Err(IllegalMove::Frozen(reason.clone()));
    }
    match (from, to) {
        (Traffic::Legacy, Traffic::Canary(_) | Traffic::Extracted) => {
            return refuse("mirror it first (`route flip SLICE shadow`)");
        }
        (Traffic::Shadow, Traffic::Extracted) => {
            return refuse("canary it first (`route flip SLICE canary=PERCENT`)");
        }
        (_, Traffic::Canary(weight)) if weight == Weight::ZERO => {
            return refuse("a canary of 0% is `shadow`");
        }
        (Traffic::Canary(weight), Traffic::Extracted) if weight != Weight::FULL => {
            return refuse("raise the canary to 100% first");
        }
        (Traffic::Extracted, Traffic::Retired) => retirable(state, from, to)?,
        (_, Traffic::Retired) => return refuse("only a slice whose traffic is extracted retires"),
        _ => {}
    }
    if to.weight() > from.weight()
        && let Some(reason) = state.not_mirrored()
    {
        return Err(IllegalMove::Unmirrored(reason.to_owned()));
    }
    if to.weight() > Weight::ZERO {
        fed(state, from, to)?;
    }
    next.traffic = to;
    Ok(())
}

/// A slice with tables answers from the extracted side only while its rows are kept in step.
fn fed(state: &SliceState, from: Traffic, to: Traffic) -> Result<(), IllegalMove> {
    let refuse = |remedy| Err(IllegalMove::Traffic { from, to, remedy });
    let Some(link) = &state.data else {
        return Ok(());
    };
    if to.weight() <= from.weight() {
        return Ok(());
    }
    if link.failed.is_some() || link.paused.is_some() {
        return refuse("its link is paused or failed; see `sync status`, then `sync resume`");
    }
    match link.phase {
        DataPhase::Following | DataPhase::Reversed => Ok(()),
        DataPhase::Idle => refuse("its tables are not copied; `sync start` first"),
        DataPhase::Copying => refuse("its tables are still being copied; see `sync status`"),
        DataPhase::Closed => Ok(()),
    }
}

fn retirable(state: &SliceState, from: Traffic, to: Traffic) -> Result<(), IllegalMove> {
    if state.data.is_some() && state.writer != Side::Extracted {
        return Err(IllegalMove::Traffic {
            from,
            to,
            remedy: "the legacy side still takes the writes; cut them over first",
        });
    }
    Ok(())
}

fn writer(state: &SliceState, next: &mut SliceState, side: Side) -> Result<(), IllegalMove> {
    if state.writer == side {
        return Err(IllegalMove::SameWriter(side));
    }
    if side == Side::Extracted {
        if let Some(reason) = &state.frozen {
            return Err(IllegalMove::Frozen(reason.clone()));
        }
        if state.traffic != Traffic::Extracted {
            return Err(IllegalMove::Writer(
                "bring all reads to the extracted side first",
            ));
        }
    }
    if let Some(link) = &mut next.data {
        if link.failed.is_some() || link.paused.is_some() {
            return Err(IllegalMove::Writer(
                "its link is paused or failed; `sync resume` first",
            ));
        }
        link.phase = match (side, link.phase) {
            (Side::Extracted, DataPhase::Following) => DataPhase::Reversed,
            (Side::Legacy, DataPhase::Reversed) => DataPhase::Following,
            _ => {
                return Err(IllegalMove::Writer(
                    "its tables are not in step; see `sync status`",
                ));
            }
        };
    }
    next.writer = side;
    Ok(())
}

fn data(state: &SliceState, next: &mut SliceState, to: DataPhase) -> Result<(), IllegalMove> {
    let Some(link) = &mut next.data else {
        return Err(IllegalMove::NoTables);
    };
    let from = link.phase;
    let refuse = |remedy| Err(IllegalMove::Data { from, to, remedy });
    match (from, to) {
        (DataPhase::Idle, DataPhase::Copying) | (DataPhase::Copying, DataPhase::Following) => {}
        (DataPhase::Closed, _) => return refuse("a closed link does not open again"),
        (_, DataPhase::Closed) => {
            if state.traffic != Traffic::Retired && state.traffic != Traffic::Legacy {
                return refuse("the slice still uses both sides; retire it, or bring it to legacy");
            }
            if state.traffic == Traffic::Legacy && state.writer == Side::Extracted {
                return refuse("the extracted side takes the writes; cut back first");
            }
        }
        (_, DataPhase::Reversed) => return refuse("only the cutover reverses a link"),
        (_, DataPhase::Copying) => return refuse("the link was started already"),
        _ => return refuse("start the copy first (`sync start`)"),
    }
    link.phase = to;
    if to == DataPhase::Closed {
        link.paused = None;
        link.failed = None;
    }
    Ok(())
}

fn link(next: &mut SliceState, wanted: &Move) -> Result<(), IllegalMove> {
    let Some(link) = &mut next.data else {
        return Err(IllegalMove::NoTables);
    };
    match wanted {
        Move::PauseLink(reason) => link.paused = Some(reason.clone()),
        Move::FailLink(reason) => link.failed = Some(reason.clone()),
        _ => {
            link.paused = None;
            link.failed = None;
        }
    }
    Ok(())
}
