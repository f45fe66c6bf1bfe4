//! Which moves are legal from where, and what holds after any sequence of them.

use std::collections::BTreeSet;

use outgrow_rollout::{DataPhase, IllegalMove, Move, Side, SliceState, Traffic, Weight, advance};
use proptest::prelude::*;

fn canary(percent: &str) -> Traffic {
    Traffic::Canary(Weight::from_percent(percent).unwrap())
}

fn state(traffic: Traffic, writer: Side, phase: Option<DataPhase>) -> SliceState {
    let mut state = SliceState::new(phase.is_some());
    (state.traffic, state.writer) = (traffic, writer);
    if let (Some(link), Some(phase)) = (&mut state.data, phase) {
        link.phase = phase;
    }
    state
}

#[track_caller]
fn check(from: &SliceState, wanted: &Move, expected: Result<(), &str>) {
    match (advance(from, wanted), expected) {
        (Ok(after), Ok(())) => {
            assert_eq!(after.revision.0, from.revision.0 + 1, "{wanted:?}");
        }
        (Err(error), Err(says)) => {
            let text = error.to_string();
            assert!(text.contains(says), "{wanted:?}: {text}");
        }
        (got, _) => panic!("{wanted:?} from {from:?} gives {got:?}, not {expected:?}"),
    }
}

#[test]
fn traffic_moves_one_stage_forward_and_any_stage_back() {
    use DataPhase::Following;
    use Traffic::{Extracted, Legacy, Retired, Shadow};
    let full = Traffic::Canary(Weight::FULL);
    for (from, to, expected) in [
        (Legacy, Shadow, Ok(())),
        (Legacy, canary("1"), Err("mirror it first")),
        (Legacy, Extracted, Err("mirror it first")),
        (
            Legacy,
            Retired,
            Err("only a slice whose traffic is extracted retires"),
        ),
        (Legacy, Legacy, Err("already as asked")),
        (Shadow, canary("1"), Ok(())),
        (Shadow, canary("0"), Err("a canary of 0% is `shadow`")),
        (Shadow, Extracted, Err("canary it first")),
        (Shadow, Legacy, Ok(())),
        (canary("5"), canary("25"), Ok(())),
        (canary("25"), canary("5"), Ok(())),
        (
            canary("25"),
            Extracted,
            Err("raise the canary to 100% first"),
        ),
        (full, Extracted, Ok(())),
        (canary("25"), Shadow, Ok(())),
        (canary("25"), Legacy, Ok(())),
        (Extracted, canary("50"), Ok(())),
        (Extracted, Shadow, Ok(())),
        (Extracted, Retired, Err("cut them over first")),
    ] {
        let before = state(from, Side::Legacy, Some(Following));
        check(&before, &Move::Traffic(to), expected);
    }
    let ready = state(Extracted, Side::Extracted, Some(DataPhase::Reversed));
    check(&ready, &Move::Traffic(Retired), Ok(()));
    check(
        &state(Extracted, Side::Legacy, None),
        &Move::Traffic(Retired),
        Ok(()),
    );
}

#[test]
fn a_share_of_reads_needs_rows_that_are_kept_in_step() {
    for (phase, expected) in [
        (DataPhase::Idle, Err("are not copied")),
        (DataPhase::Copying, Err("still being copied")),
        (DataPhase::Following, Ok(())),
        (DataPhase::Reversed, Ok(())),
    ] {
        let before = state(Traffic::Shadow, Side::Legacy, Some(phase));
        check(&before, &Move::Traffic(canary("1")), expected);
    }
    for spoil in [
        Move::PauseLink("x".to_owned()),
        Move::FailLink("x".to_owned()),
    ] {
        let following = state(canary("5"), Side::Legacy, Some(DataPhase::Following));
        let spoiled = advance(&following, &spoil).unwrap();
        check(
            &spoiled,
            &Move::Traffic(canary("25")),
            Err("paused or failed"),
        );
        // The way back stays open.
        check(&spoiled, &Move::Traffic(Traffic::Shadow), Ok(()));
        let resumed = advance(&spoiled, &Move::ResumeLink).unwrap();
        check(&resumed, &Move::Traffic(canary("25")), Ok(()));
    }
}

#[test]
fn the_writer_changes_only_with_all_reads_and_rows_in_step() {
    use DataPhase::{Copying, Following, Reversed};
    for (traffic, writer, phase, to, expected) in [
        (
            Traffic::Extracted,
            Side::Legacy,
            Some(Following),
            Side::Extracted,
            Ok(()),
        ),
        (
            canary("100"),
            Side::Legacy,
            Some(Following),
            Side::Extracted,
            Err("all reads"),
        ),
        (
            Traffic::Extracted,
            Side::Legacy,
            Some(Copying),
            Side::Extracted,
            Err("not in step"),
        ),
        (
            Traffic::Extracted,
            Side::Extracted,
            Some(Reversed),
            Side::Extracted,
            Err("already"),
        ),
        (
            Traffic::Shadow,
            Side::Extracted,
            Some(Reversed),
            Side::Legacy,
            Ok(()),
        ),
        (
            Traffic::Legacy,
            Side::Extracted,
            Some(Reversed),
            Side::Legacy,
            Ok(()),
        ),
        (
            Traffic::Shadow,
            Side::Extracted,
            Some(Following),
            Side::Legacy,
            Err("not in step"),
        ),
        (
            Traffic::Extracted,
            Side::Legacy,
            None,
            Side::Extracted,
            Ok(()),
        ),
    ] {
        let before = state(traffic, writer, phase);
        check(&before, &Move::Writer(to), expected);
    }
}

#[test]
fn the_data_axis_goes_its_way() {
    use DataPhase::{Closed, Copying, Following, Idle, Reversed};
    for (traffic, writer, from, to, expected) in [
        (Traffic::Legacy, Side::Legacy, Idle, Copying, Ok(())),
        (
            Traffic::Legacy,
            Side::Legacy,
            Idle,
            Following,
            Err("sync start"),
        ),
        (Traffic::Legacy, Side::Legacy, Copying, Following, Ok(())),
        (
            Traffic::Legacy,
            Side::Legacy,
            Following,
            Copying,
            Err("started already"),
        ),
        (
            Traffic::Extracted,
            Side::Legacy,
            Following,
            Reversed,
            Err("only the cutover"),
        ),
        (
            Traffic::Shadow,
            Side::Legacy,
            Following,
            Closed,
            Err("still uses both"),
        ),
        (Traffic::Legacy, Side::Legacy, Following, Closed, Ok(())),
        (
            Traffic::Legacy,
            Side::Extracted,
            Reversed,
            Closed,
            Err("cut back first"),
        ),
        (Traffic::Retired, Side::Extracted, Reversed, Closed, Ok(())),
        (
            Traffic::Legacy,
            Side::Legacy,
            Closed,
            Copying,
            Err("does not open again"),
        ),
    ] {
        check(
            &state(traffic, writer, Some(from)),
            &Move::Data(to),
            expected,
        );
    }
    let without = state(Traffic::Legacy, Side::Legacy, None);
    check(&without, &Move::Data(Copying), Err("no tables"));
    check(&without, &Move::ResumeLink, Err("no link"));
}

#[test]
fn a_frozen_slice_moves_only_back() {
    let before = state(canary("5"), Side::Legacy, Some(DataPhase::Following));
    let frozen = advance(&before, &Move::Freeze("weekend".to_owned())).unwrap();
    check(
        &frozen,
        &Move::Traffic(canary("25")),
        Err("frozen (weekend)"),
    );
    check(&frozen, &Move::Traffic(canary("1")), Ok(()));
    check(&frozen, &Move::Rollback { to_legacy: false }, Ok(()));
    let thawed = advance(&frozen, &Move::Unfreeze).unwrap();
    check(&thawed, &Move::Traffic(canary("25")), Ok(()));
    check(&thawed, &Move::Unfreeze, Err("already as asked"));
}

#[test]
fn maintenance_lies_over_every_stage_and_changes_none() {
    for (traffic, writer, phase) in [
        (Traffic::Legacy, Side::Legacy, DataPhase::Idle),
        (canary("5"), Side::Legacy, DataPhase::Following),
        (Traffic::Retired, Side::Extracted, DataPhase::Closed),
    ] {
        let before = state(traffic, writer, Some(phase));
        let closed = advance(&before, &Move::Maintain("a new disk".to_owned())).unwrap();
        assert!(closed.live().maintenance && !before.live().maintenance);
        assert_eq!(closed.maintenance.as_deref(), Some("a new disk"));
        check(&before, &Move::EndMaintenance, Err("already as asked"));
        let open = advance(&closed, &Move::EndMaintenance).unwrap();
        assert_eq!(
            SliceState {
                revision: before.revision,
                ..open
            },
            before
        );
    }
    let before = state(canary("5"), Side::Legacy, Some(DataPhase::Following));
    let closed = advance(&before, &Move::Maintain("a new disk".to_owned())).unwrap();
    let back = advance(&closed, &Move::Rollback { to_legacy: false }).unwrap();
    assert!(back.live().maintenance, "a rollback opens nothing");
}

#[test]
fn a_slice_that_is_not_mirrored_moves_only_back() {
    let before = state(canary("5"), Side::Legacy, Some(DataPhase::Following));
    let stopped = advance(&before, &Move::StopMirror("a row".to_owned())).unwrap();
    assert!(before.live().mirror && !stopped.live().mirror);
    check(
        &stopped,
        &Move::Traffic(canary("25")),
        Err("not all is mirrored (a row)"),
    );
    check(&stopped, &Move::Traffic(Traffic::Shadow), Ok(()));
    let back = advance(&stopped, &Move::Rollback { to_legacy: false }).unwrap();
    assert!(!back.live().mirror, "a rollback mirrors nothing again");
    let again = advance(&stopped, &Move::ResumeMirror).unwrap();
    assert!(again.live().mirror);
    check(&again, &Move::Traffic(canary("25")), Ok(()));
    check(&again, &Move::ResumeMirror, Err("already as asked"));
}

#[test]
fn suspected_routes_keep_a_slice_back_until_somebody_has_looked() {
    let before = state(canary("5"), Side::Legacy, Some(DataPhase::Following));
    let set = |routes: &[&str]| routes.iter().map(|route| (*route).to_owned()).collect();
    let stop = |routes: &[&str], reason: &str| Move::StopRoutes {
        routes: set(routes),
        reason: reason.to_owned(),
    };
    let stopped = advance(&before, &stop(&["GET /a", "GET /b"], "a row")).unwrap();
    assert!(stopped.live().mirror, "the other routes are mirrored");
    let further = Move::Traffic(canary("25"));
    check(&stopped, &further, Err("not all is mirrored (a row)"));
    check(&stopped, &Move::Traffic(Traffic::Shadow), Ok(()));
    let back = advance(&stopped, &Move::Rollback { to_legacy: false }).unwrap();
    assert_eq!(back.unmirrored_routes, stopped.unmirrored_routes);
    let again = stop(&["GET /b"], "another row");
    check(&stopped, &again, Err("already as asked"));
    let unknown = Move::ResumeRoutes(set(&["GET /c"]));
    check(&stopped, &unknown, Err("already as asked"));
    let one = advance(&stopped, &Move::ResumeRoutes(set(&["GET /a"]))).unwrap();
    assert_eq!(one.not_mirrored(), Some("a row"));
    check(&one, &further, Err("not all is mirrored"));
    let all = advance(&one, &Move::ResumeMirror).unwrap();
    assert_eq!(all.not_mirrored(), None);
    check(&all, &further, Ok(()));
}

#[test]
fn every_way_back_is_a_new_epoch() {
    let before = state(canary("25"), Side::Legacy, Some(DataPhase::Following));
    for wanted in [
        Move::Traffic(canary("5")),
        Move::Traffic(Traffic::Shadow),
        Move::Traffic(Traffic::Legacy),
        Move::Rollback { to_legacy: true },
        Move::Rollback { to_legacy: false },
    ] {
        assert_eq!(advance(&before, &wanted).unwrap().epoch, 1, "{wanted:?}");
    }
    assert_eq!(
        advance(&before, &Move::Traffic(canary("50")))
            .unwrap()
            .epoch,
        0
    );
}

fn route() -> BTreeSet<String> {
    BTreeSet::from(["GET /a".to_owned()])
}

fn any_move() -> impl Strategy<Value = Move> {
    let traffic = prop_oneof![
        Just(Traffic::Legacy),
        Just(Traffic::Shadow),
        prop_oneof![Just(100u16), Just(5_000), Just(10_000)]
            .prop_map(|points| Traffic::Canary(Weight::from_basis_points(points).unwrap())),
        Just(Traffic::Extracted),
        Just(Traffic::Retired),
    ];
    let phase = prop_oneof![
        Just(DataPhase::Copying),
        Just(DataPhase::Following),
        Just(DataPhase::Reversed),
        Just(DataPhase::Closed),
    ];
    prop_oneof![
        8 => traffic.prop_map(Move::Traffic),
        1 => any::<bool>().prop_map(|to_legacy| Move::Rollback { to_legacy }),
        4 => prop_oneof![Just(Side::Legacy), Just(Side::Extracted)].prop_map(Move::Writer),
        6 => phase.prop_map(Move::Data),
        1 => Just(Move::PauseLink("p".to_owned())),
        2 => Just(Move::ResumeLink),
        1 => Just(Move::FailLink("f".to_owned())),
        1 => Just(Move::Freeze("z".to_owned())),
        2 => Just(Move::Unfreeze),
        1 => Just(Move::Maintain("m".to_owned())),
        1 => Just(Move::EndMaintenance),
        1 => Just(Move::StopMirror("t".to_owned())),
        1 => Just(Move::ResumeMirror),
        1 => Just(Move::StopRoutes { routes: route(), reason: "t".to_owned() }),
        1 => Just(Move::ResumeRoutes(route())),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_moves_keeps_the_rules(
        has_tables: bool,
        moves in proptest::collection::vec(any_move(), 1..120),
    ) {
        let mut state = SliceState::new(has_tables);
        for wanted in moves {
            let after = match advance(&state, &wanted) {
                Ok(after) => after,
                Err(IllegalMove::Retired) => {
                    prop_assert_eq!(state.traffic, Traffic::Retired);
                    continue;
                }
                Err(_) => continue,
            };
            prop_assert_eq!(after.revision.0, state.revision.0 + 1);
            prop_assert!(after.epoch >= state.epoch);
            if state.traffic == Traffic::Retired {
                prop_assert_eq!(after.traffic, Traffic::Retired);
            }
            if after.traffic.weight() < state.traffic.weight() {
                prop_assert!(after.epoch > state.epoch, "a way back is a new epoch");
            }
            if after.writer != state.writer {
                prop_assert!(matches!(wanted, Move::Writer(_)));
                if after.writer == Side::Extracted {
                    prop_assert_eq!(after.traffic, Traffic::Extracted);
                }
            }
            // The rows flow from the writer whenever the link is in step.
            match after.data.as_ref().map(|link| link.phase) {
                Some(DataPhase::Following) => prop_assert_eq!(after.writer, Side::Legacy),
                Some(DataPhase::Reversed) => prop_assert_eq!(after.writer, Side::Extracted),
                _ => {}
            }
            prop_assert_eq!(after.data.is_some(), has_tables);
            state = after;
        }
    }
}
