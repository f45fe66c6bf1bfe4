//! What a run proved: the figures, the invariants that they must meet, and the table at the end.
//!
//! Pure but for the file it writes. Every figure comes from the run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::ledger::Latencies;
use super::watch::ShadowTotals;

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Requests {
    pub(crate) total: u64,
    pub(crate) failed: u64,
    pub(crate) writes: u64,
    pub(crate) per_second: f64,
    pub(crate) latency: Latencies,
    /// The first failures, in words.
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Writes {
    pub(crate) acknowledged: u64,
    pub(crate) missing: u64,
    pub(crate) duplicated: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Shadow {
    #[serde(flatten)]
    pub(crate) totals: ShadowTotals,
    pub(crate) seeded_defects: u64,
    pub(crate) found: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Guard {
    pub(crate) injected: u64,
    pub(crate) aborted: u64,
    /// The longest time from a fault to the moment when no read went to it any more.
    pub(crate) seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cutover {
    pub(crate) slice: String,
    pub(crate) direction: String,
    /// Writes that waited.
    pub(crate) held: u64,
    pub(crate) pause_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rows {
    pub(crate) legacy: u64,
    pub(crate) extracted: u64,
    pub(crate) different: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Bypass {
    /// Hidden jobs that wrote past the proxy.
    pub(crate) planted: u64,
    /// Those that were named and blocked a retirement.
    pub(crate) named: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) requests: Requests,
    pub(crate) writes: Writes,
    pub(crate) shadow: Shadow,
    pub(crate) guard: Guard,
    pub(crate) bypass: Bypass,
    pub(crate) cutovers: Vec<Cutover>,
    pub(crate) rows: BTreeMap<String, Rows>,
    pub(crate) slices: BTreeMap<String, String>,
    pub(crate) journal: String,
    /// The tokens of the first writes that are missing or doubled.
    pub(crate) broken_promises: Vec<String>,
    /// Invariants that did not hold; empty in a good run.
    pub(crate) broken: Vec<String>,
}

/// Of a hundred requests at least so many must be writes, or the run proves little.
const WRITES_PERCENT_MIN: u64 = 10;
/// Forward, back, forward again.
const CUTOVERS_PER_SLICE: usize = 3;

impl Summary {
    /// The invariants that did not hold, for these slices.
    pub(crate) fn judge(&self, slices: &[&str]) -> Vec<String> {
        let Requests {
            total,
            failed,
            writes,
            ..
        } = self.requests;
        let Writes {
            acknowledged,
            missing,
            duplicated,
        } = self.writes;
        let Shadow {
            seeded_defects,
            found,
            ..
        } = self.shadow;
        let Guard {
            injected, aborted, ..
        } = self.guard;
        let Bypass { planted, named } = self.bypass;
        let mut must = vec![
            (total > 0, "no request was made".to_owned()),
            (failed == 0, format!("{failed} of {total} requests failed")),
            (
                writes * 100 >= total * WRITES_PERCENT_MIN,
                format!("only {writes} of {total} requests were writes"),
            ),
            (acknowledged > 0, "no write was acknowledged".to_owned()),
            (
                missing == 0,
                format!("{missing} acknowledged writes are missing"),
            ),
            (
                duplicated == 0,
                format!("{duplicated} writes are there more than once"),
            ),
            (
                found == seeded_defects,
                format!("{found} of {seeded_defects} defects were found"),
            ),
            (
                injected == aborted,
                format!("the guard took back {aborted} of {injected} faults"),
            ),
            (
                planted == named,
                format!("{named} of {planted} hidden writers were named"),
            ),
            (
                self.journal == "verified",
                format!("the journal is {}", self.journal),
            ),
        ];
        for slice in slices {
            must.extend(self.slice_must(slice));
        }
        must.into_iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, what)| what)
            .collect()
    }

    fn slice_must(&self, slice: &str) -> [(bool, String); 3] {
        let stage = self.slices.get(slice).map_or("unknown", String::as_str);
        let Rows {
            legacy,
            extracted,
            different,
        } = self.rows.get(slice).copied().unwrap_or_default();
        let made = self
            .cutovers
            .iter()
            .filter(|cutover| cutover.slice == slice)
            .count();
        [
            (
                stage == "retired",
                format!("{slice} is {stage}, not retired"),
            ),
            (
                different == 0 && legacy == extracted && legacy > 0,
                format!("{slice}: {legacy} rows against {extracted}, {different} different"),
            ),
            (
                made >= CUTOVERS_PER_SLICE,
                format!("{slice}: {made} of {CUTOVERS_PER_SLICE} cutovers were made"),
            ),
        ]
    }

    /// The evidence as lines: what, figure, limit.
    pub(crate) fn table(&self) -> Vec<[String; 3]> {
        let ms = |us: u32| format!("{:.1} ms", f64::from(us) / 1_000.0);
        let row =
            |what: &str, figure: String, limit: &str| [what.to_owned(), figure, limit.to_owned()];
        let mut lines = vec![
            row("requests", count(self.requests.total), ""),
            row("failed", count(self.requests.failed), "0"),
            row(
                "rate",
                format!("{:.0} requests/s", self.requests.per_second),
                "",
            ),
            row("writes among them", count(self.requests.writes), ">= 10%"),
            row(
                "latency p50 / p99 / max",
                format!(
                    "{} / {} / {}",
                    ms(self.requests.latency.p50_us),
                    ms(self.requests.latency.p99_us),
                    ms(self.requests.latency.max_us)
                ),
                "",
            ),
            row("writes acknowledged", count(self.writes.acknowledged), ""),
            row("  missing", count(self.writes.missing), "0"),
            row("  duplicated", count(self.writes.duplicated), "0"),
            row("answers compared", count(self.shadow.totals.compared), ""),
            row(
                "defects planted / found",
                format!("{} / {}", self.shadow.seeded_defects, self.shadow.found),
                "all",
            ),
            row(
                "faults / taken back",
                format!("{} / {}", self.guard.injected, self.guard.aborted),
                "all",
            ),
            row("  within", format!("{:.2} s", self.guard.seconds), ""),
            row(
                "hidden writers / named",
                format!("{} / {}", self.bypass.planted, self.bypass.named),
                "all",
            ),
        ];
        for cutover in &self.cutovers {
            lines.push(row(
                &format!("cutover {}", cutover.slice),
                format!(
                    "{}: paused {} ms, {} writes waited",
                    cutover.direction, cutover.pause_ms, cutover.held
                ),
                "2,000 ms",
            ));
        }
        for (slice, rows) in &self.rows {
            let figure = format!(
                "{} = {}, {} different",
                count(rows.legacy),
                count(rows.extracted),
                rows.different
            );
            lines.push(row(&format!("rows of {slice}"), figure, "0 different"));
        }
        for (slice, stage) in &self.slices {
            lines.push(row(&format!("slice {slice}"), stage.clone(), "retired"));
        }
        lines.push(row("journal", self.journal.clone(), "verified"));
        lines
    }

    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        let cutover = |direction: &str| Cutover {
            slice: "catalog".into(),
            direction: direction.into(),
            held: 3,
            pause_ms: 40,
        };
        Summary {
            requests: Requests {
                total: 1_000,
                writes: 200,
                ..Requests::default()
            },
            writes: Writes {
                acknowledged: 120,
                missing: 0,
                duplicated: 0,
            },
            shadow: Shadow {
                seeded_defects: 1,
                found: 1,
                ..Shadow::default()
            },
            guard: Guard {
                injected: 1,
                aborted: 1,
                seconds: 0.7,
            },
            bypass: Bypass {
                planted: 1,
                named: 1,
            },
            cutovers: vec![
                cutover("legacy->extracted"),
                cutover("extracted->legacy"),
                cutover("legacy->extracted"),
            ],
            rows: [(
                "catalog".into(),
                Rows {
                    legacy: 9,
                    extracted: 9,
                    different: 0,
                },
            )]
            .into(),
            slices: [("catalog".into(), "retired".into())].into(),
            journal: "verified".into(),
            ..Summary::default()
        }
    }

    /// One figure spoilt breaks one invariant, whose sentence has `words`.
    #[track_caller]
    fn breaks(spoil: fn(&mut Summary), words: &str) {
        let mut summary = good();
        spoil(&mut summary);
        let broken = summary.judge(&["catalog"]);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains(words), "{broken:?}");
    }

    #[test]
    fn every_invariant_can_break() {
        assert_eq!(good().judge(&["catalog"]), Vec::<String>::new());
        breaks(|s| s.requests.failed = 2, "2 of 1000 requests failed");
        breaks(
            |s| s.requests.writes = 50,
            "50 of 1000 requests were writes",
        );
        breaks(|s| s.writes.acknowledged = 0, "no write");
        breaks(|s| s.writes.missing = 1, "missing");
        breaks(|s| s.writes.duplicated = 1, "more than once");
        breaks(|s| s.shadow.found = 0, "0 of 1 defects");
        breaks(|s| s.guard.aborted = 0, "0 of 1 faults");
        breaks(|s| s.bypass.named = 0, "hidden");
        breaks(|s| s.slices.clear(), "unknown");
        breaks(|s| s.rows.clear(), "0 rows");
        breaks(
            |s| s.rows.values_mut().for_each(|rows| rows.different = 1),
            "1 different",
        );
        breaks(
            |s| s.rows.values_mut().for_each(|rows| rows.extracted = 8),
            "9 rows against 8",
        );
        breaks(|s| drop(s.cutovers.pop()), "2 of 3 cutovers");
        breaks(|s| s.journal = "broken".into(), "journal is broken");
    }

    #[test]
    fn a_slice_that_never_began_breaks_the_run() {
        assert_eq!(good().judge(&["catalog", "reviews"]).len(), 3);
    }

    #[test]
    fn the_file_has_the_documented_keys() {
        let value = serde_json::to_value(good()).unwrap();
        for pointer in [
            "/requests/total",
            "/requests/failed",
            "/writes/acknowledged",
            "/writes/missing",
            "/writes/duplicated",
            "/shadow/eligible",
            "/shadow/compared",
            "/shadow/mismatched",
            "/shadow/dropped",
            "/shadow/seeded_defects",
            "/shadow/found",
            "/guard/injected",
            "/guard/aborted",
            "/guard/seconds",
            "/cutovers/0/slice",
            "/cutovers/0/direction",
            "/cutovers/0/held",
            "/cutovers/0/pause_ms",
            "/rows/catalog/legacy",
            "/rows/catalog/extracted",
            "/rows/catalog/different",
            "/slices/catalog",
            "/journal",
        ] {
            assert!(value.pointer(pointer).is_some(), "{pointer} is missing");
        }
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
    }
}
