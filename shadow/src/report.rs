//! What a report says, as plain data for every format.

use std::collections::BTreeMap;

use outgrow_rollout::{FieldDifference, ShadowEvidence, SliceId, samples};
use serde::Serialize;
use time::Date;

use crate::clusters::ClusterRow;
use crate::history::History;
use crate::latency::LatencyDifference;
use crate::reasons::{self, ReasonRow};
use crate::record::{Expired, Pair, Record};
use crate::rules::Rules;

/// Everything that is known of a slice's answers.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub slice: String,
    pub verdict: String,
    pub evidence: ShadowEvidence,
    /// Of the matched, those that differed until the bridge had caught up.
    pub aligned: u64,
    pub shed: BTreeMap<String, u64>,
    pub ineligible: BTreeMap<String, u64>,
    pub not_comparable: BTreeMap<String, u64>,
    /// The three above in one list, the most frequent first.
    pub reasons: Vec<ReasonRow>,
    /// Bytes of copies in memory, now.
    pub memory: usize,
    pub routes: Vec<RouteRow>,
    /// Of routes that serve several: operations of GraphQL, and learned templates of paths.
    pub endpoints: Vec<RouteRow>,
    /// Mismatches by their cause.
    pub clusters: Vec<ClusterRow>,
    pub differences: Vec<FieldDifference>,
    /// Pairs that show the differences.
    pub(crate) pairs: Vec<std::sync::Arc<Pair>>,
    /// Fields in which the legacy side differs from itself.
    pub noise: Vec<NoiseRow>,
    pub rules: Vec<RuleRow>,
    /// Rules that should go, what is mirrored no more, and that most was not compared.
    pub warnings: Vec<String>,
    pub(crate) expired: Vec<Expired>,
    /// Medians of the time to an answer's head, in microseconds.
    pub legacy_p50_us: Option<u64>,
    pub extracted_p50_us: Option<u64>,
    /// The course of all that was compared, by interval.
    pub(crate) history: History,
    /// How much later the extracted side answers the same requests.
    pub latency: Option<LatencyDifference>,
}

/// One route and status class.
#[derive(Debug, Clone, Serialize)]
pub struct RouteRow {
    pub route: String,
    pub compared: u64,
    pub against: u64,
    /// Upper 95 % bound of the mismatch rate, 0 to 1; holds however often one looks.
    pub bound: Option<f64>,
    /// Pairs without a mismatch that are still needed for the rate that the plan allows.
    pub needed: u64,
}

/// A field in which the legacy side differs from itself.
#[derive(Debug, Clone, Serialize)]
pub struct NoiseRow {
    /// The route and the path.
    pub field: String,
    /// Pairs of the legacy side with itself, and how many of them differed here.
    pub pairs: u64,
    pub differed: u64,
    /// Requests at which only the extracted side, and only the legacy side, differed.
    pub worse: u64,
    pub better: u64,
    /// `noise`: its differences are excused; `at fault`, `more than noise`: they count, because
    /// the extracted side differs more often; `too few pairs`: they count, until more is known.
    pub state: &'static str,
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
pub struct RuleRow {
    pub path: String,
    pub accept: crate::settings::Accept,
    pub reason: String,
    pub owner: Option<String>,
    pub until: Option<String>,
    pub hits: u64,
    /// `active`, `expired`, or `unused` where it has hidden nothing since the evidence began.
    pub state: &'static str,
}

fn verdict(evidence: &ShadowEvidence) -> String {
    let (compared, against) = (evidence.compared(), evidence.against());
    match samples::upper_bound(compared, against) {
        None => "no evidence: nothing was compared on these builds".to_owned(),
        Some(bound) => format!(
            "{against} of {compared} compared answers speak against the extracted side; \
             its mismatch rate is at most {:.3}% with 95% confidence",
            bound * 100.0
        ),
    }
}

fn reasons_of(record: &Record) -> Vec<ReasonRow> {
    reasons::rows([
        (reasons::SHED, &record.shed),
        (reasons::INELIGIBLE, &record.ineligible),
        (reasons::NOT_COMPARABLE, &record.not_comparable),
    ])
}

fn median(times: &[u64]) -> Option<u64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Why a rule should go.
fn warning(row: &RuleRow, compared: u64) -> Option<String> {
    /// Fewer answers may just not have met what it is for.
    const COMPARED_MIN: u64 = 1_000;
    let owner = row.owner.as_deref().unwrap_or("nobody");
    let rule = format!("the rule for `{}` (owner: {owner})", row.path);
    match row.state {
        "expired" => Some(format!("{rule} has expired; its differences count again")),
        "unused" if compared >= COMPARED_MIN => Some(format!(
            "{rule} has hidden nothing in {compared} compared answers"
        )),
        _ => None,
    }
}

/// Those that clusters and differences name, and no more than a page can bear.
fn examples(record: &Record, clusters: &[ClusterRow]) -> Vec<std::sync::Arc<Pair>> {
    const MOST: usize = 60;
    let of_clusters = clusters
        .iter()
        .filter_map(|cluster| cluster.example.clone());
    let of_fields = record
        .fields()
        .into_iter()
        .filter_map(|field| field.example);
    let mut seen = std::collections::BTreeSet::new();
    let all = of_clusters
        .chain(of_fields)
        .chain(record.pairs.keys().cloned());
    all.filter(|id| seen.insert(id.clone()))
        .filter_map(|id| record.pairs.get(&id).cloned())
        .take(MOST)
        .collect()
}

impl Report {
    /// Says which routes' writes are mirrored no more, and of which routes nothing is.
    pub(crate) fn stopped(
        &mut self,
        stopped: BTreeMap<String, String>,
        whole: &BTreeMap<String, String>,
    ) {
        let warning = |(route, reason): (&String, &String)| {
            format!("writes of `{route}` are mirrored no more: {reason}")
        };
        self.warnings.splice(0..0, stopped.iter().map(warning));
        let not_mirrored =
            |(route, reason): (&String, &String)| format!("`{route}` is not mirrored: {reason}");
        self.warnings.splice(0..0, whole.iter().map(not_mirrored));
        self.evidence.stopped = stopped;
    }

    pub(crate) fn new(
        id: &SliceId,
        record: &Record,
        rules: &Rules,
        mismatch_max: f64,
        today: Date,
    ) -> Self {
        let evidence = record.evidence();
        let row = |(route, class): (&String, &outgrow_rollout::ClassEvidence)| RouteRow {
            route: route.clone(),
            compared: class.compared,
            against: class.against,
            bound: samples::upper_bound(class.compared, class.against),
            needed: samples::needed_more(class.compared, class.against, mismatch_max),
        };
        let rule = |one: &crate::rules::Accepted| RuleRow {
            path: one.rule.path.clone(),
            accept: one.rule.accept.clone(),
            reason: one.rule.reason.clone(),
            owner: one.rule.owner.clone(),
            until: one.rule.until.clone(),
            hits: one.hits(),
            state: match (one.expired(today), one.hits()) {
                (true, _) => "expired",
                (false, 0) => "unused",
                _ => "active",
            },
        };
        let rows: Vec<RuleRow> = rules.accepted.iter().map(rule).collect();
        let warnings = rows
            .iter()
            .filter_map(|row| warning(row, record.compared()));
        let reasons = reasons_of(record);
        let blind = reasons::blind(&reasons, record.compared());
        let warnings = blind.into_iter().chain(warnings).collect();
        let clusters = record.clusters();
        let pairs = examples(record, &clusters);
        Self {
            slice: id.to_string(),
            verdict: verdict(&evidence),
            aligned: record.aligned,
            shed: record.shed.clone(),
            ineligible: record.ineligible.clone(),
            not_comparable: record.not_comparable.clone(),
            reasons,
            memory: 0,
            routes: record.classes.iter().map(row).collect(),
            endpoints: record.endpoints.iter().map(row).collect(),
            clusters,
            differences: record.fields(),
            pairs,
            noise: record.noise_rows(),
            rules: rows,
            warnings,
            expired: record.expired.clone(),
            latency: record.latencies.difference(),
            history: record.history.clone(),
            legacy_p50_us: median(&record.legacy_us),
            extracted_p50_us: median(&record.extracted_us),
            evidence,
        }
    }
}
