//! The plan of a slice: the steps from legacy to retired, and the limits of their gates.
//!
//! A plan says what must hold before a step; where the slice stands is state, never plan.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::figures;
use crate::ids::{Side, Weight};
use crate::state::{DataPhase, SliceState, Traffic};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Canary steps at the most, so that a status page stays readable.
const CANARY_STEPS_MAX: usize = 50;

/// Limits of a slice's steps. The defaults are those of a cautious team.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Weights of the canary, rising, the last 100%.
    pub canary: Vec<Weight>,
    /// Least time in a canary step.
    pub hold: Duration,
    /// Least requests that the extracted side answers in a canary step.
    pub min_requests: u64,
    /// Upper 95% bound of the mismatch rate, above 0, up to 1.
    pub mismatch_max: f64,
    /// Compared pairs of each route and status class that was seen.
    pub class_min: u64,
    /// Least time in shadow.
    pub shadow_min: Duration,
    /// Most lag of the link, in both directions.
    pub lag_max: Duration,
    /// Oldest verification that still counts.
    pub verified_max_age: Duration,
    /// Most errors of the extracted side where legacy has none, 0 to 1; else twice legacy's.
    pub errors_max: f64,
    /// Least time with reads and writes on the extracted side before retirement.
    pub soak: Duration,
    /// Least time without foreign writes before retirement.
    pub quiet: Duration,
    /// From the hold of the writes to the switch, else the cutover aborts itself.
    pub cutover_timeout: Duration,
    /// Ids of the steps that a person must approve.
    pub approvals: Vec<String>,
    /// Whether mirroring stops when a row of the following side is changed by somebody else.
    pub tripwire: bool,
    /// What is done about rows that are written past the proxy.
    pub bypass: Watched,
}

/// Whether something is looked for, and what that is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Watched {
    Off,
    /// People are told.
    #[default]
    Note,
    /// It is a gate, too.
    Gate,
}

impl Default for Plan {
    fn default() -> Self {
        let canary = [100, 500, 2_500, 5_000, 10_000]
            .into_iter()
            .filter_map(|points| Weight::from_basis_points(points).ok())
            .collect();
        Self {
            canary,
            hold: 10 * MINUTE,
            min_requests: 1_000,
            mismatch_max: 0.001,
            class_min: 30,
            shadow_min: DAY,
            lag_max: Duration::from_secs(1),
            verified_max_age: HOUR,
            errors_max: 0.001,
            soak: 14 * DAY,
            quiet: 7 * DAY,
            cutover_timeout: Duration::from_secs(2),
            approvals: Vec::new(),
            tripwire: true,
            bypass: Watched::Note,
        }
    }
}

impl Plan {
    /// Everything that is wrong with the plan: key, value and rule, one text each.
    #[must_use]
    pub fn problems(&self, has_tables: bool) -> Vec<String> {
        let mut found = Vec::new();
        let rising = self.canary.windows(2).all(|pair| pair[0] < pair[1]);
        if self.canary.is_empty() || self.canary.len() > CANARY_STEPS_MAX {
            found.push(format!("canary: give 1 to {CANARY_STEPS_MAX} percentages"));
        } else if !rising || self.canary[0] == Weight::ZERO {
            found.push("canary: percentages must rise, the first above 0".to_owned());
        } else if self.canary.last() != Some(&Weight::FULL) {
            found.push("canary: the last percentage must be 100".to_owned());
        }
        for (key, share) in [
            ("mismatch_max", self.mismatch_max),
            ("errors_max", self.errors_max),
        ] {
            if !(share > 0.0 && share <= 1.0) {
                found.push(format!("{key} = {share}: must be above 0, 1 at most"));
            }
        }
        // Beyond half a minute clients and load balancers give up, so nothing is gained.
        if self.cutover_timeout.is_zero() || self.cutover_timeout > MINUTE / 2 {
            found.push(format!(
                "cutover_timeout = {}: must be above 0, 30 s at most",
                figures::duration(self.cutover_timeout)
            ));
        }
        if self.lag_max.is_zero() {
            found.push("lag_max: must be above 0".to_owned());
        }
        if self.verified_max_age.is_zero() {
            found.push("verified_max_age: must be above 0".to_owned());
        }
        let known: Vec<String> = self
            .steps(has_tables)
            .iter()
            .map(|step| step.id())
            .collect();
        for step in &self.approvals {
            if !known.contains(step) {
                found.push(format!(
                    "approvals: `{step}` is no step; the steps are {}",
                    known.join(", ")
                ));
            }
        }
        found
    }

    /// The steps in order. A slice without tables has no `sync` and no `cutover`.
    #[must_use]
    pub fn steps(&self, has_tables: bool) -> Vec<Step> {
        let canary = self.canary.iter().map(|weight| Step::Canary(*weight));
        let tables = |step| has_tables.then_some(step);
        tables(Step::Sync)
            .into_iter()
            .chain([Step::Shadow])
            .chain(canary)
            .chain([Step::Extracted])
            .chain(tables(Step::Cutover))
            .chain([Step::Retire])
            .collect()
    }
}

/// One step of the runbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Start copying and following the tables.
    Sync,
    /// Mirror and compare.
    Shadow,
    /// Give the extracted side a share of the reads.
    Canary(Weight),
    /// Give it all reads.
    Extracted,
    /// Give it the writes, and let legacy follow.
    Cutover,
    /// Let go of legacy.
    Retire,
}

impl Step {
    /// The id by which commands and approvals name it, e.g. `canary-5`.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            Self::Sync => "sync".to_owned(),
            Self::Shadow => "shadow".to_owned(),
            Self::Canary(weight) => {
                format!("canary-{}", weight.to_string().trim_end_matches('%'))
            }
            Self::Extracted => "extracted".to_owned(),
            Self::Cutover => "cutover".to_owned(),
            Self::Retire => "retire".to_owned(),
        }
    }

    /// What the step does, for people.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Sync => "copy the tables and follow their changes".to_owned(),
            Self::Shadow => "mirror reads to the extracted side and compare".to_owned(),
            Self::Canary(weight) => format!("answer {weight} of the reads from the extracted side"),
            Self::Extracted => "leave all reads on the extracted side".to_owned(),
            Self::Cutover => "move the writes to the extracted side".to_owned(),
            Self::Retire => "let go of the legacy side".to_owned(),
        }
    }

    /// The traffic that the step brings, if it changes the traffic.
    #[must_use]
    pub fn traffic(self) -> Option<Traffic> {
        match self {
            Self::Sync | Self::Cutover => None,
            Self::Shadow => Some(Traffic::Shadow),
            Self::Canary(weight) => Some(Traffic::Canary(weight)),
            Self::Extracted => Some(Traffic::Extracted),
            Self::Retire => Some(Traffic::Retired),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

/// Where a step stands, seen from the state of the slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    Done,
    /// The last step taken; its hold time runs.
    Current,
    Next,
    Later,
}

/// The step that comes next, `None` when all is done or the link was closed on the legacy side.
///
/// A step that was broken off in between is next again.
#[must_use]
pub fn next_step(state: &SliceState, plan: &Plan) -> Option<Step> {
    let phase = state.data.as_ref().map(|link| link.phase);
    match (state.traffic, phase) {
        (Traffic::Retired, None | Some(DataPhase::Closed)) => None,
        (Traffic::Retired, Some(_)) => Some(Step::Retire),
        (Traffic::Legacy, Some(DataPhase::Closed)) => None,
        (_, Some(DataPhase::Idle)) => Some(Step::Sync),
        (Traffic::Legacy, _) => Some(Step::Shadow),
        (Traffic::Shadow | Traffic::Canary(_), _) => Some(
            plan.canary
                .iter()
                .find(|weight| **weight > state.traffic.weight())
                .map_or(Step::Extracted, |weight| Step::Canary(*weight)),
        ),
        (Traffic::Extracted, Some(_)) if state.writer == Side::Legacy => Some(Step::Cutover),
        (Traffic::Extracted, _) => Some(Step::Retire),
    }
}

/// All steps with where they stand.
#[must_use]
pub fn steps_with_state(state: &SliceState, plan: &Plan) -> Vec<(Step, StepState)> {
    let steps = plan.steps(state.data.is_some());
    let next = next_step(state, plan)
        .and_then(|next| steps.iter().position(|step| *step == next))
        .unwrap_or(steps.len());
    let place = |index: usize| match index {
        i if i == next => StepState::Next,
        i if i > next => StepState::Later,
        i if i + 1 == next && next < steps.len() => StepState::Current,
        _ => StepState::Done,
    };
    steps
        .iter()
        .enumerate()
        .map(|(index, step)| (*step, place(index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::{Move, advance};

    fn ids(plan: &Plan, has_tables: bool) -> String {
        let ids: Vec<String> = plan.steps(has_tables).iter().map(|s| s.id()).collect();
        ids.join(" ")
    }

    #[test]
    fn steps_of_a_slice() {
        let plan = Plan::default();
        assert_eq!(
            ids(&plan, true),
            "sync shadow canary-1 canary-5 canary-25 canary-50 canary-100 extracted cutover retire"
        );
        assert_eq!(
            ids(&plan, false),
            "shadow canary-1 canary-5 canary-25 canary-50 canary-100 extracted retire"
        );
    }

    /// Following `next_step` by the legal moves alone leads from a new slice to a retired one.
    #[test]
    fn the_steps_lead_to_the_end_by_legal_moves() {
        for has_tables in [true, false] {
            let plan = Plan::default();
            let mut state = SliceState::new(has_tables);
            let mut taken = Vec::new();
            while let Some(step) = next_step(&state, &plan) {
                taken.push(step);
                assert!(taken.len() < 20, "{taken:?}");
                let moves = match step {
                    Step::Sync => vec![
                        Move::Data(DataPhase::Copying),
                        Move::Data(DataPhase::Following),
                    ],
                    Step::Cutover => vec![Move::Writer(Side::Extracted)],
                    Step::Retire if has_tables => {
                        vec![
                            Move::Traffic(Traffic::Retired),
                            Move::Data(DataPhase::Closed),
                        ]
                    }
                    other => vec![Move::Traffic(other.traffic().expect("a traffic step"))],
                };
                for wanted in moves {
                    state = advance(&state, &wanted).unwrap_or_else(|e| panic!("{step}: {e}"));
                }
            }
            assert_eq!(taken, plan.steps(has_tables));
            let all = steps_with_state(&state, &plan);
            assert!(all.iter().all(|(_, place)| *place == StepState::Done));
        }
    }

    #[test]
    fn places_of_the_steps() {
        let plan = Plan::default();
        let mut state = SliceState::new(false);
        state.traffic = Traffic::Canary(plan.canary[1]);
        let places: Vec<StepState> = steps_with_state(&state, &plan)
            .into_iter()
            .map(|(_, p)| p)
            .collect();
        use StepState::{Current, Done, Later, Next};
        assert_eq!(
            places,
            [Done, Done, Current, Next, Later, Later, Later, Later]
        );
    }

    #[test]
    fn a_retirement_that_was_broken_off_is_next_again() {
        let mut state = SliceState::new(true);
        state.traffic = Traffic::Retired;
        assert_eq!(next_step(&state, &Plan::default()), Some(Step::Retire));
    }

    #[test]
    fn a_weight_between_the_steps_goes_on_to_the_next() {
        let mut state = SliceState::new(false);
        state.traffic = Traffic::Canary(Weight::from_percent("7").expect("a weight"));
        let expected = Step::Canary(Weight::from_percent("25").expect("a weight"));
        assert_eq!(next_step(&state, &Plan::default()), Some(expected));
    }

    #[test]
    fn bad_plans_are_named() {
        assert_eq!(Plan::default().problems(true), Vec::<String>::new());
        let weights = |list: &[u16]| -> Vec<Weight> {
            list.iter()
                .map(|p| Weight::from_basis_points(*p).expect("points"))
                .collect()
        };
        for (canary, rule) in [
            (vec![], "give 1 to 50"),
            (weights(&[500, 100, 10_000]), "must rise"),
            (weights(&[0, 10_000]), "above 0"),
            (weights(&[100, 500]), "must be 100"),
        ] {
            let plan = Plan {
                canary,
                ..Plan::default()
            };
            let problems = plan.problems(true);
            assert!(
                problems.iter().any(|p| p.contains(rule)),
                "{rule}: {problems:?}"
            );
        }
        let plan = Plan {
            mismatch_max: 0.0,
            errors_max: f64::NAN,
            cutover_timeout: Duration::from_secs(60),
            lag_max: Duration::ZERO,
            verified_max_age: Duration::ZERO,
            approvals: vec!["cutover".to_owned()],
            ..Plan::default()
        };
        // The cutover is a step only where there are tables.
        assert_eq!(plan.problems(true).len(), 5);
        assert_eq!(plan.problems(false).len(), 6);
    }
}
