//! The cutover of a slice's writes, as a state machine: which step follows which outcome.
//!
//! The controller journals each step *before* it does it, so that another controller (or the
//! same after a crash) can go on: before [`CutoverStep::Switch`] has happened it takes
//! everything back, from then on it goes through to the end. There is no step from which the
//! outcome would depend on who died when. The model in this crate's tests checks that.

use serde::{Deserialize, Serialize};

use crate::ids::Side;

/// One step, in the order of a cutover that succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutoverStep {
    /// Ask the gates. Nothing is changed.
    Preflight,
    /// New writes wait in the proxies; those in flight end.
    Hold,
    /// Nobody but the bridge may write the old writer's tables.
    Fence,
    /// The bridge applies up to the fence.
    Drain,
    /// Row counts and the latest rows are compared.
    Check,
    /// The writer changes, by compare-and-swap on the revision. From here there is no way back
    /// but another cutover.
    Switch,
    /// Rows flow the other way from now on.
    Turn,
    /// The proxies learn the new writer.
    Apply,
    /// The held writes go to the new writer.
    Release,
    Switched,
    /// Taking back: the old writer's tables may be written again.
    Unfence,
    /// Taking back: the held writes go to the old writer.
    LetGo,
    Aborted,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Done,
    /// It failed or took too long, and is known not to have happened.
    Failed,
    /// Nobody knows whether it happened: the store answered nothing, say.
    Unknown,
}

/// The step after `step` ended with `outcome`.
///
/// After the switch a step that fails is done again: its only other way out would be to lose
/// writes. The switch itself is done again while nobody knows whether it happened; it is a
/// compare-and-swap, so doing it again tells.
#[must_use]
pub fn next(step: CutoverStep, outcome: Outcome) -> CutoverStep {
    use CutoverStep as S;
    match (step, outcome) {
        (S::Preflight, Outcome::Done) => S::Hold,
        (S::Preflight, _) => S::Aborted,
        (S::Hold, Outcome::Done) => S::Fence,
        (S::Fence, Outcome::Done) => S::Drain,
        (S::Drain, Outcome::Done) => S::Check,
        (S::Check, Outcome::Done) => S::Switch,
        // A fence or hold that failed may still be there in part, so all is taken back.
        (S::Hold | S::Fence | S::Drain | S::Check, _) => S::Unfence,
        (S::Switch, Outcome::Done) => S::Turn,
        (S::Switch, Outcome::Failed) => S::Unfence,
        (S::Turn, Outcome::Done) => S::Apply,
        (S::Apply, Outcome::Done) => S::Release,
        (S::Release, Outcome::Done) => S::Switched,
        (S::Unfence, Outcome::Done) => S::LetGo,
        (S::LetGo, Outcome::Done) => S::Aborted,
        (again, _) => again,
    }
}

/// Where to go on after a crash: `step` is what the store remembers, `writer` the writer that
/// it holds, `to` the writer that was wanted.
#[must_use]
pub fn resume(step: CutoverStep, writer: Side, to: Side) -> CutoverStep {
    use CutoverStep as S;
    match step {
        S::Switched | S::Aborted => step,
        // The writer is the truth: the switch and its record are one transaction.
        _ if writer == to => step.max(S::Turn).min(S::Release),
        S::LetGo => S::LetGo,
        _ => S::Unfence,
    }
}

impl CutoverStep {
    /// Nothing is left to do.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Switched | Self::Aborted)
    }

    /// Whether the time limit of the hold still applies: before the switch was begun.
    #[must_use]
    pub fn may_time_out(self) -> bool {
        self < Self::Switch
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Hold => "hold",
            Self::Fence => "fence",
            Self::Drain => "drain",
            Self::Check => "check",
            Self::Switch => "switch",
            Self::Turn => "turn",
            Self::Apply => "apply",
            Self::Release => "release",
            Self::Switched => "switched",
            Self::Unfence => "unfence",
            Self::LetGo => "let-go",
            Self::Aborted => "aborted",
        }
    }
}

impl std::fmt::Display for CutoverStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CutoverStep as S;

    const ROAD: [S; 10] = [
        S::Preflight,
        S::Hold,
        S::Fence,
        S::Drain,
        S::Check,
        S::Switch,
        S::Turn,
        S::Apply,
        S::Release,
        S::Switched,
    ];

    #[test]
    fn success_goes_down_the_road() {
        for pair in ROAD.windows(2) {
            assert_eq!(next(pair[0], Outcome::Done), pair[1]);
        }
    }

    #[test]
    fn failure_before_the_switch_takes_all_back_and_after_it_goes_on() {
        assert_eq!(next(S::Preflight, Outcome::Failed), S::Aborted);
        for step in [S::Hold, S::Fence, S::Drain, S::Check, S::Switch] {
            assert_eq!(next(step, Outcome::Failed), S::Unfence, "{step}");
        }
        for step in [S::Turn, S::Apply, S::Release, S::Unfence, S::LetGo] {
            assert_eq!(next(step, Outcome::Failed), step);
        }
        assert_eq!(next(S::Switch, Outcome::Unknown), S::Switch);
    }

    #[test]
    fn a_crash_is_resumed_by_what_the_store_says_of_the_writer() {
        for step in ROAD.into_iter().filter(|step| !step.is_end()) {
            let back = resume(step, Side::Legacy, Side::Extracted);
            assert_eq!(back, S::Unfence, "{step}");
            let on = resume(step, Side::Extracted, Side::Extracted);
            assert!((S::Turn..=S::Release).contains(&on), "{step} -> {on}");
        }
        assert_eq!(resume(S::LetGo, Side::Legacy, Side::Extracted), S::LetGo);
    }

    #[test]
    fn every_step_ends_when_all_goes_well_from_there() {
        for step in ROAD.into_iter().chain([S::Unfence, S::LetGo]) {
            let mut at = step;
            for _ in 0..12 {
                at = next(at, Outcome::Done);
            }
            assert!(at.is_end(), "{step} ends at {at}");
        }
    }
}
