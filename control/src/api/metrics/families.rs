//! Which metrics there are, and what each is made of.

use std::collections::{BTreeMap, BTreeSet};

use outgrow_rollout::{
    BuildTimes, ClientFigures, DataPhase, LinesLost, RouteTimes, Side, SideLoad, SliceId,
    SliceState, SpanFigures, SyncEvidence,
};
use prometheus_client::metrics::MetricType;

use super::{Family, Figure, Labels, SIDES, Sample, Told, Value, count, counter, gauge, now};
use crate::controller::{BuildsStatus, SliceStatus};

pub(super) fn of_slices(told: &[Told]) -> Vec<Family> {
    let each = |sample: fn(&SliceStatus) -> f64| -> Vec<Sample> {
        told.iter()
            .map(|t| now(of(&t.status.slice), sample(&t.status)))
            .collect()
    };
    let weights = told
        .iter()
        .map(|t| now(of(&t.status.slice), t.status.effective.weight.share()))
        .collect();
    let writers = told.iter().flat_map(|t| {
        SIDES.map(|side| {
            now(
                with(&t.status.slice, "side", side),
                t.status.effective.writer == side,
            )
        })
    });
    let bypass = told.iter().filter_map(|t| {
        let found = t.status.evidence.bypass.as_ref()?;
        Some(now(of(&t.status.slice), found.rows))
    });
    vec![
        gauge(
            "outgrow_slice_weight_ratio",
            "Share of reads that the extracted side answers, after what the guard has lowered.",
            weights,
        ),
        gauge(
            "outgrow_slice_writer",
            "1 for the side that takes the writes.",
            writers.collect(),
        ),
        gauge(
            "outgrow_slice_frozen",
            "Whether promotions are refused.",
            each(|s| s.state.frozen.is_some().figure()),
        ),
        gauge(
            "outgrow_slice_maintenance",
            "Whether nobody is served.",
            each(|s| s.state.maintenance.is_some().figure()),
        ),
        gauge(
            "outgrow_slice_unmirrored",
            "Whether nothing is mirrored by somebody's wish or by the tripwire.",
            each(|s| s.state.unmirrored.is_some().figure()),
        ),
        gauge(
            "outgrow_slice_unmirrored_routes",
            "Routes of which nothing is mirrored since the tripwire, or no write since a dry run.",
            each(unmirrored_routes),
        ),
        gauge(
            "outgrow_slice_bypass_rows",
            "Rows changed on the legacy side while no write of the slice was on its way through the proxy.",
            bypass.collect(),
        ),
        gauge(
            "outgrow_slice_cutover_running",
            "Whether the writes are being moved.",
            each(|s| s.cutover.is_some().figure()),
        ),
        gauge(
            "outgrow_slice_trouble",
            "Whether the bridge has said that something is wrong.",
            each(|s| s.trouble.is_some().figure()),
        ),
    ]
}

fn unmirrored_routes(status: &SliceStatus) -> f64 {
    let writes = status.evidence.shadow.iter();
    let writes = writes.flat_map(|shadow| shadow.stopped.keys());
    let whole = status.state.unmirrored_routes.keys();
    let all: BTreeSet<&String> = whole.chain(writes).collect();
    all.len() as f64
}

pub(super) fn of_requests(told: &[Told]) -> Vec<Family> {
    let sides = || {
        told.iter().flat_map(|t| {
            SIDES
                .into_iter()
                .zip(&t.times)
                .filter_map(|(side, times)| Some((&t.status.slice, side, times.as_ref()?)))
        })
    };
    vec![
        counter(
            "outgrow_request_errors",
            "Requests that a side answered with 5xx, or did not answer.",
            sides()
                .map(|(slice, side, times)| count(with(slice, "side", side), times.errors))
                .collect(),
        ),
        Family {
            name: "outgrow_request_duration_seconds",
            help: "Time to the head of a side's answer; its count is the number of requests.",
            kind: MetricType::Histogram,
            samples: sides()
                .map(|(slice, side, times)| Sample {
                    labels: with(slice, "side", side),
                    value: Value::Times(times.clone()),
                })
                .collect(),
        },
    ]
}

/// By route; what belongs to no slice has no such label.
pub(super) fn of_routes(routes: &[RouteTimes]) -> Vec<Family> {
    let labels = |of: &RouteTimes| -> Labels {
        let slice = of.slice.iter().map(|slice| ("slice", slice.to_string()));
        let rest = [("route", of.route.clone()), ("side", of.side.to_string())];
        slice.chain(rest).collect()
    };
    let classes = routes.iter().flat_map(|of| {
        of.classes.iter().map(move |(class, requests)| {
            let mut labels = labels(of);
            labels.push(("class", (*class).to_owned()));
            count(labels, *requests)
        })
    });
    let errors = routes.iter().map(|of| count(labels(of), of.times.errors));
    let times = routes.iter().map(|of| Sample {
        labels: labels(of),
        value: Value::Times(of.times.clone()),
    });
    vec![
        counter(
            "outgrow_route_requests",
            "Requests of a route that a side was asked, by the class of its answer's status.",
            classes.collect(),
        ),
        counter(
            "outgrow_route_errors",
            "Requests of a route that a side answered with 5xx, or did not answer.",
            errors.collect(),
        ),
        Family {
            name: "outgrow_route_duration_seconds",
            help: "Time to the head of a side's answer, by route.",
            kind: MetricType::Histogram,
            samples: times.collect(),
        },
    ]
}

/// Of services with several builds.
pub(super) fn of_builds(services: &[BuildsStatus], times: &[BuildTimes]) -> Vec<Family> {
    let weights = services.iter().flat_map(|service| {
        service.builds.iter().map(|of| {
            let name = ("service", service.service.clone());
            let labels = vec![name, ("build", of.figures.build.to_string())];
            now(labels, of.weight.share())
        })
    });
    let taken = services.iter().flat_map(|service| {
        service.builds.iter().map(|of| {
            let name = ("service", service.service.clone());
            let labels = vec![name, ("build", of.figures.build.to_string())];
            let taken = service.taken_back.as_ref();
            now(
                labels,
                taken.is_some_and(|taken| taken.build == of.figures.build),
            )
        })
    });
    let labels = |of: &BuildTimes| -> Labels {
        let slice = of.slice.iter().map(|slice| ("slice", slice.to_string()));
        let service = ("service", of.service.clone());
        slice
            .chain([service, ("build", of.build.to_string())])
            .collect()
    };
    let classes = times.iter().flat_map(|of| {
        of.classes.iter().map(move |(class, requests)| {
            let mut labels = labels(of);
            labels.push(("class", (*class).to_owned()));
            count(labels, *requests)
        })
    });
    let errors = times.iter().map(|of| count(labels(of), of.times.errors));
    let took = times.iter().map(|of| Sample {
        labels: labels(of),
        value: Value::Times(of.times.clone()),
    });
    vec![
        gauge(
            "outgrow_build_weight_ratio",
            "Share of the service's clients that a build answers.",
            weights.collect(),
        ),
        gauge(
            "outgrow_build_taken_back",
            "Whether the guard has taken the requests back from a build.",
            taken.collect(),
        ),
        counter(
            "outgrow_build_requests",
            "Requests that a build was asked, by the class of its answer's status.",
            classes.collect(),
        ),
        counter(
            "outgrow_build_errors",
            "Requests that a build answered with 5xx, or did not answer.",
            errors.collect(),
        ),
        Family {
            name: "outgrow_build_duration_seconds",
            help: "Time to the head of a build's answer.",
            kind: MetricType::Histogram,
            samples: took.collect(),
        },
    ]
}

pub(super) fn of_refusals(refusals: &[(&'static str, u64)]) -> Family {
    let of = |(code, requests): &(&'static str, u64)| {
        count(vec![("code", (*code).to_owned())], *requests)
    };
    counter(
        "outgrow_refusals",
        "Requests that the proxy itself has refused, and connections that came to none.",
        refusals.iter().map(of).collect(),
    )
}

pub(super) fn of_clients(figures: ClientFigures) -> Vec<Family> {
    let mut all = vec![
        gauge(
            "outgrow_client_connections",
            "Connections of clients.",
            vec![now(vec![], figures.open)],
        ),
        counter(
            "outgrow_client_door_shut",
            "How often a core has let no client in until another had left.",
            vec![count(vec![], figures.shut)],
        ),
    ];
    all.extend(figures.most.map(|most| {
        gauge(
            "outgrow_client_connections_max",
            "Connections of clients that may be at a time.",
            vec![now(vec![], most)],
        )
    }));
    all
}

pub(super) fn of_access_log(lost: Option<LinesLost>) -> Option<Family> {
    let lost = lost?;
    let causes = [("queue", lost.queue), ("write", lost.write)];
    let samples = causes.map(|(cause, lines)| count(vec![("cause", cause.to_owned())], lines));
    Some(counter(
        "outgrow_access_log_dropped",
        "Lines of the access log that were not written.",
        samples.to_vec(),
    ))
}

pub(super) fn of_spans(figures: Option<SpanFigures>) -> Vec<Family> {
    let Some(figures) = figures else {
        return Vec::new();
    };
    let causes = [
        ("queue", figures.queue),
        ("refused", figures.refused),
        ("failed", figures.failed),
    ];
    let lost = causes.map(|(cause, spans)| count(vec![("cause", cause.to_owned())], spans));
    vec![
        counter(
            "outgrow_spans_exported",
            "Spans of requests that the collector has taken.",
            vec![count(vec![], figures.sent)],
        ),
        counter(
            "outgrow_spans_dropped",
            "Spans of requests that the collector has not got.",
            lost.to_vec(),
        ),
    ]
}

/// What a link does, in one word.
fn link_state(state: &SliceState) -> Option<&'static str> {
    let link = state.data.as_ref()?;
    Some(match link.phase {
        _ if link.failed.is_some() => "failed",
        _ if link.paused.is_some() => "paused",
        DataPhase::Idle => "idle",
        DataPhase::Copying => "copying",
        DataPhase::Following => "following",
        DataPhase::Reversed => "reversed",
        DataPhase::Closed => "closed",
    })
}

const LINK_STATES: [&str; 7] = [
    "idle",
    "copying",
    "following",
    "reversed",
    "paused",
    "failed",
    "closed",
];

pub(super) fn of_links(told: &[Told]) -> Vec<Family> {
    let links: Vec<(&SliceId, &SyncEvidence)> = told
        .iter()
        .filter_map(|t| Some((&t.status.slice, t.status.evidence.sync.as_ref()?)))
        .collect();
    let backlogs = links
        .iter()
        .map(|(slice, link)| now(of(slice), link.backlog));
    let waiting = links
        .iter()
        .map(|(slice, link)| now(of(slice), link.backlog_bytes));
    let states = told.iter().flat_map(|t| {
        let state = link_state(&t.status.state);
        LINK_STATES
            .iter()
            .filter(move |_| state.is_some())
            .map(move |name| now(with(&t.status.slice, "state", name), state == Some(name)))
    });
    let lags = links.iter().flat_map(|(slice, link)| {
        [("forward", link.lag_ms), ("back", link.reverse_lag_ms)]
            .into_iter()
            .filter_map(|(way, lag)| Some(now(with(slice, "way", way), seconds(lag?))))
    });
    let mut families = vec![
        gauge(
            "outgrow_link_state",
            "1 for what the link does.",
            states.collect(),
        ),
        gauge(
            "outgrow_link_lag_seconds",
            "Age of the newest heartbeat that has crossed the link.",
            lags.collect(),
        ),
        gauge(
            "outgrow_link_backlog_changes",
            "Changes that are not applied yet.",
            backlogs.collect(),
        ),
        gauge(
            "outgrow_link_backlog_bytes",
            "About the bytes of the rows that these changes are of.",
            waiting.collect(),
        ),
    ];
    families.extend(of_kept(&links));
    families.extend(of_loads(&links));
    families.extend(of_rows(&links));
    families.extend(of_verifications(&links));
    families
}

fn of_kept(links: &[(&SliceId, &SyncEvidence)]) -> [Family; 4] {
    type Kept = fn(&SyncEvidence) -> (&BTreeMap<Side, u64>, u64);
    let log: Kept = |link| (&link.log_kept_bytes, link.log_limit_bytes);
    let noted: Kept = |link| (&link.noted_bytes, link.noted_limit_bytes);
    // A limit has the labels of what it limits, so that one can be divided by the other.
    let each = |of: Kept, limit: bool| -> Vec<Sample> {
        let sides = links.iter().flat_map(|(slice, link)| {
            let (kept, most) = of(link);
            let figure = move |bytes: u64| if limit { most } else { bytes };
            kept.iter()
                .map(move |(side, bytes)| now(with(slice, "side", side), figure(*bytes)))
        });
        sides.collect()
    };
    [
        gauge(
            "outgrow_link_log_kept_bytes",
            "Log that a database keeps for the link.",
            each(log, false),
        ),
        gauge(
            "outgrow_link_log_limit_bytes",
            "With more of it the link is parked.",
            each(log, true),
        ),
        gauge(
            "outgrow_link_noted_bytes",
            "About the bytes of noted changes that are not applied.",
            each(noted, false),
        ),
        gauge(
            "outgrow_link_noted_limit_bytes",
            "With more of them the link is parked.",
            each(noted, true),
        ),
    ]
}

fn of_loads(links: &[(&SliceId, &SyncEvidence)]) -> [Family; 2] {
    let each = |figure: fn(&SideLoad) -> u32| -> Vec<Sample> {
        let sides = links.iter().flat_map(|(slice, link)| {
            let loads = link.load.iter();
            loads.map(|(side, load)| now(with(slice, "side", side), u64::from(figure(load))))
        });
        sides.collect()
    };
    [
        gauge(
            "outgrow_link_running_statements",
            "Statements of others that run on a side, while rows are copied or compared.",
            each(|load| load.running),
        ),
        gauge(
            "outgrow_link_running_statements_limit",
            "With more of them, copies and verifications wait.",
            each(|load| load.most),
        ),
    ]
}

fn of_rows(links: &[(&SliceId, &SyncEvidence)]) -> Vec<Family> {
    let each = |sample: fn(&SyncEvidence) -> u64| -> Vec<Sample> {
        links
            .iter()
            .map(|(slice, link)| now(of(slice), sample(link)))
            .collect()
    };
    let applied = links
        .iter()
        .map(|(slice, link)| count(of(slice), link.applied_rows));
    vec![
        counter(
            "outgrow_link_applied_rows",
            "Rows written by following.",
            applied.collect(),
        ),
        gauge(
            "outgrow_link_copied_rows",
            "Rows that the copy has taken.",
            each(|link| link.copied_rows),
        ),
        gauge(
            "outgrow_link_rows",
            "Rows that the copy has to take.",
            each(|link| link.total_rows),
        ),
        gauge(
            "outgrow_link_parked_rows",
            "Rows that could not be applied.",
            each(|link| link.parked),
        ),
        gauge(
            "outgrow_link_open_conflicts",
            "Rows that both sides have changed and nobody has settled.",
            each(|link| link.conflicts),
        ),
        gauge(
            "outgrow_link_foreign_writes",
            "Rows changed on the passive side by something other than the bridge.",
            each(|link| link.foreign_writes),
        ),
    ]
}

fn of_verifications(links: &[(&SliceId, &SyncEvidence)]) -> Vec<Family> {
    let different = links.iter().flat_map(|(slice, link)| {
        link.verified
            .iter()
            .flatten()
            .map(|(table, rows)| now(with(slice, "table", table), rows.different))
    });
    let ages = links
        .iter()
        .filter_map(|(slice, link)| Some(now(of(slice), seconds(link.verified_age_ms?))));
    vec![
        gauge(
            "outgrow_link_different_rows",
            "Rows that the last verification found different.",
            different.collect(),
        ),
        gauge(
            "outgrow_link_verified_age_seconds",
            "Time since the last verification.",
            ages.collect(),
        ),
    ]
}

pub(super) fn of_shadow(told: &[Told]) -> Vec<Family> {
    let shadows = || {
        told.iter()
            .filter_map(|t| Some((&t.status.slice, t.shadow.as_ref()?)))
    };
    let ended = shadows().flat_map(|(slice, shadow)| {
        [
            ("sampled_out", shadow.sampled_out),
            ("shed", shadow.shed),
            ("ineligible", shadow.ineligible),
            ("matched", shadow.matched),
            ("mismatched", shadow.mismatched),
            ("candidate_error", shadow.candidate_errors),
            ("not_comparable", shadow.not_comparable),
        ]
        .map(|(outcome, requests)| count(with(slice, "outcome", outcome), requests))
    });
    let waiting = shadows().map(|(slice, shadow)| now(of(slice), shadow.waiting));
    vec![
        counter(
            "outgrow_shadow_requests",
            "What became of requests that could be mirrored, of the builds that run now.",
            ended.collect(),
        ),
        gauge(
            "outgrow_shadow_waiting",
            "Mirrored requests without a verdict yet.",
            waiting.collect(),
        ),
    ]
}

fn of(slice: &SliceId) -> Labels {
    vec![("slice", slice.to_string())]
}

fn with(slice: &SliceId, name: &'static str, value: impl ToString) -> Labels {
    vec![("slice", slice.to_string()), (name, value.to_string())]
}

fn seconds(millis: u64) -> f64 {
    millis.figure() / 1_000.0
}
