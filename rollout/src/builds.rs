//! Which build of a service a request goes to, where it has several: one is active, another may be on
//! trial with a share of the clients.
//!
//! Beside the sides of a slice, not in place of them: all builds of a service are its extracted side
//! and work on the same data.

use serde::{Deserialize, Serialize};

use crate::evidence::SideTimes;
use crate::ids::{BuildName, Revision, SliceId, Weight};
use crate::split::{bucket, key_hash};

/// A build that is tried by a share of the clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub build: BuildName,
    pub weight: Weight,
}

/// Which builds of a service are asked, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildsState {
    pub revision: Revision,
    pub active: BuildName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Which one was active before the last switch; `build back` goes there, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BuildName>,
    /// The one before was drained: nobody goes back there without being told to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
    /// What the guard has taken back, until somebody moves requests to a build again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<TakenBack>,
}

/// A build that the guard has taken the requests from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBack {
    pub build: BuildName,
    /// With the figures.
    pub reason: String,
}

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildMove {
    /// All requests to this one.
    Switch(BuildName),
    /// A share of the clients to this one, which is not the active one; 0 ends the trial.
    Weight(BuildName, Weight),
    /// Nothing new to this one.
    Drain(BuildName),
    /// What the last switch or trial has moved goes back.
    Back,
    /// The same by the guard, for this reason.
    Abort(String),
}

/// What is known of a build when somebody wants to move requests to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFigures {
    pub build: BuildName,
    pub upstreams: u64,
    /// Of these, who is well by checks and failures.
    pub well: u64,
    /// Requests up to the end of their answer.
    pub in_flight: u64,
    /// Tries included, since the proxy began.
    pub requests: u64,
    /// Of these, without an answer or with a 5xx.
    pub failures: u64,
    /// Of clients' requests since the builds were last changed, or since the proxy began.
    #[serde(default)]
    pub lately: AnswerFigures,
    /// How long ago that was.
    #[serde(default)]
    pub lately_ms: u64,
}

/// How requests were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerFigures {
    /// As clients asked: what was tried again is one.
    pub requests: u64,
    /// Of these, without an answer or with a 5xx.
    pub errors: u64,
    /// Half of the answers began within this time, in microseconds.
    pub p50_us: Option<u64>,
    /// 99 of 100 did within this.
    pub p99_us: Option<u64>,
}

/// Answers of one build for one slice, since the proxy began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildTimes {
    /// `None`: of the legacy side, for all.
    pub slice: Option<SliceId>,
    pub service: String,
    pub build: BuildName,
    pub times: SideTimes,
    /// Requests by the class of the status, and those without an answer.
    pub classes: Vec<(&'static str, u64)>,
}

/// Why a change is not made. The text says what would make it possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalBuild {
    #[error("build `{0}` is active already")]
    Active(BuildName),
    #[error("build `{build}` has the share already")]
    SameShare { build: BuildName },
    #[error("build `{0}` is active, so it has no share of its own; give the other one its share")]
    ShareOfActive(BuildName),
    #[error("build `{0}` is on trial already; `build back` or `build switch` first")]
    OtherTrial(BuildName),
    #[error("build `{0}` is active; `build switch` to another one first")]
    DrainActive(BuildName),
    #[error(
        "build `{build}` has nobody who is well (of {upstreams} upstreams); see `outgrow status`, or \
         pass --force"
    )]
    Ill { build: BuildName, upstreams: u64 },
    #[error("there is nothing to take back: no trial, and no switch since the last `build back`")]
    NothingBefore,
    #[error("build `{0}` was active before, but the config has it no more")]
    BeforeGone(BuildName),
}

impl BuildsState {
    /// Of a service that was just declared.
    #[must_use]
    pub fn new(first: BuildName) -> Self {
        Self {
            revision: Revision(0),
            active: first,
            trial: None,
            before: None,
            settled: false,
            taken_back: None,
        }
    }

    /// What the guard makes of it, and of which build that is: the end of the trial, or the build
    /// before the last switch. `None` where there is neither.
    #[must_use]
    pub fn aborted(&self) -> Option<(BuildName, Self)> {
        let mut next = self.clone();
        if let Some(trial) = next.trial.take() {
            return Some((trial.build, next));
        }
        let before = next.before.take().filter(|_| !self.settled)?;
        let gone = std::mem::replace(&mut next.active, before);
        Some((gone, next))
    }

    /// The share of the clients that a build has.
    #[must_use]
    pub fn share(&self, build: &BuildName) -> Weight {
        match &self.trial {
            Some(trial) if trial.build == *build => trial.weight,
            Some(trial) if self.active == *build => trial.weight.rest(),
            None if self.active == *build => Weight::FULL,
            _ => Weight::ZERO,
        }
    }

    /// Builds that requests go to.
    pub fn in_use(&self) -> impl Iterator<Item = &BuildName> {
        let trial = self.trial.iter().map(|trial| &trial.build);
        std::iter::once(&self.active).chain(trial)
    }

    /// The state after `wanted`, with the revision raised by one; the same state where a drain finds
    /// that nothing new goes there. `known` are all builds of the config. `forced` does not ask
    /// whether anybody of a build is well.
    ///
    /// # Errors
    /// [`IllegalBuild`] with the remedy; the state is unchanged then.
    pub fn advance(
        &self,
        wanted: &BuildMove,
        known: &[BuildFigures],
        forced: bool,
    ) -> Result<Self, IllegalBuild> {
        let mut next = self.clone();
        next.taken_back = None;
        match wanted {
            BuildMove::Switch(to) if *to == self.active && self.trial.is_none() => {
                return Err(IllegalBuild::Active(to.clone()));
            }
            // The end of a trial, by staying.
            BuildMove::Switch(to) if *to == self.active => next.trial = None,
            BuildMove::Switch(to) => {
                well(to, known, forced)?;
                next.trial = None;
                next.before = Some(std::mem::replace(&mut next.active, to.clone()));
                next.settled = false;
            }
            BuildMove::Weight(build, weight) => next.trial = self.tried(build, *weight)?,
            BuildMove::Drain(build) if *build == self.active => {
                return Err(IllegalBuild::DrainActive(build.clone()));
            }
            BuildMove::Drain(build) if self.share(build) == Weight::ZERO => {
                if self.settled || self.before.as_ref() != Some(build) {
                    return Ok(self.clone());
                }
                next.settled = true;
            }
            BuildMove::Drain(_) => next.trial = None,
            BuildMove::Back if self.trial.is_some() => next.trial = None,
            BuildMove::Back => {
                let before = next.before.take().ok_or(IllegalBuild::NothingBefore)?;
                if !known.iter().any(|figures| figures.build == before) {
                    return Err(IllegalBuild::BeforeGone(before));
                }
                next.active = before;
            }
            BuildMove::Abort(reason) => {
                let (build, after) = self.aborted().ok_or(IllegalBuild::NothingBefore)?;
                if !known.iter().any(|figures| figures.build == after.active) {
                    return Err(IllegalBuild::BeforeGone(after.active));
                }
                next = after;
                let reason = reason.clone();
                next.taken_back = Some(TakenBack { build, reason });
            }
        }
        if let BuildMove::Weight(build, weight) = wanted
            && *weight > self.share(build)
        {
            well(build, known, forced)?;
        }
        next.revision = self.revision.next();
        Ok(next)
    }

    fn tried(&self, build: &BuildName, weight: Weight) -> Result<Option<Trial>, IllegalBuild> {
        if *build == self.active {
            return Err(IllegalBuild::ShareOfActive(build.clone()));
        }
        if let Some(trial) = self.trial.as_ref().filter(|trial| trial.build != *build) {
            return Err(IllegalBuild::OtherTrial(trial.build.clone()));
        }
        if self.share(build) == weight {
            return Err(IllegalBuild::SameShare {
                build: build.clone(),
            });
        }
        let build = build.clone();
        Ok((weight > Weight::ZERO).then_some(Trial { build, weight }))
    }
}

fn well(build: &BuildName, known: &[BuildFigures], forced: bool) -> Result<(), IllegalBuild> {
    let of = known.iter().find(|figures| figures.build == *build);
    if forced || of.is_some_and(|figures| figures.well > 0) {
        return Ok(());
    }
    Err(IllegalBuild::Ill {
        build: build.clone(),
        upstreams: of.map_or(0, |figures| figures.upstreams),
    })
}

/// The bucket of a client among the builds of a service: of the hash of its cohort key, hashed once
/// more, so that who is first on the extracted side is not first on a new build, too.
#[must_use]
pub fn build_bucket(service: &str, client: u64) -> u16 {
    bucket(key_hash(service, &client.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::split::BUCKETS;

    fn name(text: &str) -> BuildName {
        BuildName::new(text).unwrap()
    }

    fn figures(wells: &[(&str, u64)]) -> Vec<BuildFigures> {
        let one = |(build, well): &(&str, u64)| BuildFigures {
            build: name(build),
            upstreams: 2,
            well: *well,
            in_flight: 0,
            requests: 0,
            failures: 0,
            lately: AnswerFigures::default(),
            lately_ms: 0,
        };
        wells.iter().map(one).collect()
    }

    fn percent(text: &str) -> Weight {
        Weight::from_percent(text).unwrap()
    }

    fn check(moves: &[BuildMove], shares: [&str; 2]) -> BuildsState {
        let known = figures(&[("blue", 1), ("green", 2)]);
        let mut state = BuildsState::new(name("blue"));
        for wanted in moves {
            state = state.advance(wanted, &known, false).unwrap();
        }
        let found = [name("blue"), name("green")].map(|build| state.share(&build).to_string());
        assert_eq!(found, shares, "{moves:?}");
        state
    }

    #[test]
    fn builds_are_tried_switched_and_taken_back() {
        let (blue, green) = (name("blue"), name("green"));
        let weigh = |weight| BuildMove::Weight(green.clone(), percent(weight));
        let switch = BuildMove::Switch(green.clone());
        check(&[], ["100%", "0%"]);
        check(&[weigh("25")], ["75%", "25%"]);
        check(&[weigh("25"), weigh("0")], ["100%", "0%"]);
        check(&[weigh("25"), BuildMove::Back], ["100%", "0%"]);
        let drained = BuildMove::Drain(green.clone());
        check(&[weigh("25"), drained], ["100%", "0%"]);
        let stays = BuildMove::Switch(blue.clone());
        check(&[weigh("25"), stays], ["100%", "0%"]);
        let state = check(&[weigh("25"), switch.clone()], ["0%", "100%"]);
        assert_eq!(
            (state.revision, state.before),
            (Revision(2), Some(blue.clone()))
        );
        let state = check(&[switch.clone(), BuildMove::Back], ["100%", "0%"]);
        let again = state.advance(&BuildMove::Back, &figures(&[]), false);
        assert_eq!(again, Err(IllegalBuild::NothingBefore));
        let drained = check(
            &[switch.clone(), BuildMove::Drain(blue.clone())],
            ["0%", "100%"],
        );
        assert_eq!(drained.revision, Revision(2));
        let known = figures(&[("blue", 1), ("green", 2)]);
        let again = drained.advance(&BuildMove::Drain(blue.clone()), &known, false);
        assert_eq!(
            again.as_ref(),
            Ok(&drained),
            "it has had nothing new already"
        );
        let abort = BuildMove::Abort("it fails".to_owned());
        let refused = drained.advance(&abort, &known, false);
        assert_eq!(refused, Err(IllegalBuild::NothingBefore), "nobody is there");
        // The guard ends a trial, or goes back to the build before.
        for moves in [weigh("25"), switch] {
            let state = check(&[moves.clone(), abort.clone()], ["100%", "0%"]);
            let told = state.taken_back.clone().unwrap();
            assert_eq!(
                (told.build, told.reason.as_str()),
                (green.clone(), "it fails")
            );
            assert_eq!((state.revision, state.aborted()), (Revision(2), None));
            let tried = state.advance(&moves, &known, false).unwrap();
            assert_eq!(tried.taken_back, None);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let known = figures(&[("blue", 1), ("green", 0), ("red", 1)]);
        let state = BuildsState::new(name("blue"));
        let refused = |state: &BuildsState, wanted: BuildMove| {
            let found = state.advance(&wanted, &known, false);
            found.expect_err(&format!("{wanted:?}")).to_string()
        };
        let green = name("green");
        let ill = refused(&state, BuildMove::Switch(green.clone()));
        assert!(ill.contains("nobody who is well (of 2 upstreams)"), "{ill}");
        let weigh = BuildMove::Weight(green.clone(), percent("1"));
        assert_eq!(refused(&state, weigh.clone()), ill);
        let forced = state.advance(&weigh, &known, true).unwrap();
        let less = BuildMove::Weight(green.clone(), percent("0.5"));
        assert!(forced.advance(&less, &known, false).is_ok(), "a way back");
        for (state, wanted, said) in [
            (&state, BuildMove::Switch(name("blue")), "active already"),
            (&state, BuildMove::Drain(name("blue")), "switch` to another"),
            (&state, BuildMove::Back, "nothing to take back"),
            (
                &state,
                BuildMove::Weight(green, Weight::ZERO),
                "share already",
            ),
            (
                &state,
                BuildMove::Weight(name("blue"), percent("5")),
                "is active",
            ),
            (
                &forced,
                BuildMove::Weight(name("red"), percent("5")),
                "`green` is on trial",
            ),
        ] {
            let found = refused(state, wanted);
            assert!(found.contains(said), "{found}");
        }
        let switched = state.advance(&BuildMove::Switch(name("red")), &known, false);
        let gone = switched
            .unwrap()
            .advance(&BuildMove::Back, &known[1..], false);
        assert_eq!(gone, Err(IllegalBuild::BeforeGone(name("blue"))));
    }

    #[test]
    fn builds_divide_each_cohort_evenly() {
        // Those of a canary of 5 %, of which a tenth tries the new build.
        let (mut all, mut tried) = (0_u32, 0_u32);
        for n in 0..200_000_u32 {
            let client = key_hash("catalog", &n.to_le_bytes());
            if bucket(client) < 500 {
                all += 1;
                tried += u32::from(build_bucket("catalog", client) < BUCKETS / 10);
            }
        }
        let share = f64::from(tried) / f64::from(all);
        assert!((0.08..0.12).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn shares_are_whole(weight in 0_u16..=10_000) {
            let mut state = BuildsState::new(name("blue"));
            let weight = Weight::from_basis_points(weight).unwrap();
            state.trial = Some(Trial { build: name("green"), weight });
            let sum = [name("blue"), name("green")].map(|build| state.share(&build).basis_points());
            prop_assert_eq!(sum[0] + sum[1], 10_000);
        }
    }
}
