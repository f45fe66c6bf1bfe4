//! Figures that the data plane of a world tells.

use outgrow_rollout::{AskedFigures, SideTimes, TokenFigures};

/// Of one that is asked about tokens, and of one that says who may ask.
pub(super) fn asked() -> Vec<AskedFigures> {
    let asked = |kind, name: &str, tokens| AskedFigures {
        kind,
        name: name.to_owned(),
        outcomes: vec![("passed", 7), ("failed", 1)],
        times: SideTimes {
            errors: 1,
            sum_us: 16_000,
            within_us: vec![(1_024, 0), (2_048, 8)],
            above: 0,
        },
        tokens,
    };
    let tokens = TokenFigures {
        sources: vec![("kept", 90), ("asked", 8)],
        entries: 5,
        bytes: 6_000,
        size: 1 << 20,
    };
    vec![
        asked("introspection", "sessions", Some(tokens)),
        asked("service", "gate", None),
    ]
}
