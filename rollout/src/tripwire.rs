//! Whether mirrored requests write: a read that changes a row of the side that only follows.
//!
//! While every answer comes from the side that takes the writes, the other side is asked by the
//! shadow alone, and its mapped tables are the bridge's alone. A row there that somebody else has
//! changed was most likely changed by a mirrored request.

use std::time::Duration;

use crate::evidence::SyncEvidence;
use crate::ids::Side;
use crate::state::{SliceState, Traffic};

/// The row, where mirroring is to stop. `mirrored` is for how long the slice has been, in this stage.
#[must_use]
pub fn tripped(state: &SliceState, sync: &SyncEvidence, mirrored: Duration) -> Option<String> {
    let asked_alone = matches!(
        (state.traffic, state.writer),
        (Traffic::Shadow, Side::Legacy) | (Traffic::Extracted, Side::Extracted)
    );
    if !asked_alone || state.unmirrored.is_some() || sync.source != state.writer {
        return None;
    }
    // Counts outlive restarts and stages; what counts is whether it came while this one asked.
    let age = Duration::from_millis(sync.foreign_write_age_ms?);
    if sync.foreign_writes == 0 || age >= mirrored {
        return None;
    }
    let row = sync.last_foreign.as_deref().unwrap_or("a row");
    Some(format!(
        "tripwire: {row} was changed by something other than the bridge while reads were mirrored"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(foreign: u64, age_ms: u64) -> SyncEvidence {
        SyncEvidence {
            source: Side::Legacy,
            copied_rows: 0,
            total_rows: 0,
            applied_rows: 0,
            copied: true,
            lag_ms: None,
            reverse_lag_ms: None,
            backlog: 0,
            parked: 0,
            conflicts: 0,
            foreign_writes: foreign,
            foreign_write_age_ms: Some(age_ms),
            last_foreign: Some("extracted `product` key 7 (U)".to_owned()),
            verified: None,
            verified_age_ms: None,
            log_kept_bytes: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_write_that_is_new_stops_the_mirroring_where_only_the_shadow_asks() {
        let mirrored = Duration::from_secs(10);
        let mut state = SliceState::new(true);
        state.traffic = Traffic::Shadow;
        let found = tripped(&state, &sync(4, 100), mirrored).unwrap();
        assert!(found.contains("extracted `product` key 7 (U)"), "{found}");
        assert_eq!(tripped(&state, &sync(0, 100), mirrored), None, "nothing");
        assert_eq!(
            tripped(&state, &sync(4, 10_000), mirrored),
            None,
            "older than that"
        );
        let mut from_there = sync(4, 100);
        from_there.source = Side::Extracted;
        assert_eq!(
            tripped(&state, &from_there, mirrored),
            None,
            "the link turns"
        );
        for (traffic, writer, source, trips) in [
            (Traffic::Legacy, Side::Legacy, Side::Legacy, false),
            // Clients are answered by that side, too, and may write in their reads.
            (Traffic::Extracted, Side::Legacy, Side::Legacy, false),
            (Traffic::Extracted, Side::Extracted, Side::Extracted, true),
        ] {
            let state = SliceState {
                traffic,
                writer,
                ..state.clone()
            };
            let mut seen = sync(4, 100);
            seen.source = source;
            assert_eq!(
                tripped(&state, &seen, mirrored).is_some(),
                trips,
                "{traffic}"
            );
        }
        state.unmirrored = Some("known".to_owned());
        assert_eq!(
            tripped(&state, &sync(4, 100), mirrored),
            None,
            "stopped already"
        );
    }
}
