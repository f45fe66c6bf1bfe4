//! The shadow's part of the world.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use outgrow_control::ports::{PortError, PortResult, Shadow};
use outgrow_rollout::{BuildId, Builds, ClassEvidence, ShadowEvidence, Side, SliceId};
use serde_json::{Value, json};

use super::{World, catalog};

fn of_writes(route: &str) -> (String, String) {
    (route.to_owned(), "it may have written".to_owned())
}

impl Shadow for World {
    fn evidence(&self, _: &SliceId) -> Option<ShadowEvidence> {
        let seen = self.see();
        let class = ClassEvidence {
            compared: seen.matched,
            against: seen.mismatched,
        };
        Some(ShadowEvidence {
            builds: Builds {
                legacy: BuildId("monolith-1".to_owned()),
                extracted: BuildId("catalog-1".to_owned()),
            },
            eligible: seen.matched + seen.mismatched,
            sampled_out: 0,
            shed: 0,
            ineligible: 0,
            waiting: 0,
            matched: seen.matched,
            mismatched: seen.mismatched,
            candidate_errors: 0,
            not_comparable: 0,
            classes: BTreeMap::from([("GET /api/products 2xx".to_owned(), class)]),
            top: Vec::new(),
            excused: 0,
            faults: Vec::new(),
            seeded: 0,
            caught: 0,
            stopped: seen
                .to_resume
                .iter()
                .map(|route| of_writes(route))
                .collect(),
        })
    }

    fn report(&self, slice: &SliceId, format: &str) -> PortResult<String> {
        Ok(format!("{slice} as {format}"))
    }

    fn mismatch(&self, id: &str) -> Option<Value> {
        (id == "p-1").then(|| json!({"id": id}))
    }

    fn rules(&self, _: &SliceId) -> PortResult<Value> {
        Ok(Value::from(self.see().rules.clone()))
    }

    fn what_if(&self, slice: &SliceId, changed: &Value) -> PortResult<Value> {
        match changed.get("add") {
            Some(_) => Ok(json!({"slice": slice, "asked": changed})),
            None => Err(PortError("nothing is changed".to_owned())),
        }
    }

    fn record(&self, _: &SliceId, recorder: &str) -> PortResult<Value> {
        match recorder {
            "two" => Err(PortError("another recorder is at work".to_owned())),
            _ => Ok(json!({"lines": ["a line"], "lost": 0})),
        }
    }

    fn add_rule(&self, _: &SliceId, rule: &Value) -> PortResult<()> {
        if rule["path"]
            .as_str()
            .is_some_and(|path| path.starts_with('$'))
        {
            self.see().rules.push(rule.clone());
            Ok(())
        } else {
            Err(PortError("a path begins with `$`".to_owned()))
        }
    }

    fn reset(&self, _: &SliceId) {
        let mut seen = self.see();
        (seen.matched, seen.mismatched) = (0, 0);
    }

    fn stopped(&self, slice: &SliceId) -> BTreeMap<String, String> {
        match slice.as_str() {
            "catalog" => std::mem::take(&mut self.see().stopped),
            _ => BTreeMap::new(),
        }
    }

    fn resume(&self, slice: &SliceId, routes: Option<&BTreeSet<String>>) -> Vec<String> {
        if *slice != catalog() {
            return Vec::new();
        }
        let wanted = |route: &String| routes.is_none_or(|routes| routes.contains(route));
        let mut seen = self.see();
        let all = std::mem::take(&mut seen.to_resume).into_iter();
        let (resumed, kept) = all.partition(wanted);
        seen.to_resume = kept;
        resumed
    }

    fn stop_routes(&self, slice: &SliceId, routes: &BTreeMap<String, String>) {
        if *slice == catalog() {
            self.see().unmirrored.clone_from(routes);
        }
    }

    fn asked(
        &self,
        _: &SliceId,
        side: Side,
        between: &RangeInclusive<i64>,
    ) -> Option<BTreeSet<String>> {
        assert_eq!((side, between), (Side::Extracted, &(999_750..=1_001_249)));
        self.see().asked.clone()
    }

    fn snapshot(&self) -> Value {
        json!({"matched": self.see().matched})
    }

    fn restore(&self, snapshot: Value) -> PortResult<()> {
        self.see().restored = Some(snapshot);
        Ok(())
    }
}
